"""The ends of every map, where of its other values only a share is looked at.

To find where a map is largest and where least takes two of the quickest reductions there are, and
they meet NaN on their way. So what rests on every value stays cheap enough to sit between the
layers of a running model: its range, its infinite values, whether it is active, where it peaks.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, fits_float32, namespace, widen

# Values that are looked at together: they stay in the cache of a core for the second look.
_AT_ONCE = 2**16
# Values that are worth handing to a thread.
_A_THREAD = 2**18
_ON_DEVICE = 2**24
NONFINITE = ("nans", "plus_infs", "minus_infs")

Ends = dict[str, Array]
"""Of each map, ``(N, C)``: ``maxima`` and ``minima`` of the finite values, -Inf and +Inf if there
are none; where they are, ``maxima_at`` and ``minima_at``; numbers of ``values``, ``nans``,
``plus_infs`` and ``minus_infs``."""


def look(array: Array, chosen: Array, run: Any = map) -> tuple[Array, Ends]:
    """Find the ends of all maps, and take the values at chosen positions.

    Args:
        array: Shape ``(N, C, P)``, with at least one value.
        chosen: Positions to take, an array of the same library and device.
        run: How to go through the maps, as for `update_all`.

    Returns:
        The values, shape ``(N, C, len(chosen))`` and the type of `array`, and the ends.
    """
    xp, maps = namespace(array), array.reshape(-1, array.shape[2])
    dtype = "float32" if fits_float32(array) else "float64"
    thin, ends = (_look_here if xp is np else _look_on_device)(maps, chosen, dtype, run)
    ends["values"] = xp.full_like(ends["maxima_at"], maps.shape[1])
    shape = array.shape[:2]
    return thin.reshape(*shape, -1), {name: end.reshape(shape) for name, end in ends.items()}


def join(parts: Sequence[Ends]) -> Ends:
    """Put the ends of several parts behind each other."""
    xp = namespace(parts[0]["maxima"])
    return {name: xp.concatenate([part[name] for part in parts]) for name in parts[0]}


def count_nonfinite(maps: Array) -> Ends:
    """Count what is not finite along the last axis."""
    masks = (namespace(maps).isnan(maps), maps == math.inf, maps == -math.inf)
    return {name: mask.sum(-1) for name, mask in zip(NONFINITE, masks, strict=True)}


def _step(maps: Array, size: int) -> int:
    """Tell how many maps hold about so many values."""
    return max(1, size // maps.shape[1])


def _look_here(
    maps: NDArray[Any], chosen: NDArray[np.int64], dtype: str, run: Any
) -> tuple[Array, Ends]:
    at = np.empty((2, len(maps)), np.intp)
    thin = np.empty((len(maps), len(chosen)), maps.dtype)
    few, many = _step(maps, _AT_ONCE), _step(maps, _A_THREAD)

    def visit(start: int) -> None:
        for first in range(start, min(start + many, len(maps)), few):
            span = slice(first, min(first + few, start + many))
            wide = widen(maps[span], dtype)
            wide.argmax(1, at[0, span])
            wide.argmin(1, at[1, span])
            # Without a mode there is a copy on the way.
            maps[span].take(chosen, 1, thin[span], "clip")

    starts = range(0, len(maps), many)
    for _ in (run if len(starts) > 1 else map)(visit, starts):
        pass
    # One index into all of them is had in a third of the time of two.
    flat, first = maps.reshape(-1), np.arange(0, maps.size, maps.shape[1])
    ends = {"maxima_at": at[0], "minima_at": at[1]}
    ends |= {name: widen(flat[first + ends[f"{name}_at"]], dtype) for name in ("maxima", "minima")}
    _mend(maps, dtype, ends)
    return thin, ends


def _mend(maps: NDArray[Any], dtype: str, ends: Ends) -> None:
    """Look again at maps with ends that are not finite, as both are found where there is a NaN."""
    ends |= {name: np.zeros(len(maps), np.int64) for name in NONFINITE}
    with np.errstate(over="ignore", invalid="ignore"):
        spoilt = np.flatnonzero(~np.isfinite(ends["maxima"] + ends["minima"]))
    step = _step(maps, _AT_ONCE)
    for start in range(0, len(spoilt), step):
        rows = spoilt[start : start + step]
        for name, exact in _find_finite(widen(maps[rows], dtype)).items():
            ends[name][rows] = exact


def _look_on_device(maps: Array, chosen: Array, dtype: str, _: Any) -> tuple[Array, Ends]:
    # To ask it which maps are all finite would mean to wait for it.
    parts = maps.split(_step(maps, _ON_DEVICE))
    return maps.index_select(1, chosen), join([_find_finite(widen(part, dtype)) for part in parts])


def _find_finite(maps: Array) -> Ends:
    """Find the ends of maps that may hold what is not finite."""
    xp = namespace(maps)
    finite, none = xp.isfinite(maps), xp.zeros_like(maps[:, :1])
    ends: Ends = {}
    for name, find, end in (("maxima", xp.argmax, -math.inf), ("minima", xp.argmin, math.inf)):
        filled = xp.where(finite, maps, none + end)
        ends[f"{name}_at"] = at = find(filled, 1)
        ends[name] = filled[xp.arange(len(maps), device=maps.device), at]
    return ends | count_nonfinite(maps)
