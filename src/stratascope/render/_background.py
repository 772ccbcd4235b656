"""Telling background from what is in front of it, and darkening it."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope.render._basis import FINE, ColorBasis, Coloured, otsu
from stratascope.render._text import number, share

Mask = NDArray[np.bool_]

# Darker than all that is in front, and never black.
_DARK, _RANGE = 0.22, 0.2


def suppress(
    coloured: Coloured, how: Any, columns: NDArray[Any], basis: ColorBasis, shape: tuple[int, ...]
) -> tuple[Coloured, str]:
    """Darken the background of a map, and say what was taken for it."""
    if isinstance(how, str):
        if how not in ("otsu", "border"):
            raise ValueError(f"background must be 'otsu', 'border' or a mask, got {how!r}")
        mask, reason = (_weak if how == "otsu" else _rim)(coloured, columns, basis, shape)
    else:
        mask, reason = np.asarray(how), "as given"
        if mask.shape != shape or mask.dtype.kind != "b":
            raise ValueError(
                f"a background mask must be bool of shape {shape}, got {mask.dtype} of {mask.shape}"
            )
        mask = mask.reshape(-1)
    mask = mask & (coloured.kinds == FINE)
    lab = coloured.lab.copy()
    lab[0, mask] = _DARK + _RANGE * lab[0, mask]
    lab[1:, mask] = 0
    return replace(coloured, lab=lab), f"{share(mask.mean())} darkened as background ({reason})"


def _weak(
    coloured: Coloured, columns: NDArray[Any], basis: ColorBasis, shape: tuple[int, ...]
) -> tuple[Mask, str]:
    threshold = float(basis.parameters["background"])
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.square(columns.astype(np.float64)).sum(0))
        return norms < threshold, f"|x| below {number(threshold)}"


def _rim(
    coloured: Coloured, columns: NDArray[Any], basis: ColorBasis, shape: tuple[int, ...]
) -> tuple[Mask, str]:
    inner = np.zeros(shape, bool)
    inner[tuple(slice(1, -1) if length > 2 else slice(None) for length in shape)] = True
    fine = coloured.kinds == FINE
    rim = coloured.lab[:, fine & ~inner.reshape(-1)]
    if not rim.size:
        return np.zeros(fine.shape, bool), "no rim to compare with"
    middle = np.median(rim, axis=1)[:, None]
    spread = np.median(np.abs(rim - middle), axis=1)[:, None]
    # A rim of one colour still differs by what cannot be seen.
    away = np.sqrt(np.square((coloured.lab - middle) / np.maximum(spread, 0.02)).sum(0))
    return away <= otsu(away[fine]), "like the rim"
