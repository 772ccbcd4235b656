"""Lines and curves between checkpoints."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stratascope._random import keeping_random
from stratascope.diagnose._batchnorm import set_modes
from stratascope.diagnose._directions import Directions
from stratascope.diagnose._evaluate import read_batches
from stratascope.diagnose._parameters import list_parameters, take_state
from stratascope.errors import DataError


def line_between(
    model: nn.Module, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> Directions:
    """Give the straight line between two checkpoints, the first at 0 and the second at 1.

    Goodfellow, Vinyals and Saxe, Qualitatively characterizing neural network optimization problems,
    ICLR 2015. With batch normalisation `landscape` must be asked for another mode than frozen: the
    running statistics of neither fit in between.

    Args:
        model: Of the architecture of the checkpoints; its own parameters do not matter.
        first: What ``model.state_dict()`` gave, copied.
        second: The other one.

    Raises:
        DataError: One is of another architecture, or both are the same.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> line = line_between(model, {"weight": torch.ones(1, 1)}, {"weight": torch.zeros(1, 1)})
    >>> line.vectors[0]["weight"].item(), line.ranges
    (-1.0, ((0.0, 1.0),))
    """
    start, end = _take_ends(model, first, second)
    return Directions(
        vectors=({name: end[name] - start[name] for name in start},),
        labels=("from the first checkpoint to the second",),
        ranges=((0.0, 1.0),),
        method="straight line between two checkpoints",
        origin=start,
        path=np.array([[0.0], [1.0]]),
        between=True,
    )


def connect(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Any],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    updates: int = 200,
    rate: float = 1e-2,
    seed: int = 0,
) -> Directions:
    """Train a curve between two checkpoints along which the loss stays low.

    A quadratic Bézier curve ``(1 - t)² first + 2t(1 - t) bend + t² second``, whose bend begins in
    the middle and is trained by Adam at random t, batch by batch. Batch normalisation uses the
    statistics of each batch meanwhile. Compare it with `line_between`: a curve that stays no lower
    than the line may only need more updates.

    Garipov et al., Loss surfaces, mode connectivity, and fast ensembling of DNNs, NeurIPS 2018.

    Args:
        model: Of the architecture of the checkpoints; it is only read.
        loss: Of output and target, to be made small.
        batches: Pairs of input and target to train on.
        first: What ``model.state_dict()`` gave, copied.
        second: The other one.
        updates: How many steps to train.
        rate: Adam's learning rate, relative to the root mean square of the parameters.
        seed: Of the random t.

    Raises:
        ValueError: `updates` or `rate` is out of its range.
        DataError: A checkpoint is of another architecture, both are the same, the batches are no
            pairs, or the loss is not finite.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> data = [(torch.ones(2, 1), torch.ones(2, 1))]
    >>> ends = {"first": {"weight": torch.zeros(1, 1)}, "second": {"weight": torch.ones(1, 1)}}
    >>> curve = connect(model, nn.functional.mse_loss, data, updates=2, **ends)
    >>> curve.weigh([1.0])
    (0.0, 1.0)
    """
    if updates < 1 or not rate > 0:
        raise ValueError(f"updates must be at least 1 and rate above 0, got {updates} and {rate}")
    start, end = _take_ends(model, first, second)
    read = read_batches(batches, model)
    with keeping_random(model):
        torch.manual_seed(seed)
        bend = _train_bend(copy.deepcopy(model), loss, read, (start, end), updates, rate)
    return Directions(
        vectors=(
            {name: bend[name] - start[name] for name in start},
            {name: end[name] - start[name] for name in start},
        ),
        labels=("along the curve from the first checkpoint to the second",),
        ranges=((0.0, 1.0),),
        method=f"quadratic Bézier curve, {updates} updates, rate={rate}, seed={seed}",
        origin=start,
        path=np.array([[0.0], [1.0]]),
        between=True,
        bend=True,
    )


def _train_bend(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Any],
    batches: list[tuple[Tensor, Tensor]],
    ends: tuple[dict[str, Tensor], dict[str, Tensor]],
    updates: int,
    rate: float,
) -> dict[str, Tensor]:
    start, end = ends
    set_modes(model, "batch")
    own = list_parameters(model)
    bend = {name: ((start[name] + end[name]) / 2).requires_grad_() for name in own}
    size = sum(float(value.detach().square().sum()) for value in bend.values())
    number = sum(value.numel() for value in bend.values())
    optimizer = torch.optim.Adam(bend.values(), lr=rate * max((size / number) ** 0.5, 1e-8))
    times = torch.rand(updates, dtype=torch.float64).tolist()
    for step, t in enumerate(times):
        x, y = batches[step % len(batches)]
        point = {
            name: ((1 - t) ** 2 * start[name] + 2 * t * (1 - t) * bend[name] + t**2 * end[name])
            for name in own
        }
        moved = {name: value.to(own[name].dtype) for name, value in point.items()}
        found = loss(torch.func.functional_call(model, moved, (x,)), y)
        if not torch.isfinite(found):
            raise DataError(
                f"the loss must be finite along the curve, got {found.item()} at update {step}: "
                "take a smaller rate"
            )
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    return {name: value.detach() for name, value in bend.items()}


def _take_ends(
    model: nn.Module, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    start = take_state(model, first, "the first checkpoint")
    end = take_state(model, second, "the second checkpoint")
    if all(torch.equal(start[name], end[name]) for name in start):
        raise DataError(
            "the checkpoints must differ, and are the same: give copies, as {name: value.clone() "
            "for name, value in model.state_dict().items()}"
        )
    return start, end
