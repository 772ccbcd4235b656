"""From values to positions on a colour table."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.render._arrays import as_values
from stratascope.render._text import number, numbers, share

# A share of negative values below this is noise about zero, not a sign that carries meaning.
_SIGNED_FROM = 0.01
# A range which starts above this part of its end is shown from its own start, not from zero.
_OFFSET_FROM = 0.2
# Among fewer values than this none can be called an outlier, and the ends are the percentiles.
_FEW = 16
_SAMPLED = 4096


@dataclass(frozen=True, slots=True)
class Scale:
    """The range that the colours of a picture stand for, and what of the data it leaves out.

    Make one by hand, and pass it to several pictures, to compare them.

    Args:
        low: The value at the lower end.
        high: The value at the upper end.
        diverging: Whether the colours part at zero; the range is then symmetric.
        percentile: The percentile that set the range; None for a range set by hand.
        at_maximum: Whether the maximum took the percentile's place because that was zero.
        constant: Whether all finite values were equal.
        finite: How many values were finite.
        clipped: The fraction of the finite values outside the range.
        nans: How many values were NaN.
        plus_infs: How many values were +Inf.
        minus_infs: How many values were -Inf.

    Raises:
        ValueError: The range is not finite, or reversed, or diverging but not symmetric.

    >>> Scale(-2, 2, diverging=True).caption
    '±2 (fixed)'
    """

    low: float
    high: float
    diverging: bool = False
    percentile: float | None = None
    at_maximum: bool = False
    constant: bool = False
    finite: int = 0
    clipped: float = 0.0
    nans: int = 0
    plus_infs: int = 0
    minus_infs: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(
                f"the range of a scale must be finite with low <= high, got low={self.low!r}, "
                f"high={self.high!r}"
            )
        if self.diverging and self.low != -self.high:
            raise ValueError(
                f"a diverging scale must be symmetric about 0, got low={self.low!r}, "
                f"high={self.high!r}; pass Scale(-m, m, diverging=True) or diverging=False"
            )

    @property
    def caption(self) -> str:
        """The range in words: where it ends, what set it, how much of the data is outside.

        >>> fit_scale([-1.0, 1.0]).caption
        '±1 (|x| p99.5, nothing clipped)'
        """
        fitted = self.percentile is not None
        if fitted and not self.finite:
            return "no finite values"
        if fitted and self.constant:
            return f"constant {number(self.low)}"
        reasons = [self._reason()]
        if self.finite:
            reasons.append(f"{share(self.clipped)} clipped" if self.clipped else "nothing clipped")
        return f"{self.extent} ({', '.join(reasons)})"

    @property
    def extent(self) -> str:
        """The range alone.

        >>> Scale(0, 0.5).extent
        '0 to 0.5'
        """
        if self.diverging:
            return f"±{number(self.high)}"
        return " to ".join(numbers([self.low, self.high]))

    def _reason(self) -> str:
        if self.percentile is None:
            return "fixed"
        variable = "|x| " if self.diverging else ""
        if self.percentile == 100:
            return "largest |x|" if self.diverging else "all values"
        name = f"p{self.percentile:g}"
        other = f"p{100 - self.percentile:g}"
        if self.low > 0:
            limits = f"{other} to {name}"
            return f"whole range, as {other} = {name}" if self.at_maximum else limits
        if self.at_maximum:
            return f"{variable}maximum, as {name} is 0"
        return f"{variable}{name}"


def fit_scale(array: Any, *, percentile: float = 99.5) -> Scale:
    """Choose the range of values that the colours of an array of any shape should stand for.

    Where at least 1 % of the finite values are negative, the range is symmetric about zero and
    ends at the percentile of `|x|`. Otherwise it runs from zero, or from the opposite percentile
    where the values stay clear of zero, to the percentile. One outlier never sets it.

    Raises:
        ValueError: `percentile` is not from 50 to 100.

    >>> fit_scale([[0.0, 1.0], [2.0, 3.0]]).extent
    '0 to 3'
    """
    return fit_values(as_values(array).array, percentile)


def fit_values(values: NDArray[np.float64], percentile: float) -> Scale:
    """Choose the range for float64 values; `fit_scale` says how."""
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile must be from 50 to 100, got {percentile!r}")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return observed(Scale(0.0, 1.0, percentile=percentile), values)
    least, most = float(finite.min()), float(finite.max())
    if least == most:
        scale = Scale(least, least, percentile=percentile, constant=True)
        return observed(scale, values)
    if most <= 0 or np.count_nonzero(finite < 0) >= _SIGNED_FROM * finite.size:
        high = _upper(np.abs(finite), percentile)
        at_maximum = high <= 0
        high = max(-least, most) if at_maximum else high
        scale = Scale(-high, high, True, percentile, at_maximum)
        return observed(scale, values)
    high, start = _upper(finite, percentile), _lower(finite, 100 - percentile)
    low = start if start > _OFFSET_FROM * high else 0.0
    at_maximum = high <= low
    if at_maximum:
        low, high = (least if low else 0.0), most
    return observed(Scale(low, high, False, percentile, at_maximum), values)


def observed(scale: Scale, values: NDArray[np.float64]) -> Scale:
    """Give the same range with the counts of the values that it is now used for."""
    finite = np.isfinite(values)
    amount = int(np.count_nonzero(finite))
    outside = int(np.count_nonzero(((values < scale.low) | (values > scale.high)) & finite))
    nans = plus = minus = 0
    if amount < values.size:
        nans = int(np.count_nonzero(np.isnan(values)))
        plus = int(np.count_nonzero(values == np.inf))
        minus = values.size - amount - nans - plus
    clipped = outside / amount if amount else 0.0
    return replace(
        scale, finite=amount, clipped=clipped, nans=nans, plus_infs=plus, minus_infs=minus
    )


def fitted(values: NDArray[np.float64], scale: Scale | None, percentile: float) -> Scale:
    """Give the scale passed by the caller, or fit one, with the counts for these values."""
    if scale is None:
        return fit_values(values, percentile)
    if not isinstance(scale, Scale):
        raise TypeError(f"scale must be a Scale, got {scale!r}; make one: render.Scale(low, high)")
    return observed(scale, values)


def positions(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Place values on 0..1, clipped at both ends; NaN stays NaN.

    >>> positions(np.array([-1.0, 0.0, 9.0]), Scale(-2, 2, diverging=True)).tolist()
    [0.25, 0.5, 1.0]
    """
    if scale.low == scale.high:
        # Of a range without width only this much is known: below, on it, above.
        above = 0.5 + 0.5 * (values > scale.low) - 0.5 * (values < scale.low)
        return np.where(np.isnan(values), np.nan, above)
    placed = np.clip(values, scale.low, scale.high)
    # Taken relative to the larger end first, since high - low may exceed the largest float.
    size = max(abs(scale.low), abs(scale.high))
    start, end = scale.low / size, scale.high / size
    placed /= size
    placed -= start
    placed /= end - start
    return placed


def _upper(values: NDArray[np.float64], percentile: float) -> float:
    """Give a percentile that in a small array does not lean on a lone outlier."""
    if values.size < _FEW:
        return float(values.max())
    below, above, part = _neighbours(values, percentile)
    between = below + (above - below) * part
    return between if between <= 2 * below else below


def _lower(values: NDArray[np.float64], percentile: float) -> float:
    if values.size < _FEW:
        return float(values.min())
    below, above, part = _neighbours(values, percentile)
    between = below + (above - below) * part
    return between if between >= above / 2 else above


def _neighbours(values: NDArray[np.float64], percentile: float) -> tuple[float, float, float]:
    place = (values.size - 1) * percentile / 100
    rank = min(math.floor(place), values.size - 1)
    following = min(rank + 1, values.size - 1)
    # Most values are below any high percentile, and need no sorting: a part of them tells which.
    bound = np.sort(values[:: max(1, values.size // _SAMPLED)])[::-1][: _SAMPLED // 20].min()
    least = values[values >= bound]
    left_out = values.size - least.size
    values, below = (least, left_out) if left_out <= rank else (values, 0)
    ordered = np.partition(values, [rank - below, following - below])
    return float(ordered[rank - below]), float(ordered[following - below]), place - rank
