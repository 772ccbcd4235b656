"""Principal components of rows: robust, the same bits every time, each with a sign of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A row beyond this many deviations, and beyond this many times what 95 % of rows keep to, is wild.
_DEVIATIONS, _TIMES = 8.0, 4.0
_LOOKED_AT = 2048
# Squares and their sums stay within float64 from 2**-64 to 1e140.
_MODERATE, _LARGEST = 64, 1e140
# So few bits that sums of products of rows, and of rows with loadings, are exact in float64: then
# neither threads nor the library's order of summation can change a colour.
_ROW_BITS, _LOADING_BITS = 19, 20
_EXACT = 512
_BLOCK, _ROUNDS, _TOLERANCE = 12, 60, 1e-6
_NEGLIGIBLE = 1e-6
# Ratio of two variances below which their components may turn into each other. Chance makes one of
# so many standard errors (North et al. 1982), and heavy tails make these larger than they are.
_DEGENERATE, _CHANCE = 1.05, 6.0
_SILENT, _CLEAR = 1e-3, 0.1
_ROUNDING = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The leading components of rows.

    Attributes:
        mean: Shape ``(C,)``.
        loadings: Shape ``(C, K)``, a unit vector a column.
        variances: Along each, descending; 0 where there is nothing to see.
        total: Variance of all channels together.
        projections: Of the rows on each, shape ``(n, K)``.
        ambiguous: Whether a refit on other rows of the kind may turn or mirror the first three:
            two variances are all but equal, or nothing tells one side of a component from the
            other.
    """

    mean: Floats
    loadings: Floats
    variances: Floats
    total: float
    projections: Floats
    ambiguous: bool

    def first(self, count: int) -> "Components":
        """Keep so many of them."""
        return replace(
            self,
            loadings=self.loadings[:, :count],
            variances=self.variances[:count],
            projections=self.projections[:, :count],
        )

    @property
    def explained(self) -> float | None:
        """Their share of the variance; None where nothing varies."""
        if self.total <= 0:
            return None
        return round(min(1.0, float(self.variances.sum()) / self.total), 4)

    @property
    def rank(self) -> int:
        """How many of the components there is anything along."""
        return int(np.count_nonzero(self.variances))


def usual_exponent(rows: Floats) -> int:
    """Give the power of two by which rows are divided first; 0 unless they are huge or tiny.

    >>> usual_exponent(np.ones((2, 2))), usual_exponent(np.full((2, 2), 2.0**100))
    (0, 101)
    """
    largest = np.abs(rows).max(1, initial=0)
    largest = largest[largest > 0]
    exponent = int(np.frexp(np.quantile(largest, 0.95, method="lower"))[1]) if len(largest) else 0
    return exponent if abs(exponent) > _MODERATE else 0


def scaled(values: Floats, exponent: int) -> Floats:
    """Divide values by a power of two; what is then still beyond all reason is cut off."""
    if exponent:
        with np.errstate(over="ignore", under="ignore"):
            values = np.ldexp(values, -exponent)
    return values.clip(-_LARGEST, _LARGEST)


def tame(rows: Floats) -> Floats:
    """Pull wild rows towards the others, the further off the more, and leave the rest as it is."""
    middle = np.median(rows[:_LOOKED_AT], axis=0)
    away = rows - middle
    distance = np.sqrt(np.square(away).sum(1))
    usual = np.median(distance)
    deviation = 1.4826 * np.median(np.abs(distance - usual))
    most_keep = np.quantile(distance, 0.95, method="lower")
    limit = max(usual + _DEVIATIONS * deviation, _TIMES * most_keep)
    wild = distance > limit
    if limit <= 0 or not wild.any():
        return rows
    # What is twice too far off comes to half the limit, so that a wreck weighs nothing.
    kept = (limit / distance[wild]) ** 2
    tamed = rows.copy()
    tamed[wild] = middle + away[wild] * kept[:, None]
    return tamed


def analyse(rows: Floats, count: int = 3) -> Components:
    """Find the leading principal components of tame rows `(n, C)`.

    >>> rows = np.column_stack([np.arange(9.0), np.zeros(9)])
    >>> analyse(rows).loadings[:, 0].tolist(), analyse(rows).rank
    ([1.0, 0.0], 1)
    """
    mean = rows.mean(0)
    centred = on_lattice(rows - mean, _ROW_BITS)
    total = float(np.square(centred).sum() / len(rows))
    # One more, to see whether the last could be another.
    return orient(_leading_of(centred, count + 1), rows, mean, total).first(count)


def analyse_covariance(mean: Floats, covariance: Floats, rows: Floats) -> Components:
    """Find the components of a covariance known from elsewhere, oriented by a part of the rows."""
    known = np.isfinite(mean) & np.isfinite(covariance.diagonal())
    mean = np.where(known, mean, 0.0)
    covariance = np.where(known[:, None] & known, covariance, 0.0)
    total = float(covariance.trace())
    return orient(leading(covariance, len(mean), 4), rows, mean, total).first(3)


def _leading_of(centred: Floats, count: int) -> Floats:
    rows, channels = centred.shape
    if channels <= _EXACT:
        return leading(centred.T @ centred / rows, channels, count)
    if rows <= _EXACT:
        # The vectors of few rows are had by way of the rows' own products.
        values, vectors = np.linalg.eigh(centred @ centred.T)
        return centred.T @ vectors[:, ::-1][:, :count] / _roots(values[::-1][:count])
    return leading(lambda block: centred.T @ (centred @ block) / rows, channels, count)


def _roots(values: Floats) -> Floats:
    return np.sqrt(np.where(values > 1e-12 * max(values.max(), 0), values, np.inf))


def leading(covariance: Floats | Callable[[Floats], Floats], channels: int, count: int) -> Floats:
    """Give the eigenvectors of the largest eigenvalues as columns, `(C, count)` or fewer."""
    if not callable(covariance):
        if channels <= _EXACT:
            return np.linalg.eigh(covariance)[1][:, ::-1][:, :count]
        matrix = covariance
        covariance = matrix.__matmul__
    # Subspace iteration: a hundred times quicker than all eigenvectors of a wide layer.
    start = np.random.Generator(np.random.Philox(0)).standard_normal((channels, max(_BLOCK, count)))
    basis = np.linalg.qr(start)[0]
    before = np.zeros(count)
    for _ in range(_ROUNDS):
        image = covariance(basis)
        values, turn = np.linalg.eigh(basis.T @ image)
        basis = np.linalg.qr(image @ turn[:, ::-1])[0]
        leading = values[::-1][:count]
        if np.abs(leading - before).max() <= _TOLERANCE**2 * max(leading[0], 0):
            break
        before = leading
    values, turn = np.linalg.eigh(basis.T @ covariance(basis))
    return (basis @ turn[:, ::-1])[:, :count]


def orient(loadings: Floats, rows: Floats, mean: Floats, total: float) -> Components:
    """Give directions, one a column, their signs, and project the rows on them."""
    centred = on_lattice(rows - mean, _ROW_BITS)
    loadings = rounded_loadings(loadings)
    projections = centred @ loadings
    variances = np.square(projections).mean(0)
    # A constant shows as what rounding made of it.
    least = (_ROUNDING * float(np.abs(rows).max(initial=0))) ** 2
    variances[variances <= max(least, _NEGLIGIBLE * variances.max(initial=0))] = 0
    strength = np.sqrt(np.square(rows).sum(1))
    signs, clear = orient_points(projections, strength)
    heaviest = np.take_along_axis(loadings, np.abs(loadings).argmax(0)[None], 0)[0]
    signs = np.where(signs == 0, np.where(heaviest < 0, -1.0, 1.0), signs)
    ratio = max(_DEGENERATE, 1 + _chance(len(rows)))
    near = (variances[:-1] < ratio * variances[1:]) & (variances[1:] > 0)
    ambiguous = bool(near[:3].any() or not clear[:3].all())
    return Components(mean, loadings * signs, variances, total, projections * signs, ambiguous)


def rounded_loadings(loadings: Floats) -> Floats:
    """Round loadings so far that the last bit of a sum is nothing to them."""
    return np.rint(loadings * 2**_LOADING_BITS) / 2**_LOADING_BITS


def orient_points(points: Floats, strength: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Choose the sign of each coordinate `(n, K)` by what the rows make of it.

    The first is to grow with the strength of the rows, the others are to have their heavier side on
    the positive one, and the clearer of these two decides. Such signs survive any rotation and
    order of the channels, as those by loadings would not (Bro, Acar & Kolda 2008 on the choice).

    Returns:
        The signs, 0 where the rows say nothing, and which of them are clear.
    """
    signs, clear = np.zeros(points.shape[1]), np.ones(points.shape[1], bool)
    around = strength - strength.mean()
    deviation = float(np.sqrt(np.square(around).mean()))
    for k, point in enumerate(points.T):
        spread = float(np.sqrt(np.square(point).mean()))
        if spread == 0:
            continue
        # As skewness, but less at the mercy of the few largest.
        lean = float(np.mean(np.sign(point) * np.square(point / spread)))
        scale = spread * deviation
        together = float((point * around).mean()) / scale if scale > 0 else 0.0
        first, second = sorted(((2 if k == 0 else 1) * together, lean), key=abs)[::-1]
        if abs(first) > _SILENT:
            signs[k] = np.sign(first)
        against = abs(second) if first * second < 0 else 0.0
        clear[k] = abs(first) - against >= max(_CLEAR, _chance(len(point)))
    return signs, clear


def _chance(rows: int) -> float:
    """Give how far a variance, relative to itself, may be off in so many rows."""
    return _CHANCE * np.sqrt(2 / rows)


def on_lattice(values: Floats, bits: int) -> Floats:
    """Round to so many bits below the largest value."""
    most = float(np.abs(values).max(initial=0))
    if most == 0 or not np.isfinite(most):
        return np.nan_to_num(values)
    step = np.ldexp(1.0, int(np.frexp(most)[1]) - bits)
    return np.rint(values / step) * step
