"""Signals side by side as seismic traces: wiggles, filled where they are positive."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _colours
from stratascope.render._arrays import as_values
from stratascope.render._axes import Axes, as_axis, framed
from stratascope.render._curves import PEN, coverage, envelope, interpolated, spans
from stratascope.render._map import Page, edged
from stratascope.render._page import Picture, compose, placeholder, shape_text
from stratascope.render._paint import hatch
from stratascope.render._scale import Scale, fitted, positions
from stratascope.render._text import count, number
from stratascope.render._transform import Transform

_HEIGHT = 480
_WIDTH = 960
_NARROWEST, _WIDEST = 6, 48


def wiggle(
    array: Any,
    *,
    scale: Scale | None = None,
    percentile: float = 99,
    transform: Transform = "linear",
    excursion: float = 1.0,
    every: int | None = None,
    axes: Axes = ("value", "channel"),
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw signals `(C, L)` as wiggles beside each other, filled where they are positive.

    Each runs down from its first value; positive values go to the right.

    Args:
        array: Numbers of shape `(C, L)`, or `(L,)` for one signal: an array, a tensor on any
            device, nested sequences.
        scale: The range of the amplitudes, symmetric about zero; fitted to the values if None.
        percentile: Where a fitted range ends; see `fit_scale`.
        transform: How amplitudes spread over a fitted range; see `Scale`.
        excursion: How many distances between signals the end of the range is away from the middle.
        every: Draw one of so many signals; as many as there is room for if None.
        axes: What runs down and across: two names, or `Axis` with their units.
        title: A line above the wiggles.
        caption: Text below the wiggles, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array has neither one nor two dimensions, or the scale is not symmetric, or
            `every` is less than 1, or `excursion` not from above 0 to 10.
        TypeError: The array does not hold numbers, or `scale` is not a Scale, or an axis neither
            an Axis nor a name.

    >>> wiggle([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], axes=("sample", "channel")).ndim
    3
    """
    values = as_values(array)
    numeric = values.array[None] if values.array.ndim == 1 else values.array
    if numeric.ndim != 2:
        remedy = "pick a sample: array[0]" if numeric.ndim == 3 else "pick the signals to draw"
        raise ValueError(f"the array must have shape (C, L), got {numeric.shape}; {remedy}")
    page = Page(title, caption, axes, [values.note])
    if not numeric.size:
        body = placeholder(f"empty: {shape_text(numeric.shape)}")
        return compose(body, title=title, caption=caption, notes=page.extra)
    scale = fitted(numeric, scale, percentile, "symmetric", transform)
    first = f"{count(len(numeric), 'signal')} of {count(numeric.shape[1], 'value')}"
    return wiggles(numeric, scale, page, excursion=excursion, every=every, first=[first])


def wiggles(
    values: NDArray[np.float64],
    scale: Scale,
    page: Page,
    *,
    excursion: float,
    every: int | None,
    first: list[str],
) -> Picture:
    """Draw signals `(C, L)` as wiggles on a page."""
    if not (scale.diverging or scale.constant or not scale.finite):
        raise ValueError(
            f"the scale of wiggles must be symmetric about 0, got {scale.extent}; pass "
            "Scale(-m, m, diverging=True)"
        )
    if not 0 < excursion <= 10 or (every is not None and every < 1):
        raise ValueError(
            f"excursion must be above 0 and at most 10, and every at least 1, got "
            f"excursion={excursion!r}, every={every!r}"
        )
    every = every or math.ceil(len(values) * _NARROWEST / _WIDTH)
    shown = values[::every]
    apart = max(_NARROWEST, min(_WIDEST, _WIDTH // len(shown)))
    body, margin = _body(shown, scale, apart, excursion)
    down, across = map(as_axis, page.axes or ("", ""))
    places = (values.shape[1], len(shown))
    framed_body, _ = framed(edged(body), (down, across.every(every)), places, margin=margin)
    apart_text = "1 distance" if excursion == 1 else f"{number(excursion)} distances"
    notes = [
        *first,
        f"1 in {every} is drawn" if every > 1 else "",
        f"an excursion of {apart_text} is {scale.caption}",
        "positive to the right, filled",
        _span_note(values.shape[1]),
        *page.extra,
    ]
    return compose(framed_body, title=page.title, caption=page.caption, notes=notes, scale=scale)


def _body(
    values: NDArray[np.float64], scale: Scale, apart: int, excursion: float
) -> tuple[Picture, int]:
    """Draw on paper that is wider than the signals' places by a margin on both sides."""
    reach = int(np.ceil(apart * excursion)) + 2
    traces = 2 * np.stack([positions(row, scale) for row in values]) - 1
    traces[~np.isfinite(values)] = np.nan
    across = reach + traces * apart * excursion
    paper = np.ones((_HEIGHT, (len(values) - 1) * apart + 2 * reach + 1), np.float32)
    # One at a time, since each is drawn on as much paper as its excursion takes.
    for k, trace in enumerate(across[:, None]):
        outline = envelope if trace.size > _HEIGHT else interpolated
        low, high = outline(trace, _HEIGHT)
        ink = coverage(low, high, 2 * reach + 1)
        # An area has no pen around it.
        area = coverage(np.full_like(high, reach + PEN / 2), high - PEN / 2, 2 * reach + 1)
        wet = np.maximum(ink, area)[0].reshape(2 * reach + 1, _HEIGHT, -1).mean(2).T
        part = paper[:, k * apart : k * apart + wet.shape[1]]
        np.minimum(part, 1 - wet, out=part)
    dark = np.array(_colours.INK, np.float32)
    body = np.rint(dark + (255 - dark) * paper[..., None]).astype(np.uint8)
    stripes = np.where(hatch(*paper.shape)[..., None], _colours.NAN_DARK, _colours.NAN_LIGHT)
    for flags, colour in (
        (np.isnan(values), stripes),
        (values == np.inf, np.broadcast_to(_colours.PLUS_INFINITY, body.shape)),
        (values == -np.inf, np.broadcast_to(_colours.MINUS_INFINITY, body.shape)),
    ):
        for k in np.flatnonzero(flags.any(1)):
            rows = spans(flags[k : k + 1], _HEIGHT)[0]
            lane = slice(k * apart + reach - 2, k * apart + reach + 3)
            body[rows, lane] = colour[rows, lane]
    return body, reach - apart // 2


def _span_note(length: int) -> str:
    if length <= _HEIGHT:
        return ""
    return (
        f"each row of pixels spans the least to the greatest of {number(length / _HEIGHT)} values"
    )
