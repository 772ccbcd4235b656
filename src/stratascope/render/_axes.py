"""Axes in physical units beside a picture."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from stratascope.render import _colours
from stratascope.render._page import Picture
from stratascope.render._text import SMALL, clean, line_height, numbers, width, write

_TICK = 4
# Pixels from one number to the next, at least.
_APART_DOWN, _APART_ACROSS = 40, 56


@dataclass(frozen=True, slots=True)
class Axis:
    """What the places along one side of an array mean.

    Args:
        name: What is counted or measured: time, offset, channel.
        step: From one place to the next, such as the sampling interval.
        start: The value of the first place.
        unit: The unit of both.

    Raises:
        ValueError: The step or the start is not finite, or the step is 0.

    >>> Axis("time", step=0.004, unit="s").label
    'time (s)'
    """

    name: str = ""
    step: float = 1.0
    start: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and math.isfinite(self.start) and self.step):
            raise ValueError(
                f"an axis must have a finite start and a finite step that is not 0, got "
                f"start={self.start!r}, step={self.step!r}"
            )

    @property
    def label(self) -> str:
        """The name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


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
    height, across_pixels = body.shape[:2]
    down, across = (as_axis(axis) for axis in axes)
    marks_down = ticks(down, places[0], height - 2, _APART_DOWN)
    marks_across = ticks(across, places[1], across_pixels - 2 - 2 * margin, _APART_ACROSS)
    name_down, name_across = clean(down.label), clean(across.label)
    line = line_height(SMALL)
    left = max([width(text, SMALL) + _TICK + 4 for _, text in marks_down], default=0)
    # A heading stands beside the name of the axis down, and both over the body.
    left = max(left, width(name_down, SMALL) + 12) if name_down and heading else left
    top = line + 3 if name_down or heading else 0
    right = max(across_pixels, width(name_down, SMALL) - left, width(name_across, SMALL)) + 12
    below = (line if marks_across else 0) + (line if name_across else 0) + 6
    page = Image.new("RGB", (left + right, top + height + below), _colours.PAPER)
    page.paste(Image.fromarray(body), (left, top))
    draw = ImageDraw.Draw(page)
    write(draw, (0, 0), name_down, SMALL, _colours.SOFT_INK)
    write(draw, (left + 1, 0), heading, SMALL, _colours.INK)
    for row, text in marks_down:
        y = top + 1 + row
        draw.line((left - _TICK, y, left - 1, y), fill=_colours.SOFT_INK)
        write(draw, (left - _TICK - 3, y), text, SMALL, _colours.INK, "rm")
    bottom = top + height
    for column, text in marks_across:
        x = left + 1 + margin + column
        draw.line((x, bottom, x, bottom + _TICK - 1), fill=_colours.SOFT_INK)
        write(draw, (x, bottom + _TICK + 1), text, SMALL, _colours.INK, "ma")
    middle = left + max(across_pixels, width(name_across, SMALL)) // 2
    write(draw, (middle, page.height - 2), name_across, SMALL, _colours.SOFT_INK, "md")
    return np.array(page), top
