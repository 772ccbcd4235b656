"""``stratascope diagnose landscape``."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from torch import nn

from stratascope.cli._output import print_json, print_line
from stratascope.cli._targets import load_problem, load_state
from stratascope.diagnose import (
    Directions,
    Landscape,
    hessian_directions,
    line_between,
    random_directions,
    tradeoffs,
    trajectory_directions,
)
from stratascope.diagnose import landscape as measure
from stratascope.errors import UsageError

_Files = Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")]


def landscape(
    problem: str,
    *,
    to: Path,
    directions: Literal["random", "hessian"] = "random",
    trajectory: _Files = None,
    between: _Files = None,
    axes: Literal[1, 2] = 2,
    steps: int = 21,
    span: float | None = None,
    refine: int = 0,
    batchnorm: Literal["frozen", "recalibrated", "batch"] = "frozen",
    maximize: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    seed: int = 0,
    weights: Path | None = None,
    workers: int = 1,
    log: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure metrics over a line or a plane through a network's parameters.

    Writes landscape.zarr and landscape.png, and with several metrics tradeoffs.png.

    Args:
        problem: package.module:function or path/to/file.py:function that gives a model, metrics by
            name, each a function of output and target, and batches of input and target.
        to: Folder to write to.
        directions: Random ones, scaled to the filters, or top eigenvectors of the Hessian of the
            first metric.
        trajectory: State dicts of a training in order, for the plane of its principal components.
        between: Two state dicts, for the line from one to the other.
        axes: 1 for a line, 2 for a plane.
        steps: Points on each axis; with an odd number the model itself is one of them.
        span: How far each axis goes to either side; as far as the directions say unless given.
        refine: How often to halve the spacing where a metric is lowest, highest or bent most.
        batchnorm: Statistics of batch normalisation: those of the model, gathered anew at each
            point, or those of each batch.
        maximize: Metrics of which more is better, such as ssim.
        seed: Of the random numbers.
        weights: File of a state dict of the model, .pt or .safetensors.
        workers: How many processes to run in.
        log: Draw the logarithm of the values.
        resume: Go on with what is there.
        json: Print JSON.
    """
    for name, value, least in (("--workers", workers, 1), ("--steps", steps, 2)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")
    if not 0 <= refine <= 5:
        raise UsageError(f"--refine must be from 0 to 5, got {refine}")
    model, metrics, batches = load_problem(problem, weights)
    batches = list(batches)
    wanted = set(maximize or ()) - set(metrics)
    if wanted:
        raise UsageError(f"--maximize must name metrics of {', '.join(metrics)}, got {wanted}")
    if trajectory is not None and between is not None:
        raise UsageError("--trajectory and --between are two ways to move: give one of them")
    if trajectory is not None:
        way = trajectory_directions(model, [load_state(path) for path in trajectory], axes)
    elif between is not None:
        way = _join(model, between)
    elif directions == "hessian":
        loss = next(iter(metrics.values()))
        way = hessian_directions(model, loss, batches, count=axes, seed=seed)
    else:
        way = random_directions(model, axes, seed=seed)
    to.mkdir(parents=True, exist_ok=True)
    found = measure(
        model,
        metrics,
        batches,
        directions=way,
        steps=steps,
        span=span,
        refine=refine,
        batchnorm=batchnorm,
        seed=seed,
        workers=workers,
        to=to / "landscape.zarr",
        resume=resume,
    )
    found.plot(log=log, to=to / "landscape.png")
    _tell(found, to, maximize or [], as_json=json)


def _join(model: nn.Module, between: list[Path]) -> Directions:
    if len(between) != 2:
        raise UsageError(f"--between must be two files, got {len(between)}")
    first, second = map(load_state, between)
    return line_between(model, first, second)


def _tell(found: Landscape, to: Path, maximize: list[str], *, as_json: bool) -> None:
    related = tradeoffs(found, maximize=maximize) if len(found.values) > 1 else None
    if related is not None:
        related.plot(to / "tradeoffs.png")
    if as_json:
        print_json(_to_json(found))
        return
    print_line(found.table())
    if related is not None:
        print_line(f"\n{related.table()}")
    print_line(f"\nwritten to {to}")


def _to_json(found: Landscape) -> dict[str, Any]:
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
