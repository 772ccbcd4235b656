"""A histogram whose bins are the leading bits of a float: fine near zero, coarse far away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, add_at, namespace, widen, zeros
from stratascope.stats._batch import Block
from stratascope.stats._distribution import Distribution, make_distribution
from stratascope.stats._statistic import ChannelStatistic

# Of a float32: 23 bits of fraction, and 255 exponents of finite numbers.
_FRACTION = 23
_EXPONENTS = 255


@final
@dataclass(frozen=True, eq=False)
class Histogram(ChannelStatistic[Distribution]):
    """Count the values of each channel in bins of equal relative width, for any quantile.

    A value's bin is the sign, the exponent and the first bits of the fraction of its float32. So
    bins are the same for all data, counts are exact in any order, and an estimated quantile is
    off by at most ``1 / bins_per_octave`` of its true size, from 1.2e-38 to 3.4e38. What is smaller
    counts as zero; what is larger, and what is not finite, is counted apart.

    Args:
        bins_per_octave: Bins from each power of two to the next: a power of two up to 128. 8 take
            32 kB of memory for each row.
        per_channel: Whether each channel is a row, or the whole layer is one.

    Raises:
        ValueError: `bins_per_octave` is no power of two from 1 to 128.

    >>> histogram = Histogram()
    >>> histogram.update([[1.0], [2.0], [3.0], [1000.0]])
    >>> histogram.compute().quantile([0.5, 1]).tolist()
    [[2.125], [992.0]]
    """

    bins_per_octave: int = 8
    per_channel: bool = True

    def __post_init__(self) -> None:
        if self.bins_per_octave not in (1, 2, 4, 8, 16, 32, 64, 128):
            raise ValueError(
                "bins_per_octave must be a power of two from 1 to 128, got "
                f"{self.bins_per_octave!r}"
            )

    def compute(self) -> Distribution:
        """Give the distribution of each channel, or that of the layer."""
        counts = self._known()["counts"]
        negative, positive = np.split(counts, [self._signed], axis=1)
        tiny, finite = self.bins_per_octave, _EXPONENTS * self.bins_per_octave
        zero = (positive[:, :tiny] + negative[:, :tiny]).sum(1, keepdims=True)
        nonfinite = (positive[:, finite:] + negative[:, finite:]).sum(1)
        positive, negative = positive[:, tiny:finite], negative[:, tiny:finite]
        edges = self._edges()
        return make_distribution(
            np.concatenate([-edges[:0:-1], [0.0], edges[:-1]]),
            np.concatenate([-edges[-2::-1], [0.0], edges[1:]]),
            np.concatenate([negative[:, ::-1], zero, positive], 1),
            nonfinite,
        )

    @property
    def _signed(self) -> int:
        """Number of bins of each sign."""
        return (_EXPONENTS + 1) * self.bins_per_octave

    def _edges(self) -> NDArray[np.float64]:
        """Give where the bins of positive normal numbers begin, and where the last one ends."""
        per = self.bins_per_octave
        exponents = np.arange(1, _EXPONENTS)[:, None]
        edges = np.ldexp(1 + np.arange(per) / per, exponents - 127).reshape(-1)
        return np.append(edges, np.ldexp(1.0, 128))

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        rows = widths[0] if self.per_channel else 1
        return {"counts": zeros((rows, 2 * self._signed), like, "int64")}

    @property
    def _apart(self) -> bool:
        return self.per_channel

    def _add(self, block: Block, own: dict[str, Array]) -> None:
        for span in block.row_spans():
            rows = widen(block.rows[span], "float32")
            counts = own["counts"][span] if self.per_channel else self.state["counts"]
            # The last bits are dropped, up to those of the fraction that make a bin.
            shift = _FRACTION + 1 - self.bins_per_octave.bit_length()
            if isinstance(rows, np.ndarray) and rows.shape[1] >= 2 * self._signed:
                self._count_long(counts, rows.view(np.uint32) >> shift)
            else:
                self._count_short(counts, rows.view(namespace(rows).int32) >> shift)

    def _count_long(self, counts: NDArray[np.int64], keys: NDArray[Any]) -> None:
        """Count row by row in bins of its own, which pays where these are fewer than the values."""
        half = self._signed
        for row, row_keys in enumerate(keys):
            found, to = np.bincount(row_keys), counts[row if self.per_channel else 0]
            # The sign is the first bit, so that negative values come behind.
            for part, start in ((found[:half], half), (found[half:], 0)):
                to[start : start + len(part)] += part

    def _count_short(self, counts: Array, keys: Array) -> None:
        """Count all rows at once. The sign is the first bit: negative values have negative keys."""
        xp, apart = namespace(keys), 2 * self._signed if self.per_channel else 0
        rows = xp.arange(len(keys), dtype=xp.int32, device=keys.device)[:, None]
        keys = keys + (rows * apart + self._signed)
        add_at(counts.reshape(-1), xp.asarray(keys.reshape(-1), dtype=xp.int64))

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        own["counts"] += parts["counts"]
