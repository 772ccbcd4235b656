"""Writing one step of a store: batches in, committed units out, on a background thread."""

import contextlib
import errno
import functools
import itertools
import json
import os
import queue
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

from stratascope.errors import DataError, StoreError
from stratascope.store._commit import (
    committed_units,
    stale_files,
    sync_folders,
    write_once,
    write_whole,
)
from stratascope.store._files import read_manifest, read_spec
from stratascope.store._layout import (
    COORDINATE_CHUNK,
    FORMAT,
    LAYOUT_VERSION,
    ArraySpec,
    Paths,
    StepSpec,
    array_metadata,
    coordinate_metadata,
    encode_json,
    group_metadata,
)
from stratascope.store._lock import lock_step
from stratascope.store._shards import ShardWriter

_QUEUED_BATCHES = 2
_PENDING_UNITS = 2
_ENCODERS = min(4, os.cpu_count() or 1)
_NO_SPACE = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full for you: your quota is used up",
    errno.EFBIG: "is full for so large a file: ulimit -f sets a limit",
}

_FORMAT = {"format": FORMAT, "layout": LAYOUT_VERSION}

Convert = Callable[[Any], np.ndarray[Any, Any]]


class StepWriter:
    """Takes the batches of one step in order and commits them unit by unit.

    A unit is committed exactly when its manifest exists: its shards are written under temporary
    names, synced, renamed, and then the manifest is written the same way. A thread behind a short
    queue has the shards encoded side by side, and another commits the full units; an error there is
    raised by a later call here, by `finish` at the latest.

    The step is this writer's alone until it is finished or aborted.
    """

    def __init__(
        self,
        root: Path,
        spec: StepSpec,
        *,
        sample_index: np.ndarray[Any, Any] | None = None,
        convert: Convert = np.asarray,
    ) -> None:
        self.spec = spec
        self.bytes_written = 0
        self._paths = Paths(root, spec.step)
        self._sample_index = sample_index
        self._convert = convert
        self._open: _Unit | None = None
        self._error: BaseException | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_QUEUED_BATCHES)
        with _explaining(root):
            write_once(self._paths.run, encode_json(_FORMAT))
            self._lock = lock_step(self._paths)
            try:
                self.committed = self._reopen()
                # Where the length is unknown, these are now the whole first units.
                known = spec.samples
                self._samples = len(self.committed) * spec.unit if known is None else known
                self._prepare()
            except BaseException:
                self._lock.release()
                raise
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="stratascope-encode")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="stratascope-commit")
        self._commits: deque[Future[None]] = deque()
        self._handed_over: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="stratascope-writer", daemon=True)
        self._thread.start()

    def write(self, start: int, values: Mapping[str, Any], *, wait: bool = False) -> None:
        """Add samples from ``start`` on: for each array's key a value of shape ``(n, …)``.

        With ``wait`` it returns when they are encoded: where the caller computes on all cores, the
        two would only be in each other's way.

        Raises:
            StoreError: An earlier batch could not be written.
            DataError: An earlier batch had another shape or type.
        """
        self._raise_error()
        if not self._thread.is_alive():
            raise StoreError(f"step {self.spec.step} of {self._paths.root} is closed already")
        self._queue.put(functools.partial(self._write_batch, start, values))
        if wait:
            self._queue.join()

    def finish(self) -> None:
        """Commit what is left and mark the step complete.

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
        self._lock.release()

    def abort(self) -> None:
        """Write what is queued, drop the unfinished unit; a later run can continue from there."""
        self._stop()
        self._shut_down()
        if self._open is not None:
            self._open.discard()
            self._open = None
        self._lock.release()

    @property
    def samples_committed(self) -> int:
        """Number of samples that a later run need not do again."""
        whole = len(self.committed) * self.spec.unit
        return min(whole, self._samples)

    def _complete(self) -> None:
        if self.spec.samples is None and self._open is not None:
            self._commit(self._open)
        self._settle_commits(leave=0)
        if self.spec.samples is not None:
            self._check_all_came(self.spec.samples)
        if self.spec.samples is None:
            self._write_metadata(self._samples)
        write_whole(self._paths.complete, encode_json({"samples": self._samples}))

    def _reopen(self) -> set[int]:
        """Find the units that need not be done again, and give back the others."""
        committed = committed_units(self._paths.commits)
        whole = {unit for unit in committed if self._is_whole(unit)}
        if self.spec.samples is None:
            # What has no length comes in order, and ends with its last unit: a unit behind a gap
            # would hide the gap.
            whole = set(itertools.takewhile(whole.__contains__, itertools.count()))
        for unit in committed - whole:
            self._paths.manifest(unit).unlink()
        return whole

    def _is_whole(self, unit: int) -> bool:
        """Tell whether a manifest can be read, and whether its unit is full.

        Where the length is unknown a unit that is not full ended with the data, but a run that was
        killed then never said that they did.
        """
        try:
            manifest = read_manifest(self._paths, self.spec, unit)
        except StoreError:
            return False
        full = (unit + 1) * self.spec.unit
        known = self.spec.samples
        stop = full if known is None else min(full, known)
        return manifest.stop == stop

    def _prepare(self) -> None:
        # The other steps may be in the works.
        for path in stale_files(self._paths.group, self._paths.commits):
            path.unlink(missing_ok=True)
        if self._paths.spec.exists():
            self._check_spec()
        else:
            write_whole(self._paths.spec, encode_json(self.spec.to_json()))
        group = self._paths.group.parent / "zarr.json"
        write_once(group, encode_json(group_metadata(_FORMAT)))
        self._write_metadata(self._samples)

    def _check_spec(self) -> None:
        """Refuse a step that another run began, and may have ended, since this one looked."""
        ours = StepSpec.from_json(json.loads(encode_json(self.spec.to_json())))
        if read_spec(self._paths) != ours:
            raise StoreError(
                f"step {self.spec.step} of {self._paths.root} is another run's, begun in the "
                "meantime: choose another step or another folder"
            )

    def _write_metadata(self, samples: int) -> None:
        group = self._paths.group
        attributes = {
            "step": self.spec.step,
            "settings": self.spec.settings,
            "provenance": self.spec.provenance,
        }
        write_whole(group / "zarr.json", encode_json(group_metadata(attributes)))
        table = self.spec.table
        for array in self.spec.arrays:
            site = asdict(table[array.site])
            folder = group / array.key
            write_whole(folder.parent / "zarr.json", encode_json(group_metadata(site)))
            metadata = encode_json(array_metadata(array, self.spec, samples))
            write_whole(folder / "zarr.json", metadata)
        write_whole(group / "sample" / "zarr.json", encode_json(coordinate_metadata(samples)))
        for chunk in range(-(-samples // COORDINATE_CHUNK)):
            self._write_coordinate(chunk, samples)

    def _write_coordinate(self, chunk: int, samples: int) -> None:
        first = chunk * COORDINATE_CHUNK
        last = min(first + COORDINATE_CHUNK, samples)
        values = np.zeros(COORDINATE_CHUNK, dtype="<i8")
        known = self._sample_index
        values[: last - first] = np.arange(first, last) if known is None else known[first:last]
        content = Zstd(level=1).encode(values.tobytes())
        checksum = google_crc32c.value(content).to_bytes(4, "little")
        write_whole(self._paths.group / "sample" / "c" / str(chunk), content + checksum)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            # After an error the queue is emptied, so that the caller never waits for a dead thread.
            if self._error is None:
                try:
                    with _explaining(self._paths.root):
                        job()
                except BaseException as error:  # noqa: BLE001 - raised again by the next call
                    self._error = error
            del job  # its batch must not wait in memory for the next one
            self._queue.task_done()
        self._queue.task_done()

    def _write_batch(self, start: int, values: Mapping[str, Any]) -> None:
        rows = {array.key: self._checked(array, values[array.key]) for array in self.spec.arrays}
        length = len(next(iter(rows.values())))
        size = self.spec.unit
        for number in range(start // size, -(-(start + length) // size)):
            first, last = max(start, number * size), min(start + length, (number + 1) * size)
            if number not in self.committed and number not in self._handed_over:
                part = slice(first - start, last - start)
                self._append(number, first, {key: array[part] for key, array in rows.items()})

    def _checked(self, array: ArraySpec, value: Any) -> np.ndarray[Any, Any]:
        rows = self._convert(value)
        if rows.shape[1:] != array.shape:
            raise DataError(
                f"samples of '{array.site}' must all have shape {array.shape}, got "
                f"{rows.shape[1:]}: make the inputs equal in size, or give a transform that does"
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

    def _check_all_came(self, samples: int) -> None:
        units = -(-samples // self.spec.unit)
        missing = next((unit for unit in range(units) if unit not in self.committed), None)
        if missing is not None:
            came = missing * self.spec.unit if self._open is None else self._open.stop
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
        files = unit.publish()
        if self.spec.samples is None:
            # Before the manifest: what it commits must lie within the arrays' shapes.
            self._grow_metadata(unit.stop)
        manifest = {"unit": unit.number, "start": unit.start, "stop": unit.stop, "files": files}
        write_whole(self._paths.manifest(unit.number), encode_json(manifest))
        self.bytes_written += sum(file["bytes"] for file in files.values())
        self.committed.add(unit.number)

    def _grow_metadata(self, samples: int) -> None:
        before, self._samples = self._samples, samples
        for array in self.spec.arrays:
            metadata = encode_json(array_metadata(array, self.spec, samples))
            write_whole(self._paths.group / array.key / "zarr.json", metadata)
        for chunk in range(before // COORDINATE_CHUNK, -(-samples // COORDINATE_CHUNK)):
            self._write_coordinate(chunk, samples)
        path = self._paths.group / "sample" / "zarr.json"
        write_whole(path, encode_json(coordinate_metadata(samples)))

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
    """One unit being written: a shard for each array."""

    def __init__(self, paths: Paths, spec: StepSpec, number: int) -> None:
        self.number = number
        self.start = self.stop = number * spec.unit
        self._paths = paths
        self._shards: dict[str, ShardWriter] = {}
        try:
            for array in spec.arrays:
                path = paths.shard(array, number)
                self._shards[array.key] = ShardWriter(path, array, spec.unit, spec.codec)
        except BaseException:
            self.discard()
            raise

    def append(self, rows: dict[str, np.ndarray[Any, Any]], encoders: Executor) -> None:
        # Each shard by one thread, so that its bytes stay in order; the largest first, so that the
        # threads end together.
        largest_first = sorted(rows, key=lambda key: rows[key].nbytes, reverse=True)
        jobs = [encoders.submit(self._shards[key].append, rows[key]) for key in largest_first]
        for job in jobs:
            job.result()
        self.stop += len(next(iter(rows.values())))

    def publish(self) -> dict[str, dict[str, int]]:
        """Give the shards their names; without the manifest they do not count yet."""
        files = {key: shard.finish() for key, shard in self._shards.items()}
        for shard in self._shards.values():
            shard.temporary.replace(shard.path)
        sync_folders(shard.path.parent for shard in self._shards.values())
        return files

    def discard(self) -> None:
        for shard in self._shards.values():
            with contextlib.suppress(OSError):
                shard.discard()


@contextlib.contextmanager
def _explaining(root: Path) -> Any:
    """Turn what the system says of a disk into what the user can do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
            free = shutil.disk_usage(there).free
            raise StoreError(
                f"the disk of {root} {_NO_SPACE[error.errno]} ({free / 1e6:,.0f} MB free). What is "
                "committed is kept: make room and run the same again with resume=True (--resume), "
                "or store less with dtype='float16', a transform or fewer sites"
            ) from error
        raise StoreError(
            f"{error.filename or root} cannot be written: {error.strerror or error}. Choose "
            "another folder, or change its rights"
        ) from error
