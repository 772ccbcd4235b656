"""Volumes as three planes at right angles."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _colours, _paint
from stratascope.render._arrays import as_values
from stratascope.render._axes import Axis, Ruler, as_axis, ruled
from stratascope.render._cells import arrange, place
from stratascope.render._channels import channel_numbers, prepare
from stratascope.render._grid import target
from stratascope.render._page import Picture, compose, placeholder, shape_text
from stratascope.render._scale import Estimator, Scale
from stratascope.render._text import count
from stratascope.render._transform import Transform

_LEAST = 140
_GAP = 8
# The low end of both colour tables is dark.
_DARK = 0


def slices(
    array: Any,
    *,
    at: Sequence[int] | Literal["projection"] | None = None,
    scale: Scale | None = None,
    percentile: float = 99.5,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
    channels: Sequence[int] | None = None,
    axes: Sequence[Axis | str] | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw volumes `(C, D, H, W)` as three planes at right angles through one point.

    At the upper left is the plane of rows and columns, H across by W; at its right and below are
    those that the other two axes make with depth, D. Short marks between them show the point.

    Args:
        array: Numbers of shape `(C, D, H, W)`, or `(D, H, W)` for one volume: an array, a tensor
            on any device, nested sequences.
        at: The point `(d, h, w)`, counted from 0, or from the end where negative; the middle if
            None. Or `"projection"`: along each axis the value that is largest in magnitude.
        scale: The range of the colours; fitted to the whole volumes if None.
        percentile: Where a fitted range ends; see `fit_scale`.
        estimator: What sets a fitted range; see `fit_scale`.
        transform: How values spread over a fitted range; see `Scale`.
        channels: The true numbers of the channels, where the array is a subset of them.
        axes: What depth, rows and columns are: three names, or `Axis` with their units.
        title: A line above the planes.
        caption: Text below the planes, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array has neither three nor four dimensions, or the point is outside, or
            `channels` has not the length of the array, or there are not three axes.
        TypeError: The array does not hold numbers, or `scale` is not a Scale, or an axis neither
            an Axis nor a name.

    >>> slices(np.arange(24.0).reshape(2, 3, 4), at=(1, 2, 0)).ndim
    3
    """
    values = as_values(array)
    numeric = values.array[None] if values.array.ndim == 3 else values.array
    if numeric.ndim != 4:
        remedy = "pick a sample: array[0]" if numeric.ndim == 5 else "use render.map for one map"
        raise ValueError(f"the array must have shape (C, D, H, W), got {numeric.shape}; {remedy}")
    names = channel_numbers(channels, len(numeric))
    given = _checked(axes)
    if not numeric.size:
        body = placeholder(f"empty: {shape_text(numeric.shape)}")
        return compose(body, title=title, caption=caption, notes=[values.note])
    point = None if at == "projection" else _point(numeric.shape[1:], at)
    layer = prepare(numeric, names, "layer", scale, percentile, estimator, transform, badged=False)
    planes = _planes(layer.values, point)
    depth, height, width = numeric.shape[1:]
    extent = (height + depth, width + depth)
    step = max(_paint.stride(extent, layer.count))
    zoom = max(1, max(_LEAST, target(layer.count, extent)) * step // max(extent))
    painted = [layer.paint(plane[:, ::step, ::step]) for plane in planes]
    tiles = _assembled(
        [_paint.enlarged(plane, (zoom, zoom)) for plane in painted],
        [] if point is None else [k // step * zoom + zoom // 2 for k in point],
    )
    colours = _paint.table(layer.whole)
    high = tiles.shape[1]
    top, bodies = 0, [_paint.coloured(tile, colours) for tile in tiles]
    if given is not None:
        shown = (painted[1].shape[2], *painted[0].shape[1:])
        rulers = _rulers([axis.every(step) for axis in given], shown, zoom)
        ruled_bodies = [ruled(body, *rulers) for body in bodies]
        top, bodies = ruled_bodies[0][1], [body for body, _ in ruled_bodies]
    tile = bodies[0].shape[:2]
    sheet = arrange(layer.count, tile, columns=None, label_width=layer.label_width)
    body = place(np.stack(bodies), sheet, paper=_colours.PAPER, edge=_colours.PAPER)
    through = (
        "the value of largest magnitude along each axis"
        if point is None
        else f"through depth {point[0]}, row {point[1]}, column {point[2]}"
    )
    notes = [
        f"{count(len(numeric), 'volume')} of {shape_text(numeric.shape[1:])}, {through}",
        "at its right rows by depth, below depth by columns",
        f"colours: {layer.caption}",
        *layer.notes,
        *_paint.pixel_notes((1, 1), (step, step)),
        values.note,
    ]
    key = layer.key(colours, top=sheet.top + top, height=min(220, max(80, high)))
    if len(numeric) > 1 or channels is not None:
        layer.label(body, sheet)
    return compose(body, title=title, caption=caption, notes=notes, key=key, scale=layer.whole)


def _checked(axes: Any) -> list[Axis] | None:
    if axes is None:
        return None
    if isinstance(axes, str | Axis) or len(axes) != 3:
        raise ValueError(
            f"axes must be three, of depth, rows and columns, as ('depth', 'row', 'column'), got "
            f"{axes!r}"
        )
    return [as_axis(axis) for axis in axes]


def _rulers(
    axes: Sequence[Axis], shape: tuple[int, ...], zoom: int
) -> tuple[list[Ruler], list[Ruler]]:
    """Give what runs down and across: rows, then depth; columns, then depth."""
    depth, rows, columns = zip(axes, shape, strict=True)

    def one_side(axis: Axis, places: int) -> list[Ruler]:
        first = places * zoom
        return [
            Ruler(axis, places, 0, first),
            Ruler(*depth, first + _GAP, depth[1] * zoom),
        ]

    return one_side(*rows), one_side(*columns)


def _point(shape: tuple[int, ...], at: Any) -> tuple[int, ...]:
    try:
        point = tuple(size // 2 for size in shape) if at is None else tuple(int(k) for k in at)
    except (TypeError, ValueError):
        point = ()
    inside = len(point) == 3 and all(-n <= k < n for k, n in zip(point, shape, strict=True))
    if not inside:
        raise ValueError(
            f"at must be a point (d, h, w) inside {shape}, 'projection', or None for the middle, "
            f"got {at!r}"
        )
    return tuple(k % n for k, n in zip(point, shape, strict=True))


def _planes(
    volumes: NDArray[np.float64], point: tuple[int, ...] | None
) -> list[NDArray[np.float64]]:
    """Give the planes H by W, H by D and D by W of volumes `(C, D, H, W)`."""
    if point is not None:
        d, h, w = point
        planes = [volumes[:, d], volumes[:, :, :, w], volumes[:, :, h]]
    else:
        size = np.where(np.isnan(volumes), -1.0, np.abs(volumes))
        planes = []
        for axis in (1, 3, 2):
            largest = size.argmax(axis, keepdims=True)
            planes.append(np.take_along_axis(volumes, largest, axis).squeeze(axis))
    return [planes[0], planes[1].swapaxes(1, 2), planes[2]]


def _assembled(planes: list[_paint.Bytes], marks: list[int]) -> _paint.Bytes:
    """Put the three planes of each volume together, with marks in the gap between them."""
    front, right, below = planes
    height, width = front.shape[1:]
    shape = (len(front), height + _GAP + below.shape[1], width + _GAP + right.shape[2])
    tiles = np.full(shape, _paint.PAPER, np.uint8)
    tiles[:, :height, :width] = front
    tiles[:, :height, width + _GAP :] = right
    tiles[:, height + _GAP :, :width] = below
    for d, h, w in [marks] if marks else []:
        between = slice(height + 1, height + _GAP - 1), slice(width + 1, width + _GAP - 1)
        tiles[:, h, between[1]] = tiles[:, height + _GAP + d, between[1]] = _DARK
        tiles[:, between[0], w] = tiles[:, between[0], width + _GAP + d] = _DARK
    return tiles
