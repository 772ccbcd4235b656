"""``stratascope diagnose landscape``."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stratascope.cli._output import print_json, print_line
from stratascope.cli._targets import load_problem
from stratascope.diagnose import Landscape, random_directions
from stratascope.diagnose import landscape as measure
from stratascope.errors import UsageError


def landscape(
    problem: str,
    *,
    to: Path,
    axes: Literal[1, 2] = 2,
    steps: int = 21,
    span: float | None = None,
    batchnorm: Literal["frozen", "recalibrated", "batch"] = "frozen",
    seed: int = 0,
    weights: Path | None = None,
    workers: int = 1,
    log: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure metrics over a line or a plane through a network's parameters.

    Writes landscape.zarr and landscape.png.

    Args:
        problem: package.module:function or path/to/file.py:function that gives a model, metrics by
            name, each a function of output and target, and batches of input and target.
        to: Folder to write to.
        axes: Random directions, scaled to the filters: 1 for a line, 2 for a plane.
        steps: Points on each axis; with an odd number the model itself is one of them.
        span: How far each axis goes to either side; as far as the directions say unless given.
        batchnorm: Statistics of batch normalisation: those of the model, gathered anew at each
            point, or those of each batch.
        seed: Of the random directions.
        weights: File of a state dict of the model, .pt or .safetensors.
        workers: How many processes to run in.
        log: Draw the logarithm of the values.
        resume: Go on with what is there.
        json: Print JSON.
    """
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if steps < 2:
        raise UsageError(f"--steps must be at least 2, got {steps}")
    model, metrics, batches = load_problem(problem, weights)
    to.mkdir(parents=True, exist_ok=True)
    found = measure(
        model,
        metrics,
        batches,
        directions=random_directions(model, axes, seed=seed),
        steps=steps,
        span=span,
        batchnorm=batchnorm,
        seed=seed,
        workers=workers,
        to=to / "landscape.zarr",
        resume=resume,
    )
    found.plot(log=log, to=to / "landscape.png")
    if json:
        print_json(_to_json(found))
        return
    print_line(f"{found.table()}\n\nwritten to {to / 'landscape.zarr'} and landscape.png")


def _to_json(found: Landscape) -> dict[str, object]:
    return {
        "metrics": {
            name: {
                "model": found.centre[name][0],
                "lowest": dict(zip(("at", "value"), found.lowest(name), strict=True)),
                "highest": dict(zip(("at", "value"), found.highest(name), strict=True)),
            }
            for name in found.values
        },
        "axes": [axis.tolist() for axis in found.axes],
        "labels": list(found.labels),
        "settings": dict(found.settings or {}),
        "notes": list(found.notes),
    }
