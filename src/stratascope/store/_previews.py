"""What is written beside values for a first look: small maps of each sample, and counts of a unit.

Both are made of the values as they are stored, each sample by itself and in an order of additions
that is always the same: whoever writes a unit, in whatever batches, gets the same bytes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stratascope.store._bins import BINS, find_bins
from stratascope.store._layout import HISTOGRAM, PREVIEW, VALUES, ArraySpec
from stratascope.store._quantized import dequantize

Rows = Mapping[str, np.ndarray[Any, Any]]
Pick = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]

# Numbers of channels, and into how many the places along an axis are halved: the first that fit.
_SIZES = ((16, 1), (8, 1), (8, 2), (4, 2))
_PLACES = {1: 64, 2: 16}
_PLACES_OF_VOLUMES = 8
_TOKENS = 256
_LEAST_BYTES = 4096
_LEAST_RATIO = 16
_BLOCK_BYTES = 2 * 1024 * 1024
_SHORT = 8

# Prime, so that no axis of a usual size is in step with it.
_MOST_EVERY = 127
_ENOUGH = 4096


def add_previews(
    arrays: tuple[ArraySpec, ...], samples: int | None, unit: int
) -> tuple[ArraySpec, ...]:
    """Describe previews and histograms of values, where they are worth their room.

    Args:
        arrays: The arrays of a step.
        samples: Number of samples, where it is known.
        unit: Samples of a unit.
    """
    described: list[ArraySpec] = []
    beside: list[ArraySpec] = []
    for array in arrays:
        if array.role != VALUES:
            described.append(array)
            continue
        made = [_describe_preview(array), _describe_histogram(array, samples or unit, unit)]
        beside += [spec for spec in made if isinstance(spec, ArraySpec)]
        said = {
            role: spec.name if isinstance(spec, ArraySpec) else f"none: {spec}"
            for role, spec in zip((PREVIEW, HISTOGRAM), made, strict=True)
        }
        described.append(replace(array, about=said))
    return (*described, *beside)


def _describe_preview(array: ArraySpec) -> ArraySpec | str:
    """Describe the preview of an array, or say why it has none."""
    axis = array.channel_axis
    if len(array.shape) < 2 or axis is None or axis == array.length_axis:
        return "a sample has no maps"
    # Of bfloat16 that was widened, half is empty.
    widened = array.source_dtype == "bfloat16" and not array.quantized
    nbytes = array.sample_bytes // (2 if widened else 1)
    for most, halves in _SIZES:
        channels = min(most, array.shape[axis])
        blocks = [_choose_block(array, n, size, halves) for n, size in enumerate(array.shape)]
        blocks[axis] = 1
        shape = [-(-size // block) for size, block in zip(array.shape, blocks, strict=True)]
        shape[axis] = channels
        if _LEAST_BYTES <= nbytes >= _LEAST_RATIO * 2 * math.prod(shape):  # of float16
            break
    else:
        return "a sample is about as small"
    whole = array.shape[axis]
    chosen = [(2 * n + 1) * whole // (2 * channels) for n in range(channels)]
    kind = {"b": "share of true", "c": "mean magnitude"}.get(np.dtype(array.dtype).kind, "mean")
    about = {"of": array.name, "channels": chosen, "block": blocks, "value": kind}
    return replace(
        array,
        key=array.key_of(PREVIEW),
        role=PREVIEW,
        shape=tuple(shape),
        # Axes of one group that share a name must be of one length.
        dims=tuple(f"preview_{name}" for name in array.dims),
        dtype="float16",
        source_dtype="float16",
        quantized=False,
        length_axis=None,
        about=about,
    )


def _choose_block(array: ArraySpec, axis: int, size: int, halves: int) -> int:
    """Choose how many places along an axis become one."""
    token = array.dims[axis].startswith("token")
    most = _TOKENS if token else _PLACES.get(len(array.shape) - 1, _PLACES_OF_VOLUMES)
    return max(1, -(-size // (most // halves)))


def _describe_histogram(array: ArraySpec, samples: int, unit: int) -> ArraySpec | str:
    axis = array.channel_axis
    if axis is not None and (axis == array.length_axis or 0 in array.shape):
        return "samples have no channels in common"
    rows = () if axis is None else (array.shape[axis],)
    places = math.prod(array.shape) // math.prod(rows)
    every = min(_MOST_EVERY, max(1, places * samples // _ENOUGH))
    most = min(unit * -(-places // every), places * -(-unit // every))
    return replace(
        array,
        key=array.key_of(HISTOGRAM),
        role=HISTOGRAM,
        shape=(*rows, BINS),
        dims=("bin",) if axis is None else (array.dims[axis], "bin"),
        dtype=str(np.min_scalar_type(most)),
        source_dtype=str(np.min_scalar_type(most)),
        quantized=False,
        length_axis=None,
        about={
            "of": array.name,
            "every": every,
            "share": 1 / every,
            "counted": "places of a channel's map, by row, whose number and the sample's number "
            "add up to a multiple of 'every'; as float32, of complex values the magnitude",
        },
    )


@np.errstate(all="ignore")
def make_preview(preview: ArraySpec, array: ArraySpec, rows: Rows) -> np.ndarray[Any, Any]:
    """Make the previews of some samples: means of blocks, NaN where a block has one.

    Finite means are cut off at what float16 holds.

    Args:
        preview: What to make.
        array: The values of which it is made.
        rows: The values and what lies beside them, by the arrays' keys, the samples first.
    """
    beside = (array.key, *(array.key_of(role) for role in ("scale", "offset", "length")))
    size = len(rows[array.key])
    made = np.empty((size, *preview.shape), np.float32)
    # So few at once that they stay in the processor's cache.
    step = max(1, _BLOCK_BYTES // array.sample_bytes)
    for first in range(0, size, step):
        part = slice(first, first + step)
        given = {key: rows[key][part] for key in beside if key in rows}
        made[part] = _pool(preview, array, given, np.float32)
        if (beyond := ~np.isfinite(made[part])).any():
            # Sums of finite values may be beyond float32.
            made[part][beyond] = _cut_off(_pool(preview, array, given, np.float64)[beyond])
    return _cut_off(made).astype(np.float16)


def _cut_off(means: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    most = np.finfo(np.float16).max
    if -most <= means.min(initial=0) <= means.max(initial=0) <= most:
        return means
    return np.where(np.isinf(means), means, means.clip(-most, most))


def _pool(
    preview: ArraySpec, array: ArraySpec, rows: Rows, dtype: type[np.floating[Any]]
) -> np.ndarray[Any, Any]:
    axis = array.channel_axis
    assert axis is not None
    chosen = (*[slice(None)] * (1 + axis), _as_slice(preview.about["channels"]))
    values = np.asarray(_pick_values(array, rows, lambda whole: whole[chosen]), dtype)
    ends: list[Any] = [*array.shape]
    if array.length_axis is not None:
        lengths = rows[array.key_of("length")]
        values = np.where(_find_own(array, lengths, values.shape), values, dtype(0))
        ends[array.length_axis] = lengths[:, None]
    for n, (end, block) in enumerate(zip(ends, preview.about["block"], strict=True)):
        if n != axis and (block > 1 or n == array.length_axis):
            values = _add_up(values, 1 + n, block)
            inside = np.clip(end - block * np.arange(values.shape[1 + n]), 0, block)
            if (inside == block).all():
                values /= dtype(block)
                continue
            shape = (-1, *(inside.shape[-1] if k == n else 1 for k in range(len(ends))))
            values /= inside.astype(dtype).reshape(shape)
    return values


def _pick_values(array: ArraySpec, rows: Rows, pick: Pick) -> np.ndarray[Any, Any]:
    """Give a part of the values, as real numbers."""
    codes = rows[array.key]
    values = pick(codes)
    if array.quantized:
        scales = (rows[array.key_of(role)] for role in ("scale", "offset"))
        spread = (
            np.broadcast_to(
                scale.reshape(*scale.shape, *[1] * (codes.ndim - scale.ndim)), codes.shape
            )
            for scale in scales
        )
        values = dequantize(values, *map(pick, spread))
    return np.abs(values) if values.dtype.kind == "c" else values


def _as_slice(chosen: list[int]) -> slice | list[int]:
    """Give numbers as a slice, which takes no copy, where they are evenly spaced."""
    steps = set(np.diff(chosen).tolist())
    return slice(chosen[0], chosen[-1] + 1, *steps) if len(steps) <= 1 else chosen


def _find_own(
    array: ArraySpec, lengths: np.ndarray[Any, Any], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Tell which places of samples that differ in length are their own."""
    assert array.length_axis is not None
    axis = 1 + array.length_axis
    own = np.arange(shape[axis]) < lengths[:, None]
    sizes = (len(lengths), *(shape[axis] if n == axis else 1 for n in range(1, len(shape))))
    return np.broadcast_to(own.reshape(sizes), shape)


def _add_up(values: np.ndarray[Any, Any], axis: int, block: int) -> np.ndarray[Any, Any]:
    """Add up blocks of places along an axis, in the same order however many samples there are."""
    if axis == values.ndim - 1 and block >= _SHORT:
        # Each block is summed up by itself; that of short ones costs more than the sum.
        values = np.ascontiguousarray(values)
        return np.add.reduceat(values, np.arange(0, values.shape[axis], block), axis)
    before = (slice(None),) * axis
    total = values[(*before, slice(None, None, block))].copy()
    for first in range(1, block):
        part = values[(*before, slice(first, None, block))]
        total[(*before, slice(part.shape[axis]))] += part
    return total


class Counts:
    """Counts the values of the samples of a unit.

    Args:
        histogram: What to make.
        array: The values that are counted.
    """

    def __init__(self, histogram: ArraySpec, array: ArraySpec) -> None:
        self._array = array
        self._every: int = histogram.about["every"]
        self._shape = histogram.shape
        self._counts = np.zeros(math.prod(histogram.shape), histogram.dtype)
        self._held: list[np.ndarray[Any, Any]] = []

    @np.errstate(all="ignore")
    def add(self, start: int, rows: Rows) -> None:
        """Count samples from ``start`` on, given as for `make_preview`."""
        array = self._array
        pick = self._choose(start, len(rows[array.key]))
        picked = _pick_values(array, rows, pick)
        if array.length_axis is not None:
            lengths = rows[array.key_of("length")]
            own = _find_own(array, lengths, rows[array.key].shape)
            picked = picked[pick(own)[:, 0]]  # the same for all channels
        self._held.append(picked)
        # To go through all bins is worth it for many values only.
        if sum(held.size for held in self._held) >= len(self._counts):
            self._settle()

    def take(self) -> np.ndarray[Any, Any]:
        """Give the counts of all that was added."""
        self._settle()
        return self._counts.reshape(self._shape)

    def _settle(self) -> None:
        if self._held:
            bins = find_bins(np.concatenate(self._held))
            places = (bins + np.arange(bins.shape[1]) * BINS).reshape(-1)
            found = np.bincount(places, minlength=len(self._counts))
            self._counts += found.astype(self._counts.dtype)
            self._held.clear()

    def _choose(self, start: int, size: int) -> Pick:
        """Choose what of samples is counted; it comes as ``(places, channels)``."""
        every, axis = self._every, self._array.channel_axis
        places = math.prod(self._array.shape) // math.prod(self._shape[:-1])
        first = -np.arange(start, start + size)[:, None] % every
        numbers = first + every * np.arange(-(-places // every))
        inside = numbers < places
        chosen = np.nonzero(inside)[0], numbers[inside]

        def pick(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            by_place = values[..., None] if axis is None else np.moveaxis(values, 1 + axis, -1)
            return by_place.reshape(size, -1, by_place.shape[-1])[chosen]

        return pick
