"""Which statistics batch normalisation uses while its network is moved."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import nn

from stratascope.sites import suggest

BatchNorm = Literal["frozen", "batch", "recalibrated"]

_BatchNorm = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]


def check_batchnorm(batchnorm: str) -> None:
    """Refuse what is no mode.

    Raises:
        ValueError: It is none.
    """
    modes = get_args(BatchNorm)
    if batchnorm not in modes:
        raise ValueError(
            f"batchnorm must be one of {', '.join(map(repr, modes))}, got {batchnorm!r}."
            f"{suggest(str(batchnorm), modes)}"
        )


def list_batchnorms(model: nn.Module) -> list[nn.Module]:
    """List the modules that have running statistics of batches, which a move makes stale."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def set_modes(model: nn.Module, batchnorm: str) -> None:
    """Put a model into evaluation mode, with batch normalisation as asked; dropout is off."""
    model.eval()
    for module in list_batchnorms(model):
        module.train(batchnorm == "batch")


@contextmanager
def recalibrating(model: nn.Module) -> Generator[None]:
    """Gather running statistics anew from the batches that the model is run on meanwhile.

    Afterwards they are the averages over these batches, each of which counts the same.
    """
    modules = list_batchnorms(model)
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.reset_running_stats()  # pyright: ignore[reportCallIssue]
        # torch's word for the average over all batches so far.
        module.momentum = None  # pyright: ignore[reportArgumentType]
        module.train()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.momentum = momentum
            module.eval()
