"""One map as one picture."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from stratascope.render import _colours
from stratascope.render._arrays import as_values
from stratascope.render._page import Picture, compose, placeholder, scale_key, shape_text
from stratascope.render._paint import (
    CONSTANT,
    coloured,
    enlargement,
    indices,
    pixel_notes,
    stride,
    table,
)
from stratascope.render._scale import Estimator, Scale, fitted
from stratascope.render._text import SMALL, number, width, write
from stratascope.render._transform import Transform

_TARGET = 360


def map(  # the name reads as `render.map`
    array: Any,
    *,
    scale: Scale | None = None,
    percentile: float = 99.5,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw one 2-D map `(H, W)`, every value as a block of equal pixels.

    Args:
        array: Numbers of shape `(H, W)`: an array, a tensor on any device, nested sequences.
        scale: The range of the colours; fitted to the values if None.
        percentile: Where a fitted range ends; see `fit_scale`.
        estimator: What sets a fitted range; see `fit_scale`.
        transform: How values spread over a fitted range; see `Scale`.
        title: A line above the map.
        caption: Text below the map, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array does not have two dimensions.
        TypeError: The array does not hold numbers, or `scale` is not a Scale.

    >>> map([[0.0, 1.0], [2.0, 3.0]]).dtype
    dtype('uint8')
    """
    values = as_values(array)
    numeric = values.array
    if numeric.ndim != 2:
        remedy = {
            1: "use render.line for a curve, or array[None] for a map of one row",
            3: "use render.grid to draw all channels, or pick one: array[0]",
            4: "pick a sample and use render.grid: array[0]",
        }.get(numeric.ndim, "pick one map of it")
        raise ValueError(f"the array must have shape (H, W), got {numeric.shape}; {remedy}")
    if not numeric.size:
        body = placeholder(f"empty: {shape_text(numeric.shape)}")
        return compose(body, title=title, caption=caption, notes=[values.note])
    scale = fitted(numeric, scale, percentile, estimator, transform)
    steps = stride(numeric.shape)
    shown = numeric[:: steps[0], :: steps[1]]
    zoom = enlargement(shown.shape, _TARGET, up=True)
    finite = numeric[np.isfinite(numeric)]
    constant = bool(finite.size) and finite.min() == finite.max()
    painted = indices(shown, scale)
    if constant:
        painted[np.isfinite(shown)] = CONSTANT
    body = coloured(painted.repeat(zoom[0], 0).repeat(zoom[1], 1), table(scale))
    notes = [shape_text(numeric.shape), f"colours: {scale.caption}"]
    if constant:
        body = badged(body, f"constant {number(finite[0])}")
        if not scale.constant:
            notes.append(f"constant {number(finite[0])}")
    key = None
    if finite.size and not scale.constant:
        key = scale_key(scale, table(scale), height=min(220, max(80, len(body))))
    notes = [*notes, *pixel_notes(zoom, steps), values.note]
    return compose(edged(body), title=title, caption=caption, notes=notes, key=key, scale=scale)


def badged(body: Picture, text: str) -> Picture:
    """Write a text on a plate in the middle, if it fits."""
    image = Image.fromarray(body)
    draw = ImageDraw.Draw(image)
    x, y = image.width / 2, image.height / 2
    half = width(text, SMALL) / 2 + 8
    if half < x:
        draw.rounded_rectangle((x - half, y - 11, x + half, y + 11), 4, _colours.PAPER)
        write(draw, (x, y), text, SMALL, _colours.INK, "mm")
    return np.array(image)


def edged(body: Picture) -> Picture:
    """Put a thin frame around a picture."""
    edge = np.array(_colours.EDGE, np.uint8)
    framed = np.empty((body.shape[0] + 2, body.shape[1] + 2, 3), np.uint8)
    framed[:] = edge
    framed[1:-1, 1:-1] = body
    return framed
