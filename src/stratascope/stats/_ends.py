"""The ends of every map, where of its other values only a share is looked at.

To find where a map is largest and where least takes two of the quickest reductions there are, and
they meet NaN on their way. So what rests on every value stays cheap enough to sit between the
layers of a running model: its range, its infinite values, whether it is active, where it peaks.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, fits_float32, namespace, widen

# Values that are looked at together: they stay in the cache of a core for the second look.
_AT_ONCE = 2**18
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
    step = _step(maps)
    spans = [maps[start : start + step] for start in range(0, len(maps), step)]
    visit = partial(_visit if xp is np else _visit_on_device, dtype, chosen)
    found = list((run if len(spans) > 1 and xp is np else map)(visit, spans))
    thin, ends = xp.concatenate([thin for thin, _ in found]), join([ends for _, ends in found])
    if xp is np:
        _mend(maps, dtype, ends)
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


def _step(maps: Array) -> int:
    """Tell how many maps to look at together."""
    return max(1, (_AT_ONCE if isinstance(maps, np.ndarray) else _ON_DEVICE) // maps.shape[1])


def _visit(dtype: str, places: NDArray[np.int64], maps: NDArray[Any]) -> tuple[Array, Ends]:
    wide, ends = widen(maps, dtype), Ends()
    # One index into all of them is had in a third of the time of two.
    flat, first = wide.reshape(-1), np.arange(0, wide.size, wide.shape[1])
    for name, at in (("maxima", wide.argmax(1)), ("minima", wide.argmin(1))):
        ends |= {name: flat[first + at], f"{name}_at": at}
    return maps.take(places, 1), ends


def _mend(maps: NDArray[Any], dtype: str, ends: Ends) -> None:
    """Look again at maps with ends that are not finite, as both are found where there is a NaN."""
    ends |= {name: np.zeros(len(maps), np.int64) for name in NONFINITE}
    with np.errstate(over="ignore", invalid="ignore"):
        spoilt = np.flatnonzero(~np.isfinite(ends["maxima"] + ends["minima"]))
    for start in range(0, len(spoilt), _step(maps)):
        rows = spoilt[start : start + _step(maps)]
        for name, exact in _find_finite(widen(maps[rows], dtype)).items():
            ends[name][rows] = exact


def _visit_on_device(dtype: str, places: Array, maps: Array) -> tuple[Array, Ends]:
    # To ask it which maps are all finite would mean to wait for it.
    return maps.index_select(1, places), _find_finite(widen(maps, dtype))


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
