"""Where a grid is refined, and what lies between the points of one that was."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def choose(metrics: Iterable[Array], spacing: int) -> NDArray[np.bool_]:
    """Mark the points at half of a spacing within one spacing of where something is to be seen.

    That is where a metric is lowest, where it is highest, as more of it may be better, and where
    it is bent most: where its second difference along an axis is largest.

    Args:
        metrics: Values over the finest grid, NaN where there are none yet.
        spacing: That of the grid that has values by now.

    >>> choose([np.array([4.0, np.nan, 1.0, np.nan, 0.0])], 2).tolist()
    [True, True, True, True, True]
    """
    wanted = np.zeros(0, dtype=bool)
    for values in metrics:
        wanted = wanted if wanted.size else np.zeros(values.shape, dtype=bool)
        grid = values[(slice(None, None, spacing),) * values.ndim]
        grid = np.where(np.isfinite(grid), grid, np.nan)
        for ranked in (-grid, grid, _bend(grid)):
            if np.isnan(ranked).all():
                continue
            place = np.unravel_index(int(np.nanargmax(ranked)), grid.shape)
            wanted[
                tuple(
                    slice(max(0, int(k) - 1) * spacing, (int(k) + 1) * spacing + 1, spacing // 2)
                    for k in place
                )
            ] = True
    return wanted


def fill(values: Array, rounds: NDArray[np.int8]) -> Array:
    """Give the values of a refined grid with the mean of its neighbours where none was measured.

    >>> fill(np.array([4.0, np.nan, 0.0]), np.array([0, -1, 0], dtype=np.int8)).tolist()
    [4.0, 2.0, 0.0]
    """
    filled, measured = values.copy(), rounds >= 0
    first = rounds.reshape(len(rounds), -1)[:, 0]
    spacing = int(np.flatnonzero(first == 0)[1])
    while spacing > 1:
        half = spacing // 2
        cut = [slice(None, None, spacing)] * values.ndim
        for axis, length in enumerate(values.shape):
            low, middle, high = (
                (*cut[:axis], part, *cut[axis + 1 :])
                for part in (
                    slice(0, length - spacing, spacing),
                    slice(half, None, spacing),
                    slice(spacing, None, spacing),
                )
            )
            between = (filled[low] + filled[high]) / 2
            filled[middle] = np.where(measured[middle], filled[middle], between)
            cut[axis] = slice(None, None, half)
        spacing = half
    return filled


def _bend(grid: Array) -> Array:
    found = np.full(grid.shape, np.nan)
    for axis in range(grid.ndim):
        inner = (slice(None),) * axis + (slice(1, -1),)
        with np.errstate(over="ignore", invalid="ignore"):
            found[inner] = np.fmax(found[inner], np.abs(np.diff(grid, 2, axis=axis)))
    return found
