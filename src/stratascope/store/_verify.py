"""Looking for damage: does a store still hold what its manifests say was written?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from stratascope.errors import StoreError
from stratascope.store._chunks import DamageError, Encoding, ShardReader, read_coordinate
from stratascope.store._commit import committed_units
from stratascope.store._files import (
    ShardFile,
    find_root,
    list_steps,
    read_end,
    read_json,
    read_manifest,
    read_spec,
)
from stratascope.store._layout import ArraySpec, Paths, StepSpec, array_metadata, name_samples

_BLOCK_BYTES = 1024 * 1024
_ANOTHER_FILE = "is whole, but not the file that its manifest means"

Watch = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a store that is not what was written.

    Attributes:
        path: The file.
        problem: What is wrong with it: what a sentence that begins with the file says of it.
        step: The step to which it belongs.
        samples: The samples whose values are lost with it, until they are computed again; none
            where it only describes others.
        site: The site whose values it holds; ``""`` for a file of the whole step.
        place: Which tensor of the site.

    >>> from pathlib import Path
    >>> print(Damage(Path("c/1/0/0"), "is not there", 0, range(256, 300), "enc.3"))
    step 0, site 'enc.3', samples 256 to 299: c/1/0/0 is not there
    """

    path: Path
    problem: str
    step: int
    samples: range = range(0)
    site: str = ""
    place: str = ""

    def __str__(self) -> str:
        words = [f"step {self.step}"]
        if self.site:
            words.append(f"site '{self.site}'" + (f" [{self.place}]" if self.place else ""))
        if self.samples:
            named = name_samples(self.samples.start, self.samples.stop - 1)
            words.append(f"samples {named}")
        return f"{', '.join(words)}: {self.path} {self.problem}"


def verify(
    path: str | Path, *, step: int | None = None, deep: bool = False, watch: Watch | None = None
) -> list[Damage]:
    """Look for damage in a store; nothing is changed.

    Args:
        path: The store's folder.
        step: Which step to look at; None means all.
        deep: Read every byte, not only sizes, descriptions and the indices of the shards.
        watch: Called now and then with the part that is done, from 0 to 1.

    Returns:
        What is damaged; an empty list where all is well.

    Raises:
        StoreError: There is no store at this path, or no such step.

    >>> import numpy as np, torch, stratascope as ss
    >>> data = np.ones((300, 1, 10), "float32")
    >>> store = ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to="whole.zarr")
    >>> verify("whole.zarr", deep=True)
    []
    """
    root = find_root(Path(path))
    steps = list_steps(root)
    if step is not None and step not in steps:
        listed = ", ".join(map(str, steps)) or "none"
        raise StoreError(f"step must be one of those in {root} ({listed}), got {step}")
    chosen = steps if step is None else [step]
    found: list[Damage] = []
    for done, number in enumerate(chosen):
        for part, damages in _check_step(Paths(root, number), deep=deep):
            found += damages
            if watch is not None:
                watch((done + part) / len(chosen))
    return found


def _check_step(paths: Paths, *, deep: bool) -> Iterator[tuple[float, list[Damage]]]:
    """Look at one step; give bit by bit which part is done, and what is damaged there."""
    try:
        spec = read_spec(paths)
    except (StoreError, OSError) as error:
        yield 1.0, [Damage(paths.spec, _explain(paths.spec, error), paths.step)]
        return
    samples, damages = _check_end(paths, spec)
    step = _Step(paths, spec, samples, deep=deep)
    yield 0.0, damages + step.check_descriptions()
    units = step.list_units()
    for done, unit in enumerate(units, start=1):
        yield done / len(units), step.check_unit(unit)


def _check_end(paths: Paths, spec: StepSpec) -> tuple[int | None, list[Damage]]:
    """Find the number of samples of a step, if it is known, and look at what says that it ended."""
    if not paths.complete.exists():
        return spec.samples, []
    try:
        samples = read_end(paths)
    except (StoreError, OSError) as error:
        problem = _explain(paths.complete, error)
        return spec.samples, [Damage(paths.complete, problem, paths.step)]
    if spec.samples not in (None, samples):
        problem = f"must end the step with {spec.samples} samples, got {samples}"
        return spec.samples, [Damage(paths.complete, problem, paths.step)]
    return samples, []


def _explain(path: Path, error: Exception) -> str:
    """Give what an error says of a file; ours begin with the file."""
    if isinstance(error, FileNotFoundError):
        return "is not there"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})"
    return str(error).removeprefix(f"{path} ")


class _Step:
    """The files of one step.

    Args:
        paths: Where they lie.
        spec: What they hold.
        samples: Number of its samples, or None where nobody knows.
        deep: Whether to read all of them.
    """

    def __init__(self, paths: Paths, spec: StepSpec, samples: int | None, *, deep: bool) -> None:
        self._paths = paths
        self._spec = spec
        self._samples = samples
        self._deep = deep
        self._readers: dict[str, ShardReader] = {}

    def list_units(self) -> list[int]:
        """List the units that must be there: of a finished step all, else the committed ones."""
        units = committed_units(self._paths.commits)
        if self._samples is None:
            return sorted(units)
        whole = range(-(-self._samples // self._spec.unit))
        return [unit for unit in whole if unit in units or self._paths.complete.exists()]

    def check_descriptions(self) -> list[Damage]:
        """Look at what tells every reader of Zarr how the arrays lie."""
        group = self._paths.group
        sites = {array.site: group / array.key.partition("/")[0] for array in self._spec.values}
        folders = {"": group, **sites}
        found = [
            Damage(folder / "zarr.json", problem, self._spec.step, site=site)
            for site, folder in [("", group.parent), *folders.items()]
            if (problem := _check_node(folder / "zarr.json", "group")) is not None
        ]
        for array in self._spec.arrays:
            path = group / array.key / "zarr.json"
            problem = self._check_array(path, array)
            if problem is None:
                self._readers[array.key] = ShardReader(path.parent, 1 + len(array.shape))
            else:
                found.append(self._blame(array, path, problem))
        return found + self._check_coordinate()

    def check_unit(self, unit: int) -> list[Damage]:
        """Look at a unit's manifest and at the shards that it lists."""
        path, start = self._paths.manifest(unit), unit * self._spec.unit
        full = start + self._spec.unit
        stop = full if self._samples is None else min(full, self._samples)
        samples = range(start, stop)
        try:
            manifest = read_manifest(self._paths, self._spec, unit)
        except (StoreError, OSError) as error:
            return [Damage(path, _explain(path, error), self._spec.step, samples)]
        if self._samples is not None and manifest.stop != stop:
            problem = f"must end with sample {stop - 1}, got {manifest.stop - 1}"
            return [Damage(path, problem, self._spec.step, samples)]
        samples = range(manifest.start, manifest.stop)
        return [
            damage
            for array in self._spec.arrays
            for damage in self._check_shard(array, unit, manifest.files[array.key], samples)
        ]

    def _check_array(self, path: Path, array: ArraySpec) -> str | None:
        problem = _check_node(path, "array")
        if problem is not None:
            return problem
        try:
            encoding = Encoding.read(path)
        except DamageError as damage:
            return damage.problem
        plain = read_json(path)
        if self._samples is None and isinstance(plain.get("shape"), list):
            # The arrays grow, and may be ahead of what is committed.
            plain["shape"][:1] = [0]
        meant = array_metadata(array, self._spec, self._samples or 0)
        for name in ("shape", "data_type", "fill_value", "dimension_names"):
            if plain.get(name) != meant[name]:
                return f"must have the {name} {meant[name]}, got {plain.get(name)}"
        rows = array.count_rows(self._spec.unit, self._spec.unit)
        if encoding.shard[0] != rows:
            kind = "unit" if array.per_unit else "samples"
            return f"must have shards of {rows} {kind}, got {encoding.shard[0]}"
        return None

    def _check_coordinate(self) -> list[Damage]:
        folder = self._paths.group / "sample"
        if (problem := _check_node(folder / "zarr.json", "array")) is not None:
            return [Damage(folder / "zarr.json", problem, self._spec.step)]
        if self._paths.complete.exists() and self._samples is not None:
            try:
                read_coordinate(folder, self._samples)
            except DamageError as damage:
                return [Damage(damage.path, damage.problem, self._spec.step)]
        return []

    def _check_shard(
        self, array: ArraySpec, unit: int, file: ShardFile, samples: range
    ) -> Iterator[Damage]:
        path = self._paths.shard(array, unit)
        reader = self._readers.get(array.key)
        problem, rows = _find_problem(path, file, unit, reader), [samples]
        if problem is None and self._deep:
            problem = _check_bytes(path, file, unit, reader)
            if problem is not None and reader is not None and not array.per_unit:
                rows = list(_find_rows(reader, array, samples)) or rows
        if problem is not None:
            for row in rows:
                yield self._blame(array, path, problem, row)

    def _blame(
        self, array: ArraySpec, path: Path, problem: str, samples: range = range(0)
    ) -> Damage:
        return Damage(path, problem, self._spec.step, samples, array.site, array.place)


def _check_node(path: Path, kind: str) -> str | None:
    """Tell what is wrong with the description of a group or an array."""
    try:
        plain = read_json(path)
    except (StoreError, OSError) as error:
        return _explain(path, error)
    return None if plain.get("node_type") == kind else f"must describe a Zarr {kind}"


def _find_problem(path: Path, file: ShardFile, unit: int, reader: ShardReader | None) -> str | None:
    """Tell what is wrong with a shard as far as its size and its index show it."""
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"must have {file.bytes:,} bytes, got {size:,}"
        if reader is not None and reader.read_index_checksum(unit) != file.index_crc32c:
            return _ANOTHER_FILE
    except OSError as error:
        return _explain(path, error)
    except DamageError as damage:
        return damage.problem
    return None


def _check_bytes(path: Path, file: ShardFile, unit: int, reader: ShardReader | None) -> str | None:
    """Tell whether any byte of a shard is another."""
    checksum = 0
    known = file.chunks_crc32c
    try:
        with path.open("rb", buffering=0) as content:
            while block := content.read(_BLOCK_BYTES):
                checksum = google_crc32c.extend(checksum, block)
        if checksum != file.crc32c:
            return "is damaged: it has another checksum"
        if known is not None and reader is not None and reader.read_chunks_checksum(unit) != known:
            return _ANOTHER_FILE
    except OSError as error:
        return _explain(path, error)
    except DamageError as damage:
        return damage.problem
    return None


def _find_rows(reader: ShardReader, array: ArraySpec, samples: range) -> Iterator[range]:
    """List the samples of a shard whose chunks cannot be read, joined where they touch."""
    first = None
    others = [slice(0, size, 1) for size in array.shape]
    height = reader.encoding.chunk[0]
    for start in range(samples.start, samples.stop, height):
        try:
            reader.read([slice(start, min(start + height, samples.stop), 1), *others])
        except DamageError:
            first = start if first is None else first
        else:
            if first is not None:
                yield range(first, start)
            first = None
    if first is not None:
        yield range(first, samples.stop)
