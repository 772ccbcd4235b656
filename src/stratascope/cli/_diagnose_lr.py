"""``stratascope diagnose lr``."""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from stratascope.cli._output import print_json, print_line
from stratascope.cli._targets import load_function
from stratascope.diagnose import Sweep, lr_sweep
from stratascope.errors import UsageError


def lr(
    make_run: str,
    *,
    to: Path,
    rates: str = "1e-5:1:11",
    seeds: int = 1,
    maximize: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    explosion: float = 10.0,
    workers: int | None = None,
    log: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train at every learning rate of a grid, and say how each metric takes it.

    Writes every run as it ends, then sweep.zarr and sweep.png.

    Args:
        make_run: package.module:function or path/to/file.py:function, a generator that is called
            with lr and seed, and yields metrics by name: once before training, once an epoch.
        to: Folder to write to.
        rates: lowest:highest:count, evenly on a logarithmic scale, or rates with commas between.
        seeds: How many seeds, from 0.
        maximize: Metrics that are better when larger.
        explosion: A run has diverged once its first metric is worse than untrained by more than
            this many times its size.
        workers: How many processes, each with one thread; without it this one.
        log: Draw the values on a logarithmic axis.
        resume: Go on with the runs that the folder holds.
        json: Print JSON.
    """
    found = lr_sweep(
        load_function(make_run),
        parse_rates(rates),
        range(seeds),
        maximize=maximize or (),
        explosion=explosion,
        to=to,
        resume=resume,
        workers=workers,
    )
    found.plot(log=log, to=to / "sweep.png")
    if json:
        print_json(to_plain(found))
        return
    print_line(f"{found.table()}\n\nwritten to {to / 'sweep.zarr'} and sweep.png")


def parse_rates(text: str) -> list[float]:
    """Read a grid of learning rates.

    Raises:
        UsageError: It is none.

    >>> parse_rates("0.01:1:3"), parse_rates("0.1,0.2")
    ([0.01, 0.1, 1.0], [0.1, 0.2])
    """
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        low, high, count = text.split(":")
        return [float(f"{rate:.6g}") for rate in np.geomspace(float(low), float(high), int(count))]
    except ValueError as error:
        raise UsageError(
            "--rates must be lowest:highest:count, such as 1e-4:1:9, or numbers with commas "
            f"between them, got {text!r}"
        ) from error


def to_plain(found: Sweep) -> dict[str, object]:
    """Give the figures of a sweep as values that JSON can hold; null for what is no number."""
    return {
        "rates": found.rates.tolist(),
        "outcomes": found.outcomes.tolist(),
        "metrics": {
            name: {
                "best_rate": _finite([found.best_rate(name)])[0],
                "untrained": _finite(found.start(name).tolist()),
                "final": [_finite(runs) for runs in found.final(name).tolist()],
                "sensitivity": _finite(found.sensitivity(name).tolist()),
            }
            for name in found.metrics
        },
    }


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
