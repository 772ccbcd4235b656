"""The plane in which a training has moved most."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stratascope.diagnose._directions import Directions
from stratascope.diagnose._parameters import take_state
from stratascope.errors import DataError

_MARGIN = 0.2  # of the path's extent, on each side


def trajectory_directions(
    model: nn.Module, states: Sequence[Mapping[str, Tensor]], count: int = 2
) -> Directions:
    """Find the directions in which recorded parameters differ most from the last ones.

    The principal components of the differences to the last state, which is the origin, as unit
    vectors: coordinates are distances in the space of the parameters. `Directions.path` has the
    recorded states, and `Directions.explained` tells how much of their movement the picture shows.
    Wherever a walk goes, most of its variance lies in a few components: a smooth spiral in them
    says little by itself.

    Li et al., Visualizing the loss landscape of neural nets, NeurIPS 2018, section 7; Antognini and
    Sohl-Dickstein, PCA of high dimensional random walks with comparison to neural network training,
    NeurIPS 2018.

    Args:
        model: Of the architecture of the states; its own parameters do not matter.
        states: What ``model.state_dict()`` gave during training, in order. Copies: a state dict
            shares the tensors of its model, which go on changing.
        count: 1 for a line, 2 for a plane.

    Raises:
        ValueError: `count` is neither.
        DataError: There are too few states, they are of another architecture, or all the same.

    >>> model = nn.Linear(1, 1)
    >>> states = [{"weight": torch.tensor([[w]]), "bias": torch.zeros(1)} for w in (3.0, 2.0, 0.0)]
    >>> found = trajectory_directions(model, states, 1)
    >>> np.abs(found.path).ravel().tolist(), found.explained
    ([3.0, 2.0, 0.0], (1.0,))
    """
    if count not in (1, 2):
        raise ValueError(f"count must be 1 for a line or 2 for a plane, got {count}")
    taken = [take_state(model, state, f"state {k}") for k, state in enumerate(states)]
    if len(taken) <= count:
        raise DataError(
            f"states must be more than the {count} directions that are to be found, got "
            f"{len(taken)}: record more of the training"
        )
    last = taken[-1]
    flat = [torch.cat([(own[name] - last[name]).flatten() for name in last]) for own in taken[:-1]]
    moves = torch.stack(flat)
    # Of the few states, not of the many parameters.
    gram = (moves.double() @ moves.double().T).cpu().numpy()
    strengths, combinations = np.linalg.eigh(gram)
    strengths, combinations = strengths[::-1].clip(0), combinations[:, ::-1]
    if strengths[count - 1] <= 1e-12 * max(strengths[0], 1e-300):
        raise DataError(
            f"the states must differ in {count} directions, and do not: give copies, as "
            "{name: value.clone() for name, value in model.state_dict().items()}, or count=1"
        )
    lengths = np.sqrt(strengths[:count])
    weights = torch.from_numpy((combinations[:, :count] / lengths).T.copy())
    found = (weights.to(moves) @ moves).split(1)
    path = np.vstack([combinations[:, :count] * lengths, np.zeros((1, count))])
    explained = tuple((strengths[:count] / strengths.sum()).tolist())
    return Directions(
        vectors=tuple(_shape(vector[0], last) for vector in found),
        labels=tuple(f"component {k + 1} of the training, L2 distance" for k in range(count)),
        ranges=tuple(_reach(column) for column in path.T),
        method=f"principal components of {len(taken)} states, as unit vectors",
        origin=last,
        path=path,
        explained=explained,
    )


def _shape(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = flat.split([value.numel() for value in like.values()])
    return {
        name: part.view(value.shape).to(value.dtype)
        for part, (name, value) in zip(parts, like.items(), strict=True)
    }


def _reach(column: np.ndarray) -> tuple[float, float]:
    low, high = float(column.min()), float(column.max())
    margin = _MARGIN * (high - low)
    return low - margin, high + margin
