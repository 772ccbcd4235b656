"""Matrices of curvature as functions of a vector: never formed, over all batches."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stratascope.diagnose._batchnorm import set_modes
from stratascope.diagnose._evaluate import Batch, read_number
from stratascope.diagnose._parameters import list_parameters
from stratascope.errors import DataError

_HALF = (torch.float16, torch.bfloat16)


class LossAt:
    """A loss over batches at the parameters of a copied model, which are one flat vector.

    Parameters in half precision are seen in float32, in which second derivatives survive. In
    evaluation mode, with the statistics of batch normalisation as asked.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Any],
        batches: Sequence[Batch],
        batchnorm: str,
    ) -> None:
        model = copy.deepcopy(model)
        if any(value.dtype in _HALF for value in model.parameters()):
            model = model.float()
            batches = [tuple(map(_widen, pair)) for pair in batches]  # pyright: ignore
        set_modes(model, batchnorm)
        self._model = model
        self._loss = loss
        self._batches = batches
        self.samples = sum(len(x) for x, _ in batches)
        self.parameters = list_parameters(model)
        self._list = list(self.parameters.values())
        self.size = sum(value.numel() for value in self._list)
        squares = [float(value.detach().double().square().sum()) for value in self._list]
        self.norm = sum(squares) ** 0.5

    @property
    def like(self) -> Tensor:
        """A tensor of the type and on the device of the parameters."""
        return self._list[0]

    def split(self, flat: Tensor) -> list[Tensor]:
        """Cut a flat vector into the shapes of the parameters."""
        parts = flat.split([value.numel() for value in self._list])
        return [
            part.view(value.shape).to(value.dtype)
            for part, value in zip(parts, self._list, strict=True)
        ]

    def evaluate(self, moved: Tensor | None = None) -> float:
        """Give the loss, where the parameters are moved by a flat vector."""
        with torch.no_grad():
            return self._at(moved, lambda: self._sum(lambda x, y: float(self._run(x, y))))

    def gradient(self, moved: Tensor | None = None) -> Tensor:
        """Give the gradient as a flat vector, where the parameters are moved."""
        return self._at(
            moved,
            lambda: self._sum(lambda x, y: _flatten(self._derive(self._run(x, y)))),
        )

    def hessian(self, vector: Tensor) -> Tensor:
        """Multiply the Hessian of the loss with a flat vector. Pearlmutter 1994."""

        def multiply(x: Tensor, y: Tensor) -> Tensor:
            slopes = self._derive(self._run(x, y), create_graph=True)
            along = sum(
                ((slope * part).sum() for slope, part in zip(slopes, parts, strict=True)),
                start=self.like.new_zeros(()),
            )
            return _flatten(self._derive(along) if along.requires_grad else parts_of_zero)

        parts = self.split(vector)
        parts_of_zero = [torch.zeros_like(value) for value in self._list]
        return self._sum(multiply)

    def gauss_newton(self, vector: Tensor) -> Tensor:
        """Multiply the generalised Gauss–Newton matrix with a flat vector. Schraudolph 2002."""

        def multiply(x: Tensor, y: Tensor) -> Tensor:
            output = self._model(x)
            # The derivative of a product with any vector gives the other product.
            probe = torch.zeros_like(output, requires_grad=True)
            pulled = self._derive(output, probe, create_graph=True)
            (pushed,) = torch.autograd.grad(pulled, probe, parts, retain_graph=True)
            free = output.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._value(free, y), free, create_graph=True)
            if not slope.requires_grad:
                return vector.new_zeros(self.size)
            (bent,) = torch.autograd.grad(slope, free, pushed.detach())
            return _flatten(self._derive(output, bent))

        parts = self.split(vector)
        return self._sum(multiply)

    def _run(self, x: Tensor, y: Tensor) -> Tensor:
        return self._value(self._model(x), y)

    def _value(self, output: Tensor, y: Tensor) -> Tensor:
        found = self._loss(output, y)
        if not isinstance(found, Tensor) or found.numel() != 1:
            read_number(found, "loss")
            raise DataError("the loss must be a tensor that can be derived, got a number")
        return found.reshape(())

    def _derive(
        self, value: Tensor, weight: Tensor | None = None, *, create_graph: bool = False
    ) -> list[Tensor]:
        if not value.requires_grad:
            raise DataError(
                "the loss must depend on the parameters by operations that can be derived, and "
                "does not: leave out .detach(), .item() and torch.no_grad()"
            )
        found = torch.autograd.grad(
            value, self._list, weight, create_graph=create_graph,
            retain_graph=create_graph, materialize_grads=True,
        )  # fmt: skip
        return list(found)

    def _sum(self, of_batch: Callable[[Tensor, Tensor], Any]) -> Any:
        """Average over all samples what is an average over those of a batch."""
        total: Any = 0.0
        for x, y in self._batches:
            total = total + of_batch(x, y) * (len(x) / self.samples)
        return total

    def _at(self, moved: Tensor | None, find: Callable[[], Any]) -> Any:
        if moved is None:
            return find()
        kept = [value.detach().clone() for value in self._list]
        with torch.no_grad():
            for value, part in zip(self._list, self.split(moved), strict=True):
                value.add_(part)
        try:
            return find()
        finally:
            with torch.no_grad():
                for value, before in zip(self._list, kept, strict=True):
                    value.copy_(before)


def _flatten(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def _widen(value: Tensor) -> Tensor:
    return value.float() if value.dtype in _HALF else value
