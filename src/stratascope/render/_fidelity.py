"""How much of the features' distances the colours' distances tell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stratascope.render._gamut import to_linear
from stratascope.render._oklab import encode, srgb_to_oklab
from stratascope.render._text import share

Floats = NDArray[np.float64]

# A step of a or b looks twice as large as one of lightness: deltaEOK2 of CSS.
_WEIGHTS = np.array([1.0, 2.0, 2.0])
_PAIRS = 20_000
# Values that the pairs may have together, and at once.
_MOST_VALUES, _AT_ONCE = 2**23, 2**18
# What is left of linear sRGB to an eye without the pigment for green (Machado et al. 2009).
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How far the colours can be trusted, measured on the rows that a basis was fitted to.

    Attributes:
        shepard: Rank correlation of feature distance and colour difference (deltaEOK2) over pairs
            of positions; 1 if what looks more different is more different. None where nothing
            varies.
        deuteranopia: The same as seen with red-green blindness.
        explained: Share of the variance that the components have; None for other methods.
        clipped: Share of the positions whose colour no screen can show; they have less chroma.

    >>> print(Fidelity(0.98, 0.96, 0.85, 0.02).caption)
    fidelity 0.98 (0.96 red-green blind) · 85 % of the variance · 2 % out of gamut
    """

    shepard: float | None
    deuteranopia: float | None
    explained: float | None
    clipped: float

    @property
    def caption(self) -> str:
        """All of it in a line."""
        parts = []
        if self.shepard is not None:
            parts.append(f"fidelity {self.shepard:.2f} ({self.deuteranopia:.2f} red-green blind)")
        if self.explained is not None:
            parts.append(f"{share(self.explained)} of the variance")
        if self.clipped:
            parts.append(f"{share(self.clipped)} out of gamut")
        return " · ".join(parts)


def measure(rows: Floats, lab: Floats) -> Fidelity:
    """Compare the distances of rows `(n, C)` with those of their colours, OKLab `(3, n)`."""
    if not len(rows):
        return Fidelity(None, None, None, 0.0)
    pairs = max(1, min(_PAIRS, 8 * len(rows), _MOST_VALUES // rows.shape[1]))
    linear, outside = to_linear(lab)
    generator = np.random.Generator(np.random.Philox(0))
    first, second = (generator.random((2, pairs)) * len(rows)).astype(np.intp)
    distance = _distances(rows, first, second)
    found = []
    for light in (linear, (DEUTERANOPIA @ linear).clip(0, 1)):
        seen = srgb_to_oklab(encode(light.T)) * _WEIGHTS
        found.append(rank_correlation(distance, _distances(seen, first, second)))
    return Fidelity(found[0], found[1], None, round(float(outside.mean()), 4))


def _distances(rows: Floats, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
    step = max(1, _AT_ONCE // rows.shape[1])
    return np.concatenate(
        [
            np.sqrt(np.square(rows[first[k : k + step]] - rows[second[k : k + step]]).sum(1))
            for k in range(0, len(first), step)
        ]
    )


def rank_correlation(one: Floats, other: Floats) -> float | None:
    """Give Spearman's correlation, ties having their mean rank; None where one is constant.

    >>> rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 8, 9]))
    1.0
    """
    ranks = [_ranks(values) for values in (one, other)]
    spreads = [float(np.square(rank).sum()) for rank in ranks]
    if not all(spreads):
        return None
    return round(float((ranks[0] * ranks[1]).sum() / np.sqrt(spreads[0] * spreads[1])), 4)


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks - ranks.mean()
