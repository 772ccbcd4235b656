"""Convolutions that do the work of the batch normalisation behind them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BatchNorm = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True, eq=False, slots=True)
class Fold:
    """A convolution of a copied model, and what its weights are made of at each point."""

    conv: nn.Module
    weight: Tensor
    bias: Tensor | None
    norm: Any

    def apply(self) -> None:
        """Write into the convolution what it and the normalisation do together."""
        norm = self.norm
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean if self.bias is None else self.bias - norm.running_mean
        shift = shift * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        axis = 1 if isinstance(self.conv, _TRANSPOSED) else 0
        shape = [1] * self.weight.ndim
        shape[axis] = -1
        self.conv.weight.copy_(self.weight * scale.view(shape))  # pyright: ignore
        self.conv.bias.copy_(shift)  # pyright: ignore


def find_pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Find the convolutions whose output goes, as it is, into a batch normalisation.

    Whether it goes anywhere else too, a forward does not tell: compare what comes out.

    >>> model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU()).eval()
    >>> find_pairs(model, torch.zeros(1, 1, 8))
    [('0', '1')]
    """
    calls: dict[str, int] = {}
    made: list[tuple[Tensor, str]] = []
    pairs: list[tuple[str, str]] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        if not isinstance(module, _BatchNorm):
            made.append((output, name))
        elif inputs:
            pairs.extend((conv, name) for value, conv in made if value is inputs[0])

    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: note(name, module, inputs, output)
        )
        for name, module in model.named_modules()
        if _is_foldable(module)
    ]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)]


def fold(model: nn.Module, pairs: list[tuple[str, str]]) -> list[Fold]:
    """Take batch normalisations out of a copied model; `Fold.apply` has convolutions do it."""
    folds: list[Fold] = []
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        own = dict(conv.named_parameters(recurse=False))
        weight, bias = own["weight"], own.get("bias")
        conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        conv.bias = nn.Parameter(weight.new_zeros(norm.num_features), requires_grad=False)  # pyright: ignore
        folds.append(Fold(conv=conv, weight=weight, bias=bias, norm=norm))
        parent, _, own = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), own, nn.Identity())
    return folds


def _is_foldable(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None
    if not isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)):
        return False
    # A weight that is computed at each call, as by weight normalisation, is no parameter.
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    grouped = isinstance(module, _TRANSPOSED) and module.groups > 1
    return not grouped and weight is not None and weight.dtype in (torch.float32, torch.float64)
