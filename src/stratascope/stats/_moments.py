"""Mean, variance, skewness and kurtosis of each channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, count, dot_rows, namespace, widen, zeros
from stratascope.stats._batch import Block
from stratascope.stats._statistic import ChannelStatistic


@dataclass(frozen=True, eq=False, slots=True)
class ChannelMoments:
    """Moments of the finite values of each channel, each of shape ``(C,)``.

    Attributes:
        count: Number of finite values.
        mean: Their mean; NaN where there is none.
        mean_abs: Mean of the absolute values; NaN with ``order=2``.
        variance: Mean squared deviation from the mean, as `numpy.var`.
        skewness: Third standardised moment; NaN for a constant channel and with ``order=2``.
        kurtosis: Fourth standardised moment less 3, so that a normal distribution has 0; NaN as
            above.

    >>> moments = Moments()
    >>> moments.update([[1.0], [2.0], [3.0], [6.0]])
    >>> moments.compute().std.round(3).tolist(), moments.compute().kurtosis.round(3).tolist()
    ([1.871], [-1.0])
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    mean_abs: NDArray[np.float64]
    variance: NDArray[np.float64]
    skewness: NDArray[np.float64]
    kurtosis: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation, the root of the variance."""
        return np.sqrt(self.variance)


@final
@dataclass(frozen=True, eq=False)
class Moments(ChannelStatistic[ChannelMoments]):
    """Gather the moments of each channel in float64, and in one pass, without losing digits.

    Each part of a batch is measured about its own mean, and parts are joined by the formulas of
    Chan, Golub & LeVeque (1979) for the variance and of Pébay (2008) for the higher moments. What
    is not finite is left out; `Counts` tells how much that is.

    Args:
        order: 4, or 2 to leave out `mean_abs`, skewness and kurtosis, half of the work.

    Raises:
        ValueError: `order` is neither.

    >>> moments = Moments()
    >>> moments.update([[1.0, -5.0], [3.0, 5.0]])
    >>> moments.compute().mean.tolist(), moments.compute().variance.tolist()
    ([2.0, 0.0], [1.0, 25.0])
    """

    order: int = 4

    def __post_init__(self) -> None:
        if self.order not in (2, 4):
            raise ValueError(f"order must be 2 or 4, got {self.order!r}")

    def compute(self) -> ChannelMoments:
        """Give the moments."""
        known = self._known()
        amount = known["count"]
        n = np.where(amount, amount, np.nan)
        variance = known["m2"] / n
        spread = np.where(variance > 0, variance, np.nan)
        mean_abs = skewness = kurtosis = np.full_like(variance, np.nan)
        # A variance near the largest float has moments beyond it.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.order == 4:
                mean_abs = known["absolute"] / n
                skewness = known["m3"] / n / spread**1.5
                kurtosis = known["m4"] / n / spread**2 - 3
        mean = np.where(amount, known["origin"] + known["mean"], np.nan)
        return ChannelMoments(amount.astype(np.int64), mean, mean_abs, variance, skewness, kurtosis)

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        more = ("absolute", "m3", "m4") if self.order == 4 else ()
        names = ("count", "origin", "mean", "m2", *more)
        return {name: zeros(widths, like) for name in names}

    def _add(self, block: Block, own: dict[str, Array]) -> None:
        xp = namespace(block.values)
        parts = [self._measure(block, span) for span in block.row_spans()]
        self._combine(
            own, {name: xp.concatenate([part[name] for part in parts]) for name in parts[0]}
        )

    def _measure(self, block: Block, span: slice) -> dict[str, Array]:
        """Give the sums of some rows of a block."""
        xp = namespace(block.values)
        rows, bad = widen(block.rows[span]), block.bad
        amount, first = rows.shape[1], rows[:, 0]
        if bad is not None:
            bad = bad.reshape(block.rows.shape)[span]
            amount = count(~bad)
            least = xp.where(amount > 0, widen(block.least[span]), 0.0)
            first = xp.where(bad[:, 0], least, first)

        def keep(values: Array) -> Array:
            return values if bad is None else xp.where(bad, 0.0, values)

        parts = {"count": zeros(first.shape, first) + amount, "origin": first}
        # One of a channel's values comes off all, and means are kept as what they are above it: a
        # constant is then exactly constant, and values far from zero keep all their digits.
        apart = keep(rows - first[:, None])
        parts["mean"] = apart.sum(1) / (amount + (amount == 0))
        if self.order == 2 and xp is np:
            parts["m2"] = _sum_squares(apart, parts, bad)
            return parts
        apart -= parts["mean"][:, None]
        apart = keep(apart)
        parts["m2"] = dot_rows(apart, apart)
        if self.order == 4:
            # After a ReLU, say, there are no signs to take off, and the sum is known.
            negative = block.least[span] < 0
            parts["absolute"] = amount * (first + parts["mean"])
            if xp is not np or negative.any():
                signless = xp.abs(keep(rows)).sum(1)
                parts["absolute"] = xp.where(negative, signless, parts["absolute"])
            squares = xp.square(apart)
            parts["m3"] = dot_rows(squares, apart)
            parts["m4"] = dot_rows(squares, squares)
        return parts

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        n = own["count"] + parts["count"]
        own["origin"] += parts["origin"] * (own["count"] == 0)
        apart = (parts["origin"] - own["origin"]) + (parts["mean"] - own["mean"])
        step = apart * (parts["count"] / (n + (n == 0)))
        ours, theirs = _recentre(own, -step), _recentre(parts, apart - step)
        for name in ours:
            own[name][...] = ours[name] + theirs[name]
        if self.order == 4:
            own["absolute"] += parts["absolute"]
        own["mean"] += step
        own["count"][...] = n


def _sum_squares(apart: Array, parts: dict[str, Array], bad: Array | None) -> Array:
    """Sum the squared deviations of rows from their means, where possible in one pass less.

    The squares of the mean are taken off those of the values, which costs as many digits as they
    have in common; rows in which that is more than two go the long way.
    """
    mean = parts["mean"]
    squares = dot_rows(apart, apart)
    common = parts["count"] * mean * mean
    lost = ~(common < 0.99 * squares) & (squares > 0)
    if lost.any():
        rows = apart[lost] - mean[lost, None]
        rows = rows if bad is None else np.where(bad[lost], 0.0, rows)
        squares[lost], common[lost] = dot_rows(rows, rows), 0
    return squares - common


def _recentre(sums: dict[str, Any], shift: Array) -> dict[str, Array]:
    """Give the sums of powers of deviations that are all larger by `shift`."""
    m2 = sums["m2"]
    weight = sums["count"] * shift * shift
    about = {"m2": m2 + weight}
    if "m3" in sums:
        m3, m4 = sums["m3"], sums["m4"]
        about["m3"] = m3 + shift * (3 * m2 + weight)
        about["m4"] = m4 + shift * (4 * m3 + shift * (6 * m2 + weight))
    return about
