"""What a histogram tells: any quantile, with the interval in which it lies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class Distribution:
    """Numbers of values in bins of ascending value; bins without any are left out.

    A row is a channel, or the whole layer.

    Attributes:
        low: Where each bin begins, shape ``(B,)``.
        high: Where it ends; the same where a bin holds one value only.
        counts: Numbers of finite values, shape ``(rows, B)``.
        nonfinite: Numbers of values that are NaN or infinite, shape ``(rows,)``.

    >>> Distribution(*np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[3, 1]]), np.array([0])).total
    array([4])
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]
    nonfinite: NDArray[np.int64]

    @property
    def total(self) -> NDArray[np.int64]:
        """Number of finite values in each row."""
        return self.counts.sum(1)

    @property
    def layer(self) -> "Distribution":
        """All rows as one."""
        counts = self.counts.sum(0, keepdims=True)
        return Distribution(self.low, self.high, counts, self.nonfinite.sum(keepdims=True))

    def quantile(self, q: Any) -> NDArray[np.float64]:
        """Estimate quantiles, as ``numpy.quantile(..., method="inverted_cdf")`` defines them.

        The estimate lies in the same bin as the true quantile, placed by its rank in it.

        Args:
            q: Probabilities from 0 to 1, a number or an array.

        Returns:
            Shape ``(*q.shape, rows)``; NaN in rows without a value.

        Raises:
            ValueError: `q` is not from 0 to 1.
        """
        low, high, place = self._find(q)
        return low + (high - low) * place

    def bounds(self, q: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the ends of the bins in which quantiles lie, each shaped as from `quantile`."""
        low, high, _ = self._find(q)
        return low, high

    def _find(self, q: Any) -> list[NDArray[np.float64]]:
        """Give the ends of the bin of each quantile, and the part of the bin that lies below it."""
        wanted = np.asarray(q, np.float64)
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ValueError(f"q must be from 0 to 1, got {q!r}")
        # Behind the bins, where a row has no value; there may be no bin at all.
        chosen = np.full((wanted.size, len(self.counts)), len(self.low))
        place = np.full(chosen.shape, np.nan)
        for row, counts in enumerate(self.counts):
            reached = np.cumsum(counts)
            if reached.size and reached[-1]:
                rank = np.clip(np.ceil(wanted.reshape(-1) * reached[-1]), 1, None)
                found = np.searchsorted(reached, rank)
                place[:, row] = 1 - (reached[found] - rank + 0.5) / counts[found]
                chosen[:, row] = found
        ends = (np.append(end, np.nan)[chosen] for end in (self.low, self.high))
        return [found.reshape(*wanted.shape, len(self.counts)) for found in (*ends, place)]


def make_distribution(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    counts: NDArray[np.int64],
    nonfinite: NDArray[np.int64],
) -> Distribution:
    """Make a distribution of the bins that hold anything, given in ascending order."""
    held = counts.any(0)
    return Distribution(low[held], high[held], counts[:, held], nonfinite)
