"""Axes in physical units beside a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from stratascope.render import _colours
from stratascope.render._page import Picture
from stratascope.render._text import SMALL, clean, line_height, numbers, stamp, width, write

_TICK = 4
# Pixels from one number to the next, at least.
_APART_DOWN, _APART_ACROSS, _APART_LABELS = 40, 56, 14
# Signs of a label; of a longer one the middle is left out.
_LONGEST = 32


@dataclass(frozen=True, slots=True)
class Axis:
    """What the places along one side of an array mean.

    Args:
        name: What is counted or measured: time, offset, channel.
        step: From one place to the next, such as the sampling interval.
        start: The value of the first place.
        unit: The unit of both.
        labels: What stands at the places instead of numbers, one for each.

    Raises:
        ValueError: The step or the start is not finite, or the step is 0.

    >>> Axis("time", step=0.004, unit="s").label
    'time (s)'
    >>> Axis("layer", labels=["enc.0", "enc.1"]).labels
    ('enc.0', 'enc.1')
    """

    name: str = ""
    step: float = 1.0
    start: float = 0.0
    unit: str = ""
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        if not (math.isfinite(self.step) and math.isfinite(self.start) and self.step):
            raise ValueError(
                f"an axis must have a finite start and a finite step that is not 0, got "
                f"start={self.start!r}, step={self.step!r}"
            )

    @property
    def label(self) -> str:
        """The name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def every(self, step: int) -> "Axis":
        """Give the axis of one in so many places.

        >>> Axis("trace", step=25, unit="m").every(2).step
        50
        """
        return replace(self, step=self.step * step, labels=self.labels[::step])


Axes = tuple[Axis | str, Axis | str]


def as_axis(given: Axis | str) -> Axis:
    """Take a bare name as the axis of what is counted from 0."""
    if isinstance(given, Axis | str):
        return given if isinstance(given, Axis) else Axis(given)
    raise TypeError(f"an axis must be a render.Axis or a name, got {given!r}")


def ticks(axis: Axis, places: int, pixels: int, apart: int) -> list[tuple[int, str]]:
    """Give the pixels at which round values stand, in the middle of their places, and the values.

    >>> ticks(Axis("time", step=0.5), 10, 100, 30)
    [(5, '0'), (45, '2'), (85, '4')]
    """
    if axis.labels:
        return _label_ticks(axis.labels, places, pixels)
    first, last = sorted((axis.start, axis.start + axis.step * (places - 1)))
    wanted = max(abs(axis.step) * places / pixels * apart, abs(axis.step))
    power = 10.0 ** math.floor(math.log10(wanted)) if math.isfinite(wanted) else 0.0
    if not power or not math.isfinite(last - first):
        return []
    apart_by = next(n for n in (1, 2, 5, 10, 20) if n * power >= wanted * (1 - 1e-9)) * power
    lowest = math.ceil(first / apart_by - 1e-9)
    count = max(0, math.floor((last - first) / apart_by + 1e-9) + 1)
    values = [(lowest + k) * apart_by for k in range(count)]
    rows = [((value - axis.start) / axis.step + 0.5) * pixels / places for value in values]
    kept = [(int(row), value) for row, value in zip(rows, values, strict=True) if 0 <= row < pixels]
    texts = numbers([value for _, value in kept])
    return [(row, text) for (row, _), text in zip(kept, texts, strict=True)]


def _label_ticks(labels: Sequence[str], places: int, pixels: int) -> list[tuple[int, str]]:
    """Give the labels, of more than have room one in so many."""
    if len(labels) != places:
        raise ValueError(
            f"the labels of an axis must be one for each of the {places} places, got {len(labels)}"
        )
    every = math.ceil(_APART_LABELS * places / pixels)
    drawn = range(0, places, every)
    return [(int((k + 0.5) * pixels / places), _shortened(clean(labels[k]))) for k in drawn]


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 3]}…{text[-_LONGEST + _LONGEST // 3 + 1 :]}"


@dataclass(frozen=True, slots=True)
class Ruler:
    """An axis along a side of a body.

    Attributes:
        axis: What the places mean.
        places: How many of them there are.
        start: The first pixel of the body that shows one.
        pixels: How many pixels show all of them.
    """

    axis: Axis
    places: int
    start: int
    pixels: int

    def marks(self, apart: int) -> list[tuple[int, str]]:
        """Give the pixels of the body that are marked, and what stands there."""
        found = ticks(self.axis, self.places, self.pixels, apart)
        return [(self.start + pixel, text) for pixel, text in found]

    @property
    def middle(self) -> int:
        """Where the name stands along the side."""
        return max(2 * self.start + self.pixels, width(clean(self.axis.label), SMALL)) // 2


def framed(
    body: Picture,
    axes: Axes | None,
    places: tuple[int, ...],
    *,
    heading: str = "",
    margin: int = 0,
) -> tuple[Picture, int]:
    """Put numbered axes, down and across, beside a body that shows `places` in its thin frame.

    The outermost `margin` pixels inside the frame, at its left and right, show none.

    Returns:
        The picture, and how far down the body begins.
    """
    if axes is None:
        return body, 0
    if isinstance(axes, str | Axis) or len(axes) != 2:
        raise ValueError(
            f"axes must be two, what runs down and what runs across, as ('channel', 'time'), got "
            f"{axes!r}"
        )
    height, wide = body.shape[:2]
    down, across = (as_axis(axis) for axis in axes)
    return ruled(
        body,
        [Ruler(down, places[0], 1, height - 2)],
        [Ruler(across, places[1], 1 + margin, wide - 2 - 2 * margin)],
        heading=heading,
    )


def ruled(
    body: Picture, down: Sequence[Ruler], across: Sequence[Ruler], *, heading: str = ""
) -> tuple[Picture, int]:
    """Put rulers at the left of a body and below it, those of one side after each other.

    Returns:
        The picture, and how far down the body begins.
    """
    height, wide = body.shape[:2]
    marks_down = [mark for ruler in down for mark in ruler.marks(_APART_DOWN)]
    marks_across = [mark for ruler in across for mark in ruler.marks(_APART_ACROSS)]
    first, *others = (clean(ruler.axis.label) for ruler in down)
    names = [clean(ruler.axis.label) for ruler in across]
    line = line_height(SMALL)
    left = max([width(text, SMALL) + _TICK + 4 for _, text in marks_down], default=0)
    left = max([left, *(width(name, SMALL) + 6 for name in others)])
    # A heading stands beside the name of the axis down, and both over the body.
    left = max(left, width(first, SMALL) + 12) if first and heading else left
    top = line + 3 if first or heading else 0
    named = list(zip(across, names, strict=True))
    ends = [ruler.middle + -(-width(name, SMALL) // 2) for ruler, name in named]
    right = max(wide, width(first, SMALL) - left, *ends) + 12
    turned = _are_crowded(across)
    tallest = max([width(text, SMALL) for _, text in marks_across], default=0)
    below = tallest + _TICK if turned else line if marks_across or any(others) else 0
    below += (line if any(names) else 0) + 6
    page = Image.new("RGB", (left + right, top + height + below), _colours.PAPER)
    page.paste(Image.fromarray(body), (left, top))
    draw = ImageDraw.Draw(page)
    write(draw, (0, 0), first, SMALL, _colours.SOFT_INK)
    write(draw, (left + 1, 0), heading, SMALL, _colours.INK)
    for row, text in marks_down:
        y = top + row
        draw.line((left - _TICK, y, left - 1, y), fill=_colours.SOFT_INK)
        write(draw, (left - _TICK - 3, y), text, SMALL, _colours.INK, "rm")
    bottom = top + height
    for name in others:
        write(draw, (left - _TICK - 3, bottom + _TICK + 1), name, SMALL, _colours.SOFT_INK, "ra")
    for column, text in marks_across:
        x = left + column
        draw.line((x, bottom, x, bottom + _TICK - 1), fill=_colours.SOFT_INK)
        if turned:
            upright = Image.fromarray(np.rot90(stamp(text, SMALL, _colours.INK)))
            page.paste(upright, (x - upright.width // 2, bottom + _TICK + 2))
        else:
            write(draw, (x, bottom + _TICK + 1), text, SMALL, _colours.INK, "ma")
    for ruler, name in named:
        place = (left + ruler.middle, page.height - 2)
        write(draw, place, name, SMALL, _colours.SOFT_INK, "md")
    return np.array(page), top


def _are_crowded(across: Sequence[Ruler]) -> bool:
    """Tell whether labels must stand upright to have room beside each other."""
    return any(
        width(text, SMALL) + 8 > ruler.pixels / ruler.places
        for ruler in across
        for text in ruler.axis.labels
    )
