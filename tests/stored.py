"""A network, data and what a store of them must hold, by arithmetic that is exact everywhere.

`fixtures/*.zarr` were written from these by releases of their time, and every later one must read
them, find nothing damaged and continue them. They are never written again; after a change of what
is written another one comes beside them:

    PYTHONPATH=tests .venv/bin/python -c "import stored; stored.write('NAME')"
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stratascope as ss
from stratascope.store import ArraySpec, StepSpec, StepWriter

FIXTURES = Path(__file__).parent / "fixtures"
SAMPLES = 70
SITES = ["dec.0", "enc.0:in", "head", "head.flat"]
# What extract is called with for each step but the last, which is written by hand.
STEPS = {0: {}, 1: {"dtype": "bfloat16"}, 2: {"dtype": "float16", "limit": 40}}
BY_HAND = 3


class Head(nn.Module):
    """Gives several tensors, one of them the same for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sum, sign and the number of channels."""
        return {"sum": self.flat(x).sum(1), "mask": x > 0, "channels": torch.tensor(2)}


class Net(nn.Module):
    """Whole numbers in, whole numbers out; one block runs twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU())
        self.dec = self.enc
        self.head = Head()
        with torch.no_grad():
            for parameter, values in zip(
                self.enc[0].parameters(), ([[1, -1], [2, 1]], [1, -2]), strict=True
            ):
                parameter.copy_(torch.tensor(values).reshape(parameter.shape))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Twice through the block, once through the head."""
        return self.head(self.dec(self.enc(x)))


def make_inputs() -> np.ndarray[Any, Any]:
    """Give whole numbers from -3 to 3, float32 ``(70, 2, 5)``."""
    return (np.arange(SAMPLES * 10) * 5 % 7 - 3).reshape(SAMPLES, 2, 5).astype("float32")


def make_data(step: int) -> Any:
    """Give the data of a step: an array, an iterable, a loader with an order of its own."""
    inputs = make_inputs()
    tensors = torch.from_numpy(inputs)
    order = list(reversed(range(SAMPLES)))
    batches = [order[first : first + 20] for first in range(0, SAMPLES, 20)]
    loader = DataLoader(TensorDataset(tensors), batch_sampler=batches)
    return {0: inputs, 1: iter(tensors.split(20)), 2: loader}[step]


def compute(inputs: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Say what the sites hold of some inputs, without torch."""
    weight, bias = np.array([[1, -1], [2, 1]], "float32"), np.array([[1], [-2]], "float32")
    first = weight @ inputs + bias
    second = weight @ first.clip(0) + bias
    last = second.clip(0)
    return {
        "enc.0@1:in": inputs,
        "enc.0@1": first,
        "enc.0@2:in": first.clip(0),
        "enc.0@2": second,
        "head.flat": last.reshape(len(last), -1),
        "head [sum]": last.sum((1, 2)),
        "head [mask]": last > 0,
    }


def extract(root: Path, step: int, **settings: Any) -> ss.Store:
    """Write a step, or continue it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "not stored: head/activation.channels")
        return ss.extract(
            Net(),
            make_data(step),
            SITES,
            to=root,
            step=step,
            batch_size=20,
            unit_size=64,
            progress=False,
            **STEPS[step],
            **settings,
        )


def write(name: str) -> None:
    """Write a fixture."""
    root = FIXTURES / f"{name}.zarr"
    for step in STEPS:
        extract(root, step)
    values = compute(make_inputs())["enc.0@2"]
    array = ArraySpec(
        "enc.0/activation", "enc.0", "", (2, 5), "float32", "float32", ("channel", "time"), "Conv1d"
    )
    writer = StepWriter(root, StepSpec(BY_HAND, SAMPLES, 64, (array,), codec="compact"))
    writer.write(0, {array.key: values[:66]})
    writer.abort()  # with its first unit
