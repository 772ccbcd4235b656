"""``stratascope seismic benchmark``."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stratascope.cli._output import print_json, print_line, print_table
from stratascope.errors import UsageError
from stratascope.pipeline import Processes
from stratascope.seismic import OpenFWI, Recipe, simulate
from stratascope.seismic import benchmark as run_benchmark
from stratascope.seismic._report import summarise, tabulate, write_report
from stratascope.seismic._simulate import RECORD

_SIMULATED = "CurveFault_A"


def benchmark(
    *,
    to: Path,
    data: Path | None = None,
    samples: int = 400,
    epochs: int = 20,
    minutes: float | None = None,
    seeds: int = 3,
    base_channels: int = 8,
    batch_size: int = 10,
    learning_rate: float = 1e-3,
    warmup_epochs: float = 0.0,
    milestones: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    workers: int | None = None,
    device: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train InversionNet and ReconstructionNet alike, and report how they do.

    Run again, it goes on where it was.

    Args:
        to: Folder for simulated data, trainings and the report.
        data: Folder of OpenFWI's data; without it they are simulated.
        samples: How many to train and validate on.
        epochs: How often each network sees them.
        minutes: A limit for all trainings together.
        seeds: How many trainings of each network.
        base_channels: Channels of the first layers; 32 as published.
        batch_size: Samples a step; 256 in OpenFWI.
        learning_rate: Of AdamW; 0.0001 in OpenFWI.
        warmup_epochs: Over how many epochs the learning rate rises.
        milestones: After which epochs it falls to a tenth.
        workers: How many processes simulate; without it this one.
        device: Where to train, such as cuda.
        json: Print JSON.
    """
    least = {"--samples": samples, "--epochs": epochs, "--workers": workers}
    for name, value in least.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if seeds < 2:
        raise UsageError(f"--seeds must be at least 2, for an interval, got {seeds}")
    try:
        recipe = Recipe(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_epochs=warmup_epochs,
            milestones=milestones,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    folder = data or to / _SIMULATED
    if data is None:
        simulate(
            folder,
            samples=samples,
            resume=(folder / RECORD).exists(),
            executor=None if workers is None else Processes(workers),
        )
    found = run_benchmark(
        folder,
        to=to,
        samples=samples,
        recipe=recipe,
        seeds=seeds,
        minutes=minutes,
        base_channels=base_channels,
        device=device,
    )
    page = write_report(found, OpenFWI(folder, split="test"))
    if json:
        print_json({"report": str(page), **summarise(found)})
        return
    print_table(*tabulate(found))
    print_line()
    print_line(f"The whole report, with pictures: {page}")
