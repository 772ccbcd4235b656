"""Similarities by their definitions, one row a sample: slow and obviously right."""

import math

import numpy as np
import scipy.linalg
import scipy.spatial.distance
import scipy.stats


def centring(n):
    return np.eye(n) - 1 / n


def slow_hsic(x, y):
    """HSIC by its definition, from the matrices of all samples with all."""
    h = centring(len(x))
    return np.trace(x @ x.T @ h @ y @ y.T @ h) / (len(x) - 1) ** 2


def slow_unbiased_hsic(x, y):
    """The estimator of Song et al. (2012), equation 5."""
    n, ones = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (total - 2 * (ones @ k @ m @ ones) / (n - 2)) / (n * (n - 3))


def slow_matrix(several, measure_pair, others=None):
    """A figure for each two sites, of one network or of two."""
    others = several if others is None else others
    return np.array([[measure_pair(x, y) for y in others] for x in several])


def ratio(hsic):
    return lambda x, y: hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def slow_procrustes(x, y):
    """The least distance that turning one of them can leave."""
    x, y = (site - site.mean(0) for site in (x, y))
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(site, ((0, 0), (0, width - site.shape[1]))) for site in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    turn, _ = scipy.linalg.orthogonal_procrustes(x, y)
    return np.linalg.norm(x @ turn - y) ** 2


def slow_svcca(variance):
    def measure_pair(x, y):
        bases = []
        for site in (x, y):
            left, singular, _ = np.linalg.svd(site - site.mean(0), full_matrices=False)
            part = np.cumsum(singular**2) / (singular**2).sum()
            bases.append(left[:, : int(np.argmax(part >= variance - 1e-12)) + 1])
        cosines = np.cos(scipy.linalg.subspace_angles(*bases))
        return cosines.mean()

    return measure_pair


def slow_rsa(x, y):
    """The rank correlation of the dissimilarities of each two samples."""
    apart = (scipy.spatial.distance.pdist(site, "correlation") for site in (x, y))
    return scipy.stats.spearmanr(*apart).statistic
