"""All channels of a layer as tiles of one picture."""

from collections.abc import Sequence
from typing import Any, Literal

from stratascope.render import _colours, _paint
from stratascope.render._arrays import as_values
from stratascope.render._cells import arrange, place
from stratascope.render._channels import channel_numbers, checked_scope, prepare
from stratascope.render._page import Picture, compose, placeholder, shape_text
from stratascope.render._scale import Estimator, Scale
from stratascope.render._text import count
from stratascope.render._transform import Transform

_ACROSS = 960
_SMALLEST, _LARGEST = 30, 320
_LARGEST_BLOCK = 48


def grid(
    array: Any,
    *,
    scale: Scale | None = None,
    scope: Literal["layer", "channel"] = "layer",
    columns: int | None = None,
    channels: Sequence[int] | None = None,
    percentile: float = 99.5,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw every channel of feature maps `(C, H, W)` as a tile with its channel number.

    Args:
        array: Numbers of shape `(C, H, W)`: an array, a tensor on any device, nested sequences.
        scale: The range of the colours; fitted to the values if None.
        scope: Whether one range holds for the layer, or each channel has its own.
        columns: How many tiles stand side by side; near-square if None.
        channels: The true numbers of the channels, where the array is a subset of them.
        percentile: Where a fitted range ends; see `fit_scale`.
        estimator: What sets a fitted range; see `fit_scale`.
        transform: How values spread over a fitted range; see `Scale`.
        title: A line above the tiles.
        caption: Text below the tiles, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array does not have three dimensions, or `channels` not its length, or
            `scope` and `scale` contradict each other.
        TypeError: The array does not hold numbers, or `scale` is not a Scale.

    >>> grid([[[0.0, 1.0]], [[2.0, 3.0]]], channels=[4, 9]).ndim
    3
    """
    checked_scope(scope, scale)
    values = as_values(array)
    numeric = values.array
    if numeric.ndim != 3:
        remedy = {
            2: "use render.map for one map, or render.line for curves (C, L)",
            4: "pick a sample: array[0]",
        }.get(numeric.ndim, "pick the three dimensions to draw")
        raise ValueError(f"the array must have shape (C, H, W), got {numeric.shape}; {remedy}")
    names = channel_numbers(channels, len(numeric))
    if not numeric.size:
        body = placeholder(f"empty: {shape_text(numeric.shape)}")
        return compose(body, title=title, caption=caption, notes=[values.note])

    layer = prepare(numeric, names, scope, scale, percentile, estimator, transform, badged=True)
    steps = _paint.stride(numeric.shape[1:], layer.count)
    shown = layer.values[:, :: steps[0], :: steps[1]]
    zoom = _paint.enlargement(shown.shape[1:], target(layer.count, shown.shape[1:]))
    tile = shown.shape[1] * zoom[0], shown.shape[2] * zoom[1]
    sheet = arrange(layer.count, tile, columns=columns, label_width=layer.label_width)
    tiles = _paint.enlarged(layer.paint(shown), zoom)
    board = place(tiles, sheet, paper=_paint.PAPER, edge=_paint.EDGE)
    colours = _colours.diverging() if layer.diverging else _colours.sequential()
    body = _paint.coloured(board, colours)
    layer.label(body, sheet)
    key = layer.key(colours, top=sheet.top, height=min(220, max(80, tile[0])))
    notes = [
        f"{count(len(numeric), 'channel')} of {shape_text(numeric.shape[1:])}",
        f"colours: {layer.caption}",
        *layer.notes,
        *_paint.pixel_notes(zoom, steps),
        values.note,
    ]
    return compose(body, title=title, caption=caption, notes=notes, key=key, scale=layer.whole)


def target(channels: int, shape: tuple[int, ...]) -> int:
    """Give the wanted length in pixels of the longer side of a tile.

    >>> target(64, (32, 32)), target(64, (1, 1)), target(2048, (64, 64))
    (120, 48, 30)
    """
    room = min(_LARGEST, _ACROSS / channels**0.5, _LARGEST_BLOCK * max(shape))
    return max(_SMALLEST, int(room))
