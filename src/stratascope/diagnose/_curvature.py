"""How a loss is curved around the parameters of a network."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stratascope._progress import ProgressBar
from stratascope._random import keeping_random
from stratascope.diagnose._curvature_result import Curvature
from stratascope.diagnose._directions import Directions
from stratascope.diagnose._evaluate import read_batches
from stratascope.diagnose._lanczos import Ritz, iterate
from stratascope.diagnose._operators import LossAt
from stratascope.diagnose._parameters import list_parameters
from stratascope.diagnose._xtrace import xtrace
from stratascope.errors import DataError
from stratascope.sites import suggest

_MATRICES = ("hessian", "gauss_newton")
_STATISTICS = ("frozen", "batch")
_TRACES = ("xtrace", "hutchinson")
_ASCENTS = 10

Loss = Callable[[Tensor, Tensor], Any]
Batches = Iterable[tuple[Tensor, Tensor]]


def curvature(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    matrix: Literal["hessian", "gauss_newton"] = "hessian",
    top: int = 5,
    iterations: int = 60,
    tolerance: float = 1e-3,
    probes: int = 10,
    depth: int = 20,
    trace: Literal["xtrace", "hutchinson"] = "xtrace",
    radius: float | None = None,
    batchnorm: Literal["frozen", "batch"] = "frozen",
    seed: int = 0,
    progress: bool = True,
) -> Curvature:
    """Measure the eigenvalues, trace and spectral density of a loss's curvature, and its sharpness.

    The matrix is only multiplied with vectors, over all batches, and never formed. Its largest and
    its lowest eigenvalues come from one run of Lanczos with full orthogonalisation; its trace and
    its density, by stochastic Lanczos quadrature, from short runs that begin with random vectors. A
    copy of the model is used, in evaluation mode, with parameters in
    half precision seen in float32. Ghorbani, Krishnan and Xiao, An investigation into neural net
    optimization via Hessian eigenvalue density, ICML 2019.

    Args:
        model: Any module whose forward takes one tensor.
        loss: Of output and target, the mean over the batch, by operations with second derivatives.
        batches: Pairs of input and target; read once.
        matrix: ``"hessian"``, or ``"gauss_newton"`` for the generalised Gauss–Newton matrix, which
            leaves out the curvature of the network itself and has no negative eigenvalues where
            the loss is convex in the output.
        top: How many eigenvalues to find from the largest downwards.
        iterations: The most products with the matrix to find them, and the most vectors in memory.
        tolerance: How far each may be from an eigenvalue, relative to the largest.
        probes: Random vectors for trace and density; 0 for neither.
        depth: Products for each of them.
        trace: ``"xtrace"`` of Epperly, Tropp and Webber 2024, which takes one more product for each
            random vector, and holds seven vectors for each; or ``"hutchinson"`` for the mean over
            random signs.
        radius: How far to go, as L2 distance of all parameters, in search of the highest loss; not
            at all unless given.
        batchnorm: ``"frozen"`` for the running statistics, ``"batch"`` for those of each batch.
        seed: Of the random vectors.
        progress: Show a bar on a terminal, with the time that is left.

    Raises:
        ValueError: An argument is out of its range, or the model has no trainable parameters.
        DataError: The batches are no pairs, or the loss is no finite number that can be derived.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))]
    >>> found = curvature(model, nn.functional.mse_loss, data, top=2)
    >>> found.eigenvalues.round(4).tolist(), round(found.trace, 4)
    ([9.0, 1.0], 10.0)
    """
    _check(matrix, batchnorm, trace, top=top, iterations=iterations, depth=depth)
    if probes < 0 or (radius is not None and not radius > 0):
        raise ValueError(f"probes must be 0 or more and radius above 0, got {probes} and {radius}")
    list_parameters(model)
    with (
        keeping_random(model),
        ProgressBar(
            "curvature", iterations + probes * (depth + 1), enabled=progress, unit="products"
        ) as bar,
    ):
        at = LossAt(model, loss, read_batches(batches, model), batchnorm)
        value, slope = _look(at)
        multiply = _count(getattr(at, matrix), bar)
        generator = torch.Generator().manual_seed(seed)
        ends = _find_top(multiply, at, top, iterations, tolerance, generator)
        runs, traces = _probe(multiply, at, probes, depth, trace, generator)
        rise = float("nan")
        if radius is not None:
            rise = _climb(at, value, slope, ends.vector(-1), radius)
    count = min(top, len(ends.values))
    return Curvature(
        eigenvalues=ends.values[::-1][:count].copy(),
        residuals=ends.residuals[::-1][:count].copy(),
        lowest=float(ends.values[0]),
        lowest_residual=float(ends.residuals[0]),
        trace=float(traces.mean()) if probes else float("nan"),
        trace_error=float(traces.std(ddof=1) / len(traces) ** 0.5)
        if len(traces) > 1
        else float("nan"),
        nodes=_pad([values for values, _ in runs], np.nan),
        weights=_pad([weights for _, weights in runs], 0.0),
        loss=value,
        gradient_norm=float(slope.norm()),
        sharpness=rise,
        settings={
            "matrix": matrix,
            "parameters": at.size,
            "parameter_norm": at.norm,
            "radius": radius,
            "batchnorm": batchnorm,
            "samples": at.samples,
            "products": len(ends.values),
            "trace": trace,
            "tolerance": tolerance,
            "seed": seed,
        },
        notes=tuple(_note(ends, count, tolerance)),
    )


def hessian_directions(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    count: int = 2,
    iterations: int = 60,
    tolerance: float = 1e-3,
    batchnorm: Literal["frozen", "batch"] = "frozen",
    seed: int = 0,
) -> Directions:
    """Find the directions in which a loss is curved most: top eigenvectors of its Hessian.

    They are unit vectors, so that coordinates are distances in the space of the parameters. Unless
    `landscape` is told otherwise, each axis goes to where the quadratic model has five times the
    loss. Arguments are those of `curvature`.

    Raises:
        ValueError: An argument is out of its range, or the model has no trainable parameters.
        DataError: The batches are no pairs, or the loss is no finite number that can be derived.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))]
    >>> found = hessian_directions(model, nn.functional.mse_loss, data, count=1)
    >>> found.vectors[0]["weight"].abs().round(decimals=3).tolist()
    [[0.0, 1.0]]
    """
    if count not in (1, 2):
        raise ValueError(f"count must be 1 for a line or 2 for a plane, got {count}")
    _check("hessian", batchnorm, "xtrace", iterations=iterations)
    list_parameters(model)
    with keeping_random(model):
        at = LossAt(model, loss, read_batches(batches, model), batchnorm)
        value, _ = _look(at)
        generator = torch.Generator().manual_seed(seed)
        ends = _find_top(at.hessian, at, count, iterations, tolerance, generator)
    if len(ends.values) < count:
        raise ValueError(f"the model must have {count} parameters or more, got {at.size}")
    strengths = [float(ends.values[-1 - k]) for k in range(count)]
    found = [at.split(ends.vector(-1 - k)) for k in range(count)]
    return Directions(
        vectors=tuple(dict(zip(at.parameters, parts, strict=True)) for parts in found),
        labels=tuple(
            f"eigenvector {k + 1} of the Hessian ({strength:.3g}), L2 distance"
            for k, strength in enumerate(strengths)
        ),
        ranges=tuple((-reach, reach) for reach in (_reach(value, s) for s in strengths)),
        method=f"top eigenvectors of the Hessian, as unit vectors, seed={seed}",
    )


def _check(matrix: str, batchnorm: str, trace: str, **least_one: int) -> None:
    for name, given, choices in (
        ("matrix", matrix, _MATRICES),
        ("batchnorm", batchnorm, _STATISTICS),
        ("trace", trace, _TRACES),
    ):
        if given not in choices:
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, choices))}, got {given!r}."
                f"{suggest(str(given), choices)}"
            )
    for name, number in least_one.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _look(at: LossAt) -> tuple[float, Tensor]:
    value, slope = at.evaluate(), at.gradient()
    if not np.isfinite(value) or not torch.isfinite(slope).all():
        raise DataError(
            f"the loss and its gradient must be finite at the model as it is, got {value}: look "
            "for its cause with stratascope.trace(model, x).first_nonfinite()"
        )
    return value, slope


def _count(multiply: Callable[[Tensor], Tensor], bar: ProgressBar) -> Callable[[Tensor], Tensor]:
    done = 0

    def counted(vector: Tensor) -> Tensor:
        nonlocal done
        found = multiply(vector)
        done += 1
        bar.update(done)
        return found

    return counted


def _find_top(
    multiply: Callable[[Tensor], Tensor],
    at: LossAt,
    top: int,
    iterations: int,
    tolerance: float,
    generator: torch.Generator,
) -> Ritz:
    def finished(ritz: Ritz) -> bool:
        # The lowest is wanted too; that it is found early is no sign that the others are.
        wanted = [*ritz.residuals[-top:], ritz.residuals[0]]
        return len(ritz.values) > top and max(wanted) <= tolerance * np.abs(ritz.values).max()

    start = torch.randn(at.size, generator=generator, dtype=torch.float64).to(at.like)
    return iterate(multiply, start, iterations, finished)


def _probe(
    multiply: Callable[[Tensor], Tensor],
    at: LossAt,
    probes: int,
    depth: int,
    trace: str,
    generator: torch.Generator,
) -> tuple[list[tuple[NDArray[np.float64], NDArray[np.float64]]], NDArray[np.float64]]:
    """Give the Ritz values and weights of a run from each random vector, and traces."""
    images: list[Tensor] = []
    starts: list[Tensor] = []

    def remember(vector: Tensor) -> Tensor:
        found = multiply(vector)
        # The first product of each run serves the trace too; no more of them than fill the space.
        if trace == "xtrace" and len(images) < min(len(runs) + 1, at.size):
            starts.append(vector.clone())
            images.append(found)
        return found

    runs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(probes):
        run = iterate(remember, _draw(at, trace, generator), depth)
        runs.append((run.values, run.weights))
    if not images:
        return runs, at.size * np.array([float(weights @ values) for values, weights in runs])
    found = xtrace(multiply, torch.stack(starts, 1), torch.stack(images, 1))
    return runs, found.double().cpu().numpy()


def _draw(at: LossAt, trace: str, generator: torch.Generator) -> Tensor:
    if trace == "hutchinson":
        return (torch.randint(0, 2, (at.size,), generator=generator) * 2 - 1).to(at.like)
    return torch.randn(at.size, generator=generator, dtype=torch.float64).to(at.like)


def _climb(at: LossAt, value: float, slope: Tensor, steepest: Tensor, radius: float) -> float:
    """Look for the highest loss on a sphere by projected gradient ascent, as SAM's first step does.

    Foret et al., Sharpness-aware minimization, ICLR 2021. What is found is a lower bound.
    """
    starts = [steepest, -steepest]
    if float(slope.norm()) > 0:
        starts.append(slope / slope.norm())
    highest = value
    for start in starts:
        place = start * radius
        for _ in range(_ASCENTS):
            highest = max(highest, at.evaluate(place))
            push = at.gradient(place)
            if not float(push.norm()) > 0:
                break
            place = place + radius * push / push.norm()
            place = place * (radius / place.norm())
        highest = max(highest, at.evaluate(place))
    return highest - value


def _reach(loss: float, eigenvalue: float) -> float:
    return 2 * (2 * loss / eigenvalue) ** 0.5 if loss > 0 and eigenvalue > 0 else 1.0


def _pad(rows: list[NDArray[np.float64]], value: float) -> NDArray[np.float64]:
    longest = max(map(len, rows), default=0)
    found = np.full((len(rows), longest), value)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return found


def _note(ends: Ritz, count: int, tolerance: float) -> list[str]:
    bound = tolerance * np.abs(ends.values).max()
    names = [f"eigenvalue {k + 1}" for k in range(count) if ends.residuals[-1 - k] > bound]
    if ends.residuals[0] > bound:
        names.append("the lowest eigenvalue")
    if not names:
        return []
    return [
        f"not within the tolerance after {len(ends.values)} products: {', '.join(names)}; "
        "take more iterations"
    ]
