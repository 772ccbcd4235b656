"""Curves as pixels: the share of every pixel that the pen covers, for all channels at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _colours
from stratascope.render._channels import Channels
from stratascope.render._paint import hatch
from stratascope.render._scale import Scale, positions

PAD = 4
PEN = 1.3
# In quarters of a pixel to either side.
_PEN_REACH = 2
_SUB = 4
_ZERO_LINE = (222, 224, 228)
_DEAD_PAPER = (238, 239, 241)
_GAP_PAPER = (247, 247, 248)
_GAP_STRIPE = (205, 207, 211)
_MARK = 5
_AT_ONCE = 6_000_000


def curves(layer: Channels, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw each channel of values `(C, L)` as a curve, `(C, height, width, 3)`."""
    height, width = size
    drawn = np.empty((layer.count, height, width, 3), np.uint8)
    step = max(1, _AT_ONCE // (height * width * _SUB))
    for start in range(0, layer.count, step):
        chosen = slice(start, start + step)
        scales = layer.scales[chosen] if layer.scope == "channel" else layer.scales
        drawn[chosen] = _drawn(layer.values[chosen], scales, layer.dead[chosen], size)
    return drawn


def _drawn(
    values: NDArray[np.float64],
    scales: Sequence[Scale],
    dead: NDArray[np.bool_],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    height, width = size
    canvas = np.empty((len(values), height, width, 3), np.uint8)
    canvas[:] = _colours.PAPER
    canvas[dead] = _DEAD_PAPER
    if len(scales) == 1:
        scales = [scales[0]] * len(values)
    places = np.stack([positions(row, one) for row, one in zip(values, scales, strict=True)])
    _draw_zero_lines(canvas, np.array([_zero(one) for one in scales]))
    _hatch_gaps(canvas, spans(np.isnan(values), width))
    places[~np.isfinite(values)] = np.nan
    ink = _ink(_row(places, height), height, width)[..., None]
    canvas[:] = np.rint(canvas * (1 - ink) + np.array(_colours.CURVE, np.float32) * ink)
    low, high = np.array([(one.low, one.high) for one in scales]).T[..., None]
    finite = np.isfinite(values)
    rim = PAD + 2
    for strip, flags in (
        (np.s_[:, :rim], (values > high) & finite),
        (np.s_[:, -rim:], (values < low) & finite),
    ):
        _tint(canvas[strip], ink[strip], spans(flags, width))
    _mark(canvas[:, :_MARK], spans(values == np.inf, width), _colours.PLUS_INFINITY)
    _mark(canvas[:, -_MARK:], spans(values == -np.inf, width), _colours.MINUS_INFINITY)
    return canvas


def spans(flags: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Tell for each column of pixels whether a flagged value falls on it, `(C, L)` to `(C, w)`.

    >>> spans(np.array([[False, True]]), 4).tolist()
    [[False, False, True, True]]
    """
    length = flags.shape[1]
    if length > width:
        return np.logical_or.reduceat(flags, _bins(length, width), axis=1)
    return flags[:, _bins(length, width)]


def coverage(
    low: NDArray[np.float64], high: NDArray[np.float64], height: int
) -> NDArray[np.float32]:
    """Give the share of each pixel covered by a pen that runs from `low` to `high` in a column.

    The columns `(C, k * w)` may be finer than the pixels; the share is then their mean.
    """
    rows = np.arange(height, dtype=np.float32)[:, None]
    top = (low - PEN / 2 + 0.5).astype(np.float32)[:, None, :]
    bottom = (high + PEN / 2 + 0.5).astype(np.float32)[:, None, :]
    share = np.minimum(bottom, rows + 1)
    share -= np.maximum(top, rows)
    np.nan_to_num(share, copy=False)
    return share.clip(0, 1, out=share)


def envelope(
    values: NDArray[np.float64], width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the least and the greatest value of each column of pixels, `(C, L)` to `(C, w)`.

    A column reaches to the first value of the next, so that a curve has no holes.

    >>> envelope(np.array([[0.0, 5.0, 1.0, 2.0]]), 2)[1].tolist()
    [[5.0, 2.0]]
    """
    starts = _bins(values.shape[1], width)
    low = np.fmin.reduceat(values, starts, axis=1)
    high = np.fmax.reduceat(values, starts, axis=1)
    following = values[:, starts[1:]]
    low[:, :-1] = np.where(np.isnan(low[:, :-1]), low[:, :-1], np.fmin(low[:, :-1], following))
    high[:, :-1] = np.where(np.isnan(high[:, :-1]), high[:, :-1], np.fmax(high[:, :-1], following))
    return low, high


def interpolated(
    values: NDArray[np.float64], width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the least and the greatest value in each quarter column, `(C, L)` to `(C, 4 w)`.

    A value stands in the middle of its share of the width; beside a gap it is held.
    """
    length = values.shape[1]
    place = ((np.arange(width * _SUB) + 0.5) * length / (width * _SUB) - 0.5).clip(0, length - 1)
    left = np.floor(place).astype(int)
    right = np.minimum(left + 1, length - 1)
    part = place - left
    curve = values[:, left] * (1 - part) + values[:, right] * part
    curve = np.where(np.isnan(curve), values[:, np.floor(place + 0.5).astype(int)], curve)
    low, high, gap = curve.copy(), curve.copy(), np.isnan(curve)
    for reach in range(1, _PEN_REACH + 1):
        after, before = np.s_[:, reach:], np.s_[:, :-reach]
        for here, there in ((after, before), (before, after)):
            low[here] = np.fmin(low[here], curve[there])
            high[here] = np.fmax(high[here], curve[there])
    low[gap] = high[gap] = np.nan
    return low, high


def _ink(rows: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    if rows.shape[1] > width:
        return coverage(*envelope(rows, width), height)
    fine = coverage(*interpolated(rows, width), height)
    return fine.reshape(len(rows), height, width, _SUB).mean(3)


def _bins(length: int, width: int) -> NDArray[np.intp]:
    return np.arange(width) * length // width


def _row(places: NDArray[np.float64], height: int) -> NDArray[np.float64]:
    return PAD + (1 - places) * (height - 1 - 2 * PAD)


def _zero(scale: Scale) -> float:
    if not scale.low <= 0 <= scale.high:
        return np.nan
    return float(positions(np.zeros(1), scale)[0])


def _draw_zero_lines(canvas: NDArray[np.uint8], zeros: NDArray[np.float64]) -> None:
    shown = np.flatnonzero(np.isfinite(zeros))
    rows = np.rint(_row(zeros[shown], canvas.shape[1])).astype(int)
    canvas[shown, rows] = _ZERO_LINE


def _hatch_gaps(canvas: NDArray[np.uint8], gaps: NDArray[np.bool_]) -> None:
    if not gaps.any():
        return
    stripes = hatch(*canvas.shape[1:3])
    columns = np.broadcast_to(gaps[:, None, :], canvas.shape[:3])
    canvas[columns & ~stripes] = _GAP_PAPER
    canvas[columns & stripes] = _GAP_STRIPE


def _tint(strip: NDArray[np.uint8], ink: NDArray[np.float32], flags: NDArray[np.bool_]) -> None:
    """Draw a strip again in the colour of clipped peaks, in the flagged columns."""
    for k in np.flatnonzero(flags.any(1)):
        columns = np.flatnonzero(flags[k])
        wet = ink[k][:, columns]
        tinted = 255 * (1 - wet) + np.array(_colours.CLIP, np.float32) * wet
        strip[k][:, columns] = np.rint(tinted)


def _mark(strip: NDArray[np.uint8], flags: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    # One value may be a single column of pixels wide, which nobody would see.
    wide = flags.copy()
    wide[:, 1:] |= flags[:, :-1]
    wide[:, :-1] |= flags[:, 1:]
    strip[np.broadcast_to(wide[:, None, :], strip.shape[:3])] = colour
