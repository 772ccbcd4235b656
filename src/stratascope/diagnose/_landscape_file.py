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
        if fields["rounds"] is not None:
            group.create_array(
                "rounds",
                shape=shape[1:],
                chunks=(1, *shape[2:]),
                dtype="int8",
                fill_value=-1,
                dimension_names=names,
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

    def list_rounds(self) -> NDArray[np.int8]:
        """Tell of each point in which round it was measured; -1 where it is not there."""
        if "rounds" in self._group:
            return self._group["rounds"][:]
        rounds = np.full(self._group["values"].shape[1:], -1, dtype=np.int8)
        rounds[self.list_done()] = 0
        return rounds

    def write_row(self, row: int, fields: Mapping[str, Any]) -> None:
        """Write one row of a landscape's fields."""
        for name in ("values", "errors"):
            self._group[name][:, row] = np.stack([grid[row] for grid in fields[name].values()])
        # Last, so that what is marked is there.
        if "rounds" in self._group:
            self._group["rounds"][row] = fields["rounds"][row]
        else:
            self._group["done"][row] = True

    def finish(self, notes: tuple[str, ...]) -> None:
        """Say that all is there, and what a reader must know."""
        self._group.attrs["notes"] = list(notes)
        self._group["done"][:] = True

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
            "rounds": group["rounds"][:] if "rounds" in group else None,
        }


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a whole landscape."""
    file = LandscapeFile.create(path, fields)
    for row in range(len(fields["axes"][0])):
        file.write_row(row, fields)
    file.finish(fields["notes"])


def read(path: Path) -> dict[str, Any]:
    """Read a whole landscape.

    Raises:
        StoreError: There is none, or one that is not finished.
    """
    file = LandscapeFile.open(path)
    done = file.list_done()
    if not all(done):
        found = file.read()["rounds"]
        held = f"{sum(done)} of {len(done)} rows"
        if found is not None:
            held = f"{(found >= 0).sum()} points of one that is refined"
        raise StoreError(
            f"a landscape must be finished to be read, and {path} has {held}: run the same again "
            "with resume=True (--resume)"
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
