"""Watching chosen operations of a model's forwards, for a tap that wants some."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from stratascope.capture._activations import Key
from stratascope.capture._hooks import Hook, ReplacedForward
from stratascope.capture._modes import uncompiled
from stratascope.capture._operations import (
    Function,
    OperationMode,
    OperationNames,
    find_given,
    find_written,
    proceed,
)
from stratascope.capture._structure import name_arguments
from stratascope.sites import ModuleTable, Port


class OperationWatch:
    """Hands over what chosen operations take and give; attached until it is removed.

    While it is attached the model has another forward, in which every call of torch is looked at,
    and every module tells when it begins and ends, as operations are named by where they run.

    Args:
        table: The model's modules.
        wanted: The operations by name and port.
        owners: Paths of the modules in whose forwards they run.
        keep: Takes a key and a value: an output, or the arguments of an operation.
        follow: Takes a key and an output whose gradient is wanted.
    """

    def __init__(
        self,
        table: ModuleTable,
        *,
        wanted: Collection[tuple[str, Port]],
        owners: Collection[str],
        keep: Callable[[Key, Any], None],
        follow: Callable[[Key, Any], None],
    ) -> None:
        self._wanted = frozenset(wanted)
        self._owners = frozenset(owners)
        self._keep = keep
        self._follow = follow
        self._names = OperationNames()
        self._paths: list[str] = []
        self._running = False
        self.ran: dict[str, None] = {}
        self._handles: list[Any] = []
        for path, module in table.modules.items():
            if path and not isinstance(module, torch.jit.ScriptModule):
                self._handles += self._attach(path, module)
        self._handles.append(ReplacedForward(table.modules[""], self._watch_forward))

    def remove(self) -> None:
        """Leave the model as it was. Idempotent."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _attach(self, path: str, module: nn.Module) -> list[Any]:
        def enter(module: nn.Module, args: Any) -> None:
            self._paths.append(path)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            # A call that a caught exception ended early is still on top of the one that ends now.
            while self._paths and self._paths.pop() != path:
                pass

        return [
            module.register_forward_pre_hook(Hook(enter), prepend=True),
            module.register_forward_hook(Hook(leave)),
        ]

    def _watch_forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched_forward(*args: Any, **kwargs: Any) -> Any:
            # A model that calls itself is one forward.
            if self._running:
                return forward(*args, **kwargs)
            self._names = OperationNames()
            self._paths.clear()
            self._running = True
            try:
                with uncompiled(), OperationMode(self._run):
                    return forward(*args, **kwargs)
            finally:
                self._running = False

        return watched_forward

    def _run(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = self._paths[-1] if self._paths else ""
        if owner not in self._owners:
            return proceed(function, args, kwargs)
        name = self._names.peek(owner, function)
        # Before it runs, since it may write into what it takes.
        if (name, "in") in self._wanted:
            self._keep((name, "in", 1), _arrange(args, kwargs))
        output = proceed(function, args, kwargs)
        given = find_given(output, find_written(function, args, kwargs))
        if given is not None:
            self._names.next(owner, function)
            self.ran[name] = None
            if (name, "out") in self._wanted:
                self._keep((name, "out", 1), given)
            if (name, "grad") in self._wanted:
                self._follow((name, "grad", 1), given)
        return output


def _arrange(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give the arguments of an operation as a tuple, named ones as a dict after the positions."""
    return name_arguments(args, kwargs) if kwargs else args
