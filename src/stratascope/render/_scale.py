"""From values to positions on a colour table."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stratascope.render._arrays import as_values
from stratascope.render._text import number, numbers, share
from stratascope.render._transform import Transform, apply, checked, describe, invert

Estimator = Literal["percentile", "symmetric", "range", "mad", "sigma"]

# A share of negative values below this is noise about zero, not a sign that carries meaning.
_SIGNED_FROM = 0.01
# A range which starts above this part of its end is shown from its own start, not from zero.
_OFFSET_FROM = 0.2
# Among fewer values than this none can be called an outlier, and the ends are the percentiles.
_FEW = 16
_SAMPLED = 512
# What is worked on at once, few enough to stay in the cache of a processor.
_AT_ONCE = 2**15
# How many standard deviations a range reaches from its centre, and what makes a median absolute
# deviation one of them where the values are normal.
_DEVIATIONS = 3
_MAD_TO_SIGMA = 1.482602218505602
# So many order statistics of a histogram stand for its values.
_RANKS = 10_001


@dataclass(frozen=True, slots=True)
class Scale:
    """The range that the colours of a picture stand for, and what of the data it leaves out.

    Make one by hand, and pass it to several pictures, to compare them.

    Args:
        low: The value at the lower end.
        high: The value at the upper end.
        diverging: Whether the colours part at zero; the range is then symmetric.
        percentile: The percentile that set the range; None for a range set otherwise.
        at_maximum: Whether the maximum took the estimate's place because that was zero.
        constant: Whether all finite values were equal.
        finite: How many values were finite.
        clipped: The fraction of the finite values outside the range.
        nans: How many values were NaN.
        plus_infs: How many values were +Inf.
        minus_infs: How many values were -Inf.
        estimator: What set the range, see `fit_scale`; None for a range set by hand.
        transform: How values spread over the range: `"linear"`, or with more room for those
            near zero, from least to most, by `"sqrt"` of the magnitude, `"asinh"` or `"log"`.

    Raises:
        ValueError: The range is not finite, or reversed, or diverging but not symmetric, or the
            transform unknown.

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
    estimator: Estimator | None = None
    transform: Transform = "linear"

    def __post_init__(self) -> None:
        checked("transform", self.transform, Transform)
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
        if self.estimator and not self.finite:
            return "no finite values"
        if self.estimator and self.constant:
            return f"constant {number(self.low)}"
        reasons = [self._reason(), describe(self.transform)]
        if self.finite:
            reasons.append(f"{share(self.clipped)} clipped" if self.clipped else "nothing clipped")
        return f"{self.extent} ({', '.join(filter(None, reasons))})"

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
        if self.estimator is None:
            return "fixed"
        if self.estimator == "range":
            return "least to greatest"
        if self.percentile is None:
            return self._deviations()
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

    def _deviations(self) -> str:
        name, centre = ("MAD", "median") if self.estimator == "mad" else ("sigma", "mean")
        if self.at_maximum:
            return f"maximum, as the {name} is 0"
        scaled = " scaled" if self.estimator == "mad" else ""
        return f"{_DEVIATIONS}{scaled} {name} about " + ("0" if self.diverging else f"the {centre}")


def fit_scale(
    array: Any,
    *,
    percentile: float = 99.5,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
) -> Scale:
    """Choose the range of values that the colours of an array of any shape should stand for.

    Where at least 1 % of the finite values are negative, the range is symmetric about zero and
    ends at the percentile of `|x|`. Otherwise it runs from zero, or from the opposite percentile
    where the values stay clear of zero, to the percentile. One outlier never sets it.

    Args:
        array: The values: an array, a tensor, nested sequences. Or anything that has no values but
            a method `quantile`, such as `stats.Distribution`: the range is then that of 10,001
            quantiles, and no data are read.
        percentile: Where the range ends, from 50 to 100.
        estimator: What sets the range: the `"percentile"` as above; `"symmetric"`, the same but
            about zero whatever the signs; `"range"`, the least to the greatest value;
            `"mad"`, three times the median absolute deviation, scaled to the standard deviation of
            normal values; `"sigma"`, three standard deviations. The latter two are taken about zero
            where values are signed; else about the median or the mean, and within the values.
        transform: How values spread over the range; see `Scale`.

    Raises:
        ValueError: `percentile` is not from 50 to 100, or another argument unknown, or the
            quantiles are those of several channels.

    >>> fit_scale([[0.0, 1.0], [2.0, 3.0]]).extent
    '0 to 3'
    >>> fit_scale([-1.0, 2.0, 0.0], estimator="sigma", transform="sqrt").caption
    '±3.87 (3 sigma about 0, signed square root, nothing clipped)'
    """
    # Tensors and data frames have quantiles, too, but values besides.
    if hasattr(array, "quantile") and not hasattr(array, "__array__"):
        return _fit_quantiles(array, percentile, estimator, transform)
    return fit_values(as_values(array).array, percentile, estimator, transform)


def fit_values(
    values: NDArray[np.float64],
    percentile: float,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
) -> Scale:
    """Choose the range for float64 values; `fit_scale` says how."""
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile must be from 50 to 100, got {percentile!r}")
    checked("estimator", estimator, Estimator)
    share_kept = percentile if estimator in ("percentile", "symmetric") else None
    finite, least, most = _finite_of(values)
    chosen = _choose(finite, (least, most), estimator, percentile)
    return Scale(
        **chosen,
        **_count(values, finite.size, chosen["low"], chosen["high"]),
        percentile=share_kept,
        estimator=estimator,
        transform=transform,
    )


def _choose(
    finite: NDArray[np.float64],
    ends: tuple[float, float],
    estimator: Estimator,
    percentile: float,
) -> dict[str, Any]:
    """Choose the range of finite values, and tell of what kind it is."""
    if not finite.size:
        return {"low": 0.0, "high": 1.0}
    least, most = ends
    if least == most:
        return {"low": least, "high": least, "constant": True}
    if estimator == "range":
        return {"low": least, "high": most}
    signed = most <= 0 or (least < 0 and np.count_nonzero(finite < 0) >= _SIGNED_FROM * finite.size)
    if signed or estimator == "symmetric":
        high = _reach(finite, 0.0, estimator, percentile)
        at_maximum = high <= 0
        high = max(-least, most) if at_maximum else high
        return {"low": -high, "high": high, "diverging": True, "at_maximum": at_maximum}
    low, high = _ends(finite, estimator, percentile)
    at_maximum = high <= low
    if at_maximum:
        low, high = (least if low else 0.0), most
    return {"low": low, "high": high, "at_maximum": at_maximum}


def _finite_of(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """Give the finite values, without a copy where all are, and the least and the greatest."""
    finite = values.reshape(-1)
    if not finite.size:
        return finite, 0.0, 0.0
    least, most = float(finite.min()), float(finite.max())
    # Where both ends are finite, all values are.
    if math.isfinite(least) and math.isfinite(most):
        return finite, least, most
    return _finite_of(finite[np.isfinite(finite)])


def _fit_quantiles(
    source: Any, percentile: float, estimator: Estimator, transform: Transform
) -> Scale:
    """Choose the range from quantiles; of few values, all of them are taken."""
    source = getattr(source, "layer", source)
    total = getattr(source, "total", None)
    amount = _RANKS if total is None else int(np.sum(total))
    ranks = max(2, min(amount, _RANKS))
    q = (np.arange(ranks) + 0.5) / ranks
    q[0], q[-1] = 0.0, 1.0
    values = np.asarray(source.quantile(q) if amount else q * np.nan, np.float64)
    if values.size != ranks:
        raise ValueError(
            f"quantiles must be those of one distribution, got shape {values.shape} for {ranks} of "
            "them; pick a channel, or merge the channels"
        )
    scale = fit_values(values.reshape(-1), percentile, estimator, transform)
    return replace(scale, finite=amount if scale.finite else 0, nans=0)


def observed(scale: Scale, values: NDArray[np.float64]) -> Scale:
    """Give the same range with the counts of the values that it is now used for."""
    return replace(scale, **_count(values, _finite_of(values)[0].size, scale.low, scale.high))


def _count(values: NDArray[np.float64], amount: int, low: float, high: float) -> dict[str, Any]:
    """Count what is not finite, and what of the finite amount is outside a range."""
    outside = int(np.count_nonzero(values < low) + np.count_nonzero(values > high))
    nans = plus = minus = 0
    if amount < values.size:
        plus = int(np.count_nonzero(values == np.inf))
        minus = int(np.count_nonzero(values == -np.inf))
        nans = values.size - amount - plus - minus
    clipped = (outside - plus - minus) / amount if amount else 0.0
    return {
        "finite": amount,
        "clipped": clipped,
        "nans": nans,
        "plus_infs": plus,
        "minus_infs": minus,
    }


def fitted(
    values: NDArray[np.float64],
    scale: Scale | None,
    percentile: float,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
) -> Scale:
    """Give the scale passed by the caller, or fit one, with the counts for these values."""
    if scale is None:
        return fit_values(values, percentile, estimator, transform)
    if not isinstance(scale, Scale):
        raise TypeError(f"scale must be a Scale, got {scale!r}; make one: render.Scale(low, high)")
    return observed(scale, values)


def positions(
    values: NDArray[np.float64], scale: Scale, *, top: float = 1.0
) -> NDArray[np.float64]:
    """Place values on 0..1, or up to another top, clipped at both ends; NaN stays NaN.

    >>> positions(np.array([-1.0, 0.0, 9.0]), Scale(-2, 2, diverging=True)).tolist()
    [0.25, 0.5, 1.0]
    """
    if scale.low == scale.high:
        # Of a range without width only this much is known: below, on it, above.
        above = 0.5 + 0.5 * (values > scale.low) - 0.5 * (values < scale.low)
        return np.where(np.isnan(values), np.nan, above) * top
    placed = np.clip(values, scale.low, scale.high)
    # Taken relative to the larger end first, since high - low may exceed the largest float.
    size = max(abs(scale.low), abs(scale.high))
    placed = apply(scale.transform, np.divide(placed, size, out=placed))
    start, end = _transformed_ends(scale)
    placed -= start
    placed *= top / (end - start)
    return placed


def value_at(scale: Scale, place: float) -> float:
    """Give the value that is drawn at a place on 0..1.

    >>> value_at(Scale(0, 8, transform="sqrt"), 0.5)
    2.0
    """
    start, end = _transformed_ends(scale)
    between = np.array(start * (1 - place) + end * place)
    return float(invert(scale.transform, between)) * max(abs(scale.low), abs(scale.high))


def _transformed_ends(scale: Scale) -> tuple[float, float]:
    size = max(abs(scale.low), abs(scale.high))
    start, end = apply(scale.transform, np.array([scale.low, scale.high]) / size)
    return float(start), float(end)


def _ends(
    finite: NDArray[np.float64], estimator: Estimator, percentile: float
) -> tuple[float, float]:
    """Give the range of values that are not signed."""
    if estimator == "percentile":
        high = _upper(finite, percentile)
        # Where enough values are near zero the range starts there, and needs no sorting.
        near = np.count_nonzero(finite <= _OFFSET_FROM * high)
        if near > finite.size * (1 - percentile / 100) + 1:
            return 0.0, high
        start = _lower(finite, 100 - percentile)
        return (start if start > _OFFSET_FROM * high else 0.0), high
    most = float(finite.max())
    relative = finite / most
    centre = most * float(np.median(relative) if estimator == "mad" else relative.mean())
    reach = _reach(finite - centre, centre, estimator, percentile)
    return max(float(finite.min()), centre - reach), min(most, centre + reach)


def _reach(
    offsets: NDArray[np.float64], centre: float, estimator: Estimator, percentile: float
) -> float:
    """Give how far a range reaches from its centre, of the values less the centre."""
    if estimator in ("percentile", "symmetric"):
        return _upper(offsets, percentile, sizes=True)
    sizes = np.abs(offsets)
    most = float(sizes.max())
    if not most:
        return 0.0
    # Relative to the largest, since a square may exceed the largest float.
    relative = sizes / most
    one = np.sqrt((relative**2).mean()) if estimator == "sigma" else np.median(relative)
    factor = float(one) * (_DEVIATIONS if estimator == "sigma" else _DEVIATIONS * _MAD_TO_SIGMA)
    return min(most * factor, np.finfo(np.float64).max - abs(centre))


def _upper(values: NDArray[np.float64], percentile: float, *, sizes: bool = False) -> float:
    """Give a percentile, of `|x|` if so, that in a small array does not lean on a lone outlier."""
    if values.size < _FEW:
        return float((np.abs(values) if sizes else values).max())
    below, above, part = _neighbours(values, percentile, sizes=sizes)
    between = below + (above - below) * part
    return between if between <= 2 * below else below


def _lower(values: NDArray[np.float64], percentile: float) -> float:
    if values.size < _FEW:
        return float(values.min())
    below, above, part = _neighbours(values, percentile)
    between = below + (above - below) * part
    return between if between >= above / 2 else above


def _neighbours(
    values: NDArray[np.float64], percentile: float, *, sizes: bool = False
) -> tuple[float, float, float]:
    """Give the values, or their sizes, below and above a percentile, and its place between them."""
    place = (values.size - 1) * percentile / 100
    rank = min(math.floor(place), values.size - 1)
    following = min(rank + 1, values.size - 1)
    if values.size > 2 * _SAMPLED:
        # Most values are far from a percentile near an end, which a part of them tells.
        some = values[:: values.size // _SAMPLED]
        some = np.sort(np.abs(some) if sizes else some)
        low = percentile < 50
        bound = some[_SAMPLED // 20 if low else -(_SAMPLED // 20)]
        tail = _tail(values, bound, low=low, sizes=sizes)
        left_out = 0 if low else values.size - tail.size
        if left_out <= rank and following - left_out < tail.size:
            values, sizes = tail, False
            rank, following = rank - left_out, following - left_out
    ordered = np.partition(np.abs(values) if sizes else values, [rank, following])
    return float(ordered[rank]), float(ordered[following]), place % 1


def _tail(
    values: NDArray[np.float64], bound: float, *, low: bool, sizes: bool
) -> NDArray[np.float64]:
    """Give the values, or their sizes, that are at a bound or beyond it."""
    parts = []
    for start in range(0, values.size, _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        part = np.abs(part) if sizes else part
        parts.append(part[part <= bound if low else part >= bound])
    return np.concatenate(parts)
