"""All channels of a layer as one picture in colour."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _colours, _paint
from stratascope.render._arrays import as_numbers
from stratascope.render._background import suppress
from stratascope.render._basis import FINE, MINUS, NAN, PLUS, ColorBasis, Coloured, choose
from stratascope.render._cells import arrange, place
from stratascope.render._channels import stamp_labels
from stratascope.render._fit import FitOptions, fit_basis
from stratascope.render._map import badged, edged
from stratascope.render._page import Picture, compose, placeholder, shape_text, swatches
from stratascope.render._panels import basis_legend
from stratascope.render._placement import GREY
from stratascope.render._text import TINY, count, width

_TARGET = 360
_ACROSS = 960
_SMALLEST = 30
_LOCAL = 512


def rgb(
    values: Any,
    *,
    basis: ColorBasis | None = None,
    background: Literal["otsu", "border"] | NDArray[np.bool_] | None = None,
    title: str | None = None,
    caption: str | None = None,
    **options: Unpack[FitOptions],
) -> Picture:
    """Draw all channels of a sample as one picture, each position in the colour of its channels.

    Positions that are alike have like colours, and the caption says how far that is true. Pass one
    basis to several pictures to compare them.

    Args:
        values: Numbers of shape `(C, H, W)`, `(C, L)`, or `(C, D, H, W)`, of which each slice
            along D is a tile.
        basis: How channels become colours; fitted to these values alone if None.
        background: Darkens what is background: ``"otsu"`` where the channels are weak, by a
            threshold of the basis; ``"border"`` what is like the rim of the map; or a mask of the
            positions, true where it is background.
        title: A line above the picture.
        caption: Text below it, before what the picture says of itself.
        **options: How to fit a basis where none is given; see `FitOptions`.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array does not have two to four dimensions, or not the channels of the
            basis; options are given beside a basis; or the background is none of the three.
        TypeError: The array does not hold numbers, or `basis` is not a ColorBasis.

    >>> rgb([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 0.0], [5.0, 5.0]]]).ndim
    3
    """
    array = as_numbers(values)
    if not 2 <= array.ndim <= 4:
        remedy = "pick a sample: array[0]" if array.ndim > 4 else "put the channels first"
        raise ValueError(
            f"the array must have shape (C, H, W), (C, L) or (C, D, H, W), got {array.shape}; "
            f"{remedy}"
        )
    if basis is not None and not isinstance(basis, ColorBasis):
        raise TypeError(f"basis must be a ColorBasis, got {basis!r}; make one: render.fit_basis")
    if basis is not None and options:
        raise ValueError(
            f"{', '.join(options)} must not be given beside a basis, which has them already; "
            "leave out one of the two"
        )
    if not array.size:
        body = placeholder(f"empty: {shape_text(array.shape)}")
        return compose(body, title=title, caption=caption, notes=[])
    notes = [f"{count(len(array), 'channel')} of {shape_text(array.shape[1:])}"]
    alone = basis is None
    basis = fit_basis(array[None], **options) if basis is None else basis
    coloured = basis.colour(basis.flatten(array))
    constant = _is_constant(array.reshape(len(array), -1)[:, coloured.kinds == FINE])
    if constant:
        coloured = replace(coloured, lab=np.tile([[GREY], [0], [0]], coloured.lab.shape[1]))
    elif background is not None:
        columns = array.reshape(len(array), -1)
        coloured, note = suppress(coloured, background, columns, basis, array.shape[1:])
        notes.append(note)
    notes += [*_describe(basis, alone=alone), *([] if alone else _local(basis, array))]
    body, remarks = _body(coloured, array.shape[1:])
    if constant:
        body = badged(body, "constant")
    return compose(
        body,
        title=title,
        caption=caption,
        notes=[*notes, *remarks],
        legend=[*_marks(coloured), *basis_legend(basis)],
    )


def _is_constant(columns: NDArray[Any]) -> bool:
    """Tell whether all positions, two or more, have the same channels."""
    if columns.shape[1] < 2:
        return False
    return bool((columns.min(1) == columns.max(1)).all())


def _describe(basis: ColorBasis, *, alone: bool) -> list[str]:
    fitted = f"{basis.caption}, this picture alone" if alone else basis.caption
    return [fitted, basis.fidelity.caption, *basis.about["notes"]]


def _local(basis: ColorBasis, array: NDArray[Any]) -> list[str]:
    """Say how far the colours can be trusted in this picture, which the fit may not have seen."""
    columns = basis.flatten(array)
    some = columns[:, choose(columns.shape[1], _LOCAL)]
    found = basis.measure(some, axis=0).shepard
    return [] if found is None else [f"fidelity here {found:.2f}"]


def _body(coloured: Coloured, shape: tuple[int, ...]) -> tuple[Picture, list[str]]:
    """Make the tiles and, where there are several, put them beside each other with numbers."""
    depth = shape[0] if len(shape) == 3 else 1
    height, wide = (1, *shape)[-2:]
    steps = _paint.stride((height, wide), depth)
    pixels = coloured.to_bytes().reshape(depth, height, wide, 3)[:, :: steps[0], :: steps[1]]
    missing = (coloured.kinds == NAN).reshape(depth, height, wide)[:, :: steps[0], :: steps[1]]
    target = _TARGET if depth == 1 else max(_SMALLEST, int(min(_TARGET, _ACROSS / depth**0.5)))
    zoom = _paint.enlargement(pixels.shape[1:3], target, up=depth == 1)
    tiles = _paint.enlarged(pixels, zoom)
    dark = _paint.enlarged(missing, zoom) & _paint.hatch(*tiles.shape[1:3])
    tiles[dark] = _colours.NAN_DARK
    remarks = _paint.pixel_notes(zoom, steps)
    if len(shape) < 3:
        return edged(tiles[0]), remarks
    names = [str(k) for k in range(depth)]
    sheet = arrange(depth, tiles.shape[1:3], columns=None, label_width=width(names[-1], TINY))
    body = place(tiles, sheet, paper=_colours.PAPER, edge=_colours.EDGE)
    stamp_labels(body, sheet, names, [""] * depth)
    return body, remarks


def _marks(coloured: Coloured) -> Sequence[tuple[str, Picture]]:
    amounts = [int(np.count_nonzero(coloured.kinds == kind)) for kind in (NAN, PLUS, MINUS)]
    return swatches(amounts, "position")
