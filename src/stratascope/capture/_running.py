"""What is running at this moment, as a hook cannot be told."""

import inspect

import torch
from torch import nn

# The one frame that every call of a module leaves on the stack.
_CALL_CODE = nn.Module._call_impl.__code__  # pyright: ignore[reportPrivateUsage]

_current_graph_task = torch._C._current_graph_task_id  # pyright: ignore[reportPrivateUsage]


def in_backward() -> bool:
    """Tell whether a backward runs: there, checkpointing runs parts of a forward once more."""
    return _current_graph_task() != -1


def is_nested(module: nn.Module) -> bool:
    """Tell whether a module's forward is running further up this stack."""
    running = 0
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is _CALL_CODE and frame.f_locals.get("self") is module:
            running += 1
        frame = frame.f_back
    return running > 1
