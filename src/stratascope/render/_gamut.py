"""From OKLab to the bytes of sRGB: a colour that no screen can show keeps lightness and hue."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.render._oklab import encode, oklab_to_linear

Columns = NDArray[np.float64]

_LIGHTNESS, _HUES = 128, 180
_ENTRIES = 4096
_TOLERANCE = 1e-6
_VISIBLE = 0.002


def to_bytes(lab: Columns) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Turn OKLab `(3, n)` into sRGB bytes `(n, 3)`, and tell which of them `to_linear` moved.

    >>> to_bytes(np.array([[1.0], [0.0], [0.0]]))[0].tolist()
    [[255, 255, 255]]
    """
    linear, outside = to_linear(lab)
    entries = (linear * (_ENTRIES - 1) + 0.5).astype(np.uint16)
    return _encoded()[entries].T.copy(), outside


def to_linear(lab: Columns) -> tuple[Columns, NDArray[np.bool_]]:
    """Turn OKLab `(3, n)` into linear sRGB within 0..1, with less chroma where it has to be.

    Also tells which colours had to move by more than a tenth of what an eye can tell apart.
    """
    linear = oklab_to_linear(lab)
    outside = np.flatnonzero(~_within(linear))
    moved = np.zeros(lab.shape[1], bool)
    if len(outside):
        light, a, b = lab[:, outside]
        shown = light.clip(0, 1)
        chroma = np.hypot(a, b)
        kept = np.minimum(1, most_chroma(shown, a, b) / np.maximum(chroma, 1e-12))
        linear[:, outside] = oklab_to_linear(np.stack([shown, a * kept, b * kept]))
        moved[outside] = np.hypot(shown - light, chroma * (1 - kept)) > _VISIBLE
    return linear.clip(0, 1, out=linear), moved


def in_gamut(lab: Columns) -> NDArray[np.bool_]:
    """Tell which colours `(3, n)` a screen can show."""
    return _within(oklab_to_linear(lab))


def most_chroma(
    light: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the largest chroma that sRGB has at a lightness in 0..1 and at the hue of a and b."""
    hue = np.arctan2(b, a)
    about = _looked_up(light, hue)
    origin, direction = np.zeros((2, 3, len(light)))
    origin[0], direction[1], direction[2] = light, np.cos(hue), np.sin(hue)
    # Between entries of the table the border may have a corner, which these steps find.
    return reach(origin, direction, low=0.9 * about, high=1.2 * about + 0.005, rounds=12)


def _looked_up(light: NDArray[np.float64], hue: NDArray[np.float64]) -> NDArray[np.float64]:
    table = _chroma_table()
    row = light * _LIGHTNESS
    top = np.minimum(row.astype(np.intp), _LIGHTNESS - 1)
    place = (hue / (2 * np.pi) % 1) * _HUES
    left = place.astype(np.intp)
    down, along = row - top, place - left
    left %= _HUES
    right = (left + 1) % _HUES
    upper = table[top, left] * (1 - along) + table[top, right] * along
    lower = table[top + 1, left] * (1 - along) + table[top + 1, right] * along
    return upper * (1 - down) + lower * down


def reach(
    origin: Columns, direction: Columns, *, low: Any = 0.0, high: Any = 1.0, rounds: int = 20
) -> NDArray[np.float64]:
    """Give how far one can go from colours `(3, n)` before leaving the gamut, by bisection."""
    low, high = (np.broadcast_to(end, direction.shape[1:]) for end in (low, high))
    for _ in range(rounds):
        middle = (low + high) / 2
        inside = in_gamut(origin + direction * middle)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low


def _within(linear: Columns) -> NDArray[np.bool_]:
    return np.all((linear >= -_TOLERANCE) & (linear <= 1 + _TOLERANCE), axis=0)


@cache
def _chroma_table() -> NDArray[np.float64]:
    light = np.linspace(0, 1, _LIGHTNESS + 1)[:, None]
    hue = np.arange(_HUES) / _HUES * 2 * np.pi
    shape = (_LIGHTNESS + 1, _HUES)
    origin, direction = np.zeros((2, 3, *shape))
    origin[0], direction[1], direction[2] = light, np.cos(hue), np.sin(hue)
    return reach(origin.reshape(3, -1), direction.reshape(3, -1)).reshape(shape)


@cache
def _encoded() -> NDArray[np.uint8]:
    linear = np.arange(_ENTRIES) / (_ENTRIES - 1)
    return np.floor(encode(linear) * 255 + 0.5).astype(np.uint8)
