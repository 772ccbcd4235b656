"""Muon for any network: matrices by Muon, the rest by AdamW."""

# What PyTorch calls its operations on many tensors at once begins with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import math
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from stratascope.diagnose._lamb import check_settings
from stratascope.diagnose._moments import Closure, advance_moments, evaluate, list_active

# Jordan et al. (2024): chosen for speed, so that singular values come to lie about 1, not at it.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_ADAM: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8}


@final
class Muon(Optimizer):
    """Muon: momentum made orthogonal, for matrices and kernels of convolutions.

    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon. A parameter of shape
    ``(out, ...)`` is taken as a matrix ``(out, -1)``; for those of two dimensions a step is that of
    ``torch.optim.Muon``, which refuses all others. Groups with ``orthogonal=False``, meant for
    biases, normalisation, embeddings and the last layer, take steps of AdamW, at a learning rate
    smaller by ``adam_scale``. Muon is a first-order method: the orthogonal factor is one of the
    momentum, not of a Hessian.

    Args:
        params: Parameters, pairs of name and parameter, or groups of either. Parameters of fewer
            than two dimensions take steps of AdamW in any group.
        lr: Learning rate. The step of a matrix ``(a, b)`` is larger by ``sqrt(max(1, a / b))``.
        momentum: How much of the momentum is kept at each step; Nesterov's kind.
        weight_decay: Decoupled from the gradient, as in AdamW.
        orthogonal: Whether a group's matrices take steps of Muon.
        adam_scale: What the learning rate is multiplied by where AdamW takes the steps.

    Raises:
        ValueError: An argument is out of its range, or a gradient is sparse.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    >>> muon = Muon(net.parameters(), lr=0.02)
    >>> net(torch.randn(2, 3, 8, 8)).square().mean().backward()
    >>> muon.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        orthogonal: bool = True,
        adam_scale: float = 0.05,
    ) -> None:
        check_settings(lr, (momentum, *_ADAM["betas"]), _ADAM["eps"], weight_decay)
        settings = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "orthogonal": orthogonal,
            "adam_scale": adam_scale,
        }
        super().__init__(params, settings | _ADAM)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Args:
            closure: Computes the loss and its gradients anew; not needed.
        """
        loss = evaluate(closure)
        for group in self.param_groups:
            params, grads = list_active(self, group)
            others = []
            for param, grad in zip(params, grads, strict=True):
                if group["orthogonal"] and param.ndim >= 2:
                    self._step_matrix(group, param, grad)
                else:
                    others.append(param)
            if others:
                lr = group["lr"] * group["adam_scale"]
                updates = advance_moments(self, group, others, [param.grad for param in others])
                torch._foreach_mul_(others, 1 - lr * group["weight_decay"])
                torch._foreach_add_(others, updates, alpha=-lr)
        return loss

    def _step_matrix(self, group: dict[str, Any], param: Tensor, grad: Tensor) -> None:
        state, keep = self.state[param], group["momentum"]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(grad)
        momentum = state["momentum"].lerp_(grad, 1 - keep)
        update = grad.lerp(momentum, keep).flatten(1)
        rows, columns = update.shape
        scale = math.sqrt(max(1, rows / columns))
        param.mul_(1 - group["lr"] * group["weight_decay"])
        step = orthogonalise(update).to(param.dtype).view_as(param)
        param.add_(step, alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1, by five Newton-Schulz steps in bfloat16."""
    a, b, c = _QUINTIC
    turned = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16()
    x = x.T if turned else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if turned else x
