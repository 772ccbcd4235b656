"""The samples of a store as PyTorch's DataLoader takes them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stratascope._optional import require
from stratascope.errors import DataError, StoreError
from stratascope.store._array import describe_owed

if TYPE_CHECKING:
    from stratascope.store._reader import Store

_COORDINATES = ("sample", "target")


class SampleDataset:
    """What some sites hold of each sample, as a map-style data set for PyTorch.

    It derives from nothing of PyTorch, so that stores are read without it: a ``DataLoader`` asks
    for no more than these methods. It goes to worker processes by the store's path.
    """

    def __init__(self, store: "Store", sites: Sequence[str], targets: Any) -> None:
        if not store.complete:
            raise describe_owed(store)
        for name in _COORDINATES:
            if name in sites:
                raise StoreError(
                    f"the site '{name}' has the name under which a sample's {name} comes: leave it "
                    "out of sites, and read it with store.to_numpy"
                )
        self._arrays = {site: store[site] for site in sites}
        self._index = store.sample_index
        self._targets = None if store.targets is None else store.targets[:]
        if targets is not None:
            given = require("torch").as_tensor(targets)
            if len(given) <= self._index.max():
                raise DataError(
                    "targets must have an entry for each sample of the data set, at least "
                    f"{self._index.max() + 1}, got {len(given)}"
                )
            self._targets = given[self._index]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Read one sample by its number, or several, one behind the other, by a list or a slice."""
        torch = require("torch")
        found = {site: _read(torch, value, index) for site, value in self._arrays.items()}
        found["sample"] = torch.as_tensor(self._index[index])
        if self._targets is not None:
            found["target"] = torch.as_tensor(self._targets[index])
        return found

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Read the samples of a batch together; a DataLoader asks so."""
        together = self[list(indices)]
        return [_pick(together, place) for place in range(len(indices))]


def _read(torch: Any, value: Any, index: Any) -> Any:
    if isinstance(value, dict):
        return {place: _read(torch, array, index) for place, array in value.items()}
    return torch.from_numpy(np.asarray(value[index]))


def _pick(together: dict[str, Any], place: int) -> dict[str, Any]:
    return {
        name: _pick(value, place) if isinstance(value, dict) else value[place]
        for name, value in together.items()
    }
