"""Where everything of a store lies, and how its arrays are cut and encoded.

The data are plain Zarr v3: one group a step, one group a site, one array a value, one shard file a
unit of samples. Nothing here is needed to read them.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np

from stratascope.sites import Port, Site
from stratascope.store._bins import describe_bins
from stratascope.store._folder import Folder, StepPart
from stratascope.store._quantized import NAN_CODE, describe_quantization

FORMAT = "stratascope"
LAYOUT_VERSION = 1

RUN_FILE = "run.json"
DATA = "data.zarr"
COMMITS = "commits"
SPEC_FILE = "spec.json"
COMPLETE_FILE = "complete.json"

CHUNK_BYTES = 256 * 1024
TILE_BYTES = 1024 * 1024
UNIT_MULTIPLE = 64
COORDINATE_CHUNK = 65_536
VALUES = "activation"
COORDINATES = ("target", "id")
TEXT = "str"
PREVIEW = "preview"
HISTOGRAM = "histogram"

Codec = Literal["fast", "compact"]

DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One stored array: the values of one site, or of one tensor of a site that passes several.

    Attributes:
        key: Place in the step's group, such as ``enc.3/activation``, or ``target``.
        site: The site's text; the key for what the data gives beside the inputs.
        place: Which tensor of the site's value; ``""`` where the value is one tensor.
        shape: Shape of one sample, such as ``(C, L)``.
        dtype: NumPy name of the stored type.
        source_dtype: Name of the type that the network computed in.
        dims: Names of the axes after ``sample``.
        kind: Class name of the site's module.
        role: What it holds: ``"activation"``, the values, or what belongs to them and lies beside
            them, such as ``"scale"``, or, as ``"target"`` and ``"id"``, to the samples.
        quantized: Whether the values are stored as codes of a byte, with a scale and an offset
            beside them.
        length_axis: Which axis of a sample is as long as the sample, with the lengths beside the
            values and nothing behind them; None where all samples are of the same shape.
        about: What the attributes say further: of values, what was made of them; of that, how.
    """

    key: str
    site: str
    place: str
    shape: tuple[int, ...]
    dtype: str
    source_dtype: str
    dims: tuple[str, ...]
    kind: str = ""
    role: str = VALUES
    quantized: bool = False
    length_axis: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the array in the site's group."""
        return self.key.rpartition("/")[2]

    @property
    def channel_axis(self) -> int | None:
        """Which axis of a sample has the channels; None where a sample is one number."""
        return next((n for n, name in enumerate(self.dims) if name.startswith("channel")), None)

    @property
    def derived(self) -> bool:
        """Whether it is made of the values by whoever writes them."""
        return self.role in (PREVIEW, HISTOGRAM)

    @property
    def per_unit(self) -> bool:
        """Whether it has one row for each unit of samples, and not one for each sample."""
        return self.role == HISTOGRAM

    def count_rows(self, samples: int, unit: int) -> int:
        """Count its rows for so many samples in units of a size."""
        return -(-samples // unit) if self.per_unit else samples

    def key_of(self, role: str) -> str:
        """Give the key of what lies beside these values."""
        folder, _, name = self.key.rpartition("/")
        return f"{folder}/{role}{name.removeprefix(VALUES)}"

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of an inner chunk: a few samples, and as many whole channels as fit."""
        chunk = choose_chunk(self.shape, np.dtype(self.dtype).itemsize)
        return (1, *chunk[1:]) if self.per_unit else chunk

    @property
    def sample_bytes(self) -> int:
        """Uncompressed size of one row: of a sample, or of the counts of a unit."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """What is known of one site beside its values, so that it is found by all its names.

    Attributes:
        site: The site's text.
        path: Dotted path of its module, or name of its operation.
        port: Which of its values.
        call: Which of its calls; None where it runs once.
        calls: How often it runs in a forward; None where nobody counted.
        module: Class name of its module; ``""`` for an operation.
        aliases: Further names of the module.
        ordinals: The how many-th of each of its classes it is to run, from 1.
    """

    site: str
    path: str
    port: Port = "out"
    call: int | None = None
    calls: int | None = None
    module: str = ""
    aliases: tuple[str, ...] = ()
    ordinals: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str) -> "SiteSpec":
        """Say what the text of a site alone tells."""
        site = Site.parse(text)
        return cls(text, site.path, site.port, site.call)


@dataclass(frozen=True, slots=True)
class StepSpec:
    """What one step of a store holds; written once, before its data.

    Attributes:
        step: Number of the step.
        samples: Number of samples, or None where the data's length shows only at its end.
        unit: Samples in one shard file, which is also what a crash can cost.
        arrays: The arrays: those of the values, and those of what belongs to them.
        codec: ``"fast"`` (LZ4) or ``"compact"`` (Zstandard).
        settings: What the values depend on; a run that continues must have the same.
        skipped: Values that could not be stored, and why.
        sites: The sites, in the order of execution; empty in stores of early releases.
        provenance: Where the values come from: command, versions, what the caller added. Nothing
            depends on it.
    """

    step: int
    samples: int | None
    unit: int
    arrays: tuple[ArraySpec, ...]
    codec: Codec = "fast"
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    sites: tuple[SiteSpec, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Give the specification as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "StepSpec":
        """Read what `to_json` gave, now or in another release; what is not known is passed over."""
        arrays = tuple(
            ArraySpec(**{**known, "shape": tuple(known["shape"]), "dims": tuple(known["dims"])})
            for known in (_pick_known(ArraySpec, array) for array in plain["arrays"])
        )
        sites = tuple(
            SiteSpec(**{**known, "aliases": tuple(known["aliases"])})
            for known in (_pick_known(SiteSpec, site) for site in plain.get("sites", ()))
        )
        return cls(**{**_pick_known(cls, plain), "arrays": arrays, "sites": sites})

    @property
    def values(self) -> tuple[ArraySpec, ...]:
        """The arrays of the values."""
        return tuple(array for array in self.arrays if array.role == VALUES)

    @property
    def coordinates(self) -> tuple[ArraySpec, ...]:
        """The arrays of what the data gives beside the inputs."""
        return tuple(array for array in self.arrays if array.role in COORDINATES)

    @property
    def derived(self) -> tuple[tuple[ArraySpec, ArraySpec], ...]:
        """The arrays that are made of values, each with the array of these."""
        sources = {(array.site, array.place): array for array in self.values}
        made = (array for array in self.arrays if array.derived)
        return tuple((array, sources[array.site, array.place]) for array in made)

    @property
    def table(self) -> dict[str, SiteSpec]:
        """What is known of each site, by its text."""
        # Early releases wrote no more than the texts.
        plain = {array.site: SiteSpec.from_text(array.site) for array in self.values}
        return {**plain, **{spec.site: spec for spec in self.sites}}


def _pick_known(cls: type[Any], plain: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in plain.items() if name in names}


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders and files of one step of a store, by their keys.

    Attributes:
        folder: The store's folder.
        step: Number of the step.
    """

    folder: Folder
    step: int

    @property
    def group(self) -> str:
        """The step's Zarr group."""
        return f"{DATA}/{self.step}"

    @property
    def commits(self) -> str:
        """The folder with one manifest for each finished unit."""
        return f"{COMMITS}/{self.step}"

    @property
    def spec(self) -> str:
        """What the step holds."""
        return f"{self.commits}/{SPEC_FILE}"

    @property
    def complete(self) -> str:
        """The file that says that the step is finished."""
        return f"{self.commits}/{COMPLETE_FILE}"

    @property
    def is_complete(self) -> bool:
        """Whether the step is finished."""
        return self.folder.exists(self.complete)

    def manifest(self, unit: int) -> str:
        """The file whose existence commits a unit."""
        return f"{self.commits}/u{unit:08d}.json"

    def shard(self, array: ArraySpec, unit: int) -> str:
        """The file with one unit's values of one array."""
        return "/".join([self.group, array.key, "c", str(unit), *["0"] * len(array.shape)])


def part_units(samples: int, unit: int, part: StepPart | None = None) -> range:
    """List the units of a part of a step, or of the whole: one block, so that few batches are cut.

    >>> part_units(1000, 64), part_units(1000, 64, (1, 4))
    (range(0, 16), range(4, 8))
    """
    units = -(-samples // unit)
    number, count = part or (0, 1)
    return range(units * number // count, units * (number + 1) // count)


def choose_chunk(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Choose the inner chunk for samples of a shape: about 256 KiB, whole maps where they fit.

    >>> choose_chunk((64, 32, 32), 4), choose_chunk((512,), 4), choose_chunk((3, 1000, 1000), 4)
    ((8, 8, 32, 32), (64, 512), (1, 1, 65, 1000))
    """
    if len(shape) < 2:
        return (64, *(min(size, CHUNK_BYTES // (64 * itemsize)) or 1 for size in shape))
    channels, map_shape = shape[0], shape[1:]
    map_bytes = max(1, math.prod(map_shape) * itemsize)
    samples = 8 if 8 * map_bytes <= TILE_BYTES else 1
    if map_bytes > TILE_BYTES:
        row_bytes = max(1, map_bytes // map_shape[0])
        return (1, 1, max(1, CHUNK_BYTES // row_bytes), *map_shape[1:])
    most = max(1, CHUNK_BYTES // (samples * map_bytes))
    # Even pieces: 31 channels become 4 × 8, not 3 × 10 and one of 1.
    pieces = math.ceil(max(1, channels) / most)
    return (samples, max(1, math.ceil(channels / pieces)), *(max(1, n) for n in map_shape))


def shard_shape(array: ArraySpec, unit: int) -> tuple[int, ...]:
    """Give the shape of a shard: the unit's rows, the other axes filled up to whole chunks."""
    rest = zip(array.shape, array.chunk[1:], strict=True)
    return (
        array.count_rows(unit, unit),
        *(max(1, math.ceil(size / chunk)) * chunk for size, chunk in rest),
    )


def missing_value(array: ArraySpec) -> float | bool:
    """Give what stands where nothing was written: NaN where there is one, so missing is not 0."""
    if array.quantized:
        return NAN_CODE
    kind = np.dtype(array.dtype).kind
    return math.nan if kind in "fc" else False if kind == "b" else 0


def fill_value(array: ArraySpec) -> Any:
    """Write what stands where nothing was written, as Zarr does."""
    missing = missing_value(array)
    if not isinstance(missing, float):
        return missing
    return ["NaN", "NaN"] if np.dtype(array.dtype).kind == "c" else "NaN"


def blosc_settings(array: ArraySpec, codec: Codec) -> dict[str, Any] | None:
    """Choose the Blosc settings of an array, or None where Zstandard is used alone.

    bfloat16 widened to float32 has two empty bytes in four, and small counts have three, which
    shuffling gathers; for all else shuffling tears up the runs of whole zeros that rectified layers
    consist of.
    """
    widened = (array.source_dtype == "bfloat16" and not array.quantized) or array.per_unit
    if codec == "compact" and not widened:
        return None
    return {
        "cname": "lz4" if codec == "fast" else "zstd",
        "clevel": 5 if codec == "fast" else 1,
        "shuffle": "shuffle" if widened else "noshuffle",
        "typesize": np.dtype(array.dtype).itemsize,
        "blocksize": 0,
    }


def array_metadata(array: ArraySpec, spec: StepSpec, samples: int) -> dict[str, Any]:
    """Write the ``zarr.json`` of an array."""
    blosc = blosc_settings(array, spec.codec)
    compressor = (
        {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
        if blosc is None
        else {"name": "blosc", "configuration": blosc}
    )
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    plain = {"name": "bytes"} if np.dtype(array.dtype).itemsize == 1 else little
    checksum = {"name": "crc32c"}
    sharding = {
        "chunk_shape": list(array.chunk),
        "codecs": [plain, compressor, checksum],
        "index_codecs": [little, checksum],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [array.count_rows(samples, spec.unit), *array.shape],
        "data_type": array.dtype,
        "chunk_grid": _regular(shard_shape(array, spec.unit)),
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value(array),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": _array_attributes(array),
        "dimension_names": ["unit" if array.per_unit else "sample", *array.dims],
        "storage_transformers": [],
    }


def _array_attributes(array: ArraySpec) -> dict[str, Any]:
    if array.role in COORDINATES:
        encoding = {"encoding": "utf-8"} if array.source_dtype == TEXT else {}
        return {"role": array.role, "source_dtype": array.source_dtype, **encoding}
    attributes: dict[str, Any] = {
        "site": array.site,
        "place": array.place,
        "module": array.kind,
        "source_dtype": array.source_dtype,
    }
    if array.role != VALUES:
        attributes["role"] = array.role
    if array.quantized:
        beside = (_name_beside(array, role) for role in ("scale", "offset"))
        attributes["quantized"] = describe_quantization(*beside)
    if array.length_axis is not None and array.role == VALUES:
        name = _name_beside(array, "length")
        attributes["length"] = {"array": name, "axis": array.dims[array.length_axis]}
        attributes["coordinates"] = name  # as CF conventions have it: xarray takes it for one
    if array.per_unit:
        attributes |= describe_bins()
    return {**attributes, **array.about}


def _name_beside(array: ArraySpec, role: str) -> str:
    return array.key_of(role).rpartition("/")[2]


def coordinate_metadata(samples: int) -> dict[str, Any]:
    """Write the ``zarr.json`` of the sample coordinate."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [samples],
        "data_type": "int64",
        "chunk_grid": _regular((COORDINATE_CHUNK,)),
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
            {"name": "crc32c"},
        ],
        "attributes": {"description": "index of the sample in the data set"},
        "dimension_names": ["sample"],
        "storage_transformers": [],
    }


def group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """Write the ``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _regular(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def name_file(site: str, place: str = "") -> str:
    """Name a file after a site, or one tensor of it, so that every system takes the name.

    >>> name_file("enc.3:in"), name_file("lstm", "1/h")
    ('enc.3~in', 'lstm.1~h')
    """
    name = f"{site}.{place}" if place else site
    # Windows has no colon in file names.
    return name.replace(":", "~").replace("/", "~")


def name_samples(first: int, last: int) -> str:
    """Name a range of samples for people.

    >>> name_samples(0, 63), name_samples(3, 3)
    ('0 to 63', '3')
    """
    return str(first) if first == last else f"{first} to {last}"


def encode_json(plain: Any) -> bytes:
    """Write JSON that is the same for the same content, and pleasant to read."""
    return (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode()
