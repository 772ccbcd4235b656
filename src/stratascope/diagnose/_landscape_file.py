"""The Zarr group that a landscape is kept in, written row by row."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stratascope.diagnose._file import create_group, open_group
from stratascope.errors import StoreError


class LandscapeFile:
    """A landscape on the disk that grows row by row."""

    def __init__(self, group: Any) -> None:
        self._group = group

    @classmethod
    def create(cls, path: Path, fields: Mapping[str, Any], key: str = "") -> "LandscapeFile":
        """Begin a landscape of which all is known but the values.

        Raises:
            StoreError: There is something at this place.
        """
        group = create_group(path, "landscape", ", or go on with it by resume=True (--resume)")
        metrics, axes = list(fields["values"]), fields["axes"]
        shape = (len(metrics), *map(len, axes))
        names = [f"axis_{k}" for k in range(len(axes))]
        for name in ("values", "errors"):
            group.create_array(
                name,
                shape=shape,
                chunks=(shape[0], 1, *shape[2:]),
                dtype="float64",
                fill_value=np.nan,
                dimension_names=["metric", *names],
            )
        group.create_array("done", shape=shape[1:2], chunks=(1,), dtype="bool", fill_value=False)
        for name, axis in zip(names, axes, strict=True):
            group.create_array(name, data=np.asarray(axis), dimension_names=[name])
        group.create_array("centre", data=np.array([fields["centre"][name] for name in metrics]))
        if fields["path"] is not None:
            group.create_array("path", data=fields["path"])
        group.attrs.update(
            {
                "metrics": metrics,
                "labels": list(fields["labels"]),
                "explained": list(fields["explained"]),
                "settings": dict(fields["settings"] or {}),
                "notes": list(fields["notes"]),
                "key": key,
            }
        )
        return cls(group)

    @classmethod
    def open(cls, path: Path) -> "LandscapeFile":
        """Open a landscape.

        Raises:
            StoreError: There is none.
        """
        return cls(open_group(path, "landscape"))

    @property
    def key(self) -> str:
        """What it depends on, in short."""
        return str(self._group.attrs.get("key", ""))

    def list_done(self) -> list[bool]:
        """Tell of each row whether it is there."""
        return [bool(flag) for flag in self._group["done"][:]]

    def write_row(self, row: int, found: NDArray[np.float64]) -> None:
        """Write one row, ``(points, metrics, 2)``, or ``(metrics, 2)`` of a line."""
        moved = np.moveaxis(found, -2, 0)
        self._group["values"][:, row] = moved[..., 0]
        self._group["errors"][:, row] = moved[..., 1]
        # Last, so that what is marked is there.
        self._group["done"][row] = True

    def note(self, notes: tuple[str, ...]) -> None:
        """Say what a reader must know."""
        self._group.attrs["notes"] = list(notes)

    def read(self) -> dict[str, Any]:
        """Give the fields of the landscape."""
        attributes, group = self._group.attrs, self._group
        metrics = attributes["metrics"]
        values, errors, centre = (group[name][:] for name in ("values", "errors", "centre"))
        return {
            "values": dict(zip(metrics, values, strict=True)),
            "errors": dict(zip(metrics, errors, strict=True)),
            "centre": {
                name: tuple(pair) for name, pair in zip(metrics, centre.tolist(), strict=True)
            },
            "axes": tuple(group[f"axis_{k}"][:] for k in range(values.ndim - 1)),
            "labels": tuple(attributes["labels"]),
            "path": group["path"][:] if "path" in group else None,
            "explained": tuple(attributes["explained"]),
            "settings": attributes["settings"],
            "notes": tuple(attributes["notes"]),
        }


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a whole landscape."""
    file = LandscapeFile.create(path, fields)
    values, errors = (np.stack(list(fields[name].values())) for name in ("values", "errors"))
    both = np.stack([values, errors], axis=-1)
    for row in range(values.shape[1]):
        file.write_row(row, np.moveaxis(both[:, row], 0, -2))


def read(path: Path) -> dict[str, Any]:
    """Read a whole landscape.

    Raises:
        StoreError: There is none, or one that is not finished.
    """
    file = LandscapeFile.open(path)
    done = file.list_done()
    if not all(done):
        raise StoreError(
            f"a landscape must be finished to be read, and {path} has {sum(done)} of {len(done)} "
            "rows: run the same again with resume=True (--resume)"
        )
    return file.read()


def digest(tensors: Mapping[str, Tensor], words: str) -> str:
    """Give a short key of what a landscape depends on."""
    found = hashlib.blake2b(words.encode(), digest_size=16)
    for name, value in tensors.items():
        flat = value.detach().cpu().contiguous().flatten()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return found.hexdigest()
