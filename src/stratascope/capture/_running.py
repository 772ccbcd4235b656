"""What is running at this moment, as a hook cannot be told."""

import inspect
import sys
from threading import get_ident
from types import FrameType

import torch
from torch import nn

from stratascope.errors import CaptureError

# The one frame that every call of a module leaves on the stack.
_CALL_CODE = nn.Module._call_impl.__code__  # pyright: ignore[reportPrivateUsage]

_current_graph_task = torch._C._current_graph_task_id  # pyright: ignore[reportPrivateUsage]


def in_backward() -> bool:
    """Tell whether a backward runs: there, checkpointing runs parts of a forward once more."""
    return _current_graph_task() != -1


def is_nested(module: nn.Module) -> bool:
    """Tell whether a module's forward is running further up this stack."""
    return _count_calls(module, inspect.currentframe()) > 1


def refuse_second_thread(module: nn.Module, first: int) -> None:
    """Make sure that no other thread runs a module's forward.

    Args:
        module: The module.
        first: The thread that began its forward last; it may have been interrupted since.

    Raises:
        CaptureError: That thread is another one, and is still in the forward.
    """
    if first == get_ident():
        return
    frame = sys._current_frames().get(first)  # pyright: ignore[reportPrivateUsage]
    if _count_calls(module, frame) > 0:
        raise CaptureError(
            "a tapped model must run in one thread at a time, got a second one: give each thread "
            "a copy of the model with its own tap, or put a lock around the forward"
        )


def _count_calls(module: nn.Module, frame: FrameType | None) -> int:
    running = 0
    while frame is not None:
        if frame.f_code is _CALL_CODE and frame.f_locals.get("self") is module:
            running += 1
        frame = frame.f_back
    return running
