"""Whether the samples lie to each other alike at several sites."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stratascope.errors import DataError
from stratascope.stats._reservoir import SampleVectors


def rsa(sites: Sequence[SampleVectors]) -> NDArray[np.float64]:
    """Compare sites by the dissimilarities of their samples: Kriegeskorte et al. (2008).

    The dissimilarity of two samples is 1 less the correlation of their vectors; that of two sites'
    dissimilarities, by Spearman's rank correlation, is their similarity.

    Args:
        sites: What a `Reservoir` has kept at each of S sites, from the same samples.

    Returns:
        Shape ``(S, S)``; NaN where a site has a constant vector or one that is not finite.

    Raises:
        DataError: The sites have kept different samples, or fewer than three.

    >>> vectors = np.random.default_rng(0).normal(size=(20, 8))
    >>> kept = SampleVectors(np.arange(20), vectors)
    >>> rsa([kept, SampleVectors(np.arange(20), 5 - 2 * vectors)]).round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    for site in sites[1:]:
        if not np.array_equal(site.samples, sites[0].samples):
            raise DataError(
                "all sites must have kept the same samples; use the same Reservoir(size) for each, "
                "and number the samples alike"
            )
    samples = len(sites[0].samples) if sites else 0
    if samples < 3:
        raise DataError(f"rsa must have 3 samples at least, got {samples}")
    ranks = np.array([_rank(_compare_samples(site.vectors)) for site in sites])
    return _correlate(ranks)


def _compare_samples(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the dissimilarity of each two samples, each pair once."""
    return 1 - _correlate(vectors)[np.triu_indices(len(vectors), 1)]


def _correlate(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the correlation of each two rows; NaN for constant ones."""
    with np.errstate(invalid="ignore"):
        centred = rows - rows.mean(1, keepdims=True)
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        varied = np.ptp(rows, axis=1, keepdims=True) > 0
        scaled = centred / np.where(varied, lengths, np.nan)
    return np.clip(scaled @ scaled.T, -1, 1)


def _rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the rank of each value, equal ones sharing the mean of theirs; all NaN if one is.

    >>> _rank(np.array([3.0, 1.0, 3.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]
