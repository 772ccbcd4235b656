"""OKLab, a colour space in which equal steps look equal, to and from sRGB (Ottosson 2020)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LINEAR_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Inverted rather than typed in, so that a round trip is exact to rounding.
_LMS_TO_LINEAR = np.linalg.inv(_LINEAR_TO_LMS)
_LAB_TO_LMS = np.linalg.inv(_LMS_TO_LAB)


def srgb_to_oklab(srgb: ArrayLike) -> NDArray[np.float64]:
    """Turn sRGB in 0..1 of shape `(..., 3)` into OKLab `(..., 3)`.

    >>> srgb_to_oklab([1.0, 1.0, 1.0]).round(3).tolist()[0]
    1.0
    """
    srgb = np.asarray(srgb, np.float64)
    low = srgb <= 0.04045
    linear = np.where(low, srgb / 12.92, ((np.maximum(srgb, 0.0) + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LINEAR_TO_LMS.T) @ _LMS_TO_LAB.T


def oklab_to_srgb(lab: ArrayLike) -> NDArray[np.float64]:
    """Turn OKLab of shape `(..., 3)` into sRGB; a value outside 0..1 is out of gamut.

    >>> oklab_to_srgb([1.0, 0.0, 0.0]).round(3).tolist()
    [1.0, 1.0, 1.0]
    """
    columns = np.moveaxis(np.asarray(lab, np.float64), -1, 0)
    return np.moveaxis(encode(oklab_to_linear(columns)), 0, -1)


def oklab_to_linear(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn OKLab of shape `(3, ...)` into linear sRGB `(3, ...)`, before its curve."""
    lms = np.tensordot(_LAB_TO_LMS, columns, 1)
    return np.tensordot(_LMS_TO_LINEAR, lms * lms * lms, 1)


def encode(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the curve of sRGB to linear light of any shape."""
    curved = 1.055 * np.maximum(linear, 0.0) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, curved)
