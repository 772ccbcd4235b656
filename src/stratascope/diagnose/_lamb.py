"""LAMB, with the trust ratios of its layers in sight."""

# What PyTorch calls its operations on many tensors at once begins with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from stratascope.diagnose._moments import Closure, advance_moments, evaluate, list_active


@final
class Lamb(Optimizer):
    """LAMB: Adam's direction, scaled layer by layer to the norm of the weights.

    You et al. (2020), *Large batch optimization for deep learning: training BERT in 76 minutes*,
    Algorithm 2. With Adam's direction ``r`` and weights ``x``, a step is

    ``x - lr * φ(‖x‖) / ‖r + λ x‖ * (r + λ x)``,

    where φ bounds the norm by ``clip``, or leaves it. The quotient is the trust ratio. It is 1
    where either norm is 0, and in groups with ``adapt=False``: biases and the weights of
    normalisation, in the authors' code. LAMB is a first-order method: it never sees curvature.

    Gradients are not clipped; do that before the step if it is wanted.

    Args:
        params: Parameters, pairs of name and parameter, or groups of either. A group may have
            values of its own for all that follows.
        lr: Learning rate.
        betas: How much of the first and second moment is kept at each step.
        eps: Added to the root of the second moment.
        weight_decay: λ.
        adapt: Whether to scale by the trust ratio.
        clip: Lower and upper bound of the norm of the weights; None for no bounds.
        bias_correction: Whether to correct the moments for their start at zero, as the paper's
            Algorithm 2 does and its early versions and some implementations do not.

    Raises:
        ValueError: An argument is out of its range, or a gradient is sparse.

    >>> layer = torch.nn.Linear(4, 3)
    >>> lamb = Lamb(layer.named_parameters(), lr=0.01, weight_decay=0.1)
    >>> layer(torch.ones(2, 4)).square().sum().backward()
    >>> lamb.step()
    >>> list(lamb.trust_ratios())
    ['weight', 'bias']
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        adapt: bool = True,
        clip: tuple[float, float] | None = None,
        bias_correction: bool = True,
    ) -> None:
        check_settings(lr, betas, eps, weight_decay)
        if clip is not None and not 0 <= clip[0] <= clip[1]:
            raise ValueError(f"clip must be (lower, upper) with 0 <= lower <= upper, got {clip}")
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adapt": adapt,
            "clip": clip,
            "bias_correction": bias_correction,
        }
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Args:
            closure: Computes the loss and its gradients anew; not needed.
        """
        loss = evaluate(closure)
        for group in self.param_groups:
            params, grads = list_active(self, group)
            if not params:
                continue
            updates = advance_moments(self, group, params, grads)
            torch._foreach_add_(updates, params, alpha=group["weight_decay"])
            ratios = [torch.ones((), device=param.device) for param in params]
            if group["adapt"]:
                ratios = _find_ratios(params, updates, group["clip"])
                torch._foreach_mul_(updates, ratios)
            for param, ratio in zip(params, ratios, strict=True):
                self.state[param]["trust_ratio"] = ratio
            torch._foreach_add_(params, updates, alpha=-group["lr"])
        return loss

    def trust_ratios(self) -> dict[str, float]:
        """Give the trust ratio of each parameter at the last step, by name.

        Parameters that came without names are called ``group.number``; those that took no step yet
        are left out.
        """
        found: dict[str, float] = {}
        for place, group in enumerate(self.param_groups):
            names = group.get("param_names") or [
                f"{place}.{number}" for number in range(len(group["params"]))
            ]
            for name, param in zip(names, group["params"], strict=True):
                if "trust_ratio" in self.state[param]:
                    found[name] = self.state[param]["trust_ratio"].item()
        return found


def check_settings(lr: float, kept: tuple[float, ...], eps: float, weight_decay: float) -> None:
    """Refuse settings that no method with moments can use."""
    for name, value in [("lr", lr), ("eps", eps), ("weight_decay", weight_decay)]:
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not all(0 <= share < 1 for share in kept):
        raise ValueError(f"betas and momentum must be at least 0 and below 1, got {kept}")


def _find_ratios(
    params: list[Tensor], updates: list[Tensor], clip: tuple[float, float] | None
) -> list[Tensor]:
    weights = torch._foreach_norm(params, dtype=_precise(params[0]))
    steps = torch._foreach_norm(updates, dtype=_precise(updates[0]))
    ratios = []
    for weight, step in zip(weights, steps, strict=True):
        bounded = weight if clip is None else weight.clamp(*clip)
        ratio = bounded / step
        ratios.append(torch.where((weight > 0) & (step > 0), ratio, torch.ones_like(ratio)))
    return ratios


def _precise(tensor: Tensor) -> torch.dtype:
    # The square of a norm overflows in half precision.
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
