"""A batch as `(N, C, P)`, and its parts, small enough to stay in the cache of a processor."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope._scramble import mix as mix
from stratascope.errors import DataError
from stratascope.stats._arrays import Array, as_array, dot_rows, fits_float32, namespace, widen
from stratascope.stats._ends import NONFINITE, Ends, count_nonfinite, join, look

# Values of a block, 1 MB of float32: few enough for a cache, and enough for NumPy's calls to pay.
_IN_CACHE = 2**18
# Values that are looked at together where that takes copies of twice the size and more.
_WITH_COPIES = 2**15
# Rows times the 65,536 bins of the finest histogram are then an int32.
_MOST_ROWS = 2**14
# A device wants few and large blocks; this bounds their temporaries.
_ON_DEVICE = 2**24
# Values of one channel beside each other in a block, as each row costs some calls, and a pass over
# the bins of its histogram.
_LONG_ROW = 2**15
# Up to so many positions a map is not worth a reduction of its own.
_SHORT_MAP = 32
# float64 values that are held at once where all channels are needed together.
_TOGETHER = 2**22


class Block:
    """A part of a batch, channels first, shared by all statistics that look at it.

    Attributes:
        values: Shape ``(c, n, p)``: all positions of some samples and channels, as float32 if that
            holds them exactly, and else as float64; not to be changed.
        channels: Which channels of the batch.
        samples: Numbers of the samples, shape ``(n,)``; None if not given.
        ends: What is known of every value, by name, each of shape ``(c, n)``, where `values` are a
            share of them; None where they are all.
    """

    def __init__(
        self, values: Array, channels: slice, samples: Any = None, ends: Ends | None = None
    ) -> None:
        self.values, self.channels, self.samples, self.ends = values, channels, samples, ends

    @functools.cached_property
    def rows(self) -> Array:
        """The values of each channel in a row, shape ``(c, n * p)``."""
        return self.values.reshape(len(self.values), -1)

    def row_spans(self) -> Iterator[slice]:
        """Cut into ranges of rows, where copies of a whole block would leave the cache."""
        whole = not isinstance(self.values, np.ndarray)
        step = max(1, _WITH_COPIES // self.rows.shape[1])
        step = _MOST_ROWS if whole else min(step, _MOST_ROWS)
        for start in range(0, len(self.rows), step):
            yield slice(start, start + step)

    @functools.cached_property
    def bad(self) -> Array | None:
        """Where values are not finite, shape ``(c, n, p)``; None if the block is known to be."""
        xp = namespace(self.values)
        if self.ends is not None and self.nonfinite is None:
            return None
        # A finite sum has finite terms, and that of squares is had in a quarter of the time.
        if xp is np and np.isfinite(dot_rows(self.rows, self.rows)).all():
            return None
        return ~xp.isfinite(self.values)

    @functools.cached_property
    def nonfinite(self) -> Ends | None:
        """Numbers of NaN and infinite values of each sample, by name; None if there are none."""
        if self.ends is None:
            return None if self.bad is None else count_nonfinite(self.values)
        here = isinstance(self.values, np.ndarray)
        return None if here and not any(self.ends[name].any() for name in NONFINITE) else self.ends

    def fill(self, value: float) -> Array:
        """Give the values, this in place of those that are not finite."""
        if self.bad is None:
            return self.values
        return namespace(self.values).where(self.bad, value, self.values)

    @functools.cached_property
    def least(self) -> Array:
        """The least finite value of each channel, shape ``(c,)``; +Inf where there is none."""
        return namespace(self.values).amin(self.minima, 1)

    @functools.cached_property
    def maxima(self) -> Array:
        """The largest finite value of each sample, shape ``(c, n)``; -Inf where there is none."""
        if self.ends is not None:
            return self.ends["maxima"]
        filled = self.fill(-math.inf)
        if _is_short(filled):
            return functools.reduce(np.maximum, _by_position(filled))
        return namespace(filled).amax(filled, 2)

    @functools.cached_property
    def minima(self) -> Array:
        """The least finite value of each sample, shape ``(c, n)``; +Inf where there is none."""
        if self.ends is not None:
            return self.ends["minima"]
        filled = self.fill(math.inf)
        if _is_short(filled):
            return functools.reduce(np.minimum, _by_position(filled))
        return namespace(filled).amin(filled, 2)


class Batch:
    """One batch, checked, with the numbers of its samples.

    Attributes:
        array: Shape ``(N, C, P)``, in the type and place in which it came.
        samples: Numbers of the samples, shape ``(N,)``; None if not given.
        ends: What is known of every value, each of shape ``(N, C)``, where `array` is a share.

    Raises:
        DataError: The batch is a single number, or there are not as many sample numbers as samples.
        TypeError: The values are not real numbers, or the sample numbers no integers.
    """

    def __init__(self, source: Any, samples: Any = None) -> None:
        array = as_array(source)
        if not array.ndim:
            raise DataError(
                "a batch must have shape (N,), (N, C) or (N, C, …), got a single number"
            )
        shape = [int(length) for length in array.shape]
        channels = shape[1] if len(shape) > 1 else 1
        self.array = array.reshape(shape[0], channels, math.prod(shape[2:]))
        self.samples: Any = None if samples is None else _as_numbers(samples, shape[0])
        self.ends: Ends | None = None

    def thin_out(self, chosen: Array, run: Any = map) -> "Batch":
        """Give a copy of the values at chosen positions, with the ends of all; see `look`."""
        thin, ends = look(self.array, chosen, run)
        return Batch._make(thin, self.samples, ends)

    @staticmethod
    def join(batches: "Sequence[Batch]") -> "Batch":
        """Make one of several batches of numbered samples, thinned out alike."""
        if len(batches) == 1:
            return batches[0]
        arrays = [batch.array for batch in batches]
        numbers = np.concatenate([batch.samples for batch in batches])
        ends = join([batch.ends or {} for batch in batches])
        return Batch._make(namespace(arrays[0]).concatenate(arrays), numbers, ends)

    @staticmethod
    def _make(array: Array, samples: Any, ends: Ends) -> "Batch":
        """Put together what is known to fit, without the checks."""
        batch = object.__new__(Batch)
        batch.array, batch.samples, batch.ends = array, samples, ends
        return batch

    @property
    def empty(self) -> bool:
        """Whether there is no value in it."""
        return 0 in self.array.shape

    def channel_spans(self) -> list[slice]:
        """Cut the channels into ranges, of which each is as wide as a block."""
        return _cut(self.array.shape[1], self._block_shape[1])

    def blocks(self, channels: slice) -> Iterator[Block]:
        """Cut a range of channels into blocks; a sample's positions in one are never parted."""
        dtype = "float32" if fits_float32(self.array) else "float64"
        for span in _cut(len(self.array), self._block_shape[0]):
            part = self.array[span, channels]
            numbers = None if self.samples is None else self.samples[span]
            ends = self.ends and {
                name: end[span, channels].swapaxes(0, 1) for name, end in self.ends.items()
            }
            yield Block(widen(part.swapaxes(0, 1), dtype), channels, numbers, ends)

    @functools.cached_property
    def _block_shape(self) -> tuple[int, int]:
        """Numbers of samples and of channels of a block; there is at least one value."""
        samples, _, positions = self.array.shape
        size = _IN_CACHE if isinstance(self.array, np.ndarray) else _ON_DEVICE
        rows = max(1, size // positions)
        many = min(samples, rows, -(-_LONG_ROW // positions))
        return many, max(1, rows // many)

    def spans(self) -> Iterator[slice]:
        """Cut into ranges of samples of which all channels may be held at once as float64."""
        samples, channels, positions = self.array.shape
        step = max(1, _TOGETHER // max(1, channels * positions))
        for start in range(0, samples, step):
            yield slice(start, start + step)

    def feature_width(self, *, flatten: bool) -> int:
        """Give the length of the vectors that `features` gives."""
        return math.prod(self.array.shape[1:]) if flatten else self.array.shape[1]

    def features(self, *, flatten: bool) -> Array:
        """Give one float64 vector a sample: the channels' means, or all values, ``(N, D)``."""
        if flatten:
            return widen(self.array).reshape(len(self.array), -1)
        if isinstance(self.array, np.ndarray) and self.array.dtype != np.float16:
            # Widened on the way, a little at a time.
            return self.array.mean(2, dtype=np.float64)
        parts = [widen(self.array[span]).mean(2) for span in self.spans()]
        return namespace(self.array).concatenate(parts)


def _cut(length: int, most: int) -> list[slice]:
    """Cut into ranges of about the same length, up to `most`: small rests take as many calls."""
    parts = -(-length // most)
    cuts = [length * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


def _is_short(values: Array) -> bool:
    """Tell whether to go position by position, as NumPy takes long for each map by itself."""
    positions = values.shape[2]
    return positions == 1 or (isinstance(values, np.ndarray) and positions <= _SHORT_MAP)


def _by_position(values: Array) -> Iterator[Array]:
    return (values[:, :, position] for position in range(values.shape[2]))


def _as_numbers(samples: Any, length: int) -> NDArray[np.int64]:
    numbers = np.asarray(samples.cpu() if hasattr(samples, "cpu") else samples)
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise TypeError(f"samples must be integers, got {numbers.dtype}")
    if numbers.shape != (length,):
        raise DataError(
            f"samples must be one number for each of the {length} samples, got shape "
            f"{numbers.shape}"
        )
    return numbers.astype(np.int64)
