"""Running a model for its activations without changing what it was."""

import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation mode, and give every module its own flag back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        # What torch.export gave runs in the mode in which it was exported, and has no other.
        with suppress(NotImplementedError):
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
