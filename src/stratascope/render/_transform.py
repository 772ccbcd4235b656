"""How values spread over a range: more room for those near zero, the sign kept."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Transform = Literal["linear", "sqrt", "asinh", "log"]

# Both as astropy.visualization has them by default.
_ASINH = 0.1
_LOG = 1000.0
_NAMES = {
    "linear": "",
    "sqrt": "signed square root",
    "asinh": f"asinh, linear to {_ASINH:g} of the end",
    "log": f"log, linear to 1/{_LOG:g} of the end",
}


def apply(transform: Transform, relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform values relative to the end of the range, so that -1, 0 and 1 stay.

    The square root is Claerbout's for seismic data (Imaging the Earth's Interior, 1985), asinh
    that of Lupton et al. (2004) for images of the sky; the logarithm is that of 1 + 1000 |x|.

    >>> apply("sqrt", np.array([-1.0, 0.25])).tolist()
    [-1.0, 0.5]
    """
    if transform == "linear":
        return relative
    if transform == "asinh":
        return np.arcsinh(relative / _ASINH) / np.arcsinh(1 / _ASINH)
    size = np.abs(relative)
    moved = np.sqrt(size) if transform == "sqrt" else np.log1p(_LOG * size) / np.log1p(_LOG)
    return np.copysign(moved, relative)


def invert(transform: Transform, moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo `apply`."""
    if transform == "linear":
        return moved
    if transform == "asinh":
        return np.sinh(moved * np.arcsinh(1 / _ASINH)) * _ASINH
    size = np.abs(moved)
    original = size**2 if transform == "sqrt" else np.expm1(size * np.log1p(_LOG)) / _LOG
    return np.copysign(original, moved)


def describe(transform: Transform) -> str:
    """Name a transform in a caption; the linear one needs no word.

    >>> describe("sqrt")
    'signed square root'
    """
    return _NAMES[transform]


def checked(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of the choices of a Literal."""
    if value not in get_args(choices):
        known = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"{name} must be one of {known}, got {value!r}")
