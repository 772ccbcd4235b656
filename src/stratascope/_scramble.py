"""A random choice that depends on the numbers of things alone, not on the order they come in."""

import numpy as np
from numpy.typing import NDArray


def mix(numbers: NDArray[np.int64] | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble numbers, each to another: the first output of SplitMix64 (Steele et al. 2014).

    >>> hex(mix(np.array([0]))[0])
    '0xe220a8397b1dcdaf'
    """
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))
