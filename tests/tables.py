"""Stores that hold given values, written by `extract` as any other store is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stratascope as ss


class Table(nn.Module):
    """A network that looks its values up by the number of the sample; a site for each entry."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = {name: torch.as_tensor(np.asarray(array)) for name, array in values.items()}
        self.sites = nn.ModuleDict({name: nn.Identity() for name in values})

    def forward(self, numbers: Tensor) -> None:
        """Pass the values of these samples through the sites."""
        for name, site in self.sites.items():
            site(self.values[name][numbers])


def write_table(
    to: Path, values: Mapping[str, Any], order: Sequence[int] | None = None, **settings: Any
) -> ss.Store:
    """Write a store of values by site, the samples in an order.

    Args:
        to: The store's folder.
        values: By site, arrays with all samples first.
        order: Which samples, and in which order; None takes all as they come.
        settings: What else `extract` is told.
    """
    numbers = torch.arange(len(next(iter(values.values()))))
    data: Any = numbers
    if order is not None:
        batches = [list(order[start : start + 50]) for start in range(0, len(order), 50)]
        data = DataLoader(TensorDataset(numbers), batch_sampler=batches)
    settings = {"unit_size": 64, "progress": False} | settings
    return ss.extract(Table(values), data, "sites.*", to=to, **settings)
