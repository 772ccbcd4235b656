"""Mean, variance, skewness and kurtosis of each channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import (
    Array,
    count,
    dot_rows,
    namespace,
    widen,
    zeros,
)
from stratascope.stats._batch import Block
from stratascope.stats._statistic import ChannelStatistic

# How much of the mean square may be the square of the mean for moments about zero to keep all but
# three of sixteen digits.
_COMMON = 0.9
# Values that tell whether a channel is far from zero.
_FEW = 64


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
        if xp is not np:
            # To ask a device which rows are far from zero would mean to wait for it.
            spans = [self._sum_about_mean(block, span) for span in block.row_spans()]
            sums = {name: xp.concatenate([part[name] for part in spans]) for name in spans[0]}
        else:
            sums, far = self._sum_about_origin(block)
            for rows in (span.start + np.flatnonzero(far[span]) for span in block.row_spans()):
                again = self._sum_about_mean(block, rows) if len(rows) else {}
                for name, exact in again.items():
                    sums[name][rows] = exact
        self._combine(own, sums)

    def _sum_about_origin(self, block: Block) -> tuple[dict[str, Array], NDArray[np.bool_]]:
        """Give the sums with half of the work, and for which rows that does not do.

        The moments about zero, or where the values seem to lie far from it about one of them, are
        moved to the mean. This costs as many digits as the squares of that and of the values have
        in common.
        """
        shape, bad = block.rows.shape, block.bad
        n = np.full(shape[0], float(shape[1]))
        if bad is not None:
            bad = bad.reshape(shape)
            n -= count(bad)
        origin = _choose_origin(block.rows)
        shifted = origin.any()
        total, m2, m3, m4, absolute = sums = np.zeros((5, shape[0]))
        # After a ReLU, say, there are no signs to take off.
        signed = self.order == 4 and (block.least < 0).any()
        spans = list(block.row_spans())
        # The same memory for all, as it is in the cache by then.
        kept = np.empty((2, *block.rows[spans[0]].shape))
        for span in spans:
            rows = block.rows[span]
            powers = kept[:, : len(rows)]
            powers[0] = rows
            if bad is not None:
                np.copyto(powers[0], origin[span, None], where=bad[span])
            if signed:
                spoilt = 0.0 if bad is None else np.abs(origin[span]) * (shape[1] - n[span])
                absolute[span] = np.abs(powers[0], out=powers[1]).sum(1) - spoilt
            if shifted:
                powers[0] -= origin[span, None]
            np.square(powers[0], out=powers[1])
            sums[:2, span] = powers.sum(2)
            if self.order == 4:
                sums[2:4, span] = dot_rows(powers[1], powers)
        mean = total / np.maximum(n, 1)
        common = mean * total
        far = ~((common <= _COMMON * m2) & np.isfinite(m4))
        parts = {"count": n, "origin": origin, "mean": mean, "m2": m2 - common}
        if self.order == 4:
            parts["absolute"] = absolute if signed else total + n * origin
            parts["m3"] = m3 - mean * (3 * m2 - 2 * common)
            parts["m4"] = m4 - mean * (4 * m3 - mean * (6 * m2 - 3 * common))
        return parts, far

    def _sum_about_mean(self, block: Block, span: Any) -> dict[str, Array]:
        """Give the sums of some rows to the last digit, wherever the values lie."""
        xp, rows, bad = namespace(block.values), widen(block.rows[span]), block.bad
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
        apart -= parts["mean"][:, None]
        apart = keep(apart)
        parts["m2"] = dot_rows(apart, apart)
        if self.order == 4:
            parts["absolute"] = xp.abs(keep(rows)).sum(1)
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


def _choose_origin(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Give zero, or the first value of rows whose first values lie farther from it than apart."""
    few = widen(rows[:, :_FEW])
    with np.errstate(over="ignore", invalid="ignore"):
        far = few.mean(1) ** 2 > few.var(1)
    return np.where(far & np.isfinite(few[:, 0]), few[:, 0], 0.0)


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
