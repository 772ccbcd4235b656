"""Looking for damage: does a store still hold what its manifests say was written?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stratascope.errors import StoreError
from stratascope.store._chunks import (
    DamageError,
    Encoding,
    ShardReader,
    read_coordinate,
    sum_up,
)
from stratascope.store._files import (
    ShardFile,
    UnreadableError,
    committed_units,
    find_root,
    list_steps,
    read_end,
    read_json,
    read_manifest,
    read_spec,
)
from stratascope.store._folder import Folder
from stratascope.store._layout import DATA, ArraySpec, Paths, StepSpec, array_metadata, name_samples

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

    path: Path | str
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
    path: str | Path | Folder,
    *,
    step: int | None = None,
    deep: bool = False,
    watch: Watch | None = None,
) -> list[Damage]:
    """Look for damage in a store; nothing is changed.

    Args:
        path: The store's folder, or the URL of one in a bucket.
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
    root = find_root(path)
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
    except (UnreadableError, OSError) as error:
        path = paths.folder.locate(paths.spec)
        yield 1.0, [Damage(path, _explain(path, error), paths.step)]
        return
    samples, damages = _check_end(paths, spec)
    step = _Step(paths, spec, samples, deep=deep)
    yield 0.0, damages + step.check_descriptions()
    units = step.list_units()
    for done, unit in enumerate(units, start=1):
        yield done / len(units), step.check_unit(unit)


def _check_end(paths: Paths, spec: StepSpec) -> tuple[int | None, list[Damage]]:
    """Find the number of samples of a step, if it is known, and look at what says that it ended."""
    if not paths.is_complete:
        return spec.samples, []
    path = paths.folder.locate(paths.complete)
    try:
        samples = read_end(paths)
    except (UnreadableError, OSError) as error:
        return spec.samples, [Damage(path, _explain(path, error), paths.step)]
    if spec.samples not in (None, samples):
        problem = f"must end the step with {spec.samples} samples, got {samples}"
        return spec.samples, [Damage(path, problem, paths.step)]
    return samples, []


def _explain(path: Path | str, error: Exception) -> str:
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
        self._folder = paths.folder
        self._spec = spec
        self._samples = samples
        self._deep = deep
        self._readers: dict[str, ShardReader] = {}

    def list_units(self) -> list[int]:
        """List the units that must be there: of a finished step all, else the committed ones."""
        units = committed_units(self._paths)
        if self._samples is None:
            return sorted(units)
        whole = range(-(-self._samples // self._spec.unit))
        complete = self._paths.is_complete
        return [unit for unit in whole if complete or unit in units]

    def check_descriptions(self) -> list[Damage]:
        """Look at what tells every reader of Zarr how the arrays lie."""
        group = self._paths.group
        sites = {
            array.site: f"{group}/{array.key.partition('/')[0]}" for array in self._spec.values
        }
        nodes = [("", DATA), ("", group), *sites.items()]
        found = [
            Damage(self._folder.locate(f"{key}/zarr.json"), problem, self._spec.step, site=site)
            for site, key in nodes
            if (problem := self._check_node(f"{key}/zarr.json", "group")) is not None
        ]
        for array in self._spec.arrays:
            key = f"{group}/{array.key}"
            problem = self._check_array(f"{key}/zarr.json", array)
            if problem is None:
                self._readers[array.key] = ShardReader(self._folder, key, 1 + len(array.shape))
            else:
                found.append(self._blame(array, f"{key}/zarr.json", problem))
        return found + self._check_coordinate()

    def check_unit(self, unit: int) -> list[Damage]:
        """Look at a unit's manifest and at the shards that it lists."""
        path, start = self._folder.locate(self._paths.manifest(unit)), unit * self._spec.unit
        full = start + self._spec.unit
        stop = full if self._samples is None else min(full, self._samples)
        samples = range(start, stop)
        try:
            manifest = read_manifest(self._paths, self._spec, unit)
        except (UnreadableError, OSError) as error:
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

    def _check_node(self, key: str, kind: str) -> str | None:
        """Tell what is wrong with the description of a group or an array."""
        try:
            plain = read_json(self._folder, key)
        except (UnreadableError, OSError) as error:
            return _explain(self._folder.locate(key), error)
        return None if plain.get("node_type") == kind else f"must describe a Zarr {kind}"

    def _check_array(self, key: str, array: ArraySpec) -> str | None:
        problem = self._check_node(key, "array")
        if problem is not None:
            return problem
        try:
            encoding = Encoding.read(self._folder, key)
        except DamageError as damage:
            return damage.problem
        plain = read_json(self._folder, key)
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
        array = f"{self._paths.group}/sample"
        key = f"{array}/zarr.json"
        if (problem := self._check_node(key, "array")) is not None:
            return [Damage(self._folder.locate(key), problem, self._spec.step)]
        if self._paths.is_complete and self._samples is not None:
            try:
                read_coordinate(self._folder, array, self._samples)
            except DamageError as damage:
                return [Damage(damage.path, damage.problem, self._spec.step)]
        return []

    def _check_shard(
        self, array: ArraySpec, unit: int, file: ShardFile, samples: range
    ) -> Iterator[Damage]:
        key = self._paths.shard(array, unit)
        reader = self._readers.get(array.key)
        problem, rows = self._find_problem(key, file, unit, reader), [samples]
        if problem is None and self._deep:
            problem = self._check_bytes(key, file, unit, reader)
            if problem is not None and reader is not None and not array.per_unit:
                rows = list(_find_rows(reader, array, samples)) or rows
        if problem is not None:
            for row in rows:
                yield self._blame(array, key, problem, row)

    def _find_problem(
        self, key: str, file: ShardFile, unit: int, reader: ShardReader | None
    ) -> str | None:
        """Tell what is wrong with a shard as far as its size and its index show it."""
        try:
            found = self._folder.stat([key])
            if key not in found:
                return "is not there"
            if found[key].bytes != file.bytes:
                return f"must have {file.bytes:,} bytes, got {found[key].bytes:,}"
            if reader is not None and reader.read_index_checksum(unit) != file.index_crc32c:
                return _ANOTHER_FILE
        except OSError as error:
            return _explain(self._folder.locate(key), error)
        except DamageError as damage:
            return damage.problem
        return None

    def _check_bytes(
        self, key: str, file: ShardFile, unit: int, reader: ShardReader | None
    ) -> str | None:
        """Tell whether any byte of a shard is another."""
        try:
            if reader is None:
                with self._folder.open(key) as content:
                    checksum, chunks = sum_up(content)[0], None
            else:
                checksum, chunks = reader.read_checksums(unit)
        except OSError as error:
            return _explain(self._folder.locate(key), error)
        except DamageError as damage:
            return damage.problem
        if checksum != file.crc32c:
            return "is damaged: it has another checksum"
        known = file.chunks_crc32c
        return _ANOTHER_FILE if None not in (known, chunks) and known != chunks else None

    def _blame(self, array: ArraySpec, key: str, problem: str, samples: range = range(0)) -> Damage:
        path = self._folder.locate(key)
        return Damage(path, problem, self._spec.step, samples, array.site, array.place)


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
