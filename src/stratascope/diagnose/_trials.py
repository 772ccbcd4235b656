"""Many training runs: in this process or several, and kept as each ends."""

import inspect
import json
import math
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from stratascope._progress import ProgressBar
from stratascope._random import keeping_random
from stratascope.diagnose._trial import MakeRun, Result, Rules, Trial, run_trial
from stratascope.errors import DataError, StoreError

_JOURNAL = "runs.jsonl"


def run_trials(
    make_run: MakeRun,
    trials: Sequence[Trial],
    rules: Rules,
    *,
    folder: Path | None,
    resume: bool,
    workers: int | None,
    progress: bool,
) -> list[Result]:
    """Do runs, those left out that the folder knows, and give what came of each.

    Args:
        make_run: Begins a run.
        trials: What to call it with.
        rules: How runs are judged.
        folder: Where they are kept as each ends; None for in memory only.
        resume: Whether those that the folder holds are taken as done, but for crashed ones.
        workers: How many processes run them, one after another each; None for this one.
        progress: Whether to show a bar on a terminal.

    Raises:
        StoreError: The folder holds runs and is not to be resumed, or runs of another training.
        DataError: A run does not keep to what `lr_sweep` asks, or cannot go to another process.
    """
    if workers is not None and workers < 1:
        raise DataError(f"workers must be at least 1, or None, got {workers}")
    journal = None if folder is None else _Journal(folder, make_run, rules, resume=resume)
    results = {} if journal is None else journal.find(trials)
    todo = {number: one for number, one in enumerate(trials) if number not in results}
    if workers is None:
        ended = ((number, _do_here(make_run, one, rules)) for number, one in todo.items())
    else:
        ended = _do_elsewhere(make_run, todo, rules, workers)
    with ProgressBar("runs", len(trials), enabled=progress, unit="runs") as bar:
        for number, result in ended:
            results[number] = result
            if journal is not None:
                journal.add(trials[number], result)
            bar.update(len(results))
    return [results[number] for number in range(len(trials))]


class _Journal:
    """The runs of a folder that have ended, a line each, on the disk as soon as they have."""

    def __init__(self, folder: Path, make_run: MakeRun, rules: Rules, *, resume: bool) -> None:
        self._path = folder / _JOURNAL
        self._known: dict[str, Result] = {}
        header = _to_json({"make_run": _fingerprint(make_run), "rules": asdict(rules)})
        if not self._path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._append(header)
            return
        if not resume:
            raise StoreError(
                f"{folder} holds runs already: go on with them with resume=True (--resume), or "
                "choose another folder"
            )
        *lines, rest = self._path.read_text().split("\n")
        if rest:
            # Killed in the middle of a line, to which the next one must not be glued.
            self._path.write_text("".join(f"{line}\n" for line in lines))
        if lines[:1] != [header]:
            raise StoreError(
                f"{folder} holds runs of another make_run, or judged by other rules, and like is "
                "compared with like only: choose another folder"
            )
        for line in lines[1:]:
            kept = json.loads(line)
            self._known[_to_json(kept["trial"])] = Result(**kept["result"])

    def find(self, trials: Sequence[Trial]) -> dict[int, Result]:
        """Give by number what came of those that have ended, but for crashed ones."""
        known = {n: self._known.get(_to_json(asdict(one))) for n, one in enumerate(trials)}
        return {n: one for n, one in known.items() if one and one.outcome != "crashed"}

    def add(self, trial: Trial, result: Result) -> None:
        """Keep what came of a run."""
        self._append(_to_json({"trial": asdict(trial), "result": asdict(result)}))

    def _append(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _to_json(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise DataError(
            f"what runs are given must be numbers and text, to be kept in a folder: {error}"
        ) from error


def _fingerprint(make_run: MakeRun) -> str:
    """Tell one training from another: by its name and its text, not by what it calls."""
    name = getattr(make_run, "__qualname__", type(make_run).__qualname__)
    with suppress(OSError, TypeError):
        return f"{name}\n{inspect.getsource(make_run)}"
    return name


def _do_here(make_run: MakeRun, trial: Trial, rules: Rules) -> Result:
    with keeping_random(torch.nn.Identity()):
        return run_trial(make_run, trial, rules)


def _do_elsewhere(
    make_run: MakeRun, todo: dict[int, Trial], rules: Rules, workers: int
) -> Iterator[tuple[int, Result]]:
    """Do each run in a process of its own, which leaves nothing to the next one."""
    try:
        pickle.dumps(make_run)
    except Exception as error:
        raise DataError(
            "make_run must be a function of a module, to be run by other processes, got "
            f"{make_run!r}: move it into a file, or leave workers out"
        ) from error
    # Not forked: the threads of PyTorch do not outlive that. No pool: where a process is killed,
    # those of concurrent.futures were seen to wait for minutes.
    context = multiprocessing.get_context("spawn")
    waiting = list(todo.items())[::-1]
    busy: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                number, trial = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                work = (make_run, trial, rules, theirs)
                process = context.Process(target=_work, args=work)
                process.start()
                theirs.close()
                busy[ours] = number, process
            for connection in wait([*busy]):
                number, process = busy.pop(connection)
                yield number, _receive(connection, process)
    finally:
        for _, process in busy.values():
            process.kill()
            process.join()


def _receive(connection: Any, process: Any) -> Result:
    """Give what came of a run: what its process says, or how that ended."""
    message = None
    with connection, suppress(EOFError):
        message = connection.recv()
    process.join()
    if isinstance(message, Exception):
        raise message
    return message or Result(
        "crashed",
        f"its process ended with exit code {process.exitcode}, perhaps because memory ran out; a "
        "script must do its work below `if __name__ == '__main__':`",
    )


def _work(make_run: MakeRun, trial: Trial, rules: Rules, connection: Any) -> None:
    # Ctrl-C is for the process that began this one, and ends both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    before = _read_peak()
    try:
        result = run_trial(make_run, trial, rules)
        if math.isnan(result.peak_bytes):
            result = replace(result, peak_bytes=_read_peak() - before)
        connection.send(result)
    except DataError as error:
        connection.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read_peak() -> float:
    """Give the bytes that this process held at most; NaN where the system does not tell."""
    # getrusage would give what the parent held, if that was more.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    return math.nan
