"""The metrics of a network at any point of a line, plane or curve through its parameters."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stratascope.diagnose._batchnorm import recalibrating, set_modes
from stratascope.diagnose._directions import Directions
from stratascope.diagnose._fold import Fold, fold
from stratascope.diagnose._parameters import list_parameters, widen
from stratascope.errors import DataError

Metric = Callable[[Tensor, Tensor], Any]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """All that is needed to evaluate points, here or in another process.

    Attributes:
        model: A copy that is the job's own.
        metrics: What is measured, by name.
        batches: Inputs and targets, on the model's device.
        directions: What the coordinates of a point mean.
        batchnorm: Which statistics batch normalisation uses.
        seed: Of the random numbers that the model draws at a point, the same at each.
        channels_last: Whether maps are laid out with their channels last.
        pairs: Convolutions and the batch normalisation that is folded into each.
    """

    model: nn.Module
    metrics: Mapping[str, Metric]
    batches: Sequence[Batch]
    directions: Directions
    batchnorm: str
    seed: int
    channels_last: bool = False
    pairs: list[tuple[str, str]] = field(default_factory=list)


class Evaluator:
    """Moves a copy of the job's model from point to point; each is set anew from the origin."""

    def __init__(self, job: Job) -> None:
        model = copy.deepcopy(job.model)
        set_modes(model, job.batchnorm)
        own = list_parameters(model)
        origin = job.directions.origin or {name: widen(own[name]).clone() for name in own}
        self._batches = job.batches
        if job.channels_last:
            # A model's own kind of module may declare to() as it likes.
            nn.Module.to(model, memory_format=torch.channels_last)  # pyright: ignore
            self._batches = [(_put_channels_last(x), y) for x, y in job.batches]
        self._moved = [
            (own[name], origin[name], [vector[name] for vector in job.directions.vectors])
            for name in own
        ]
        self._folds: list[Fold] = fold(model, job.pairs)
        self._model = model
        self._job = job
        self._metrics = copy.deepcopy(dict(job.metrics))

    def at(self, coordinates: Sequence[float]) -> NDArray[np.float64]:
        """Give the value and the standard error of each metric at a point, ``(metrics, 2)``."""
        with torch.no_grad():
            self._move(coordinates)
            if self._job.batchnorm == "recalibrated":
                torch.manual_seed(self._job.seed)
                with recalibrating(self._model):
                    for x, _ in self._batches:
                        self._model(x)
            torch.manual_seed(self._job.seed)
            tallies = {name: _Tally(name, metric) for name, metric in self._metrics.items()}
            for x, y in self._batches:
                output = self._model(x)
                for tally in tallies.values():
                    tally.add(output, y, len(x))
        return np.array([tally.finish() for tally in tallies.values()], dtype=np.float64)

    def run(self, coordinates: Sequence[float]) -> Any:
        """Give what the model makes of the first batch at a point."""
        with torch.no_grad():
            self._move(coordinates)
            torch.manual_seed(self._job.seed)
            return self._model(self._batches[0][0])

    def _move(self, coordinates: Sequence[float]) -> None:
        weights = self._job.directions.weigh(coordinates)
        for parameter, origin, vectors in self._moved:
            value = origin
            for weight, vector in zip(weights, vectors, strict=True):
                value = torch.add(value, vector, alpha=weight)
            parameter.copy_(value)
        for one in self._folds:
            one.apply()


class _Tally:
    """A metric over batches: its mean, each sample counting the same, and how sure that is."""

    def __init__(self, name: str, metric: Metric) -> None:
        self._name = name
        self._metric = metric
        self._values: list[float] = []
        self._counts: list[int] = []
        self._gathers = is_gathering(metric)
        if self._gathers:
            metric.reset()  # pyright: ignore[reportFunctionMemberAccess]

    def add(self, output: Any, target: Tensor, count: int) -> None:
        value = self._metric(output, target)
        self._values.append(read_number(value, self._name))
        self._counts.append(count)

    def finish(self) -> tuple[float, float]:
        values, counts = np.array(self._values), np.array(self._counts, dtype=np.float64)
        weights = counts / counts.sum()
        mean = float(weights @ values)
        error = math.nan
        if (number := len(values)) > 1 and np.isfinite(values).all():
            spread = float((weights**2) @ (values - mean) ** 2)
            error = math.sqrt(spread * number / (number - 1))
        if self._gathers:
            mean = read_number(self._metric.compute(), self._name)  # pyright: ignore
        return mean, error


def is_gathering(metric: Any) -> bool:
    """Tell whether a metric gathers over batches by itself, as those of torchmetrics do."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


def read_number(value: Any, name: str) -> float:
    """Take one number out of what a metric gave.

    Raises:
        DataError: It is none.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise DataError(
                f"metric {name!r} must give one number for a batch, got a tensor of shape "
                f"{tuple(value.shape)}: reduce it, as with .mean()"
            )
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"metric {name!r} must give one number for a batch, got {type(value).__name__}: it is "
            "called as metric(output, target)"
        ) from None


def read_batches(batches: Iterable[Any], model: nn.Module) -> list[Batch]:
    """Read all batches once, so that every point sees the same, onto the device of a model.

    Raises:
        DataError: There is none, or one that is no input with a target.
    """
    device = next(model.parameters()).device
    found: list[Batch] = []
    for batch in batches:
        match batch:
            case (Tensor() as x, Tensor() as y) if len(x):
                found.append((x.detach().to(device), y.detach().to(device)))
            case _:
                raise DataError(
                    f"each batch must be an input and a target, two tensors that are not empty, "
                    f"got {_describe(batch)}: make pairs of it, as [(x, y)], or (x, x) where the "
                    "model reconstructs"
                )
    if not found:
        raise DataError(
            "batches must hold at least one pair of input and target, got none: an iterator can be "
            "read only once"
        )
    return found


def read_metrics(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Check that metrics are functions by name.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(metrics, Mapping) or not metrics or not all(map(callable, metrics.values())):
        raise ValueError(
            "metrics must be functions by name, such as {'mae': torch.nn.functional.l1_loss}, each "
            f"of an output and a target, got {metrics!r}"
        )
    return dict(metrics)


def _put_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, tuple | list):
        kinds = [
            f"{tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            for part in batch
        ]
        return f"a {type(batch).__name__} of {', '.join(kinds) or 'nothing'}"
    return type(batch).__name__
