"""Panels of equal height, each under its name: what strips and differences are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stratascope.render import _colours
from stratascope.render._arrays import as_numbers, as_values
from stratascope.render._basis import FINE, MINUS, NAN, PLUS, ColorBasis
from stratascope.render._map import badged, edged
from stratascope.render._page import (
    Key,
    Picture,
    scale_key,
    shape_text,
    swatch,
    swatches,
)
from stratascope.render._paint import CONSTANT, coloured, hatch, indices, table
from stratascope.render._scale import Scale, observed
from stratascope.render._text import TINY, line_height, wrap, write

_ACROSS = 1200
_GUTTER = 14
_NARROWEST = 132
# How many times wider than high a panel may be, and the other way round.
_WIDEST, _FLATTEST = 2, 4


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of several.

    Attributes:
        name: What stands over it.
        pixels: The picture, with its frame.
        remarks: What stands below it, a line or more each.
        bad: How many positions are NaN, +Inf and -Inf.
    """

    name: str
    pixels: Picture
    remarks: Sequence[str] = ()
    bad: tuple[int, ...] = (0, 0, 0)


def read_layer(layer: Any, *, single: bool, what: str) -> NDArray[Any]:
    """Read what one panel draws: a single map, or channels first, of up to three axes each."""
    array = as_values(layer).array if single else as_numbers(layer)
    axes = array.ndim - (not single)
    if not int(single) <= axes <= 3:
        wanted = "(H, W), (L,) or (D, H, W)" if single else "(C, H, W), (C, L) or (C, D, H, W)"
        remedy = "; pick a sample: array[0]" if axes > 3 else ""
        raise ValueError(f"{what} must have shape {wanted}, got {array.shape}{remedy}")
    return array


def colour_panel(
    name: str, array: NDArray[Any], basis: ColorBasis, height: int, *, own: bool
) -> Panel:
    """Draw channels `(C, ...)` in the colours of a basis, which is the panel's own or not."""
    if not array.size:
        return empty_panel(name, array, height)
    plane, remark = _plane(array, channels=True)
    found = basis.colour(basis.flatten(plane))
    pixels = found.to_bytes()
    fine = basis.flatten(plane)[:, found.kinds == FINE]
    constant = fine.shape[1] > 1 and bool((fine.min(1) == fine.max(1)).all())
    if constant:
        pixels[found.kinds == FINE] = _colours.CONSTANT
    rows, columns, thinned = _spread(plane.shape[1:], height)
    drawn = pixels.reshape(*plane.shape[1:], 3)[rows][:, columns]
    missing = (found.kinds == NAN).reshape(plane.shape[1:])[rows][:, columns]
    drawn[missing & hatch(*drawn.shape[:2])] = _colours.NAN_DARK
    shepard = (basis.fidelity if own else basis.measure(array, axis=0)).shepard
    told = [f"basis {basis.id[:8]}"] if own else []
    told += [] if shepard is None or constant else [f"fidelity {shepard:.2f}"]
    remarks = [shape_text(array.shape), remark, thinned, " · ".join(told)]
    bad = tuple(int(np.count_nonzero(found.kinds == kind)) for kind in (NAN, PLUS, MINUS))
    return _panel(name, drawn, remarks, bad, "constant" if constant else "")


def empty_panel(name: str, array: NDArray[Any], height: int) -> Panel:
    """Say that there is nothing to draw."""
    blank = np.full((height, height, 3), _colours.PAPER, np.uint8)
    return _panel(name, blank, [shape_text(array.shape)], (0, 0, 0), "empty")


def scale_panel(
    name: str, array: NDArray[np.float64], scale: Scale, height: int, *, remark: str = ""
) -> Panel:
    """Draw one map `(H, W)`, or a curve `(L,)` as a row, on a scale."""
    if not array.size:
        return empty_panel(name, array, height)
    plane, sliced = _plane(array, channels=False)
    rows, columns, thinned = _spread(plane.shape, height)
    finite = plane[np.isfinite(plane)]
    constant = finite.size > 1 and finite.min() == finite.max()
    painted = indices(plane, scale)
    if constant:
        painted[np.isfinite(plane)] = CONSTANT
    drawn = coloured(painted[rows][:, columns], table(scale))
    seen = observed(scale, plane)
    remarks = [shape_text(array.shape), sliced, thinned, remark]
    bad = seen.nans, seen.plus_infs, seen.minus_infs
    return _panel(name, drawn, remarks, bad, "constant" if constant else "")


def image_panel(name: str, array: NDArray[np.float64], height: int) -> Panel:
    """Draw three channels `(3, H, W)` as the red, green and blue that they are."""
    if not array.size:
        return empty_panel(name, array, height)
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    # Halved first, since high - low may exceed the largest float.
    part = (np.nan_to_num(array) / 2 - low / 2) / ((high / 2 - low / 2) or 1.0)
    rows, columns, thinned = _spread(array.shape[1:], height)
    pixels = np.rint(part.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)[rows][:, columns]
    unknown = np.count_nonzero(~np.isfinite(array), axis=0) > 0
    missing = unknown[rows][:, columns]
    pixels[missing] = _colours.NAN_LIGHT
    pixels[missing & hatch(*missing.shape)] = _colours.NAN_DARK
    remark = f"red, green, blue, {Scale(low, high).extent}"
    bad = (int(np.count_nonzero(unknown)), 0, 0)
    return _panel(name, pixels, [shape_text(array.shape), thinned, remark], bad, "")


def lay_out(panels: Sequence[Panel], *, across: int = _ACROSS) -> Picture:
    """Put panels beside each other in rows, names above and remarks below."""
    cells = [_Cell(panel) for panel in panels]
    rows: list[list[_Cell]] = []
    room = 0
    for cell in cells:
        if not rows or room + cell.width > across:
            rows.append([])
            room = 0
        rows[-1].append(cell)
        room += cell.width + _GUTTER
    return np.concatenate([_row(row, max(map(_width, rows))) for row in rows])[:-_GUTTER]


def panel_key(scale: Scale, height: int) -> Key:
    """Make the key of a range, beside the first row of panels."""
    return scale_key(scale, table(scale), top=line_height(TINY) + 1, height=height)


def marks(panels: Sequence[Panel]) -> list[tuple[str, Picture]]:
    """Make the legend of what is not finite in any of the panels."""
    return swatches([sum(panel.bad[k] for panel in panels) for k in range(3)], "position")


def basis_legend(basis: ColorBasis) -> list[tuple[str, Picture]]:
    """Make the legend of what some colours of a basis stand for."""
    named = basis.about["legend"]
    return [
        (name, swatch(np.rint(np.clip(lab, 0, 1) * 255).astype(np.uint8))) for name, lab in named
    ]


class _Cell:
    """A panel with its texts broken into lines."""

    def __init__(self, panel: Panel) -> None:
        self.pixels = panel.pixels
        self.width = max(panel.pixels.shape[1], _NARROWEST)
        self.names = wrap(panel.name, TINY, self.width)
        texts = filter(None, panel.remarks)
        self.remarks = [line for text in texts for line in wrap(text, TINY, self.width)]


def _width(row: Sequence[_Cell]) -> int:
    return sum(cell.width for cell in row) + _GUTTER * (len(row) - 1)


def _row(row: Sequence[_Cell], wide: int) -> Picture:
    line = line_height(TINY)
    top = line * max(len(cell.names) for cell in row) + 1
    high = top + max(len(cell.pixels) for cell in row)
    below = line * max(len(cell.remarks) for cell in row) + _GUTTER
    image = Image.new("RGB", (wide, high + below), _colours.PAPER)
    draw = ImageDraw.Draw(image)
    x = 0
    for cell in row:
        for k, text in enumerate(cell.names):
            write(draw, (x, top - 1 - line * (len(cell.names) - k)), text, TINY, _colours.INK)
        image.paste(Image.fromarray(cell.pixels), (x, top))
        for k, text in enumerate(cell.remarks):
            write(draw, (x, high + 2 + line * k), text, TINY, _colours.SOFT_INK)
        x += cell.width + _GUTTER
    return np.array(image)


def _plane(array: NDArray[Any], *, channels: bool) -> tuple[NDArray[Any], str]:
    """Give the two axes to draw: a curve is one row, of a volume the middle slice is taken."""
    axes = array.ndim - channels
    if axes <= 1:
        return array.reshape(*array.shape[: int(channels)], 1, -1), ""
    if axes == 2:
        return array, ""
    depth = array.shape[int(channels)]
    middle = depth // 2
    return (array[:, middle] if channels else array[middle]), f"slice {middle} of 0 to {depth - 1}"


def _spread(shape: tuple[int, ...], height: int) -> tuple[NDArray[np.intp], NDArray[np.intp], str]:
    """Tell which row and which column stands at each pixel, and what is left out."""
    high, wide = shape
    across = round(min(max(height * wide / high, height / _FLATTEST), height * _WIDEST))
    rows, columns = np.arange(height) * high // height, np.arange(across) * wide // across
    parts = [
        f"{drawn} of {all_of} {what}"
        for drawn, all_of, what in ((height, high, "rows"), (across, wide, "columns"))
        if drawn < all_of
    ]
    return rows, columns, f"{', '.join(parts)} drawn" if parts else ""


def _panel(
    name: str, drawn: Picture, remarks: Sequence[str], bad: tuple[int, ...], badge: str
) -> Panel:
    return Panel(name, edged(badged(drawn, badge) if badge else drawn), remarks, bad)
