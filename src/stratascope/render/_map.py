"""One map as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stratascope.render import _colours
from stratascope.render._arrays import as_values
from stratascope.render._axes import Axes, framed
from stratascope.render._page import Picture, compose, placeholder, scale_key, shape_text
from stratascope.render._paint import (
    CONSTANT,
    coloured,
    enlarged,
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
    axes: Axes | None = None,
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
        axes: What its rows and its columns are: two names, or `Axis` with their units.
        title: A line above the map.
        caption: Text below the map, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array does not have two dimensions.
        TypeError: The array does not hold numbers, or `scale` is not a Scale, or an axis neither
            an Axis nor a name.

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
    page = Page(title, caption, axes=axes, extra=[values.note])
    return drawn(numeric, scale, page, first=[shape_text(numeric.shape)])


@dataclass(frozen=True, slots=True)
class Page:
    """What stands around a map: its texts, its axes, and what else its caption has to say."""

    title: str | None = None
    caption: str | None = None
    axes: Axes | None = None
    extra: Sequence[str] = ()


def drawn(
    values: NDArray[np.float64],
    scale: Scale,
    page: Page,
    *,
    first: Sequence[str],
    colours: Picture | None = None,
) -> Picture:
    """Draw values `(H, W)`, or panels `(P, H, W)` beside each other, with a colour bar."""
    colours = table(scale) if colours is None else colours
    panels = values if values.ndim == 3 else values[None]
    framed_panels, notes, top = [], [], 0
    for k, panel in enumerate(panels):
        body, said = painted(panel, scale, colours)
        notes += [note for note in said if note not in notes]
        heading = str(k) if len(panels) > 1 else ""
        picture, top = framed(edged(body), page.axes, panel.shape, heading=heading)
        framed_panels.append(np.pad(picture, ((0, 0), (0, 12), (0, 0)), constant_values=255))
    body = np.hstack(framed_panels)[:, :-12]
    key = None
    if scale.finite and not scale.constant:
        height = min(220, max(80, len(body) - 2 * top))
        key = scale_key(scale, colours, top=top, height=height)
    notes = [*first, f"colours: {scale.caption}", *notes, *page.extra]
    return compose(body, title=page.title, caption=page.caption, notes=notes, key=key, scale=scale)


def painted(
    values: NDArray[np.float64], scale: Scale, colours: Picture
) -> tuple[Picture, list[str]]:
    """Paint values `(H, W)`, with a badge if they are constant; say what was done to fit them."""
    steps = stride(values.shape)
    shown = values[:: steps[0], :: steps[1]]
    zoom = enlargement(shown.shape, _TARGET, up=True)
    finite = values[np.isfinite(values)]
    constant = bool(finite.size) and finite.min() == finite.max()
    marked = indices(shown, scale)
    if constant:
        marked[np.isfinite(shown)] = CONSTANT
    body = coloured(enlarged(marked[None], zoom)[0], colours)
    notes = []
    if constant:
        body = badged(body, f"constant {number(finite[0])}")
        if not scale.constant:
            notes.append(f"constant {number(finite[0])}")
    return body, [*notes, *pixel_notes(zoom, steps)]


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
    larger = np.empty((body.shape[0] + 2, body.shape[1] + 2, 3), np.uint8)
    larger[:] = edge
    larger[1:-1, 1:-1] = body
    return larger
