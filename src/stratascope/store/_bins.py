"""The bins of stored histograms: the leading bits of a float32, two bins from one power of two on.

Bins are the same for all values, so that counts of parts add up to those of the whole.
"""

from typing import Any

import numpy as np

_LEAST_EXPONENT, _END_EXPONENT = -30, 30
_KEY_SHIFT = 22  # of a float32's bits sign, exponent and the first of the fraction are left
_KEYS = 1024

EDGES = np.ldexp(
    np.tile([1.0, 1.5], _END_EXPONENT - _LEAST_EXPONENT),
    np.repeat(np.arange(_LEAST_EXPONENT, _END_EXPONENT), 2),
)
EDGES = np.append(EDGES, np.ldexp(1.0, _END_EXPONENT))

_SIZE = len(EDGES) - 1
# In the order of the values that they count; what is no number comes last.
NEGATIVE_INFINITY, BELOW, NEGATIVE = 0, 1, 2
NEGATIVE_TINY = NEGATIVE + _SIZE
ZERO, POSITIVE_TINY, POSITIVE = NEGATIVE_TINY + 1, NEGATIVE_TINY + 2, NEGATIVE_TINY + 3
ABOVE = POSITIVE + _SIZE
INFINITY, NAN, BINS = ABOVE + 1, ABOVE + 2, ABOVE + 3


@np.errstate(all="ignore")
def find_bins(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Find the bin of each value, uint8.

    >>> find_bins(np.array([-np.inf, -1e30, -1.0, -1e-20, 0.0, 1e-20, 1.6, 1e30, np.nan])).tolist()
    [0, 1, 61, 122, 123, 124, 186, 245, 247]
    """
    # To add 0 makes them numbers of 32 bits, and quiet what a signalling NaN would be.
    wide = np.add(values, np.float32(0), dtype=np.float32)
    return _BIN_OF_KEY[wide.view(np.uint32) >> _KEY_SHIFT]


def find_ends() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give the least and the greatest value of each bin, in order."""
    tiny, most = EDGES[:1], EDGES[-1:]
    lower = [[-np.inf, -np.inf], -EDGES[:0:-1], -tiny, [0.0, 0.0], EDGES, [np.inf, np.nan]]
    upper = [[-np.inf], -most, -EDGES[-2::-1], [0.0, 0.0], EDGES, [np.inf, np.inf, np.nan]]
    return np.concatenate(lower), np.concatenate(upper)


def describe_bins() -> dict[str, Any]:
    """Say what the bins are, for whoever reads them without this package."""
    return {
        "edges": EDGES.tolist(),
        "bins": {
            "-inf": NEGATIVE_INFINITY,
            "finite, at most -edges[-1]": BELOW,
            "above -edges[i + 1], at most -edges[i]": f"{NEGATIVE_TINY - 1} - i",
            "above -edges[0], below 0": NEGATIVE_TINY,
            "0, or nearer to it than 2 ** -126": ZERO,
            "above 0, below edges[0]": POSITIVE_TINY,
            "at least edges[i], below edges[i + 1]": f"{POSITIVE} + i",
            "finite, at least edges[-1]": ABOVE,
            "inf": INFINITY,
            "nan": NAN,
        },
    }


def _list_bins() -> np.ndarray[Any, Any]:
    """List the bin for each value of a float32's first ten bits."""
    keys = np.arange(_KEYS // 2, dtype=np.uint32)
    values = (keys << _KEY_SHIFT).view(np.float32)
    places = np.searchsorted(EDGES, values, side="right") - 1
    places = places.clip(-1, _SIZE)
    positive = POSITIVE + places
    negative = NEGATIVE_TINY - 1 - places
    for side, infinity in ((positive, INFINITY), (negative, NEGATIVE_INFINITY)):
        side[:2] = ZERO  # with what is too small for a full exponent
        side[-2:] = infinity, NAN
    return np.concatenate([positive, negative]).astype(np.uint8)


_BIN_OF_KEY = _list_bins()
