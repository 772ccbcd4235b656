"""Where components go in OKLab: equal steps to equal steps, the first on lightness."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stratascope.render._gamut import reach

Floats = NDArray[np.float64]

# The grey of the centre. It is fixed, and so are the hues: chosen anew for the widest spread, both
# jump between refits on nearly the same rows, and every colour with them.
GREY = 0.62
# The share of the rows whose colours a screen must be able to show.
_SHOWN = 0.98
# Lightness, then blue to yellow, which all eyes can tell apart, then green to red. Half a step of
# a or b looks like a whole one of lightness, as in the difference deltaEOK2 of CSS.
_AXES = np.array([[1.0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]])


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """An affine map from coordinates to OKLab.

    Attributes:
        matrix: Shape ``(3, K)``.
        centre: The coordinates that become grey, shape ``(K,)``.
    """

    matrix: Floats
    centre: Floats

    def lab(self, coordinates: Floats) -> Floats:
        """Turn coordinates `(K, n)` into OKLab `(3, n)`."""
        colours = self.matrix @ (coordinates - self.centre[:, None])
        colours[0] += GREY
        return colours


def place(points: Floats, variances: Floats, vividness: float) -> Placement:
    """Spread points `(n, K)` over the gamut, as widely as `_SHOWN` of them allow.

    Args:
        points: At most three coordinates of each row.
        variances: Of each coordinate; one of 0 has no colour.
        vividness: 0 keeps the proportions of the coordinates, 1 makes them equally strong.
    """
    count = points.shape[1]
    centre = np.median(points, axis=0)
    shown = variances > 0
    if not shown.any():
        return Placement(np.zeros((3, count)), centre)
    most = variances.max()
    stretch = np.zeros(count)
    stretch[shown] = (variances[shown] / most) ** (-vividness / 2) / np.sqrt(most)
    matrix = _AXES[:, :count] * stretch
    size = _largest_size(matrix @ (points - centre).T)
    return Placement(size * matrix, centre)


def _largest_size(cloud: Floats) -> float:
    """Give the largest factor at which enough of a cloud `(3, n)` about grey is in the gamut."""
    far = np.sqrt(np.square(cloud).sum(0))
    moving = far > 0
    origin = np.zeros((3, int(moving.sum())))
    origin[0] = GREY
    allowed = np.sort(reach(origin, cloud[:, moving] / far[moving]) / far[moving])
    # As many decimals as can be seen, so that the last bit of a sum is nothing to it.
    size = float(allowed[min(int((1 - _SHOWN) * cloud.shape[1]), len(allowed) - 1)])
    mantissa, exponent = np.frexp(size)
    return float(np.ldexp(np.floor(mantissa * 2**16) / 2**16, exponent))
