"""Running a model for its activations without changing what it was."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation mode, and give every module its own flag back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        # Flag by flag: model.train() would lose a mixture, such as a frozen BatchNorm.
        for module, training in flags:
            module.training = training


@contextmanager
def probing(model: nn.Module) -> Generator[None]:
    """Run a model for a look only: evaluation mode, no gradients, the random state kept."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), evaluating(model), torch.no_grad():
        yield


@contextmanager
def uncompiled() -> Generator[None]:
    """Run compiled parts as plain Python, since inside a compiled graph nothing can be seen."""
    # Where nothing has been compiled, the compiler need not even be imported.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class ReplacedForward:
    """Another forward on one model, until it is removed.

    Args:
        model: The network.
        replacement: Takes the model's own forward and gives the one to run instead.
    """

    def __init__(
        self, model: nn.Module, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._model: nn.Module | None = model
        self._own = vars(model).get("forward")
        model.forward = replacement(model.forward)

    def remove(self) -> None:
        """Give the model its own forward back. Idempotent."""
        model, self._model = self._model, None
        if model is None:
            return
        if self._own is None:
            del model.forward
        else:
            model.forward = self._own
