"""What grid and line share: the channels of one layer, their numbers, ranges and badges."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _colours, _paint
from stratascope.render._cells import Sheet
from stratascope.render._page import Key, Picture, drawing, scale_key
from stratascope.render._scale import Estimator, Scale, fit_values, fitted, observed
from stratascope.render._text import TINY, count, number, stamp, width, write
from stratascope.render._transform import Transform, describe

# More cells than this make neither a readable picture nor a usable file.
_MOST_CHANNELS = 16_384
_HANDFUL = 16


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels to draw: values `(C, ...)` and what is said of each of them."""

    values: NDArray[np.float64]
    names: Sequence[str]
    scope: str
    whole: Scale
    scales: Sequence[Scale]
    dead: NDArray[np.bool_]
    left_out: int
    badged: bool

    @property
    def count(self) -> int:
        """How many channels are drawn."""
        return len(self.values)

    @property
    def diverging(self) -> bool:
        """Whether the ranges are symmetric about zero, which they are together or not at all."""
        return any(scale.diverging for scale in self.scales)

    @property
    def clips(self) -> bool:
        """Whether any value lies outside the range that it is drawn on."""
        return any(scale.clipped for scale in self.scales)

    @property
    def caption(self) -> str:
        """What the ranges are."""
        if self.scope == "layer":
            return self.whole.caption
        how = describe(self.whole.transform)
        return f"each channel has its own range, given over it{how and f' ({how})'}"

    @property
    def remarks(self) -> list[str]:
        """What stands beside the number of each channel."""
        if self.scope == "channel":
            return [own_remark(scale) for scale in self.scales]
        if self.badged:
            return [""] * self.count
        pairs = zip(self.dead, self.values, strict=True)
        return [f"const {number(only_value(row))}" if dead else "" for dead, row in pairs]

    @property
    def notes(self) -> list[str]:
        """What else the caption has to say."""
        notes = []
        if self.left_out:
            notes.append(f"only the first {self.count} are drawn")
        if self.dead.any():
            notes.append(f"{count(int(self.dead.sum()), 'channel')} constant")
        return notes

    @property
    def label_width(self) -> int:
        """The width of the widest label over a tile."""
        both = zip(self.names, self.remarks, strict=True)
        return max(width(f"{name}  {remark}".strip(), TINY) for name, remark in both)

    def key(self, colours: Picture | None, *, top: int, height: int) -> Key | None:
        """Make the key, if there is a range to show."""
        if not self.whole.finite or self.whole.constant:
            return None
        if self.scope == "layer":
            return scale_key(self.whole, colours, top=top, height=height)
        return Key("high", "0" if self.diverging else "", "low", colours, top, height)

    def paint(self, shown: NDArray[np.float64]) -> _paint.Bytes:
        """Give the palette indices of values `(C, ...)` of the channels, grey where constant."""
        if self.scope == "layer":
            painted = _paint.indices(shown, self.whole)
        else:
            pairs = zip(shown, self.scales, strict=True)
            painted = np.stack([_paint.indices(channel, one) for channel, one in pairs])
        dead = self.dead
        if dead.any():
            painted[dead] = np.where(
                painted[dead] < _colours.LEVELS, _paint.CONSTANT, painted[dead]
            )
        return painted

    def label(self, body: Picture, sheet: Sheet) -> None:
        """Write the numbers over the tiles and badges on the constant ones."""
        stamp_labels(body, sheet, self.names, self.remarks)
        height, wide = sheet.tile
        for place, text in self.badges(wide):
            top, left = sheet.corner(place)
            with drawing(body[top : top + height, left : left + wide]) as (_, draw):
                write(draw, (wide / 2, height / 2), text, TINY, _colours.INK, "mm")

    def badges(self, room: int) -> list[tuple[int, str]]:
        """Give the text on each constant tile, as much of it as fits."""
        badges: list[tuple[int, str]] = []
        # With a range of its own, a channel is called constant beside its number.
        if self.scope == "channel":
            return badges
        for k in np.flatnonzero(self.dead & self.badged).tolist():
            value = number(only_value(self.values[k]))
            fits = (text for text in (f"const {value}", "const") if width(text, TINY) < room)
            badges += [(k, text) for text in list(fits)[:1]]
        return badges


def stamp_labels(body: Picture, sheet: Sheet, names: Sequence[str], remarks: Sequence[str]) -> None:
    """Write the names of tiles over them, and what else is to be said of each."""
    for label in sheet.labels(names, remarks):
        _put(body, stamp(label.name, TINY, _colours.INK), label.x, label.y)
        if label.remark:
            x = label.x + width(f"{label.name}  ", TINY)
            _put(body, stamp(label.remark, TINY, _colours.SOFT_INK), x, label.y)


def _put(body: Picture, text: Picture, x: int, y: int) -> None:
    room = body[y : y + text.shape[0], x : x + text.shape[1]]
    room[:] = text[: room.shape[0], : room.shape[1]]


def prepare(
    values: NDArray[np.float64],
    names: Sequence[str],
    scope: str,
    scale: Scale | None,
    percentile: float,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
    *,
    badged: bool,
) -> Channels:
    """Find ranges and constant channels for values `(C, ...)`."""
    left_out = max(0, len(values) - _MOST_CHANNELS)
    values, names = values[:_MOST_CHANNELS], names[:_MOST_CHANNELS]
    how = (percentile, estimator, transform)
    dead = constants(values)
    whole = fit_layer(values, *how) if scale is None else fitted(values, scale, *how)
    scales = [whole] if scope == "layer" else own_scales(values, *how)
    return Channels(values, names, scope, whole, scales, dead, left_out, badged)


def fit_layer(
    values: NDArray[np.float64],
    percentile: float,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
) -> Scale:
    """Fit one scale to the channels `(C, ...)` of a layer.

    Maps that are constant are painted grey and have no say in it; curves are drawn as they are.
    """
    how = (percentile, estimator, transform)
    dead = constants(values)
    if values.ndim < 3 or not dead.any() or dead.all():
        return fit_values(values, *how)
    scale, seen = fit_values(values[~dead], *how), values[dead]
    bad = observed(scale, seen)
    return replace(
        scale,
        nans=scale.nans + bad.nans,
        plus_infs=scale.plus_infs + bad.plus_infs,
        minus_infs=scale.minus_infs + bad.minus_infs,
    )


def constants(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell for each channel of `(C, ...)` whether all its finite values are equal.

    A channel of one value, as after global pooling, is no constant channel.

    >>> constants(np.array([[1.0, 1.0], [1.0, 2.0], [np.nan, 5.0]])).tolist()
    [True, False, True]
    """
    flat = values.reshape(len(values), -1)
    if flat.shape[1] == 1:
        return np.zeros(len(flat), bool)
    # Few channels look constant at a handful of places, and only those are looked at whole.
    least, most = _finite_ends(flat[:, :: max(1, flat.shape[1] // _HANDFUL)])
    constant = least >= most
    least, most = _finite_ends(flat[constant])
    constant[constant] = least == most
    return constant


def _finite_ends(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the least and the greatest finite value of each row, and of none +Inf and -Inf."""
    finite = np.isfinite(rows)
    return np.where(finite, rows, np.inf).min(1), np.where(finite, rows, -np.inf).max(1)


def only_value(channel: NDArray[np.float64]) -> float:
    """Give the one finite value of a constant channel."""
    return float(channel[np.isfinite(channel)][0])


def own_scales(
    values: NDArray[np.float64],
    percentile: float,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
) -> list[Scale]:
    """Fit one scale to each channel; if one of them is diverging then all are."""
    scales = [fit_values(channel, percentile, estimator, transform) for channel in values]
    if not any(one.diverging for one in scales):
        return scales
    ends = [max(abs(one.low), abs(one.high)) for one in scales]
    return [
        one if one.constant else replace(one, low=-end, high=end, diverging=True)
        for one, end in zip(scales, ends, strict=True)
    ]


def own_remark(scale: Scale) -> str:
    """Say in a few letters what the range of one channel is.

    >>> own_remark(Scale(-1, 1, diverging=True, percentile=99.5, finite=2))
    '±1'
    """
    if not scale.finite:
        return "not finite"
    return f"const {number(scale.low)}" if scale.constant else scale.extent


def channel_numbers(channels: Any, count: int) -> list[str]:
    """Give the true number of each channel, `channels` naming them where a subset is drawn.

    >>> channel_numbers(None, 2), channel_numbers([7, 12], 2)
    (['0', '1'], ['7', '12'])
    """
    if channels is None:
        return [str(k) for k in range(count)]
    names = [str(int(k)) for k in channels]
    if len(names) != count:
        raise ValueError(
            f"channels must name each of the {count} channels drawn, got {len(names)} numbers; "
            "pass the indices that the array was cut with"
        )
    return names


def checked_scope(scope: str, scale: Any) -> None:
    """Refuse an unknown scope, and a fixed scale where each channel has its own."""
    if scope not in ("layer", "channel"):
        raise ValueError(f"scope must be 'layer' or 'channel', got {scope!r}")
    if scope == "channel" and scale is not None:
        raise ValueError(
            "scale must be None with scope='channel', where each channel has its own; "
            "leave out one of the two"
        )
