"""Statistics of activations: batch by batch, mergeable, on NumPy arrays and torch tensors.

>>> from stratascope import stats
>>> extremes = stats.Extremes()
>>> for batch in ([[0.0, 3.0], [0.0, 1.0]], [[0.0, 2.0]]):
...     extremes.update(batch)
>>> extremes.compute().dead.tolist()
[True, False]
"""

from stratascope.stats._counts import ChannelCounts, Counts
from stratascope.stats._covariance import ChannelCovariance, Covariance
from stratascope.stats._dimension import IntrinsicDimension, intrinsic_dimension
from stratascope.stats._distribution import Distribution
from stratascope.stats._extremes import ChannelExtremes, Extremes
from stratascope.stats._half_histogram import HalfHistogram
from stratascope.stats._histogram import Histogram
from stratascope.stats._minibatch_cka import MinibatchCKA, MinibatchSimilarity, centred_kernel
from stratascope.stats._moments import ChannelMoments, Moments
from stratascope.stats._reservoir import Reservoir, SampleVectors
from stratascope.stats._rsa import rsa
from stratascope.stats._similarity import Similarity, SiteSimilarity
from stratascope.stats._statistic import Statistic, update_all
from stratascope.stats._top_samples import ChannelSamples, TopSamples

__all__ = [
    "ChannelCounts",
    "ChannelCovariance",
    "ChannelExtremes",
    "ChannelMoments",
    "ChannelSamples",
    "Counts",
    "Covariance",
    "Distribution",
    "Extremes",
    "HalfHistogram",
    "Histogram",
    "IntrinsicDimension",
    "MinibatchCKA",
    "MinibatchSimilarity",
    "Moments",
    "Reservoir",
    "SampleVectors",
    "Similarity",
    "SiteSimilarity",
    "Statistic",
    "TopSamples",
    "centred_kernel",
    "intrinsic_dimension",
    "rsa",
    "update_all",
]
