"""The learning rate range test: one short training whose rate rises at every step."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from stratascope._optional import require
from stratascope._random import keeping_random
from stratascope.diagnose._file import read_group, write_group
from stratascope.diagnose._optimizers import optimizer as build_optimizer
from stratascope.diagnose._optimizers import take_step
from stratascope.errors import DataError

_KEPT = 0.9  # of the running mean, at each step
_KIND = "range test"
_ARRAYS = ("rates", "losses", "smoothed")

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class RangeTest:
    """The training loss while the learning rate rose.

    Attributes:
        rates: The rate of each step, ``(T,)``.
        losses: The loss before each step, ``(T,)``, so that of the steps before it.
        smoothed: Their running mean, ``(T,)``.
        ended: Why it ended: ``diverged``, ``highest rate`` or ``no more batches``.

    >>> rates = np.geomspace(1e-4, 1e-1, 4)
    >>> losses = np.array([1.0, 0.9, 0.5, 3.0])
    >>> found = RangeTest(rates, losses, losses, "diverged")
    >>> found.halfway, found.lowest
    (0.01, 0.01)
    """

    rates: Array
    losses: Array
    smoothed: Array
    ended: str

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss was lowest: about the largest that still trains."""
        return float(self.rates[np.nanargmin(self.smoothed)])

    @property
    def halfway(self) -> float:
        """The rate from which on half of the fall to the lowest loss was done: a first guess.

        The steepest place, which others suggest, is often a jump between the first batches.
        """
        last = int(np.nanargmin(self.smoothed))
        middle = (self._level(last) + self.smoothed[last]) / 2
        above = np.flatnonzero(self.smoothed[:last] > middle)
        return float(self.rates[above[-1] + 1]) if len(above) else self.lowest

    def save(self, path: str | Path) -> None:
        """Write it to a new folder, as a Zarr group.

        Raises:
            StoreError: There is something at this place.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        write_group(
            Path(path), _KIND, arrays, {"ended": self.ended}, {name: ["steps"] for name in arrays}
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: There is none.
        """
        arrays, values = read_group(Path(path), _KIND)
        return cls(**arrays, **values)

    def plot(self, *, to: str | Path | None = None) -> Any:
        """Draw the loss over the rate; needs matplotlib, the extra ``plot``.

        Args:
            to: A file to write the picture to, as PNG, SVG or PDF by its name.

        Returns:
            The ``matplotlib.figure.Figure``.
        """
        figure = require("matplotlib.figure", extra="plot").Figure(
            figsize=(6.4, 4.2), layout="constrained", dpi=120
        )
        panel = figure.subplots()
        panel.plot(self.rates, self.losses, color="#9db4c8", linewidth=0.8, label="loss")
        panel.plot(self.rates, self.smoothed, color="#1f4e79", label="running mean")
        for name, colour in [("halfway", "#2a9d4a"), ("lowest", "#e4572e")]:
            rate = getattr(self, name)
            panel.axvline(rate, color=colour, linestyle="--", label=f"{name}: {rate:.2g}")
        low = np.nanmin(self.smoothed)
        fall = self._level(len(self.rates)) - low
        if fall > 0:
            panel.set_ylim(low - 0.3 * fall, low + 1.6 * fall)
        panel.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=self.ended)
        panel.legend()
        if to is not None:
            figure.savefig(to)
        return figure

    def _level(self, last: int) -> float:
        """Give the loss before it fell."""
        return float(np.nanmedian(self.smoothed[: max(1, last // 5)]))


def lr_range_test(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    optimizer: str | Callable[[nn.Module, float], Optimizer] = "adamw",
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    worse: float = 4.0,
) -> RangeTest:
    """Train a copy of a model for some steps, with a learning rate that rises at each.

    Smith (2017), arXiv:1506.01186. It is one training, seen by its training loss only, and every
    rate acts on what the lower ones left: good for where to begin a sweep, and no substitute for
    it. The model itself and the random numbers of the program are not touched.

    Args:
        model: The network. The copy is in training mode.
        loss: Gives a scalar for the output and the target of a batch.
        batches: Pairs of input and target; begun again when they end, if they can be.
        optimizer: A name that `stratascope.diagnose.optimizer` knows, or what builds an optimizer
            for a model and a rate.
        lowest: The first rate.
        highest: The last one.
        steps: How many, evenly on a logarithmic scale.
        worse: The test ends when the running mean of the loss is this many times its lowest.

    Raises:
        DataError: The range is empty, there are no batches, or the loss is no number at first.

    >>> import torch
    >>> x = torch.randn(64, 4)
    >>> found = lr_range_test(nn.Linear(4, 1), nn.functional.mse_loss, [(x, x[:, :1])])
    >>> 1e-3 < found.halfway < 1
    True
    """
    if not 0 < lowest < highest or steps < 2:
        raise DataError(
            f"rates must rise from above 0 in 2 steps or more, got {steps}, {lowest} to {highest}"
        )
    rates, losses, means, ended = np.geomspace(lowest, highest, steps), [], [], "highest rate"
    mean = 0.0
    with keeping_random(model):
        copied = copy.deepcopy(model).train()
        build = partial(build_optimizer, optimizer) if isinstance(optimizer, str) else optimizer
        made = build(copied, lowest)
        for rate, (x, target) in zip(rates, _repeat(batches), strict=False):
            for group in made.param_groups:
                group["lr"] = float(rate)
            losses.append(take_step(made, lambda x=x, y=target: loss(copied(x), y)))
            if not math.isfinite(losses[0]):
                raise DataError(f"the loss must be a number before the first step, got {losses[0]}")
            mean = _KEPT * mean + (1 - _KEPT) * losses[-1]
            means.append(mean / (1 - _KEPT ** len(losses)))
            if not means[-1] <= min(means) + (worse - 1) * abs(min(means)):
                ended = "diverged"
                break
    if not losses:
        raise DataError("batches must hold at least one pair of input and target, got none")
    if ended != "diverged" and len(losses) < steps:
        ended = "no more batches"
    return RangeTest(rates[: len(losses)], np.array(losses), np.array(means), ended)


def _repeat(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        count = 0
        for count, pair in enumerate(batches, start=1):  # noqa: B007 - whether there was any
            yield pair
        if not count:
            return
