"""From values to pixels: one byte a pixel into a palette, enlarged, then coloured."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stratascope.render import _colours
from stratascope.render._scale import Scale, positions

# The palette has the colour table first and these after it.
NAN, PLUS, MINUS, CONSTANT, PAPER, EDGE = range(_colours.LEVELS, _colours.LEVELS + 6)
_FIXED = (
    _colours.NAN_LIGHT,
    _colours.PLUS_INFINITY,
    _colours.MINUS_INFINITY,
    _colours.CONSTANT,
    _colours.PAPER,
    _colours.EDGE,
)

Bytes = NDArray[np.uint8]

# What is worked on at once, few enough to stay in the cache of a processor.
_AT_ONCE = 2**15

# A picture beyond this is slow to open everywhere, and Pillow warns of it.
_MOST_PIXELS = 48_000_000
_LONGEST_SIDE = 16_000
_FLATTEST = 4
_THINNEST = 16


def indices(values: NDArray[np.float64], scale: Scale) -> Bytes:
    """Give the palette index of every value, NaN and infinities being marked as such."""
    painted = np.empty(values.shape, np.uint8)
    flat, out = values.reshape(-1), painted.reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        out[block] = _indices(flat[block], scale)
    return painted


def _indices(values: NDArray[np.float64], scale: Scale) -> Bytes:
    places = positions(values, scale, top=_colours.LEVELS - 1)
    places += 0.5
    finite = np.isfinite(values)
    if finite.all():
        return places.astype(np.uint8)
    places[~finite] = 0
    painted = places.astype(np.uint8)
    painted[np.isnan(values)] = NAN
    painted[values == np.inf] = PLUS
    painted[values == -np.inf] = MINUS
    return painted


def table(scale: Scale) -> Bytes:
    """Give the colour table that a scale is drawn with."""
    return _colours.diverging() if scale.diverging else _colours.sequential()


def coloured(painted: Bytes, colours: Bytes) -> Bytes:
    """Turn palette indices `(h, w)` into colours `(h, w, 3)`, hatching where there is NaN."""
    palette = np.concatenate([colours, np.array(_FIXED, np.uint8)]).tobytes()
    picture = np.empty((*painted.shape, 3), np.uint8)
    rows = max(1, _AT_ONCE // painted.shape[1])
    for start in range(0, len(painted), rows):
        # Pillow looks colours up in a fraction of the time that NumPy takes.
        block = Image.fromarray(np.ascontiguousarray(painted[start : start + rows]))
        block.putpalette(palette)
        picture[start : start + rows] = np.asarray(block.convert("RGB"))
    missing = painted == NAN
    if missing.any():
        picture[missing & hatch(*painted.shape)] = _colours.NAN_DARK
    return picture


def hatch(height: int, width: int) -> NDArray[np.bool_]:
    """Give diagonal stripes, true where they are dark."""
    return (np.arange(height)[:, None] + np.arange(width)) % 6 < 2


def enlargement(shape: tuple[int, ...], target: int, *, up: bool = False) -> tuple[int, int]:
    """Give how many pixels high and wide one value is drawn.

    Values are drawn square unless the map is so elongated that its short side would vanish.

    >>> enlargement((32, 32), 100), enlargement((4, 500), 360, up=True)
    ((3, 3), (32, 1))
    """
    height, width = shape
    longest, shortest = max(height, width), max(1, min(height, width))
    exact = target / max(1, longest)
    zoom = max(1, math.ceil(exact) if up else math.floor(exact))
    wanted = max(min(longest * zoom / _FLATTEST, target), _THINNEST)
    thin = max(zoom, math.ceil(wanted / shortest))
    return (thin, zoom) if height < width else (zoom, thin) if width < height else (thin, thin)


def stride(shape: tuple[int, ...], count: int = 1) -> tuple[int, int]:
    """Give the steps over rows and columns that keep a picture to a usable size.

    >>> stride((1000, 1000)), stride((1, 10**6))
    ((1, 1), (1, 63))
    """
    height, width = shape
    step = math.ceil(math.sqrt(height * width * count / _MOST_PIXELS))
    return (
        max(1, min(step, height), math.ceil(height / _LONGEST_SIDE)),
        max(1, min(step, width), math.ceil(width / _LONGEST_SIDE)),
    )


def enlarged(tiles: NDArray[Any], zoom: tuple[int, int]) -> NDArray[Any]:
    """Repeat every value of tiles `(n, h, w, ...)` down and across.

    >>> enlarged(np.array([[[1, 2]]]), (1, 2)).tolist()
    [[[1, 1, 2, 2]]]
    """
    count, height, width, *rest = tiles.shape
    # In a fraction of the time that it takes to repeat twice.
    spread = np.empty((count, height, zoom[0], width, zoom[1], *rest), tiles.dtype)
    spread[:] = tiles[:, :, None, :, None]
    return spread.reshape(count, height * zoom[0], width * zoom[1], *rest)


def pixel_notes(zoom: tuple[int, int], steps: tuple[int, int]) -> list[str]:
    """Say how values became pixels where they did not become squares of equal meaning.

    >>> pixel_notes((2, 2), (1, 1)), pixel_notes((32, 1), (1, 1))
    ([], ['each value is drawn 1 px wide and 32 px high'])
    """
    notes = []
    if steps != (1, 1):
        notes.append(f"too large to draw whole: 1 in {steps[0]} rows, 1 in {steps[1]} columns")
    if zoom[0] != zoom[1]:
        notes.append(f"each value is drawn {zoom[1]} px wide and {zoom[0]} px high")
    return notes
