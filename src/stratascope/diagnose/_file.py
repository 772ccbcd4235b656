"""Zarr groups that hold a result: arrays, and plain values as attributes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stratascope.errors import StoreError

_VERSION = 1


def write_group(
    path: Path,
    kind: str,
    arrays: Mapping[str, Any],
    values: Mapping[str, Any],
    axes: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a result to a new folder.

    Args:
        path: Where.
        kind: What it is.
        arrays: The arrays by name.
        values: What JSON can hold, by name.
        axes: Names of the axes of an array, by its name.

    Raises:
        StoreError: There is something at this place.
    """
    group = create_group(path, kind)
    for name, array in arrays.items():
        names = (axes or {}).get(name)
        group.create_array(name, data=np.asarray(array), dimension_names=names)
    # JSON has no NaN.
    group.attrs.update({name: _plain(value) for name, value in values.items()})


def read_group(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the arrays and the values of a result.

    Raises:
        StoreError: There is none.
    """
    group = open_group(path, kind)
    values = {name: _wild(value) for name, value in group.attrs.items()}
    for name in ("kind", "version"):
        del values[name]
    return {name: array[:] for name, array in group.arrays()}, values


def create_group(path: Path, kind: str, remedy: str = "") -> Any:
    """Begin a result at a place that is free.

    Raises:
        StoreError: There is something at this place.
    """
    import zarr

    if path.exists():
        raise StoreError(
            f"the place of a {kind} must be free, and {path} exists: choose another, or remove it"
            f"{remedy}"
        )
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    group.attrs.update({"kind": f"stratascope {kind}", "version": _VERSION})
    return group


def open_group(path: Path, kind: str) -> Any:
    """Open a result.

    Raises:
        StoreError: There is none, or another kind of one.
    """
    import zarr

    try:
        group = zarr.open_group(path, mode="r+")
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"{path} must be the folder of a {kind}, and is none") from error
    held = group.attrs.get("kind")
    if held != f"stratascope {kind}":
        raise StoreError(f"{path} must be the folder of a {kind}, and holds {held or 'another'}")
    return group


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _wild(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value
