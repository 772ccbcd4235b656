"""A job in several processes: handed over once, run unit by unit, ended together."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from stratascope.capture import tune_allocator
from stratascope.errors import CaptureError, first_line
from stratascope.pipeline._executor import Job, Run
from stratascope.pipeline._handover import load_job, save_job
from stratascope.pipeline._plan import join
from stratascope.store import name_samples


@dataclass(frozen=True, slots=True)
class _Free:
    """A worker's message: it is ready for units."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A worker's last message: what it raised, and where."""

    error: Exception
    trace: str


class _TraceElsewhere(Exception):
    """Where an error was raised in another process."""


def run_in_processes(job: Job, units: Sequence[range], workers: int) -> Generator[Any]:
    """Run every unit of a job in new processes, and iterate over what they give.

    Raises:
        CaptureError: A process ended in the middle of its work.
        DataError: The job cannot be handed over.
    """
    count = min(workers, len(units))
    threads = max(1, torch.get_num_threads() // max(1, count))
    descriptor, name = tempfile.mkstemp(prefix="stratascope-", suffix=".pt")
    os.close(descriptor)
    path = Path(name)
    crew: list[_Worker] = []
    try:
        save_job(job, path)
        for _ in range(count):
            crew.append(_Worker(path, threads))  # noqa: PERF401 - those begun must be ended
        yield from _conduct(crew, deque(units), path)
    finally:
        _dismiss(crew)
        path.unlink(missing_ok=True)


def _conduct(crew: Sequence["_Worker"], units: deque[range], path: Path) -> Generator[Any]:
    busy: dict[Any, _Worker] = {worker.connection: worker for worker in crew}
    while busy:
        for connection in wait([*busy]):
            worker = busy[connection]
            message = worker.receive()
            if path.exists() and all(worker.is_ready for worker in crew):
                # It is mapped, and must not stay where this process is killed.
                with contextlib.suppress(PermissionError):  # Windows lets no mapped file go
                    path.unlink()
            if isinstance(message, _Failure):
                raise message.error from _TraceElsewhere(f"\n{message.trace}")
            if not isinstance(message, _Free):
                yield message
            elif units:
                # Many at first, as one stretch is the quickest; few at last, to end together.
                size = max(1, len(units) // (2 * len(crew)))
                worker.send([units.popleft() for _ in range(size)])
            else:
                del busy[connection]


def _dismiss(crew: Sequence["_Worker"]) -> None:
    """Let the workers come to an end, and see it; an interrupt meanwhile makes it a sudden one."""
    for worker in crew:
        worker.connection.close()
    try:
        for worker in crew:
            worker.process.join()
    except BaseException:
        for worker in crew:
            worker.process.kill()
            worker.process.join()
        raise


class _Worker:
    """A process that runs units, as seen from the one that began it."""

    def __init__(self, path: Path, threads: int) -> None:
        # Not forked: the threads of PyTorch do not outlive that.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(path, threads, theirs), name="stratascope-worker"
        )
        self._units: list[range] | None = None
        with _deaf_to_interrupts():
            self.process.start()
        theirs.close()

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded the job."""
        return self._units is not None

    def send(self, units: list[range]) -> None:
        self._units = units
        try:
            self.connection.send(units)
        except OSError as error:
            raise self._describe_death() from error

    def receive(self) -> Any:
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._describe_death() from error
        if isinstance(message, _Free):
            self._units = []
        return message

    def _describe_death(self) -> CaptureError:
        self.process.join()
        code = self.process.exitcode or 0
        if self._units is None:
            return CaptureError(
                f"a worker must come to its work, but ended with exit code {code} before it: in a "
                "script, do all that it does below `if __name__ == '__main__':`"
            )
        spans = [name_samples(span.start, span.stop - 1) for span in join(self._units)]
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if code == -signal.SIGKILL:
            end += ", perhaps because memory ran out"
        return CaptureError(
            f"a worker must do the samples {', '.join(spans)} that it was given, but {end}. What "
            "is committed is kept: run the same again with resume=True (--resume), and with fewer "
            "workers (--workers) or a smaller batch_size (--batch-size)"
        )


@contextlib.contextmanager
def _deaf_to_interrupts() -> Generator[None]:
    """Begin a process that Ctrl-C does not reach: the one that began it says when it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _work(path: Path, threads: int, connection: Connection) -> None:
    """Run units until there are no more of them, or nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    # This process is ours alone.
    tune_allocator()
    try:
        with load_job(path).begin() as run:
            _serve(run, connection)
    except Exception as error:  # noqa: BLE001 - raised by the process that asked
        _tell(connection, _Failure(_make_portable(error), traceback.format_exc()))


def _serve(run: Run, connection: Connection) -> None:
    while _tell(connection, _Free()):
        try:
            units = connection.recv()
        except EOFError:
            return
        with contextlib.closing(run(units)) as results:
            for result in results:
                if not _tell(connection, result):
                    return


def _tell(connection: Connection, message: Any) -> bool:
    """Send a message; tell whether to go on."""
    try:
        connection.send(message)
    except OSError:
        return False
    # Nothing comes in the middle of the work, but the end.
    return isinstance(message, _Free) or not connection.poll()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_portable(error: Exception) -> Exception:
    """Give an error that can be sent: itself, or what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - anything can be in another's error
        kind = type(error).__name__
        return CaptureError(f"a worker failed with {kind}: {first_line(error)}")
    return error
