"""One array of a store: what is asked for is read and checked, and no more."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from stratascope._display import Layers, add_picture, draw_png
from stratascope.errors import StoreError
from stratascope.store._chunks import DamageError, ShardReader
from stratascope.store._histogram import StoredHistogram
from stratascope.store._index import Part, parse_index
from stratascope.store._layout import HISTOGRAM, PREVIEW, ArraySpec, name_samples
from stratascope.store._quantized import dequantize, quantized_dtype

if TYPE_CHECKING:
    from stratascope.store._reader import Store

_BLOCK_BYTES = 16 * 1024 * 1024


class StoredArray:
    """One array of a store, shape ``(N, …)``; indexing reads what is asked for and no more.

    Index as in NumPy, with integers, slices that go forwards, an ellipsis, and one list or mask
    along one axis; all else, such as a negative step or a second list, is an IndexError. Samples
    that an interrupted run still owes, and those whose file is damaged, are an error, never a
    made-up value. Any number of threads may read at once.

    Attributes:
        site: The site's text.
        place: Which tensor of the site's value; ``""`` where the value is one tensor.
        shape: ``(N, *sample_shape)``.
        dtype: NumPy type of the values.
        stored_dtype: NumPy type that they have in the files: uint8 where they are quantized.
        dims: Names of the axes.
        source_dtype: Name of the type that the network computed in.
        length_dim: Name of the axis along which samples differ in length; None where they do not.
        channels: Of a preview: the numbers of the channels that it holds; None of values.
        block: Of a preview: how many places along each axis after the first are one of its places;
            None of values.
    """

    def __init__(
        self,
        store: "Store",
        spec: ArraySpec,
        reader: ShardReader,
        beside: Mapping[str, tuple[ArraySpec, ShardReader]],
    ) -> None:
        self._store = store
        self._spec = spec
        self._reader = reader
        self._beside = beside
        self.site = spec.site
        self.place = spec.place
        self.shape = (store.samples, *spec.shape)
        self.stored_dtype = np.dtype(spec.dtype)
        self.dtype = quantized_dtype(spec.source_dtype) if spec.quantized else self.stored_dtype
        self.dims = ("sample", *spec.dims)
        self.source_dtype = spec.source_dtype
        self.length_dim = None if spec.length_axis is None else spec.dims[spec.length_axis]
        preview = spec.about if spec.role == PREVIEW else {}
        self.channels = tuple(preview["channels"]) if preview else None
        self.block = tuple(preview["block"]) if preview else None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def nbytes_stored(self) -> int:
        """Bytes on disk of the samples that are committed, with what belongs to them."""
        return sum(size for reader in self._readers for size in self._sizes(reader).values())

    @property
    def codes(self) -> "StoredArray":
        """The codes of quantized values, uint8, as they lie in the files.

        Codes 0 to 252 are finite values, in even steps from the least of their group to the
        greatest; 253, 254 and 255 are -inf, inf and NaN.

        Raises:
            StoreError: The values are not quantized.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.linspace(-1, 1, 20 * 100, dtype="float32").reshape(20, 1, 100)
        >>> store = ss.extract(torch.nn.ReLU(), data, "model", to="codes.zarr", dtype="uint8")
        >>> store["model"]
        StoredArray 'model' (20, 1, 100) float32 (stored as uint8)
        >>> store["model"].codes[19, 0, ::33]
        array([  0,  84, 168, 252], dtype=uint8)
        """
        if not self._spec.quantized:
            raise StoreError(
                f"{self._name} has no codes: its values are stored as {self.stored_dtype}, and not "
                "quantized. Read them as they are"
            )
        codes = replace(self._spec, quantized=False, length_axis=None)
        return StoredArray(self._store, codes, self._reader, {})

    @property
    def lengths(self) -> "StoredArray":
        """The length of each sample along ``length_dim``, int64 ``(N,)``; behind it all is NaN.

        Raises:
            StoreError: All samples are of the same length.

        >>> import torch, stratascope as ss
        >>> signals = [torch.ones(1, size) for size in (100, 80, 90)]
        >>> data = torch.utils.data.DataLoader(signals, batch_size=3)
        >>> model = torch.nn.Conv1d(1, 4, 3, stride=2)
        >>> store = ss.extract(model, data, "model", to="lengths.zarr", length="longest")
        >>> store["model"].shape, store["model"].length_dim, store["model"].lengths[:]
        ((3, 4, 49), 'time', array([49, 39, 44]))
        """
        if self.length_dim is None:
            raise StoreError(
                f"{self._name} has no lengths: all of its samples are whole, of shape "
                f"{self.shape[1:]}. Read them as they are"
            )
        lengths = replace(
            self._spec, shape=(), dims=(), dtype="int64", quantized=False, length_axis=None
        )
        return StoredArray(self._store, lengths, self._beside["length"][1], {})

    @property
    def preview(self) -> "StoredArray":
        """Small maps of each sample: means of blocks of some channels, written with the values.

        A block with a NaN is NaN. Of complex values it is the mean magnitude, of booleans the
        share that is true. There are at most 16 ``channels``, evenly spaced, and of each 64 places
        of a signal or 16 × 16 of a picture; ``block`` says how many of the values' became one.

        Raises:
            StoreError: There is none: samples are about as small, or the store was written without.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.ones((20, 1, 64, 64), "float32")
        >>> store = ss.extract(torch.nn.Conv2d(1, 32, 1), data, "model", to="preview.zarr")
        >>> small = store["model"].preview
        >>> small
        StoredArray 'model' preview (20, 16, 16, 16) float16
        >>> small.channels[:4], small.block
        ((1, 3, 5, 7), (1, 4, 4))
        """
        spec, reader = self._find_made(PREVIEW)
        return StoredArray(self._store, spec, reader, {})

    @property
    def histogram(self) -> StoredHistogram:
        """Counts of each channel's values in bins, of all samples that are committed.

        They are read at once, a small file for each unit, and no values are.

        Raises:
            StoreError: There is none, as the store was written without; or a file is damaged.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.ones((20, 1, 64), "float32")
        >>> store = ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to="histogram.zarr")
        >>> store["model"].histogram
        StoredHistogram of 4 channels: 4,960 counts of 20 samples, 100 % of the values
        """
        spec, reader = self._find_made(HISTOGRAM)
        ranges, size = self._store.committed_ranges(), self._store.unit
        counts = np.zeros(spec.shape, np.int64)
        others = [slice(0, length, 1) for length in spec.shape]
        for unit in (start // size for span in ranges for start in span[::size]):
            try:
                counts += reader.read([unit, *others])[0]
            except DamageError as damage:
                # Its rows are units.
                samples = range(unit * size, (unit + 1) * size)
                named = DamageError(damage.path, samples, damage.problem)
                raise self._describe(named) from damage
        return StoredHistogram(counts, spec.about["share"], sum(map(len, ranges)))

    @property
    def nbytes_previews(self) -> int:
        """Bytes on disk of the preview and the histogram of the samples that are committed."""
        made = (reader for spec, reader in self._beside.values() if spec.derived)
        return sum(size for reader in made for size in self._sizes(reader).values())

    def _find_made(self, role: str) -> tuple[ArraySpec, ShardReader]:
        if role not in self._beside:
            _, none, reason = str(self._spec.about.get(role)).partition("none: ")
            raise StoreError(
                f"{self._name} has no {role}: {reason if none else 'it was written without'}. Read "
                "its values, or parts of them"
            )
        return self._beside[role]

    @property
    def block_size(self) -> int:
        """Number of samples in a block of `blocks`, about 16 MB; read so, nothing is read twice."""
        row = self._spec.chunk[0]
        row_bytes = row * math.prod(self.shape[1:]) * self.dtype.itemsize
        return row * max(1, _BLOCK_BYTES // max(1, row_bytes))

    def check_there(self) -> None:
        """Make sure that no file of the array is lost; what is in them is not looked at.

        Raises:
            StoreError: One is.
        """
        unit = self._store.unit
        for reader in (self._reader, *(reader for _, reader in self._beside.values())):
            for number, size in self._sizes(reader).items():
                if size == 0:
                    samples = range(number * unit, (number + 1) * unit)
                    problem = "is not there, or empty"
                    raise self._describe(DamageError(reader.path(number), samples, problem))

    def blocks(self) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Iterate over all samples in the order in which they are stored, about 16 MB at a time.

        Gives the number of the first sample of a block, and its values, shape ``(n, …)``. Nothing
        is read twice.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.ones((300, 1, 10), "float32")
        >>> store = ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to="blocks.zarr")
        >>> [(start, values.shape) for start, values in store["model"].blocks()]
        [(0, (300, 4, 8))]
        """
        step = self.block_size
        for start in range(0, len(self), step):
            yield start, self[start : start + step]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        for _, values in self.blocks():
            yield from values

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        # The files may have grown since: ends are those that this array was opened with.
        chosen = parse_index(index, self.shape, self.dims)
        self._check_held(chosen.parts[0])
        try:
            return chosen.arrange(self._read(chosen.parts))
        except DamageError as damage:
            raise self._describe(damage) from damage

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("a stored array must be copied to become a NumPy array")
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        made = "" if self.channels is None else f" {PREVIEW}"
        return f"StoredArray {self._name}{made} {self.shape} {name_dtype(self)}"

    def _repr_html_(self) -> str:
        return add_picture(f"<div>{escape(repr(self))}</div>", self._pick)

    def _repr_png_(self) -> bytes | None:
        return draw_png(self._pick)

    def _pick(self) -> tuple[Layers, str]:
        return pick_layers(self._store, [self])

    @property
    def spec(self) -> ArraySpec:
        """What the store says of the array."""
        return self._spec

    @property
    def _name(self) -> str:
        return f"'{self.site}'" + (f" [{self.place}]" if self.place else "")

    @property
    def _readers(self) -> tuple[ShardReader, ...]:
        """Those of the values, and of what they cannot be read without."""
        needed = (reader for spec, reader in self._beside.values() if not spec.derived)
        return (self._reader, *needed)

    def _read(self, parts: Sequence[Part]) -> np.ndarray[Any, Any]:
        values = self._reader.read(parts)
        if not self._spec.quantized:
            return values
        scale, offset = (self._beside[role][1] for role in ("scale", "offset"))
        groups = parts[: scale.ndim]
        return dequantize(values, scale.read(groups), offset.read(groups))

    def _sizes(self, reader: ShardReader) -> dict[int, int]:
        """Give the size of the file of each committed unit; 0 where there is none."""
        unit = self._store.unit
        numbers = (
            number
            for span in self._store.committed_ranges()
            for number in range(span.start // unit, -(-span.stop // unit))
        )
        keys = {number: reader.key(number) for number in numbers}
        found = self._store.folder.stat([*keys.values()])
        return {n: found[key].bytes if key in found else 0 for n, key in keys.items()}

    def _check_held(self, part: Part) -> None:
        """Refuse samples that are not there, rather than give what an earlier run left of them."""
        if self._store.complete:
            return
        wanted = np.atleast_1d(np.arange(self.shape[0])[part])
        if not self._store.holds(wanted):
            raise describe_owed(self._store)

    def _describe(self, damage: DamageError) -> StoreError:
        samples = damage.samples
        named = name_samples(samples.start, min(samples.stop, self.shape[0]) - 1)
        return StoreError(
            f"step {self._store.step}, site {self._name}, samples {named} cannot be read: "
            f"{damage}. Other samples and sites are not touched; stratascope verify lists all that "
            "is damaged"
        )


def pick_layers(store: "Store", arrays: Sequence[StoredArray]) -> tuple[Layers, str]:
    """Choose what a notebook shows of arrays: the first sample that is there."""
    ranges = store.committed_ranges()
    if not ranges:
        return [], ""
    first = ranges[0].start
    drawable = [array for array in arrays if 2 <= array.ndim <= 5]
    layers = [
        (f"{array.site} {array.place}".strip(), partial(read_channels, array, first))
        for array in drawable
    ]
    return layers, f"sample {first}"


def read_channels(array: StoredArray, sample: int) -> np.ndarray[Any, Any]:
    """Read one sample, channels first; what has none is one channel."""
    values, axis = array[sample], array.spec.channel_axis
    return values[None] if axis is None else np.moveaxis(values, axis, 0)


def name_dtype(array: StoredArray) -> str:
    """Name the type of an array's values, and of what is stored of them where that is another."""
    stored = array.stored_dtype
    return str(array.dtype) + ("" if stored == array.dtype else f" (stored as {stored})")


def describe_owed(store: "Store") -> StoreError:
    """Say which samples of an unfinished step are there, and how to come by the others."""
    ranges = store.committed_ranges()
    listed = ", ".join(name_samples(span.start, span.stop - 1) for span in ranges) or "none"
    first = ranges[0] if ranges else range(0)
    remedy = f", or read those only, as store[site][{first.start}:{first.stop}]" if ranges else ""
    return StoreError(
        f"{store.path} is incomplete: of step {store.step} samples {listed} are there. Run the "
        f"same extract again with resume=True (--resume){remedy}"
    )
