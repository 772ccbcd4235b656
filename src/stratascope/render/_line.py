"""Feature maps of one dimension as curves."""

from collections.abc import Sequence
from typing import Any, Literal

from stratascope.render import _colours
from stratascope.render._arrays import as_values
from stratascope.render._cells import arrange, place
from stratascope.render._channels import channel_numbers, checked_scope, prepare
from stratascope.render._curves import PAD, curves
from stratascope.render._page import Picture, compose, placeholder, shape_text
from stratascope.render._scale import Estimator, Scale
from stratascope.render._text import count, number
from stratascope.render._transform import Transform

_ACROSS = 1100


def line(
    array: Any,
    *,
    scale: Scale | None = None,
    scope: Literal["layer", "channel"] = "layer",
    columns: int | None = None,
    channels: Sequence[int] | None = None,
    percentile: float = 100.0,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw every channel of 1-D feature maps `(C, L)` as a curve with its channel number.

    Args:
        array: Numbers of shape `(C, L)`, or `(L,)` for one channel: an array, a tensor on any
            device, nested sequences.
        scale: The range of the amplitudes; fitted to the values if None.
        scope: Whether one range holds for the layer, or each channel has its own.
        columns: How many curves stand side by side; chosen by their number if None.
        channels: The true numbers of the channels, where the array is a subset of them.
        percentile: Where a fitted range ends; see `fit_scale`.
        estimator: What sets a fitted range; see `fit_scale`.
        transform: How values spread over a fitted range; see `Scale`.
        title: A line above the curves.
        caption: Text below the curves, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array has neither one nor two dimensions, or `channels` not its length,
            or `scope` and `scale` contradict each other.
        TypeError: The array does not hold numbers, or `scale` is not a Scale.

    >>> line([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]).ndim
    3
    """
    checked_scope(scope, scale)
    values = as_values(array)
    numeric = values.array[None] if values.array.ndim == 1 else values.array
    if numeric.ndim != 2:
        remedy = {3: "pick a sample: array[0], or use render.grid for maps (C, H, W)"}.get(
            numeric.ndim, "pick the channels and the axis to draw"
        )
        raise ValueError(f"the array must have shape (C, L), got {numeric.shape}; {remedy}")
    names = channel_numbers(channels, len(numeric))
    if not numeric.size:
        body = placeholder(f"empty: {shape_text(numeric.shape)}")
        return compose(body, title=title, caption=caption, notes=[values.note])

    layer = prepare(numeric, names, scope, scale, percentile, estimator, transform, badged=False)
    across = side_by_side(layer.count) if columns is None else columns
    tile = plot_size(across)
    sheet = arrange(layer.count, tile, columns=across, label_width=layer.label_width)
    plots = curves(layer, tile)
    body = place(plots, sheet, paper=_colours.PAPER, edge=_colours.EDGE)
    key = layer.key(None, top=sheet.top + PAD, height=tile[0] - 2 * PAD)
    length = numeric.shape[1]
    notes = [
        f"{count(len(numeric), 'channel')} of {count(length, 'value')}",
        f"amplitudes: {layer.caption}",
        *layer.notes,
        envelope_note(length, tile[1]),
        "clipped peaks are orange" if layer.clips else "",
        values.note,
    ]
    layer.label(body, sheet)
    return compose(body, title=title, caption=caption, notes=notes, key=key, scale=layer.whole)


def side_by_side(channels: int) -> int:
    """Give how many curves stand side by side.

    >>> [side_by_side(n) for n in (1, 3, 16, 64, 256, 2048)]
    [1, 1, 2, 4, 8, 16]
    """
    return max(1, min(16, round((channels / 4) ** 0.5)))


def plot_size(across: int) -> tuple[int, int]:
    """Give the height and width in pixels of one curve where `across` of them share a row.

    >>> plot_size(1), plot_size(8)
    ((150, 720), (40, 129))
    """
    wide = max(80, min(720, _ACROSS // max(1, across) - 8))
    return max(28, min(150, round(wide * 0.31))), wide


def envelope_note(length: int, pixels: int) -> str:
    """Say what a column of pixels stands for where it stands for several values.

    >>> envelope_note(100, 200), envelope_note(3000, 300)
    ('', 'each column of pixels spans the least to the greatest of 10 values')
    """
    if length <= pixels:
        return ""
    return (
        f"each column of pixels spans the least to the greatest of {number(length / pixels)} values"
    )
