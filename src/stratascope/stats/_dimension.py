"""How many dimensions points really fill, from the distances to two neighbours."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Points whose distances to all others are held at once.
_AT_ONCE = 128
# The nearest by a fast formula that loses digits; among them are the two nearest by a slow one.
_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class IntrinsicDimension:
    """An estimate of a dimension.

    Attributes:
        dimension: The estimate; NaN for fewer than three points.
        points: Number of distinct points that it rests on.
        duplicates: Number of points that were left out, since there is another in the same place.

    >>> round(IntrinsicDimension(1.98, 1000, 0).dimension)
    2
    """

    dimension: float
    points: int
    duplicates: int


def intrinsic_dimension(vectors: Any, *, discard: float = 0.1) -> IntrinsicDimension:
    """Estimate the dimension of the surface on which points lie: TwoNN, Facco et al. (2017).

    The ratio μ of the distances to a point's second and first neighbour has the distribution
    ``F(μ) = 1 - μ^-d``; d is the slope of the line through zero fitted to ``-log(1 - F)`` over
    ``log μ``. It needs some thousand points to be right within a few per cent, and is too small
    above ten dimensions or so.

    Args:
        vectors: One point a row, shape ``(K, D)``, such as ``Reservoir().compute().vectors``.
        discard: Part of the points to leave out of the fit, those with the largest μ.

    Raises:
        ValueError: The vectors are not finite or not two-dimensional, or `discard` is not from 0
            to below 1.

    >>> import numpy as np
    >>> plane = np.random.default_rng(0).uniform(size=(2000, 2)) @ np.ones((2, 10))
    >>> round(intrinsic_dimension(plane).dimension, 1)
    1.0
    """
    given = np.asarray(vectors, np.float64)
    if given.ndim != 2 or not np.isfinite(given).all():
        raise ValueError(
            f"vectors must be finite and of shape (K, D), got shape {given.shape}; "
            "leave out samples with NaN or Inf"
        )
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be from 0 to below 1, got {discard!r}")
    points = np.unique(given, axis=0)
    amount = len(points)
    if amount < 3:
        return IntrinsicDimension(math.nan, amount, len(given) - amount)
    first, second = _find_neighbours(points)
    used = int(amount * (1 - discard))
    ratios = np.log(np.sort(second / first)[:used])
    # The largest has F = 1, of which there is no logarithm.
    ratios = ratios[: amount - 1]
    expected = -np.log1p(-np.arange(1, len(ratios) + 1) / amount)
    squares = float(ratios @ ratios)
    dimension = float(ratios @ expected) / squares if squares else math.inf
    return IntrinsicDimension(dimension, amount, len(given) - amount)


def _find_neighbours(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give each point's distance to its nearest and its second nearest neighbour."""
    centred = points - points.mean(0)
    norms = np.vecdot(centred, centred)
    found = np.empty((2, len(points)))
    amount = min(_CANDIDATES, len(points) - 1)
    for start in range(0, len(points), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        near = norms[rows, None] + norms - 2 * centred[rows] @ centred.T
        near[np.arange(len(near)), np.arange(len(near)) + start] = np.inf
        candidates = np.argpartition(near, amount - 1, axis=1)[:, :amount]
        apart = points[candidates] - points[rows, None]
        distances = np.sqrt(np.sort(np.vecdot(apart, apart), axis=1))
        found[:, rows] = distances[:, :2].T
    return found[0], found[1]
