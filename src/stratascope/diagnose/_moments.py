"""What the own optimizers share: the closure, and the moments of Adam."""

# What PyTorch calls its operations on many tensors at once begins with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Closure = Callable[[], Tensor]


def evaluate(closure: Closure | None) -> Tensor | None:
    """Compute the loss and its gradients anew, if there is a way to."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def list_active(optimizer: Optimizer, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Give the parameters of a group that have a gradient, and the gradients.

    Raises:
        ValueError: A gradient is sparse.
    """
    params = [param for param in group["params"] if param.grad is not None]
    if any(param.grad.is_sparse for param in params):
        raise ValueError(
            f"the gradients of {type(optimizer).__name__} must be dense, got a sparse one: build "
            "the embedding with sparse=False"
        )
    return params, [param.grad for param in params]


def advance_moments(
    optimizer: Optimizer, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    """Take gradients into Adam's moments and give the directions ``m / (sqrt(v) + eps)``.

    Kingma & Ba (2015), Algorithm 1, with the correction of both moments for their start at zero
    unless the group's ``bias_correction`` is False. Each parameter counts its own steps.
    """
    beta1, beta2 = group["betas"]
    states = [optimizer.state[param] for param in params]
    for state, param in zip(states, params, strict=True):
        if "step" not in state:
            state.update(
                step=0,
                exp_avg=torch.zeros_like(param),
                exp_avg_sq=torch.zeros_like(param),
            )
        state["step"] += 1
    first = [state["exp_avg"] for state in states]
    second = [state["exp_avg_sq"] for state in states]
    torch._foreach_lerp_(first, grads, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
    divisors = torch._foreach_sqrt(second)
    corrects = group.get("bias_correction", True)
    steps = [state["step"] for state in states]
    torch._foreach_div_(divisors, [math.sqrt(1 - beta2**t) if corrects else 1.0 for t in steps])
    torch._foreach_add_(divisors, group["eps"])
    directions = torch._foreach_div(first, [1 - beta1**t if corrects else 1.0 for t in steps])
    torch._foreach_div_(directions, divisors)
    return list(directions)
