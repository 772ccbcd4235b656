"""Training at every learning rate of a grid."""

import itertools
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from stratascope.diagnose._sweep import Sweep, gather
from stratascope.diagnose._trial import MakeRun, Rules, Trial
from stratascope.diagnose._trials import run_trials
from stratascope.errors import DataError

SWEEP = "sweep.zarr"


def lr_sweep(
    make_run: MakeRun,
    rates: Iterable[float],
    seeds: Iterable[int] = (0,),
    *,
    maximize: Iterable[str] = (),
    settings: dict[str, Any] | None = None,
    explosion: float = 10.0,
    to: str | Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train at every learning rate with every seed, and keep every metric of every epoch.

    ``make_run(lr, seed)`` is a generator. It builds the model anew, yields the metrics of the
    untrained model as a dict, then trains, and yields them again after each epoch. Which of its
    randomness the seed decides is its own matter: ``torch.manual_seed(seed)`` is a good first line.
    The first metric is the one that decides.

    A run has diverged, and is stopped, once a metric is NaN or infinite, or the first one is worse
    than that of the untrained model by more than ``explosion`` times its size. A run that raises,
    or whose process dies, has crashed. Both are results.

    Args:
        make_run: Begins a run: a function of a module, if other processes are to call it.
        rates: Learning rates, above 0; a logarithmic grid, such as ``numpy.geomspace(1e-4, 1, 9)``.
        seeds: Seeds.
        maximize: The metrics that are better when larger, such as SSIM.
        settings: What else to call ``make_run`` with, by keyword.
        explosion: How much worse counts as diverged.
        to: A folder, in which each run is kept as it ends, and the sweep as ``sweep.zarr``.
        resume: Take those runs as done that the folder holds; crashed ones are run again.
        workers: How many processes, each with one thread and a new one for each run; None runs all
            in this process.
        progress: Whether to show a bar with the time to go, on a terminal.

    Raises:
        DataError: There are no rates or seeds, or ``make_run`` does not keep to the above.
        StoreError: The folder holds runs already, or those of another training.

    >>> import numpy as np
    >>> from torch import nn
    >>> from stratascope.diagnose import optimizer, take_step
    >>> def make_run(lr, seed):
    ...     torch.manual_seed(seed)
    ...     net, x = nn.Linear(3, 1), torch.randn(32, 3)
    ...     sgd = optimizer("sgd", net, lr)
    ...     for epoch in range(6):
    ...         loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
    ...         yield {"mse": loss}
    ...         take_step(sgd, lambda: (net(x) - x.sum(1, keepdim=True)).square().mean())
    >>> lr_sweep(make_run, np.geomspace(1e-4, 1e2, 4), seeds=range(2))
    Sweep(4 rates from 0.0001 to 100, 2 seeds: 6 finished, 2 diverged, 0 crashed)
    """
    grid, chosen = check_rates(rates), check_seeds(seeds)
    given, judged = dict(settings or {}), tuple(maximize)
    if not explosion > 0:
        raise DataError(f"explosion must be above 0, got {explosion}")
    folder = None if to is None else Path(to)
    results = run_trials(
        make_run,
        [Trial(lr, seed, given) for lr, seed in itertools.product(grid, chosen)],
        Rules(explosion, judged),
        folder=folder,
        resume=resume,
        workers=workers,
        progress=progress,
    )
    sweep = gather(
        results,
        grid,
        chosen,
        maximize=judged,
        settings={
            "make_run": getattr(make_run, "__qualname__", repr(make_run)),
            "settings": {name: repr(value) for name, value in given.items()},
            "explosion": explosion,
            "workers": workers,
            "torch": str(torch.__version__),
        },
    )
    if folder is not None:
        shutil.rmtree(folder / SWEEP, ignore_errors=True)
        sweep.save(folder / SWEEP)
    return sweep


def check_rates(rates: Iterable[float]) -> list[float]:
    """Give learning rates in rising order.

    Raises:
        DataError: There are none, or one that is no learning rate.
    """
    grid = sorted({float(rate) for rate in rates})
    if not grid:
        raise DataError(
            "rates must hold at least one learning rate, got none: give a grid, such as "
            "numpy.geomspace(1e-4, 1, 9)"
        )
    for rate in grid:
        if not (math.isfinite(rate) and rate > 0):
            raise DataError(f"rates must be finite and above 0, got {rate}")
    return grid


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """Give seeds, each once.

    Raises:
        DataError: There are none.
    """
    chosen = list(dict.fromkeys(int(seed) for seed in seeds))
    if not chosen:
        raise DataError("seeds must hold at least one seed, got none: give one, such as (0,)")
    return chosen
