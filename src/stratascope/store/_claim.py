"""One run's right to a step, or to a part of it: locks, what the step holds, and its end."""

import itertools
import json
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

from stratascope.errors import StoreError
from stratascope.store._commit import TEMPORARY
from stratascope.store._files import UnreadableError, committed_units, read_manifest, read_spec
from stratascope.store._folder import Folder, StepPart
from stratascope.store._layout import (
    COORDINATE_CHUNK,
    DATA,
    FORMAT,
    LAYOUT_VERSION,
    RUN_FILE,
    Paths,
    StepSpec,
    array_metadata,
    coordinate_metadata,
    encode_json,
    group_metadata,
    part_units,
)
from stratascope.store._where import open_folder

_FORMAT = {"format": FORMAT, "layout": LAYOUT_VERSION}

Write = Callable[[str, bytes], None]


class StepClaim:
    """Holds a step for one run, or one of its parts beside the runs of the others.

    Whoever takes it finds the step described, and rid of what a killed run left half written. Units
    are written by `UnitWriter`, in this process or others, as long as it is held.

    Args:
        root: The store's folder.
        spec: What the step holds.
        sample_index: Index in the data set of each sample, where that is not its number.
        part: Which part of how many; None claims the whole step.

    Attributes:
        spec: What the step holds, as whoever began it wrote it.
        committed: Units of this claim that were done when it was taken.

    Raises:
        StoreError: Another run holds it, began something else, or the disk cannot be written.
    """

    def __init__(
        self,
        root: str | Path | Folder,
        spec: StepSpec,
        *,
        sample_index: np.ndarray[Any, Any] | None = None,
        part: StepPart | None = None,
    ) -> None:
        self.spec = spec
        self._folder = folder = open_folder(root)
        self._paths = Paths(folder, spec.step)
        self._part = part
        with folder.explaining():
            folder.write_once(RUN_FILE, encode_json(_FORMAT))
            self._held = folder.hold(spec.step, part)
            try:
                self.committed = self._reopen()
                self._prepare(sample_index)
            except BaseException:
                self.release()
                raise

    @property
    def missing(self) -> Collection[int]:
        """Units of this claim that were still to do, without an end where the length is unknown."""
        if self.spec.samples is None:
            return range(len(self.committed), sys.maxsize)
        return {*part_units(self.spec.samples, self.spec.unit, self._part)} - self.committed

    @property
    def samples_committed(self) -> int:
        """Number of samples of the step that no run need do again."""
        size, units = self.spec.unit, committed_units(self._paths)
        end = sys.maxsize if self.spec.samples is None else self.spec.samples
        return sum(min(unit * size + size, end) - unit * size for unit in units)

    def finish(self) -> None:
        """Mark the step complete, unless other parts of it are still to do, and let go of it.

        Raises:
            StoreError: The disk cannot be written.
        """
        with self._folder.explaining():
            samples = self.spec.samples
            units = committed_units(self._paths)
            if samples is None:
                samples = self._find_end(units)
                write_metadata(self._paths, self.spec, samples)
            # Other parts may come to their end at the same time, and write the same.
            if units.issuperset(part_units(samples, self.spec.unit)):
                self._folder.write(self._paths.complete, encode_json({"samples": samples}))
        self.release()

    def release(self) -> None:
        """Let others have it. Idempotent."""
        while self._held:
            self._held.pop()()

    def _find_end(self, units: set[int]) -> int:
        return read_manifest(self._paths, self.spec, max(units)).stop if units else 0

    def _reopen(self) -> set[int]:
        """Find the units that need not be done again, and give back the others."""
        committed = committed_units(self._paths)
        if self._part is not None and self.spec.samples is not None:
            committed &= {*part_units(self.spec.samples, self.spec.unit, self._part)}
        whole = {unit for unit in committed if self._is_whole(unit)}
        if self.spec.samples is None:
            # What has no length comes in order, and ends with its last unit: a unit behind a gap
            # would hide the gap.
            whole = set(itertools.takewhile(whole.__contains__, itertools.count()))
        self._folder.remove(self._paths.manifest(unit) for unit in committed - whole)
        return whole

    def _is_whole(self, unit: int) -> bool:
        """Tell whether a manifest can be read, and whether its unit is full.

        Where the length is unknown a unit that is not full ended with the data, but a run that was
        killed then never said that they did.
        """
        try:
            manifest = read_manifest(self._paths, self.spec, unit)
        except UnreadableError:
            return False
        full = (unit + 1) * self.spec.unit
        known = self.spec.samples
        stop = full if known is None else min(full, known)
        return manifest.stop == stop

    def _prepare(self, sample_index: np.ndarray[Any, Any] | None) -> None:
        # The other steps, and other parts of this one, may be in the works.
        stale = self._folder.find_stale(self._paths.group, self._paths.commits)
        self._folder.remove(key for key in stale if self._part is None or self._is_own(key))
        self._folder.write_once(self._paths.spec, encode_json(self.spec.to_json()))
        self._check_spec()
        self._folder.write_once(f"{DATA}/zarr.json", encode_json(group_metadata(_FORMAT)))
        # Where the length is unknown, what is committed is now the whole first units.
        known = self.spec.samples
        samples = len(self.committed) * self.spec.unit if known is None else known
        write = self._folder.write if self._part is None else self._folder.write_once
        write_metadata(self._paths, self.spec, samples, sample_index, write=write)

    def _is_own(self, key: str) -> bool:
        """Tell whether a temporary file is one of this part's units."""
        assert self.spec.samples is not None
        name = key.rpartition("/")[2].partition(TEMPORARY)[0]
        if key.startswith(f"{self._paths.group}/"):
            folders = (f"{self._paths.group}/{array.key}/c/" for array in self.spec.arrays)
            inside = [key.removeprefix(one) for one in folders if key.startswith(one)]
            # unit / 0 / …
            name = inside[0].partition("/")[0].partition(TEMPORARY)[0] if inside else ""
        number = name.removeprefix("u").removesuffix(".json")
        own = part_units(self.spec.samples, self.spec.unit, self._part)
        return number.isdecimal() and int(number) in own

    def _check_spec(self) -> None:
        """Refuse a step that another run began, and may have ended, since this one looked."""
        ours = StepSpec.from_json(json.loads(encode_json(self.spec.to_json())))
        theirs = read_spec(self._paths)
        if theirs != ours:
            raise StoreError(
                f"step {self.spec.step} of {self._folder} is another run's, begun in the "
                "meantime: choose another step or another folder"
            )
        self.spec = theirs


def write_metadata(
    paths: Paths,
    spec: StepSpec,
    samples: int,
    sample_index: np.ndarray[Any, Any] | None = None,
    *,
    write: Write | None = None,
) -> None:
    """Write what Zarr needs to know of a step, and the coordinate of its samples."""
    write = write or paths.folder.write
    attributes = {"step": spec.step, "settings": spec.settings, "provenance": spec.provenance}
    if spec.coordinates:
        # As CF conventions have it: xarray takes them for coordinates.
        attributes["coordinates"] = " ".join(array.key for array in spec.coordinates)
    write(f"{paths.group}/zarr.json", encode_json(group_metadata(attributes)))
    table = spec.table
    for array in spec.arrays:
        key = f"{paths.group}/{array.key}"
        if array.site in table:
            site = group_metadata(asdict(table[array.site]))
            write(f"{key.rpartition('/')[0]}/zarr.json", encode_json(site))
        write(f"{key}/zarr.json", encode_json(array_metadata(array, spec, samples)))
    coordinate = f"{paths.group}/sample"
    write(f"{coordinate}/zarr.json", encode_json(coordinate_metadata(samples)))
    for chunk in range(-(-samples // COORDINATE_CHUNK)):
        content = _encode_coordinate(chunk, samples, sample_index)
        write(f"{coordinate}/c/{chunk}", content)


def grow_metadata(paths: Paths, spec: StepSpec, before: int, samples: int) -> None:
    """Make room for more samples than before, where the length is not known in advance."""
    write = paths.folder.write
    for array in spec.arrays:
        metadata = encode_json(array_metadata(array, spec, samples))
        write(f"{paths.group}/{array.key}/zarr.json", metadata)
    coordinate = f"{paths.group}/sample"
    for chunk in range(before // COORDINATE_CHUNK, -(-samples // COORDINATE_CHUNK)):
        write(f"{coordinate}/c/{chunk}", _encode_coordinate(chunk, samples, None))
    write(f"{coordinate}/zarr.json", encode_json(coordinate_metadata(samples)))


def _encode_coordinate(
    chunk: int, samples: int, sample_index: np.ndarray[Any, Any] | None
) -> bytes:
    first = chunk * COORDINATE_CHUNK
    last = min(first + COORDINATE_CHUNK, samples)
    values = np.zeros(COORDINATE_CHUNK, dtype="<i8")
    known = sample_index
    values[: last - first] = np.arange(first, last) if known is None else known[first:last]
    content = Zstd(level=1).encode(values.tobytes())
    return content + google_crc32c.value(content).to_bytes(4, "little")
