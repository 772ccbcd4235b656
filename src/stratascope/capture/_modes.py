"""Running a model for its activations without changing what it was."""

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import nn

from stratascope._random import keeping_random
from stratascope.capture._sharded import resharding


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Run a model in evaluation mode, and give every module its own flag back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        # What torch.export gave runs in the mode in which it was exported, and has no other.
        with suppress(NotImplementedError):
            model.eval()
        with resharding(model):
            yield
    finally:
        # Flag by flag: model.train() would lose a mixture, such as a frozen BatchNorm.
        for module, training in flags:
            module.training = training


@contextmanager
def keeping_buffers(model: nn.Module) -> Generator[None]:
    """Give a model its buffers back: some modules count in them in evaluation mode too."""
    kept = [(module, _list_buffers(module)) for module in model.modules()]
    values = [
        (buffer, buffer.detach().clone(), buffer._version)
        for _, buffers in kept
        for buffer in buffers.values()
        if buffer is not None and not buffer.is_inference()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before, written in values:
                # Only what was written: a write of ours would be one too for a pending backward.
                if buffer._version != written:
                    buffer.copy_(before)
        for module, buffers in kept:
            found = _list_buffers(module)
            for name in found.keys() - buffers.keys():
                delattr(module, name)
            for name, buffer in buffers.items():
                if found.get(name) is not buffer:
                    setattr(module, name, buffer)


def _list_buffers(module: nn.Module) -> dict[str, torch.Tensor | None]:
    # Not by named_buffers, which leaves out those that are None.
    return dict(module._buffers.items())  # pyright: ignore[reportPrivateUsage]


@contextmanager
def probing(model: nn.Module) -> Generator[None]:
    """Run a model for a look only, without gradients; its buffers and random state are kept."""
    with keeping_random(model), keeping_buffers(model), evaluating(model), torch.no_grad():
        yield


class _EagerStance:
    """The compiler's stance, which all threads share: set by the first, restored by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stance.__exit__(None, None, None)


_eager_stance = _EagerStance()


def beside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function that never becomes part of a compiled graph, whoever compiles around it."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def uncompiled() -> AbstractContextManager[None]:
    """Run compiled parts as plain Python, since inside a compiled graph nothing can be seen."""
    # Where nothing has been compiled, the compiler need not even be imported.
    return _eager_stance if "torch._dynamo" in sys.modules else nullcontext()
