"""Numbers, fonts and line breaks."""

import math
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TITLE, BODY, SMALL, TINY = 15, 12, 11, 10

# Pillow's font draws a box for anything else; these are the nearest signs that it has.
_NEAREST = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "−": "-", "∞": "inf", "µ": "u", "→": "->", "≤": "<=", "≥": ">="}
)
_DRAWABLE = frozenset(map(chr, range(32, 127))) | frozenset("©«°±´·»‘’“”…‹›⁄™")


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Load Pillow's own font, so that a picture looks the same on every machine."""
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow must have FreeType to draw labels; install its wheel from PyPI")
    # Without it, machines with libraqm would set some letters a pixel elsewhere.
    return loaded.font_variant(layout_engine=ImageFont.Layout.BASIC)


@cache
def line_height(size: int) -> int:
    """Give the distance from one line of text to the next."""
    return sum(font(size).getmetrics()) + 3


@lru_cache(8192)
def width(text: str, size: int) -> int:
    """Give the pixels that a text takes, rounded up."""
    text = _spaced(text, size)
    return math.ceil(font(size).getbbox(text)[2])


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    ink: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    """Write one line of text; `anchor` says which of its points stands at `place`."""
    draw.text(place, _spaced(text, size), ink, font(size), anchor=anchor)


@lru_cache(8192)
def stamp(text: str, size: int, ink: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Make a line of text on paper as pixels `(h, w, 3)`, one line high."""
    image = Image.new("RGB", (width(text, size) + 1, line_height(size)), (255, 255, 255))
    write(ImageDraw.Draw(image), (0, 0), text, size, ink)
    pixels = np.array(image)
    pixels.flags.writeable = False
    return pixels


def clean(text: str) -> str:
    """Replace what the font cannot draw by its nearest sign, keeping line breaks."""
    text = unicodedata.normalize("NFKD", text.translate(_NEAREST)).expandtabs(4)
    kept = (c for c in text if not unicodedata.combining(c))
    return "".join(c if c in _DRAWABLE or c == "\n" else "?" for c in kept)


def wrap(text: str, size: int, room: int) -> list[str]:
    """Break a text into lines at most `room` pixels wide, inside a word if there is no other way.

    >>> wrap("one two", 12, 1000)
    ['one two']
    """
    lines: list[str] = []
    for paragraph in clean(text).splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if width(longer, size) <= room:
                line = longer
                continue
            if line:
                lines.append(line)
            while width(word, size) > room and len(word) > 1:
                fits = _longest_start(word, size, room)
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        lines.append(line)
    return lines


def _longest_start(word: str, size: int, room: int) -> int:
    low, high = 1, len(word) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(word[:middle], size) <= room else (low, middle - 1)
    return low


def number(value: float, digits: int = 3) -> str:
    """Write a number with three significant digits, never as `-0`.

    >>> [number(v) for v in (1.0, -0.0, 0.012345, 1503.2, 1e9, float("nan"))]
    ['1', '0', '0.0123', '1500', '1e9', 'NaN']
    """
    value = float(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}".replace("inf", "Inf")
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 < power < 6:
        rounded = f"{float(f'{mantissa}e{exponent}'):.{max(0, digits - 1 - power)}f}"
        return _without_tail(rounded)
    return f"{_without_tail(mantissa)}e{power}"


def numbers(values: Sequence[float]) -> list[str]:
    """Write numbers with as many digits as it takes to tell the different ones apart.

    >>> numbers([1500.0, 1501.0])
    ['1500', '1501']
    """
    different = len({float(value) for value in values})
    digits = 3
    while len({number(value, digits) for value in values}) < different and digits < 17:
        digits += 1
    return [number(value, digits) for value in values]


def share(fraction: float) -> str:
    """Write a fraction as a percentage.

    >>> share(0.005), share(0.0), share(1e-6)
    ('0.5 %', '0 %', '<0.01 %')
    """
    return "<0.01 %" if 0 < fraction < 1e-4 else f"{number(fraction * 100, 2)} %"


def count(amount: int, noun: str) -> str:
    """Write an amount with its noun.

    >>> count(1, "channel"), count(2048, "channel")
    ('1 channel', '2048 channels')
    """
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def _spaced(text: str, size: int) -> str:
    # Rounded to whole pixels, the font's space all but vanishes at small sizes.
    return text.replace(" ", "  ") if size <= SMALL else text


def _without_tail(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
