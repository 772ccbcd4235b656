"""``stratascope diagnose optimizers``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stratascope.cli._diagnose_lr import parse_rates, to_plain
from stratascope.cli._output import print_json, print_line
from stratascope.cli._targets import load_function
from stratascope.diagnose import compare_optimizers, describe_optimizer


def optimizers(
    make_run: str,
    *,
    to: Path,
    names: Annotated[list[str], Parameter(consume_multiple=True, negative="")],
    rates: str = "1e-4:1:9",
    seeds: int = 5,
    maximize: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    target: float | None = None,
    workers: int | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compare optimizers, each at the learning rate that a search found for it.

    Writes every run as it ends, then comparison.zarr and comparison.png.

    Args:
        make_run: package.module:function or path/to/file.py:function, a generator that is called
            with lr, seed and optimizer, a name, and yields metrics by name: once before training,
            once an epoch.
        to: Folder to write to.
        names: Optimizers, such as sgd adamw lamb soap.
        rates: lowest:highest:count, evenly on a logarithmic scale, or rates with commas between;
            the same for all.
        seeds: How many seeds, from 0, at the rate that was found.
        maximize: Metrics that are better when larger.
        target: Value of the first metric to which steps are counted.
        workers: How many processes, each with one thread; without it this one.
        resume: Go on with the runs that the folder holds.
        json: Print JSON.
    """
    given = {describe_optimizer(name).name: {"optimizer": name} for name in names}
    found = compare_optimizers(
        load_function(make_run),
        given,
        range(seeds),
        rates=parse_rates(rates),
        target=target,
        to=to,
        maximize=maximize or (),
        resume=resume,
        workers=workers,
    )
    found.plot(to=to / "comparison.png")
    if json:
        verdicts = {name: found.verdicts(name) for name in found.metrics}
        plain = {
            "runs": {name: to_plain(sweep) for name, sweep in found.runs.items()},
            "target": found.target,
            "verdicts": {name: [asdict(one) for one in found] for name, found in verdicts.items()},
        }
        print_json(plain)
        return
    print_line(f"{found.table()}\n\nwritten to {to / 'comparison.zarr'} and comparison.png")
