"""Ranks: what stays comparable between metrics of different units, and where runs diverge."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOST_SPLITS = 50_000


def rank(values: Array) -> Array:
    """Give the ranks of values from 1, equal ones sharing their mean; NaN stays NaN."""
    found = np.full(len(values), np.nan)
    known = ~np.isnan(values)
    _, places, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found[known] = (last - (counts - 1) / 2)[places]
    return found


def correlate_ranks(rows: Array) -> Array:
    """Give Spearman's rank correlation of each two of M rows, over where both are numbers.

    NaN for fewer than three such places, or where all values of a row are equal there.

    >>> correlate_ranks(np.array([[1.0, 2, 3, np.inf], [1, 2, 9, 8], [4, 3, 2, 1]])).round(1)[0]
    array([ 1. ,  0.8, -1. ])
    """
    found = np.full((len(rows), len(rows)), np.nan)
    for one, other in itertools.product(range(len(rows)), repeat=2):
        both = ~np.isnan(rows[[one, other]]).any(0)
        first, second = (rank(rows[row][both]) for row in (one, other))
        if both.sum() >= 3 and np.ptp(first) and np.ptp(second):
            found[one, other] = np.corrcoef(first, second)[0, 1]
    return found


def compare_ranks(first: Array, second: Array) -> float:
    """Give the two-sided p-value of Wilcoxon's rank sum test: Mann & Whitney (1947).

    Exact, ties included, as all ways of splitting the values are counted; by 50,000 of them at
    random where there are more.
    """
    ranks = rank(np.concatenate([first, second]))
    size, total = len(first), len(ranks)
    if math.comb(total, size) <= _MOST_SPLITS:
        splits = np.array(list(itertools.combinations(range(total), size)))
    else:
        draws = np.random.default_rng(0).random((_MOST_SPLITS, total))
        splits = np.argpartition(draws, size, axis=1)[:, :size]
    middle = size * (total + 1) / 2
    off = np.abs(ranks[splits].sum(1) - middle)
    return float((off >= abs(ranks[:size].sum() - middle) - 1e-9).mean())


def bound_median(values: Array, coverage: float = 0.95) -> tuple[float, float, float]:
    """Give an interval for the median of what values were drawn from, and its true coverage.

    Between two order statistics, alike from both ends: the narrowest that reaches the coverage, or
    from the least to the largest where too few values reach none.

    >>> bound_median(np.array([1.0, 2, 3, 4, 5]))
    (1.0, 5.0, 0.9375)
    """
    ordered, count = np.sort(values), len(values)
    found = (0, 1 - 0.5 ** (count - 1) if count > 1 else 0.0)
    for depth in range(1, (count + 1) // 2):
        tail = sum(math.comb(count, k) for k in range(depth + 1)) * 0.5**count
        if 1 - 2 * tail < coverage:
            break
        found = (depth, 1 - 2 * tail)
    return float(ordered[found[0]]), float(ordered[count - 1 - found[0]]), found[1]
