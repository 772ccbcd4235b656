"""Watching one forward: operations through a torch function mode, modules through hooks."""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import resolve_name

from stratascope.capture._activations import Recording, list_further_names
from stratascope.capture._backward import BackwardWatch
from stratascope.capture._flops import count_flops
from stratascope.capture._hooks import Hook
from stratascope.capture._measure import (
    MemoryWatch,
    count_nonfinite,
    describe,
    storage_address,
    summarise,
)
from stratascope.capture._modes import uncompiled
from stratascope.capture._operations import (
    Function,
    OperationMode,
    OperationNames,
    gives_tensor,
    name_function,
    proceed,
)
from stratascope.capture._records import ModuleCall, Operation
from stratascope.capture._snapshot import leave_parameters, snapshot, unshare
from stratascope.capture._structure import collect_tensors, count_bytes, map_tensors
from stratascope.sites import ROOT_NAME, ModuleTable, class_name, class_names

MODEL_INPUT = -1
# What is read of tensors in the hooks of modules is no operation of the network.
DisableTorchFunction = torch._C.DisableTorchFunction  # pyright: ignore[reportPrivateUsage]
_NOT_USERS = (os.path.dirname(torch.__file__), os.path.dirname(__file__))


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How much of a forward is recorded.

    Attributes:
        operations: Record the operations, not only the calls of modules.
        keep_modules: Keep what modules put out.
        keep_operations: Keep what operations give.
        max_bytes: Keep no more than so many bytes a forward.
        nonfinite: Look for NaN and Inf in what operations give.
        statistics: Summarise what operations give.
        backward: Record the operations of the backward, too.
    """

    operations: bool
    keep_modules: bool
    keep_operations: bool
    max_bytes: float
    nonfinite: bool
    statistics: bool
    backward: bool


@dataclass(slots=True)
class _Running:
    """A module whose forward has begun."""

    path: str
    began: float
    first: int


@dataclass(slots=True)
class Forward:
    """What is known of the forward that runs now."""

    operations: list[Operation] = field(default_factory=list)
    modules: list[ModuleCall] = field(default_factory=list)
    recording: Recording = field(default_factory=Recording)
    names: OperationNames = field(default_factory=OperationNames)
    producers: dict[int, tuple[ref[Tensor], int]] = field(default_factory=dict)
    stack: list[_Running] = field(default_factory=list)
    started: dict[str, None] = field(default_factory=dict)
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    shared: dict[int, tuple[StorageWeakRef, list[Tensor]]] = field(default_factory=dict)
    backward: BackwardWatch | None = None
    seconds: float = 0.0
    kept_bytes: int = 0
    left_out: int = 0


class Recorder:
    """Records forwards of one model, one at a time.

    Args:
        model: The network.
        depth: How much to record.
    """

    def __init__(self, model: nn.Module, depth: Depth) -> None:
        table = ModuleTable(model)
        self._model = table.modules[""]
        # TorchScript takes no hooks; a call of it is not seen, but what goes in and comes out is.
        self._modules = {
            path: module
            for path, module in table.modules.items()
            if not isinstance(module, torch.jit.ScriptModule)
        }
        self._aliases = list_further_names(table)
        self._depth = depth
        self._keeps = depth.keep_modules or depth.keep_operations
        self._now = Forward()
        self.running = False

    @contextmanager
    def attached(self) -> Generator[None]:
        """Follow the calls of all modules while a block runs."""
        handles: list[Any] = []
        try:
            for path, module in self._modules.items():
                begin, end = self._make_hooks(path)
                handles.append(module.register_forward_pre_hook(Hook(begin), prepend=True))
                handles.append(module.register_forward_hook(Hook(end)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def record(
        self, call: Callable[[], Any], inputs: tuple[Any, ...], *, inside: bool
    ) -> tuple[Forward, Any]:
        """Run one forward and give what it did and what it returned.

        Args:
            call: Runs it.
            inputs: What goes into it.
            inside: Whether it is the model's own ``forward`` that is called; the hooks of the
                model, which belong to the call of the model, have then been passed already.
        """
        depth = self._depth
        by_hand = inside or "" not in self._modules
        now = self._now = Forward(recording=Recording(aliases=self._aliases))
        if depth.backward:
            now.backward = BackwardWatch(nonfinite=depth.nonfinite, statistics=depth.statistics)
        _note_producer(now, collect_tensors(inputs), MODEL_INPUT)
        self.running = True
        try:
            with ExitStack() as modes:
                modes.enter_context(uncompiled())
                if depth.operations:
                    modes.enter_context(OperationMode(self._run))
                began = time.perf_counter()
                if by_hand:
                    now.started[""] = None
                    now.stack.append(_Running("", began, 0))
                output = call()
                now.seconds = time.perf_counter() - began
            if by_hand:
                self._end_module("", self._model, output)
            self._number_classes()
        finally:
            self.running = False
            # The snapshots are the caller's now.
            now.shared.clear()
            if now.backward is not None:
                now.backward.forget_graph()
        return now, output

    def _make_hooks(self, path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def begin(module: nn.Module, args: Any) -> None:
            if self.running:
                now = self._now
                now.started[path] = None
                now.stack.append(_Running(path, time.perf_counter(), len(now.operations)))

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if self.running:
                self._end_module(path, module, output)

        return begin, end

    def _number_classes(self) -> None:
        """Tell which module was the k-th of its class to run."""
        ran: dict[str, int] = {}
        for path in self._now.started:
            for name in class_names(self._modules.get(path, self._model)):
                ran[name] = ran.get(name, 0) + 1
                self._now.recording.ordinals[name, ran[name]] = path

    def _end_module(self, path: str, module: nn.Module, output: Any) -> None:
        ended = time.perf_counter()
        now = self._now
        # A call that a caught exception ended early is still on top of the one that ends now.
        while now.stack and now.stack[-1].path != path:
            now.stack.pop()
        if not now.stack:
            return
        running = now.stack.pop()
        with DisableTorchFunction():
            outputs = describe(collect_tensors((output,)))
        now.modules.append(
            ModuleCall(
                name=path or ROOT_NAME,
                kind=class_name(module),
                depth=len(now.stack),
                first=running.first,
                stop=len(now.operations),
                seconds=ended - running.began,
                outputs=outputs,
            )
        )
        counts = now.recording.counts
        call = counts[path, "out"] = counts.get((path, "out"), 0) + 1
        if self._depth.keep_modules:
            self._keep(path, call, output)

    def _run(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        writes = _writes(function, kwargs)
        if writes and self._keeps:
            self._copy_before_write(args)
        began = time.perf_counter()
        output = proceed(function, args, kwargs)
        seconds = time.perf_counter() - began
        if gives_tensor(output):
            self._note(function, args, kwargs, output, seconds, writes=writes)
        return output

    def _note(
        self,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        seconds: float,
        *,
        writes: bool,
    ) -> None:
        now, depth = self._now, self._depth
        path = now.stack[-1].path if now.stack else ""
        inputs = collect_tensors(args)
        if kwargs:
            inputs += collect_tensors(kwargs.values())
        outputs = collect_tensors((output,))
        index = len(now.operations)
        nans, infs = count_nonfinite(outputs) if depth.nonfinite else (None, None)
        operation = Operation(
            index=index,
            name=now.names.next(path, function),
            function=_name_fully(function),
            module=path,
            inputs=describe(inputs),
            outputs=describe(outputs),
            parents=_find_parents(now, inputs),
            in_place=writes,
            source=_find_source(),
            seconds=seconds,
            new_bytes=now.memory.follow(inputs, outputs),
            flops=count_flops(name_function(function), args, kwargs, output),
            nans=nans,
            infs=infs,
            input_summaries=summarise(inputs) if nans or infs else (),
            output_summaries=summarise(outputs) if depth.statistics else (),
        )
        now.operations.append(operation)
        _note_producer(now, outputs, index)
        if now.backward is not None:
            now.backward.follow(operation, outputs)
        if depth.keep_operations:
            now.recording.counts[operation.name, "out"] = 1
            self._keep(operation.name, 1, output)

    def _keep(self, path: str, call: int, value: Any) -> None:
        now = self._now
        with DisableTorchFunction():
            size = count_bytes(value)
        if now.kept_bytes + size > self._depth.max_bytes:
            now.left_out += 1
            return
        now.kept_bytes += size
        now.recording.values[path, "out", call] = map_tensors(self._take, value)

    def _take(self, tensor: Tensor) -> Tensor:
        # A tensor of another class may have its own way to be detached and copied.
        if type(tensor) is not Tensor:
            return snapshot(leave_parameters(tensor).detach())
        with DisableTorchFunction():
            taken = snapshot(leave_parameters(tensor).detach())
            if (address := storage_address(tensor)) is not None:
                shared = self._now.shared
                if address not in shared:
                    # The weak reference keeps the address from being given to another storage.
                    shared[address] = (StorageWeakRef(tensor.untyped_storage()), [])
                shared[address][1].append(taken)
        return taken

    def _copy_before_write(self, args: tuple[Any, ...]) -> None:
        # Left to itself, torch would copy when the write comes, on one core only.
        if args and isinstance(args[0], Tensor):
            address = storage_address(args[0])
            if address in self._now.shared:
                unshare(self._now.shared.pop(address)[1])


def _note_producer(now: Forward, tensors: list[Tensor], index: int) -> None:
    # By id and weak reference: a dictionary keyed by tensors would compare their values.
    for tensor in tensors:
        now.producers[id(tensor)] = (ref(tensor), index)


def _find_parents(now: Forward, inputs: list[Tensor]) -> tuple[int, ...]:
    parents: set[int] = set()
    for tensor in inputs:
        found = now.producers.get(id(tensor))
        if found is not None and found[0]() is tensor:
            parents.add(found[1])
    return tuple(sorted(parents))


@lru_cache(maxsize=4096)
def _name_fully(function: Function) -> str:
    return resolve_name(function) or name_function(function)


def _writes(function: Function, kwargs: dict[str, Any]) -> bool:
    if kwargs and (kwargs.get("inplace") or kwargs.get("out") is not None):
        return True
    name = getattr(function, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _find_source() -> str:
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_USERS):
            return f"{os.path.basename(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
