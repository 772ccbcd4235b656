"""Writing units of a step: batches in, committed units out, on a background thread."""

import contextlib
import functools
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stratascope.errors import DataError, StoreError
from stratascope.store._claim import StepClaim, grow_metadata
from stratascope.store._folder import Folder
from stratascope.store._layout import ArraySpec, Paths, StepSpec, encode_json, name_samples
from stratascope.store._previews import Counts, make_preview
from stratascope.store._shards import ShardWriter
from stratascope.store._where import open_folder

_QUEUED_BATCHES = 1
_PENDING_UNITS = 2
_ENCODERS = min(4, os.cpu_count() or 1)

Convert = Callable[[Any], np.ndarray[Any, Any]]


class UnitWriter:
    """Takes the batches of some units of a step in order and commits them unit by unit.

    A unit is committed exactly when its manifest exists: its shards are written under temporary
    names, synced, renamed, and then the manifest is written the same way. A thread behind a short
    queue has the shards encoded side by side, and another commits the full units; an error there is
    raised by a later call here, by `finish` at the latest.

    No other writer may have one of the units; a `StepClaim` sees to that.

    Args:
        root: The store's folder.
        spec: What the step holds.
        units: Which units to write; samples of others are passed over.
        convert: Makes an array of a value, on the thread.

    Attributes:
        spec: What the step holds.
        committed: Units that this writer has committed.
        bytes_written: Bytes of their shards.
    """

    def __init__(
        self,
        root: str | Path | Folder,
        spec: StepSpec,
        units: Collection[int],
        *,
        convert: Convert = np.asarray,
    ) -> None:
        self.spec = spec
        self.committed: set[int] = set()
        self.bytes_written = 0
        self._folder = open_folder(root)
        self._paths = Paths(self._folder, spec.step)
        self._units = units
        self._convert = convert
        self._open: _Unit | None = None
        self._error: BaseException | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_QUEUED_BATCHES)
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="stratascope-encode")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="stratascope-commit")
        self._commits: deque[Future[None]] = deque()
        self._handed_over: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="stratascope-writer", daemon=True)
        self._thread.start()

    def write(self, start: int, values: Mapping[str, Any], *, wait: bool = False) -> None:
        """Add samples from ``start`` on: for each array's key a value of shape ``(n, …)``.

        Previews and histograms are made here, of what the others hold.

        With ``wait`` it returns when they are encoded: where the caller computes on all cores, the
        two would only be in each other's way.

        Raises:
            StoreError: An earlier batch could not be written.
            DataError: An earlier batch had another shape or type.
        """
        self._raise_error()
        if not self._thread.is_alive():
            raise StoreError(f"step {self.spec.step} of {self._folder} is closed already")
        self._queue.put(functools.partial(self._write_batch, start, values))
        if wait:
            self._queue.join()

    def finish(self) -> None:
        """Commit what is left.

        Raises:
            StoreError: Something could not be written.
            DataError: The data ended before the number of samples that was announced.
        """
        self._raise_error()
        # On the thread too: Blosc uses several threads of its own when called from the main one.
        self._queue.put(self._complete)
        self._stop()
        self._shut_down()
        self._raise_error()

    def abort(self) -> None:
        """Write what is queued, drop the unfinished unit; a later run can continue from there."""
        self._stop()
        self._shut_down()
        if self._open is not None:
            self._open.discard()
            self._open = None

    def _complete(self) -> None:
        if self.spec.samples is None and self._open is not None:
            self._commit(self._open)
        self._settle_commits(leave=0)
        if self.spec.samples is not None:
            self._check_all_came()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            # After an error the queue is emptied, so that the caller never waits for a dead thread.
            if self._error is None:
                try:
                    with self._folder.explaining():
                        job()
                except BaseException as error:  # noqa: BLE001 - raised again by the next call
                    self._error = error
            del job  # its batch must not wait in memory for the next one
            self._queue.task_done()
        self._queue.task_done()

    def _write_batch(self, start: int, values: Mapping[str, Any]) -> None:
        given = (array for array in self.spec.arrays if not array.derived)
        rows = {array.key: self._checked(array, values[array.key]) for array in given}
        length = len(next(iter(rows.values())))
        size = self.spec.unit
        for number in range(start // size, -(-(start + length) // size)):
            first, last = max(start, number * size), min(start + length, (number + 1) * size)
            if number in self._units and number not in self._handed_over:
                part = slice(first - start, last - start)
                self._append(number, first, {key: array[part] for key, array in rows.items()})

    def _checked(self, array: ArraySpec, value: Any) -> np.ndarray[Any, Any]:
        rows = self._convert(value)
        if rows.shape[1:] != array.shape:
            raise DataError(
                f"samples of '{array.site}' must all have shape {array.shape}, got "
                f"{rows.shape[1:]}: make the inputs equal in size, give a transform that does, or "
                "extract with length='longest' (--length longest)"
            )
        if not np.can_cast(rows.dtype, array.dtype, "equiv"):
            raise DataError(
                f"samples of '{array.site}' must all be {array.dtype}, as the first were, got "
                f"{rows.dtype}: give the data one type, or a transform that does"
            )
        return rows

    def _append(self, number: int, first: int, rows: dict[str, np.ndarray[Any, Any]]) -> None:
        unit = self._open
        if unit is None:
            unit = self._open = _Unit(self._paths, self.spec, number)
        if number != unit.number or first != unit.stop:
            raise StoreError(
                f"samples must come in order: got {first} after {unit.stop} (unit {unit.number})"
            )
        unit.append(rows, self._encoders)
        full = (number + 1) * self.spec.unit
        if unit.stop == (full if self.spec.samples is None else min(full, self.spec.samples)):
            self._commit(unit)

    def _check_all_came(self) -> None:
        missing = min((unit for unit in self._units if unit not in self.committed), default=None)
        if missing is not None:
            came = missing * self.spec.unit if self._open is None else self._open.stop
            samples = self.spec.samples
            raise DataError(f"data must have {samples} samples, as it said, but ended after {came}")

    def _commit(self, unit: "_Unit") -> None:
        """Make a full unit durable while the next one is encoded; it is the disk that is slow."""
        self._open = None
        self._handed_over.add(unit.number)
        self._commits.append(self._committer.submit(self._publish, unit))
        self._settle_commits(leave=_PENDING_UNITS)

    def _settle_commits(self, *, leave: int) -> None:
        """Wait until so few commits are pending, and raise the error of one that failed."""
        while self._commits and (len(self._commits) > leave or self._commits[0].done()):
            self._commits.popleft().result()

    def _publish(self, unit: "_Unit") -> None:
        if self._error is not None:
            unit.discard()
            return
        try:
            self._publish_whole(unit)
        except BaseException:
            unit.discard()
            raise

    def _publish_whole(self, unit: "_Unit") -> None:
        key = self._paths.manifest(unit.number)
        if self._folder.exists(key):
            raise self._describe_rival(unit, "")
        files = unit.publish()
        if self.spec.samples is None:
            # Before the manifest: what it commits must lie within the arrays' shapes.
            grow_metadata(self._paths, self.spec, unit.start, unit.stop)
        manifest = {"unit": unit.number, "start": unit.start, "stop": unit.stop, "files": files}
        if not self._folder.commit(key, encode_json(manifest)):
            raise self._describe_rival(
                unit,
                ", and files of both may be mixed there: stratascope verify --deep tells whether "
                "they are",
            )
        self.bytes_written += sum(file["bytes"] for file in files.values())
        self.committed.add(unit.number)

    def _describe_rival(self, unit: "_Unit", remark: str) -> StoreError:
        return StoreError(
            f"samples {name_samples(unit.start, unit.stop - 1)} of step {self.spec.step} of "
            f"{self._folder} were committed by another run at the same time{remark}. Let one run "
            "write a step, and give shards each its own number; what is committed is kept, and "
            "resume=True (--resume) goes on"
        )

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _shut_down(self) -> None:
        self._encoders.shutdown()
        self._committer.shutdown()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


class _Unit:
    """One unit being written: a shard for each array, and counts of what is in it."""

    def __init__(self, paths: Paths, spec: StepSpec, number: int) -> None:
        self.number = number
        self.start = self.stop = number * spec.unit
        self._paths = paths
        self._shards: dict[str, ShardWriter] = {}
        self._derived: dict[str, list[tuple[ArraySpec, ArraySpec]]] = {}
        self._counts: dict[str, Counts] = {}
        for made, array in spec.derived:
            self._derived.setdefault(array.key, []).append((made, array))
            if made.per_unit:
                self._counts[made.key] = Counts(made, array)
        try:
            for array in spec.arrays:
                sink = paths.folder.append(paths.shard(array, number))
                self._shards[array.key] = ShardWriter(sink, array, spec.unit, spec.codec)
        except BaseException:
            self.discard()
            raise

    def append(self, rows: dict[str, np.ndarray[Any, Any]], encoders: Executor) -> None:
        # Each shard by one thread, so that its bytes stay in order; the largest first, so that the
        # threads end together.
        largest_first = sorted(rows, key=lambda key: rows[key].nbytes, reverse=True)
        jobs = [encoders.submit(self._append, key, rows) for key in largest_first]
        for job in jobs:
            job.result()
        self.stop += len(next(iter(rows.values())))

    def _append(self, key: str, rows: dict[str, np.ndarray[Any, Any]]) -> None:
        self._shards[key].append(rows[key])
        for made, array in self._derived.get(key, ()):
            if made.per_unit:
                self._counts[made.key].add(self.stop, rows)
            else:
                self._shards[made.key].append(make_preview(made, array, rows))

    def publish(self) -> dict[str, dict[str, int]]:
        """Give the shards their names; without the manifest they do not count yet."""
        while self._counts:
            key, counts = self._counts.popitem()
            self._shards[key].append(counts.take()[None])
        files = {key: shard.finish() for key, shard in self._shards.items()}
        self._paths.folder.publish([shard.sink for shard in self._shards.values()])
        return files

    def discard(self) -> None:
        for shard in self._shards.values():
            with contextlib.suppress(OSError, StoreError):
                shard.sink.discard()


class StepWriter:
    """Takes the batches of a whole step in order and commits them unit by unit.

    The step is this writer's alone until it is finished or aborted.
    """

    def __init__(
        self,
        root: str | Path | Folder,
        spec: StepSpec,
        *,
        sample_index: np.ndarray[Any, Any] | None = None,
        convert: Convert = np.asarray,
    ) -> None:
        folder = open_folder(root)
        self._claim = StepClaim(folder, spec, sample_index=sample_index)
        self.spec = self._claim.spec
        self._writer = UnitWriter(folder, self.spec, self._claim.missing, convert=convert)

    def write(self, start: int, values: Mapping[str, Any]) -> None:
        """Add samples from ``start`` on, as to a `UnitWriter`."""
        self._writer.write(start, values)

    def finish(self) -> None:
        """Commit what is left and mark the step complete.

        Raises:
            StoreError: Something could not be written.
            DataError: The data ended before the number of samples that was announced.
        """
        self._writer.finish()
        self._claim.finish()

    def abort(self) -> None:
        """Write what is queued, drop the unfinished unit; a later run can continue from there."""
        self._writer.abort()
        self._claim.release()
