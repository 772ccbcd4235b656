"""A map of a layer on the input that it was made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stratascope.render import _colours
from stratascope.render._arrays import as_values
from stratascope.render._map import edged
from stratascope.render._oklab import oklab_to_srgb, srgb_to_oklab
from stratascope.render._page import Picture, compose, scale_key, shape_text
from stratascope.render._paint import coloured, enlarged, enlargement, indices, pixel_notes, table
from stratascope.render._scale import Scale, fit_values, fitted, positions
from stratascope.render._text import number

_TARGET = 480
_MOST = 2048
# The lightness of the input below the colours, neither black nor white.
_DARKEST, _LIGHTEST = 0.25, 0.95


def overlay(
    values: Any,
    on: Any,
    *,
    opacity: float = 0.5,
    scale: Scale | None = None,
    at: tuple[int, int] | None = None,
    box: Sequence[Any] | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw a map in colour on the input that it was made of, which is in grey.

    The map is stretched to the input, which holds where the layers between kept its edges.

    Args:
        values: One map, `(h, w)`.
        on: The input, `(H, W)` or `(C, H, W)`, of which the mean over the channels is drawn.
        opacity: How much of the lightness is the map's, from 0 to 1.
        scale: The range of the map's colours; fitted to it if None.
        at: Row and column of a position of the map, to be framed in white.
        box: Rows and columns of the input that this position can depend on, as
            `capture.receptive_field` gives them: two ranges or `(start, stop)` pairs.
        title: A line above.
        caption: Text below, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: An array does not have its shape, or is empty, or too large to draw whole; the
            opacity, the position or the box is not within its bounds.
        TypeError: An array does not hold numbers.

    >>> ramp = np.arange(64.0).reshape(8, 8)
    >>> overlay(ramp[::2, ::2], ramp, at=(1, 1), box=(range(0, 5), range(0, 5))).ndim
    3
    """
    shown, below = as_values(values, what="values").array, as_values(on, what="on").array
    if below.ndim == 3 and len(below):
        with np.errstate(over="ignore", invalid="ignore"):
            below = below.mean(0)
    for name, array in (("values", shown), ("on", below)):
        if array.ndim != 2 or not array.size or max(array.shape) > _MOST:
            raise ValueError(
                f"{name} must have shape (H, W), at least 1 and at most {_MOST} each, got "
                f"{array.shape}; pick one map, or thin it: array[..., ::2]"
            )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be from 0 to 1, got {opacity!r}")
    scale = fitted(shown, scale, 99.5)
    zoom = enlargement(below.shape, _TARGET, up=True)
    size = below.shape[0] * zoom[0], below.shape[1] * zoom[1]
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, shown.shape, strict=True))
    over = coloured(indices(shown, scale)[rows][:, columns], table(scale))
    grey = fit_values(below, 100.0)
    light = enlarged(positions(below, grey)[None], zoom)[0]
    image = Image.fromarray(_blend(over, light, opacity))
    notes = [f"map {shape_text(shown.shape)} on input {shape_text(below.shape)}"]
    notes += [f"colours: {scale.caption}", f"grey: {grey.extent}", *pixel_notes(zoom, (1, 1))]
    if at is not None:
        if not all(0 <= k < n for k, n in zip(at, shown.shape, strict=True)):
            raise ValueError(f"at must be a position of the map {shown.shape}, got {at!r}")
        cell = [(k * n / m, (k + 1) * n / m) for k, n, m in zip(at, size, shown.shape, strict=True)]
        _frame(image, cell)
        notes.append(f"at {at[0]}, {at[1]}: {number(shown[at])}")
    if box is not None:
        ends = _ends(box)
        scaled = [(a * z, b * z) for (a, b), z in zip(ends, zoom, strict=True)]
        _frame(image, scaled)
        notes.append(_say(ends, below.shape))
    key = None if scale.constant or not scale.finite else scale_key(scale, table(scale))
    body = edged(np.array(image))
    return compose(body, title=title, caption=caption, notes=notes, key=key, scale=scale)


def _blend(over: Picture, light: NDArray[np.float64], opacity: float) -> Picture:
    """Mix the lightness of both, and keep the hue of what is above (OKLab)."""
    lab = srgb_to_oklab(over / 255.0)
    grey = _DARKEST + (_LIGHTEST - _DARKEST) * np.nan_to_num(light, nan=0.0)
    lab[..., 0] = opacity * lab[..., 0] + (1 - opacity) * grey
    lab[..., 1:] *= opacity**0.5
    return np.rint(oklab_to_srgb(lab).clip(0, 1) * 255).astype(np.uint8)


def _frame(image: Image.Image, ends: Sequence[tuple[float, float]]) -> None:
    """Draw a white frame between two dark ones, as much of it as lies in the picture."""
    (top, bottom), (left, right) = ends
    corners = (round(left), round(top), round(right) - 1, round(bottom) - 1)
    draw = ImageDraw.Draw(image)
    draw.rectangle(corners, outline=_colours.INK, width=3)
    x, y = corners[0] + 1, corners[1] + 1
    draw.rectangle((x, y, max(x, corners[2] - 1), max(y, corners[3] - 1)), outline=_colours.PAPER)


def _ends(box: Sequence[Any]) -> list[tuple[int, int]]:
    pairs = [(part.start, part.stop) if isinstance(part, range) else tuple(part) for part in box]
    if len(pairs) != 2 or not all(len(pair) == 2 and pair[0] < pair[1] for pair in pairs):
        raise ValueError(
            f"box must be rows and columns, each (start, stop) with start < stop, got {box!r}"
        )
    return [(int(start), int(stop)) for start, stop in pairs]


def _say(ends: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> str:
    said = " x ".join(str(stop - start) for start, stop in ends)
    (top, bottom), (left, right) = ends
    text = f"box: rows {top} to {bottom - 1}, columns {left} to {right - 1} ({said})"
    outside = min(top, left) < 0 or bottom > shape[0] or right > shape[1]
    return f"{text}, part of it beyond the rim" if outside else text
