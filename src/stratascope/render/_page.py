"""The page around every picture: title, body, key at its right, legend and caption below."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stratascope.render import _colours
from stratascope.render._paint import hatch
from stratascope.render._scale import Scale, value_at
from stratascope.render._text import (
    BODY,
    SMALL,
    TITLE,
    clean,
    count,
    line_height,
    number,
    numbers,
    width,
    wrap,
    write,
)

Picture = NDArray[np.uint8]

_MARGIN = 20
_GAP = 12
_NARROWEST = 320
_BAR_WIDTH = 12
_SWATCH = 11


@dataclass(frozen=True, slots=True)
class Key:
    """What the colours, or the heights, of the body mean; `colours` runs from low to high.

    Without colours it is drawn as an axis. `quarters` stand between the three, from above.
    """

    high: str
    middle: str
    low: str
    colours: Picture | None = None
    top: int = 0
    height: int = 220
    quarters: tuple[str, str] = ("", "")

    @property
    def room(self) -> int:
        """The width that the key takes."""
        texts = (self.high, self.middle, self.low, *self.quarters)
        return _GAP + _BAR_WIDTH + 6 + max(width(text, SMALL) for text in texts)


def scale_key(scale: Scale, colours: Picture | None, *, top: int = 0, height: int = 220) -> Key:
    """Make the key of one range that holds for the whole picture."""
    if scale.low == scale.high:
        return Key("", number(scale.low), "", colours, top, height)
    if scale.transform != "linear":
        places = (0.25, 0.5, 0.75)
        inner = [value_at(scale, place) for place in places]
        low, *between, high = numbers([scale.low, *inner, scale.high])
        return Key(high, between[1], low, colours, top, height, (between[2], between[0]))
    # Halved first, since the sum of two large ends may exceed the largest float.
    middle = 0.0 if scale.diverging else scale.low / 2 + scale.high / 2
    low, middle_text, high = numbers([scale.low, middle, scale.high])
    return Key(high, middle_text, low, colours, top, height)


def compose(
    body: Picture,
    *,
    title: str | None,
    caption: str | None,
    notes: Sequence[str],
    key: Key | None = None,
    scale: Scale | None = None,
    legend: Sequence[tuple[str, Picture]] = (),
) -> Picture:
    """Put a body of shape `(h, w, 3)` on a page with its texts; `scale` has the counts to show."""
    if scale is not None:
        legend = swatches((scale.nans, scale.plus_infs, scale.minus_infs), "value")
    body_height, body_width = body.shape[:2]
    key_room = key.room if key else 0
    inner = max(body_width + key_room, _NARROWEST)
    title_lines = wrap(title, TITLE, inner) if title else []
    caption_lines = wrap(caption, BODY, inner) if caption else []
    note_lines = _joined([clean(note) for note in notes], inner)
    legend_rows = _legend_rows(legend, inner)
    if key:
        body_height = max(body_height, key.top + key.height)

    top = _MARGIN + len(title_lines) * line_height(TITLE) + (_GAP - 4 if title_lines else 0)
    below = top + body_height + _GAP
    height = below + len(legend_rows) * (line_height(SMALL) + 2) + (4 if legend_rows else 0)
    height += len(caption_lines) * line_height(BODY) + len(note_lines) * line_height(SMALL)
    # White paper; a colour of three numbers would take eight times as long.
    page = np.full((height + _MARGIN - 3, inner + 2 * _MARGIN, 3), 255, np.uint8)
    page[top : top + len(body), _MARGIN : _MARGIN + body_width] = body
    with drawing(page[:top]) as (_, draw):
        _write(draw, title_lines, _MARGIN, TITLE, _colours.INK)
    if key:
        with drawing(page[:, _MARGIN + body_width :]) as (image, draw):
            _draw_key(image, draw, key, _GAP, top + key.top)
    with drawing(page[below:]) as (image, draw):
        y = _draw_legend(image, draw, legend_rows, 0)
        y = _write(draw, caption_lines, y, BODY, _colours.INK)
        _write(draw, note_lines, y, SMALL, _colours.SOFT_INK)
    return page


@contextmanager
def drawing(part: Picture) -> Generator[tuple[Image.Image, ImageDraw.ImageDraw]]:
    """Draw on a part of a picture alone; to turn a whole one to and fro takes Pillow long."""
    image = Image.fromarray(part)
    yield image, ImageDraw.Draw(image)
    part[:] = np.asarray(image)


def placeholder(text: str) -> Picture:
    """Make the body of a picture that has nothing to show."""
    tile = Image.new("RGB", (_NARROWEST, 120), _colours.CONSTANT)
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, _NARROWEST - 1, 119), fill=(247, 247, 248), outline=_colours.EDGE)
    write(draw, (_NARROWEST / 2, 60), clean(text), BODY, _colours.SOFT_INK, "mm")
    return np.array(tile)


def swatches(amounts: Sequence[int], noun: str) -> list[tuple[str, Picture]]:
    """Make a legend of how many things are NaN, +Inf and -Inf, without those that none is."""
    striped = swatch(_colours.NAN_LIGHT)
    striped[hatch(_SWATCH, _SWATCH)] = _colours.NAN_DARK
    marks = (striped, swatch(_colours.PLUS_INFINITY), swatch(_colours.MINUS_INFINITY))
    entries = zip(("NaN", "+Inf", "-Inf"), amounts, marks, strict=True)
    return [(f"{name}: {count(n, noun)}", mark) for name, n, mark in entries if n]


def swatch(colour: Any) -> Picture:
    """Make the square of one colour that stands in a legend."""
    return np.full((_SWATCH, _SWATCH, 3), colour, np.uint8)


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as its sizes.

    >>> shape_text((3, 4))
    '3 x 4'
    """
    return " x ".join(map(str, shape))


def _joined(notes: Sequence[str], room: int) -> list[str]:
    """Put notes on one line while they fit, so that a line breaks between two of them."""
    lines: list[str] = []
    for note in filter(None, notes):
        together = f"{lines[-1]} · {note}" if lines else note
        if lines and width(together, SMALL) <= room:
            lines[-1] = together
        else:
            lines.extend(wrap(note, SMALL, room))
    return lines


def _write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], y: int, size: int, ink: tuple[int, int, int]
) -> int:
    for line in lines:
        write(draw, (_MARGIN, y), line, size, ink)
        y += line_height(size)
    return y


def _draw_key(page: Image.Image, draw: ImageDraw.ImageDraw, key: Key, x: int, y: int) -> None:
    bottom = y + key.height - 1
    right = x + _BAR_WIDTH
    if key.colours is not None:
        rows = np.linspace(len(key.colours) - 1, 0, key.height).round().astype(int)
        bar = np.repeat(key.colours[rows][:, None], _BAR_WIDTH, axis=1)
        page.paste(Image.fromarray(bar), (x, y))
        draw.rectangle((x - 1, y - 1, right, bottom + 1), outline=_colours.EDGE)
    else:
        draw.line((right, y, right, bottom), fill=_colours.SOFT_INK)
        for tick in (y, bottom):
            draw.line((right - 4, tick, right, tick), fill=_colours.SOFT_INK)
    # Two pixels up, so that the top of the figures meets the top of the bar.
    places: list[tuple[float, str, str]] = [(y - 2, "la", key.high), (bottom, "ls", key.low)]
    if key.height >= 3 * line_height(SMALL):
        places.append(((y + bottom) / 2, "lm", key.middle))
    if key.height >= 6 * line_height(SMALL):
        for part, text in zip((0.25, 0.75), key.quarters, strict=True):
            places.append((y + part * (bottom - y), "lm", text))
    for place, anchor, text in places:
        write(draw, (right + 6, place), text, SMALL, _colours.INK, anchor)


def _legend_rows(
    legend: Sequence[tuple[str, Picture]], room: int
) -> list[list[tuple[int, str, Picture]]]:
    rows: list[list[tuple[int, str, Picture]]] = []
    x = room
    for text, swatch in legend:
        needed = _SWATCH + 6 + width(text, SMALL)
        if x + needed > room:
            rows.append([])
            x = 0
        rows[-1].append((x, text, swatch))
        x += needed + 18
    return rows


def _draw_legend(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    rows: Sequence[Sequence[tuple[int, str, Picture]]],
    y: int,
) -> int:
    for row in rows:
        for x, text, swatch in row:
            page.paste(Image.fromarray(swatch), (_MARGIN + x, y + 1))
            write(draw, (_MARGIN + x + _SWATCH + 6, y), text, SMALL, _colours.INK)
        y += line_height(SMALL) + 2
    return y + (4 if rows else 0)
