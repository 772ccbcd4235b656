"""The parameters of a model that a diagnostic moves."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stratascope.errors import DataError


def list_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """List the trainable parameters by name, each once, however many modules share it.

    Raises:
        ValueError: The model has none, or one that has no values yet.

    >>> list(list_parameters(nn.Linear(2, 1)))
    ['weight', 'bias']
    """
    found = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not found:
        raise ValueError(
            "the model must have trainable parameters, got none: set requires_grad=True on those "
            "that are to be moved"
        )
    for name, value in found.items():
        if is_lazy(value):
            raise ValueError(
                f"the model's parameters must have values, got none yet for {name!r}: run the "
                "model once first"
            )
    return found


def widen(value: Tensor) -> Tensor:
    """Detach a tensor, in a type in which small steps are not lost: at least float32."""
    value = value.detach()
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def take_state(
    model: nn.Module, state: Mapping[str, Tensor], name: str = "the state"
) -> dict[str, Tensor]:
    """Take the trainable parameters of a model out of a state dict.

    Raises:
        DataError: One is missing, or has another shape.
    """
    taken: dict[str, Tensor] = {}
    for key, own in list_parameters(model).items():
        if key not in state:
            raise DataError(
                f"{name} must hold every parameter of the model, and lacks {key!r}: give what "
                "model.state_dict() gave of this architecture"
            )
        if state[key].shape != own.shape:
            raise DataError(
                f"{name} must be of this architecture, got {tuple(state[key].shape)} for "
                f"{key!r}, which is {tuple(own.shape)} in the model"
            )
        taken[key] = widen(state[key].to(own.device, copy=True))
    return taken
