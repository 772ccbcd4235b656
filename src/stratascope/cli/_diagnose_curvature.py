"""``stratascope diagnose curvature``."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from stratascope.cli._output import print_json, print_line
from stratascope.cli._targets import load_problem
from stratascope.diagnose import curvature as measure
from stratascope.errors import UsageError
from stratascope.sites import suggest


def curvature(
    problem: str,
    *,
    to: Path,
    loss: str | None = None,
    matrix: Literal["hessian", "gauss_newton"] = "hessian",
    top: int = 5,
    iterations: int = 60,
    probes: int = 10,
    depth: int = 20,
    trace: Literal["xtrace", "hutchinson"] = "xtrace",
    radius: float | None = None,
    batchnorm: Literal["frozen", "batch"] = "frozen",
    seed: int = 0,
    weights: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure eigenvalues, trace and density of a loss's Hessian, and its sharpness.

    Writes curvature.zarr and curvature.png.

    Args:
        problem: package.module:function or path/to/file.py:function that gives a model, metrics by
            name, each a function of output and target, and batches of input and target.
        to: Folder to write to.
        loss: Which of the metrics is looked at; the first unless given.
        matrix: The Hessian, or the generalised Gauss-Newton matrix.
        top: How many eigenvalues to find from the largest downwards.
        iterations: The most products with the matrix to find them, and vectors in memory.
        probes: Random vectors for trace and density.
        depth: Products for each of them.
        trace: XTrace, which takes one more product for each of them, or Hutchinson's mean.
        radius: How far to go, as L2 distance of all parameters, in search of the highest loss.
        batchnorm: Statistics of batch normalisation: those of the model, or of each batch.
        seed: Of the random vectors.
        weights: File of a state dict of the model, .pt or .safetensors.
        json: Print JSON.
    """
    for name, value in {"--top": top, "--iterations": iterations, "--probes": probes}.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    model, metrics, batches = load_problem(problem, weights)
    loss = next(iter(metrics)) if loss is None else loss
    if loss not in metrics:
        raise UsageError(
            f"--loss must name a metric, got {loss!r}.{suggest(loss, metrics)} There are "
            f"{', '.join(metrics)}"
        )
    place = to / "curvature.zarr"
    if place.exists():
        raise UsageError(f"--to must have no curvature in it, and {place} exists: choose another")
    to.mkdir(parents=True, exist_ok=True)
    found = measure(
        model,
        metrics[loss],
        batches,
        matrix=matrix,
        top=top,
        iterations=iterations,
        probes=probes,
        depth=depth,
        trace=trace,
        radius=radius,
        batchnorm=batchnorm,
        seed=seed,
    )
    found.save(place)
    found.plot(to / "curvature.png")
    if json:
        print_json({name: _to_plain(value) for name, value in found.to_dict().items()})
    else:
        print_line(f"{found.table()}\n\nwritten to {to}")


def _to_plain(value: Any) -> Any:
    """Give what JSON can hold: it has no arrays and no NaN."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_to_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
