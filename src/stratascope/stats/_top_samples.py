"""Which samples excite a channel most, and which least."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, namespace, zeros
from stratascope.stats._batch import Block
from stratascope.stats._statistic import ChannelStatistic

# From this length on, maps in which nothing is looked for cost more than to go through the others.
_LONG = 512
# The ends of the range, and the sign that makes the more extreme value the larger one.
_ENDS = {"highest": 1, "lowest": -1}


@dataclass(frozen=True, eq=False, slots=True)
class ChannelSamples:
    """The samples with the largest and the least values of each channel, each ``(C, k)``.

    The first column is the most extreme. Where a channel has fewer samples with finite values than
    were asked for, values are NaN, and numbers of samples and positions -1.

    Attributes:
        highest: The largest values, one a sample.
        highest_samples: Numbers of their samples.
        highest_positions: Where in the sample: an index into its flattened positions.
        lowest: The least values, one a sample.
        lowest_samples: Numbers of their samples.
        lowest_positions: Where in the sample.

    >>> top = TopSamples(1)
    >>> top.update([[[0.0, 9.0]], [[5.0, 1.0]]], samples=[70, 80])
    >>> top.compute().lowest_samples.tolist(), top.compute().lowest_positions.tolist()
    ([[70]], [[0]])
    """

    highest: NDArray[np.float64]
    highest_samples: NDArray[np.int64]
    highest_positions: NDArray[np.int64]
    lowest: NDArray[np.float64]
    lowest_samples: NDArray[np.int64]
    lowest_positions: NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class TopSamples(ChannelStatistic[ChannelSamples]):
    """Find the samples in which each channel reaches its largest and its least values.

    A sample counts once, by its most extreme value and the first position that has it. Of equal
    values that of the smaller sample number comes first, so that any order gives the same. What is
    not finite is left out.

    Args:
        k: How many samples at each end.

    Raises:
        ValueError: `k` is below 1.

    >>> top = TopSamples(2)
    >>> top.update([[1.0], [7.0], [3.0]], samples=range(10, 13))
    >>> top.compute().highest.tolist(), top.compute().highest_samples.tolist()
    ([[7.0, 3.0]], [[11, 12]])
    """

    needs_samples: ClassVar[bool] = True

    k: int = 8

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k!r}")

    def compute(self) -> ChannelSamples:
        """Give the samples."""
        known = self._known()
        found = {name: known[name] for name in known if name != "widths"}
        for end in _ENDS:
            found[end] = np.where(found[f"{end}_samples"] < 0, np.nan, found[end])
        return ChannelSamples(**found)

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        shape = (widths[0], self.k)
        state: dict[str, Array] = {}
        for end, sign in _ENDS.items():
            state[end] = zeros(shape, like) - sign * math.inf
            state[f"{end}_samples"] = zeros(shape, like, "int64") - 1
            state[f"{end}_positions"] = zeros(shape, like, "int64") - 1
        return state

    def _add(self, block: Block, own: dict[str, Array]) -> None:
        xp = namespace(block.values)
        numbers = xp.asarray(block.samples, device=block.values.device)
        for end, sign in _ENDS.items():
            best = block.maxima if sign > 0 else block.minima
            last, last_number = own[end][:, -1:], own[f"{end}_samples"][:, -1:]
            better = (sign * best > sign * last) | ((best == last) & (numbers < last_number))
            chosen: Any = slice(None)
            if xp is np:
                chosen = better.any(1)
                if not chosen.any():
                    continue
            positions = self._find(block, better[chosen], chosen, sign)
            best = best[chosen]
            found = xp.isfinite(best)
            parts = {
                end: best,
                f"{end}_samples": xp.where(found, numbers, -1),
                f"{end}_positions": xp.where(found, positions, -1),
            }
            self._keep(end, own, parts, chosen)

    def _find(self, block: Block, better: Array, chosen: Any, sign: int) -> Array:
        """Find where the samples of chosen channels are at their best, where that is wanted."""
        if block.ends is not None:
            return block.ends["maxima_at" if sign > 0 else "minima_at"][chosen]
        xp, filled = namespace(block.values), block.fill(-sign * math.inf)
        find = xp.argmax if sign > 0 else xp.argmin
        if xp is not np or filled.shape[2] < _LONG:
            return find(filled[chosen], 2)
        positions, channels = np.full(better.shape, -1), np.flatnonzero(chosen)
        for row, sample in np.argwhere(better).tolist():
            positions[row, sample] = find(filled[channels[row], sample])
        return positions

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        for end in _ENDS:
            self._keep(end, own, parts, slice(None))

    def _keep(self, end: str, own: dict[str, Any], parts: dict[str, Any], rows: Any) -> None:
        """Keep the k best of some channels, of those there are and those that came."""
        xp = namespace(own[end])
        names = (end, f"{end}_samples", f"{end}_positions")
        both = [xp.concatenate([own[name][rows], parts[name]], 1) for name in names]
        values, numbers, _ = both
        by_number = xp.argsort(numbers, stable=True)
        channel = xp.arange(len(values), device=values.device)[:, None]
        by_value = xp.argsort(-_ENDS[end] * values[channel, by_number], stable=True)
        kept = by_number[channel, by_value[:, : self.k]]
        for name, array in zip(names, both, strict=True):
            own[name][rows] = array[channel, kept]
