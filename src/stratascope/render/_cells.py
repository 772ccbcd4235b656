"""The arrangement of many equal tiles, each under its own label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.render._text import TINY, line_height

_GUTTER = 8


@dataclass(frozen=True, slots=True)
class Label:
    """The text over one tile: the channel's number, then what else is to be said of it."""

    name: str
    remark: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Sheet:
    """Where `count` tiles of equal size stand."""

    count: int
    columns: int
    tile: tuple[int, int]
    cell: tuple[int, int]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return -(-self.count // self.columns)

    @property
    def top(self) -> int:
        """The height of the label over a tile, its frame included."""
        return line_height(TINY) + 1

    def corner(self, place: int) -> tuple[int, int]:
        """Give the row and the column of the first pixel of a tile."""
        row, column = divmod(place, self.columns)
        return row * self.cell[0] + self.top, column * self.cell[1] + 1

    def labels(self, names: Sequence[str], remarks: Sequence[str]) -> list[Label]:
        """Place the labels of all tiles."""
        placed = []
        for place, (name, remark) in enumerate(zip(names, remarks, strict=True)):
            y, x = self.corner(place)
            placed.append(Label(name, remark, x, y - self.top))
        return placed


def arrange(count: int, tile: tuple[int, int], *, columns: int | None, label_width: int) -> Sheet:
    """Arrange tiles, near-square where the number of columns is left open."""
    cell = (line_height(TINY) + 2 + tile[0] + _GUTTER, max(tile[1] + 2, label_width) + _GUTTER)
    if columns is None:
        columns = _near_square(count, cell)
    elif columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns!r}")
    return Sheet(count, max(1, min(columns, count)), tile, cell)


def _near_square(count: int, cell: tuple[int, int]) -> int:
    exact = max(1, round(math.sqrt(count * cell[0] / cell[1])))
    if count <= 3 and cell[1] < 2 * cell[0]:
        return count
    if exact >= 20:
        # The rows then begin with round numbers.
        return 8 * round(exact / 8)
    spare = max(1, exact // 3)
    nearby = range(max(min(2, exact), exact - spare), exact + spare + 1)
    return min(nearby, key=lambda n: (-count % n, abs(n - exact), -n))


def place(tiles: NDArray[Any], sheet: Sheet, *, paper: Any, edge: Any) -> NDArray[Any]:
    """Lay out tiles `(n, h, w)` or `(n, h, w, 3)` with a thin frame on `(height, width)`."""
    count, height, width_, *rest = tiles.shape
    cells = np.empty((sheet.rows * sheet.columns, *sheet.cell, *rest), tiles.dtype)
    cells[:] = paper
    top = sheet.top
    cells[:count, top - 1 : top + height + 1, : width_ + 2] = edge
    cells[:count, top : top + height, 1 : 1 + width_] = tiles
    board = cells.reshape(sheet.rows, sheet.columns, *sheet.cell, *rest).swapaxes(1, 2)
    whole = board.reshape(sheet.rows * sheet.cell[0], sheet.columns * sheet.cell[1], *rest)
    return whole[:-_GUTTER, :-_GUTTER]
