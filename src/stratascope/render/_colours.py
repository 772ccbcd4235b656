"""The colours of every picture: tables made in OKLab, and the few fixed ones around them."""

from functools import cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from stratascope.render._oklab import oklab_to_srgb

# Odd, so that zero has a level of its own in a diverging table.
LEVELS = 249

INK = (38, 40, 44)
SOFT_INK = (108, 112, 119)
PAPER = (255, 255, 255)
EDGE = (218, 220, 224)
CONSTANT = (196, 197, 200)
NAN_LIGHT = (240, 240, 240)
NAN_DARK = (150, 150, 150)
PLUS_INFINITY = (224, 0, 200)
MINUS_INFINITY = (0, 200, 226)
CURVE = (31, 78, 140)
CLIP = (214, 94, 20)

# Chroma and hue (degrees) of the control points of a Bézier path; lightness runs straight.
_SEQUENTIAL = ((0.06, 292), (0.15, 272), (0.14, 238), (0.09, 178), (0.20, 138), (0.125, 103))
_SEQUENTIAL_LIGHTNESS = (0.19, 0.95)
_BLUE = ((0.0, 240), (0.055, 240), (0.13, 250), (0.155, 257), (0.125, 262))
_ORANGE = ((0.0, 62), (0.055, 62), (0.13, 52), (0.155, 42), (0.125, 36))
_RED = ((0.0, 20), (0.05, 20), (0.13, 24), (0.18, 27), (0.155, 28))
_GREY_LIGHTNESS = (0.985, 0.18)
_DIVERGING_LIGHTNESS = (0.965, 0.40)


def _path(points: tuple[tuple[float, float], ...], t: NDArray[np.float64]) -> NDArray[np.float64]:
    chroma, hue = np.array(points).T
    corners = np.stack([chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))], 1)
    degree = len(points) - 1
    weights = [comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
    return np.stack(weights, 1) @ corners


@cache
def sequential(levels: int = LEVELS) -> NDArray[np.uint8]:
    """Give the table for values from 0 up, dark to light, of shape `(levels, 3)`.

    >>> sequential(3).shape
    (3, 3)
    """
    t = np.linspace(0.0, 1.0, levels)
    low, high = _SEQUENTIAL_LIGHTNESS
    lab = np.column_stack([low + (high - low) * t, _path(_SEQUENTIAL, t)])
    return _frozen(lab)


@cache
def diverging(levels: int = LEVELS) -> NDArray[np.uint8]:
    """Give the table for signed values, blue to near-white to orange, of shape `(levels, 3)`.

    >>> diverging(3)[1].tolist()
    [243, 243, 243]
    """
    return _two_sided(_ORANGE, levels)


@cache
def red_blue(levels: int = LEVELS) -> NDArray[np.uint8]:
    """Give the table for signed values in seismics, blue to near-white to red, `(levels, 3)`.

    >>> red_blue(3)[1].tolist()
    [243, 243, 243]
    """
    return _two_sided(_RED, levels)


@cache
def grey(levels: int = LEVELS) -> NDArray[np.uint8]:
    """Give the table for signed values in seismics, white to grey to black, `(levels, 3)`.

    >>> bool((np.diff(grey().astype(int), axis=0) <= 0).all())
    True
    """
    lab = np.zeros((levels, 3))
    lab[:, 0] = np.linspace(*_GREY_LIGHTNESS, levels)
    return _frozen(lab)


def _two_sided(positive: tuple[tuple[float, float], ...], levels: int) -> NDArray[np.uint8]:
    t = np.linspace(-1.0, 1.0, levels)
    centre, end = _DIVERGING_LIGHTNESS
    size = np.abs(t)
    colour = np.where(t[:, None] < 0, _path(_BLUE, size), _path(positive, size))
    return _frozen(np.column_stack([centre + (end - centre) * size, colour]))


def _frozen(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    table = np.rint(oklab_to_srgb(lab).clip(0.0, 1.0) * 255).astype(np.uint8)
    table.flags.writeable = False
    return table
