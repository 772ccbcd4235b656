"""Directions in the space of a network's parameters, and where a grid over them lies."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stratascope.diagnose._parameters import list_parameters, widen
from stratascope.sites import suggest

_NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,  # pyright: ignore[reportPrivateUsage]
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMALIZED = ("filter", "layer", "none")

Vector = Mapping[str, Tensor]
"""A tensor for each trainable parameter, by its name."""


@dataclass(frozen=True, eq=False, slots=True)
class Directions:
    """A line, a plane or a curve through the parameters of a model.

    What `random_directions` and its like give, and `landscape` takes. A point with coordinates
    ``(a, b)`` has the parameters ``origin + a * vectors[0] + b * vectors[1]``.

    Attributes:
        vectors: One or two directions, each a tensor for every trainable parameter.
        labels: What one unit of each axis is.
        ranges: For each axis from where to where it goes unless `landscape` is told otherwise.
        method: How they were made.
        origin: The parameters at zero; None for those of the model as it is.
        path: Coordinates to draw into the picture, ``(points, axes)``, such as a training's.
        explained: For each axis the part of the path's variance that it holds.
        between: Whether it leads from one checkpoint to another, so that the running statistics of
            neither fit in the middle.
        bend: Whether the vectors are those of a curve with one coordinate t, and weighted
            ``2t(1 - t)`` and ``t²``.

    >>> found = random_directions(nn.Linear(2, 2))
    >>> found.axes, found.ranges
    (2, ((-1.0, 1.0), (-1.0, 1.0)))
    """

    vectors: tuple[Vector, ...]
    labels: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    method: str
    origin: Vector | None = None
    path: NDArray[np.float64] | None = None
    explained: tuple[float, ...] = ()
    between: bool = False
    bend: bool = False

    @property
    def axes(self) -> int:
        """How many coordinates a point has."""
        return len(self.labels)

    def weigh(self, coordinates: Sequence[float]) -> tuple[float, ...]:
        """Give the weight of each vector at a point."""
        if not self.bend:
            return tuple(coordinates)
        (t,) = coordinates
        return (2 * t * (1 - t), t * t)

    def cosine(self) -> float | None:
        """Give the cosine of the angle between the two vectors; None where there is one."""
        if len(self.vectors) < 2:
            return None
        first, second = self.vectors
        lengths = [math.sqrt(dot(vector, vector)) for vector in self.vectors]
        return dot(first, second) / math.prod(lengths) if all(lengths) else 0.0


def random_directions(
    model: nn.Module,
    count: int = 2,
    *,
    seed: int = 0,
    normalize: Literal["filter", "layer", "none"] = "filter",
) -> Directions:
    """Draw random directions and scale them to the weights, filter by filter.

    A ReLU network computes the same after one layer is multiplied and the next divided, so that
    distances in absolute units say nothing. Each filter of a direction is given the norm of the
    filter that it moves: one unit moves every filter by its own length. Biases, other parameters of
    one dimension and all parameters of normalisation layers are not moved. Two directions are not
    made orthogonal, which would undo this; `Directions.cosine` tells how far they are from it.

    Li et al., Visualizing the loss landscape of neural nets, NeurIPS 2018, section 4.

    Args:
        model: Any module; it is only read.
        count: 1 for a line, 2 for a plane.
        seed: Of the random numbers; those of PyTorch are left alone.
        normalize: ``"filter"``; ``"layer"`` for the norm of a whole tensor; ``"none"`` for random
            numbers of standard deviation 1 as they are, which then move every parameter.

    Raises:
        ValueError: An argument is out of its range, or the model has nothing to move.

    >>> layer = nn.Linear(3, 2)
    >>> (direction,) = random_directions(layer, 1).vectors
    >>> torch.allclose(direction["weight"].norm(dim=1), layer.weight.norm(dim=1))
    True
    >>> direction["bias"].tolist()
    [0.0, 0.0]
    """
    if count not in (1, 2):
        raise ValueError(f"count must be 1 for a line or 2 for a plane, got {count}")
    if normalize not in _NORMALIZED:
        raise ValueError(
            f"normalize must be one of {', '.join(map(repr, _NORMALIZED))}, got {normalize!r}."
            f"{suggest(str(normalize), _NORMALIZED)}"
        )
    parameters = list_parameters(model)
    moved = _list_weights(model) if normalize != "none" else dict.fromkeys(parameters)
    if not moved.keys() & parameters.keys():
        raise ValueError(
            "the model must have a trainable weight of two dimensions or more to be scaled to, got "
            "only biases and normalisation: give normalize='none'"
        )
    generator = torch.Generator().manual_seed(seed)
    vectors = [
        {
            name: _draw(value, moved, name, normalize, generator)
            for name, value in parameters.items()
        }
        for _ in range(count)
    ]
    unit = {"filter": "in norms of each filter", "layer": "in norms of each layer"}
    labels = [f"random direction {k + 1}, {unit.get(normalize, 'absolute')}" for k in range(count)]
    return Directions(
        vectors=tuple(vectors),
        labels=tuple(labels),
        ranges=((-1.0, 1.0),) * count,
        method=f"random, normalize={normalize!r}, seed={seed}",
    )


def dot(first: Vector, second: Vector) -> float:
    """Give the inner product of two vectors, added up in float64."""
    return sum(
        float(torch.dot(value.double().flatten(), second[name].double().flatten()))
        for name, value in first.items()
    )


def _draw(
    value: Tensor,
    moved: Mapping[str, nn.Module | None],
    name: str,
    normalize: str,
    generator: torch.Generator,
) -> Tensor:
    wide = widen(value)
    # Drawn on the CPU, so that a seed gives the same on every device; and for each parameter,
    # whether it is moved or not.
    noise = torch.randn(wide.shape, generator=generator, dtype=wide.dtype).to(wide.device)
    if name not in moved:
        return torch.zeros_like(wide)
    if normalize == "none":
        return noise
    if normalize == "layer":
        return noise * (wide.norm() / noise.norm())
    owner = moved[name]
    grouped, axes = _group_filters(wide, owner)
    drawn, _ = _group_filters(noise, owner)
    lengths = [torch.linalg.vector_norm(part, dim=axes, keepdim=True) for part in (grouped, drawn)]
    return (drawn * (lengths[0] / lengths[1])).reshape(wide.shape)


def _group_filters(weight: Tensor, owner: nn.Module | None) -> tuple[Tensor, tuple[int, ...]]:
    """Give a weight as it is, or seen by groups, and the axes that lie within one filter."""
    if isinstance(owner, _TRANSPOSED):
        # (in, out / groups, …): what makes one map of the output lies along the first axis.
        seen = weight.unflatten(0, (owner.groups, -1))
        return seen, (1, *range(3, seen.ndim))
    return weight, tuple(range(1, weight.ndim))


def _list_weights(model: nn.Module) -> dict[str, nn.Module | None]:
    """List by name the parameters that are scaled to their own size, with the module of each."""
    owners: dict[str, nn.Module | None] = {}
    named: Iterable[tuple[str, nn.Module]] = model.named_modules()
    for path, module in named:
        for name, value in module.named_parameters(recurse=False):
            is_weight = value.ndim >= 2 and not name.startswith("bias")
            if is_weight and not isinstance(module, _NORMALIZATIONS):
                owners[f"{path}.{name}" if path else name] = module
    return owners
