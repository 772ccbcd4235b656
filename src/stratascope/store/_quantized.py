"""Values as codes of one byte: what a code means.

Codes are affine in the values, with a scale and an offset for each group of values: a map of a
sample, or a whole sample. What is not finite has codes of its own.
"""

import math
from typing import Any

import numpy as np

TOP_CODE = 252
NEGATIVE_INFINITY_CODE = 253
INFINITY_CODE = 254
NAN_CODE = 255

_LEAST_GROUP = 64


def count_group_axes(shape: tuple[int, ...]) -> int:
    """Choose how many axes of an array tell its groups apart, that of the samples being the first.

    Each map of at least 64 values is a group: scale and offset then cost an eighth of its codes at
    most. Where maps are smaller, a whole sample is one.

    Args:
        shape: Shape of one sample.

    >>> count_group_axes((64, 32, 32)), count_group_axes((512, 1, 1)), count_group_axes((512,))
    (2, 1, 1)
    """
    return 2 if len(shape) > 1 and math.prod(shape[1:]) >= _LEAST_GROUP else 1


def quantized_dtype(source_dtype: str) -> np.dtype[Any]:
    """Choose the type of scales and offsets, in which the values are given back.

    >>> quantized_dtype("bfloat16"), quantized_dtype("float64")
    (dtype('float32'), dtype('float64'))
    """
    return np.dtype("float64" if source_dtype == "float64" else "float32")


def dequantize(
    codes: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], offset: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Give the values that codes stand for.

    Args:
        codes: Codes, uint8 ``(N, …)``.
        scale: What one step of a code is worth in each group: the first axes of the codes, of a
            floating-point type, which the values have too.
        offset: The value of code 0 in each group.

    >>> codes = np.array([[0, 126, 252, 255]], np.uint8)
    >>> dequantize(codes, np.float32([0.5]), np.float32([-1.0]))
    array([[ -1.,  62., 125.,  nan]], dtype=float32)
    """
    groups = (*scale.shape, *[1] * (codes.ndim - scale.ndim))
    # A range may be wider than the greatest number, though both of its ends are numbers.
    most = np.finfo(scale.dtype).max
    wide = scale.max(initial=0) > most / (2 * TOP_CODE)
    part = scale.dtype.type(0.25 if wide else 1)
    values = codes.astype(scale.dtype)
    values *= (scale * part).reshape(groups)
    values += (offset * part).reshape(groups)
    if wide:
        values = values.clip(-most / 4, most / 4) * 4
    if codes.size and codes.max() > TOP_CODE:
        values[codes == NEGATIVE_INFINITY_CODE] = -np.inf
        values[codes == INFINITY_CODE] = np.inf
        values[codes == NAN_CODE] = np.nan
    return values


def describe_quantization(scale: str, offset: str) -> dict[str, Any]:
    """Say what the codes of an array mean, for whoever reads it without this package.

    Args:
        scale: Name of the array with the scales, in the same group.
        offset: Name of that with the offsets.
    """
    return {
        "scale": scale,
        "offset": offset,
        "value": "offset + scale * code, rounded to the nearest code; nothing is clipped",
        "codes": {
            "finite": [0, TOP_CODE],
            "-inf": NEGATIVE_INFINITY_CODE,
            "inf": INFINITY_CODE,
            "nan": NAN_CODE,
        },
    }
