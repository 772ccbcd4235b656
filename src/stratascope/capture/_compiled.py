"""Compiled models: hooks that came after the compilation are not in the compiled code."""

import sys
import warnings
from typing import Any

from torch import nn

from stratascope.capture._hooks import ReplacedForward


class _PlainCall:
    """A module whose own ``compile()`` is put aside, until it is removed."""

    def __init__(self, module: nn.Module) -> None:
        self._module: nn.Module | None = module
        self._compiled = vars(module)["_compiled_call_impl"]
        del module._compiled_call_impl  # pyright: ignore[reportPrivateUsage]

    def remove(self) -> None:
        """Let the module run compiled again. Idempotent."""
        module, self._module = self._module, None
        if module is not None:
            module._compiled_call_impl = self._compiled  # pyright: ignore[reportPrivateUsage]


def run_uncompiled(model: nn.Module) -> list[Any]:
    """Let compiled modules of a model run as plain Python, and say so.

    Returns:
        Handles; when all are removed the modules run compiled again, without a new compilation.
    """
    handles: list[Any] = []
    # Where the compiler was never imported, nothing can be compiled.
    if "torch._dynamo" not in sys.modules:
        return handles
    for module in model.modules():
        if vars(module).get("_compiled_call_impl") is not None:
            handles.append(_PlainCall(module))
        # Not the attribute: TorchScript keeps its modules in something that is no dict.
        plain = getattr(module, "_orig_mod", None)
        if plain is not None:
            handles.append(ReplacedForward(module, lambda _, plain=plain: plain.__call__))
    if handles:
        warnings.warn(
            "the model is compiled: while it is tapped it runs as plain Python, since a compiled "
            "graph calls no hooks",
            stacklevel=4,
        )
    return handles
