"""The least and the largest value of each channel, and how often it is there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, count, namespace, share, widen, zeros
from stratascope.stats._batch import Block
from stratascope.stats._statistic import ChannelStatistic

_COUNTS = ("finite", "at_minimum", "at_maximum", "samples", "active")


@dataclass(frozen=True, eq=False, slots=True)
class ChannelExtremes:
    """The range of each channel; all arrays of shape ``(C,)``, all of finite values.

    Attributes:
        threshold: Above this a channel is active.
        minimum: Least value; NaN where there is none.
        maximum: Largest value; NaN where there is none.
        finite: Number of finite values: of all, or in a profile of the share that is looked at.
        at_minimum: Number of these that equal the least of all.
        at_maximum: Number of these that equal the largest of all.
        samples: Number of samples.
        active: Number of samples in which the channel is above the threshold somewhere.

    >>> extremes = Extremes()
    >>> extremes.update([[-1.0, 5.0], [0.0, 5.0]])
    >>> extremes.compute().dead.tolist(), extremes.compute().constant.tolist()
    ([True, False], [False, True])
    """

    threshold: float
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    finite: NDArray[np.int64]
    at_minimum: NDArray[np.int64]
    at_maximum: NDArray[np.int64]
    samples: NDArray[np.int64]
    active: NDArray[np.int64]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Whether a channel has values, and none above the threshold."""
        return self.maximum <= self.threshold

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether all values of a channel are the same."""
        return self.minimum == self.maximum

    @property
    def active_fraction(self) -> NDArray[np.float64]:
        """Share of the samples in which the channel is above the threshold somewhere."""
        return share(self.active, self.samples)

    @property
    def share_at_minimum(self) -> NDArray[np.float64]:
        """Share of the values at the lower end of the range, as in a saturated sigmoid."""
        return share(self.at_minimum, self.finite)

    @property
    def share_at_maximum(self) -> NDArray[np.float64]:
        """Share of the values at the upper end of the range."""
        return share(self.at_maximum, self.finite)


@final
@dataclass(frozen=True, eq=False)
class Extremes(ChannelStatistic[ChannelExtremes]):
    """Find the range of each channel, how often its ends are met, and when it is active.

    Exact. What is not finite is left out; `Counts` tells how much that is.

    Args:
        threshold: Above this a channel is active. A channel that never is, is dead.

    >>> extremes = Extremes()
    >>> extremes.update([[[0.0, 0.0, 2.0]], [[0.0, 1.0, 0.0]]])
    >>> found = extremes.compute()
    >>> found.maximum.tolist(), found.active.tolist(), found.share_at_minimum.round(2).tolist()
    ([2.0], [2], [0.67])
    """

    threshold: float = 0.0

    def compute(self) -> ChannelExtremes:
        """Give the ranges."""
        known = self._known()
        # Adding zero makes a negative zero positive, whichever of the two came first.
        minimum, maximum = known["minimum"] + 0.0, known["maximum"] + 0.0
        none = known["finite"] == 0
        minimum[none] = maximum[none] = np.nan
        return ChannelExtremes(
            self.threshold, minimum, maximum, **{name: known[name] for name in _COUNTS}
        )

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        state = {name: zeros(widths, like, "int64") for name in _COUNTS}
        ends = {"minimum": math.inf, "maximum": -math.inf}
        return state | {name: zeros(widths, like) + end for name, end in ends.items()}

    def _add(self, block: Block, own: dict[str, Array]) -> None:
        xp = namespace(block.values)
        low, high = block.least, xp.amax(block.maxima, 1)
        rows, samples, finite = block.rows, block.values.shape[1], block.rows.shape[1]
        below, above = low <= own["minimum"], high >= own["maximum"]
        if block.bad is not None:
            finite = count(~block.bad.reshape(rows.shape))
            below, above = below & (low < math.inf), above & (high > -math.inf)
        parts = {
            "minimum": low,
            "maximum": high,
            "finite": finite,
            "at_minimum": _count_at(rows, low, below),
            "at_maximum": _count_at(rows, high, above),
            "samples": samples,
            "active": count(widen(block.maxima) > self.threshold),
        }
        self._combine(own, parts)

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        xp = namespace(own["minimum"])
        for end, choose in (("minimum", xp.minimum), ("maximum", xp.maximum)):
            joint = choose(own[end], parts[end])
            own[f"at_{end}"] *= own[end] == joint
            own[f"at_{end}"] += parts[f"at_{end}"] * (parts[end] == joint)
            own[end][...] = joint
        for name in ("finite", "samples", "active"):
            own[name] += parts[name]


def _count_at(rows: Array, ends: Array, wanted: Array) -> Array:
    """Count the values that equal their row's end, in the rows where that matters."""
    # To ask a device which rows those are would mean to wait for it.
    if not isinstance(rows, np.ndarray) or wanted.all():
        return count(rows == ends[:, None]) * wanted
    counts = zeros(ends.shape, ends, "int64")
    if wanted.any():
        counts[wanted] += count(rows[wanted] == ends[wanted][:, None])
    return counts
