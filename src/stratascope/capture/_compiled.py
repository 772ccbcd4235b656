"""Compiled models: hooks that came after the compilation are not in the compiled code."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from stratascope.capture._hooks import ReplacedForward


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
            plain = module._call_impl  # pyright: ignore[reportPrivateUsage]
            handles.append(_replace(module, plain, "_compiled_call_impl"))
        # Not the attribute: TorchScript keeps its modules in something that is no dict.
        plain = getattr(module, "_orig_mod", None)
        if plain is not None:
            handles.append(_replace(module, plain.__call__, "forward"))
    if handles:
        warnings.warn(
            "the model is compiled: while it is tapped it runs as plain Python, since a compiled "
            "graph calls no hooks",
            stacklevel=4,
        )
    return handles


def _replace(module: nn.Module, plain: Callable[..., Any], attribute: str) -> ReplacedForward:
    return ReplacedForward(module, lambda _: plain, attribute)
