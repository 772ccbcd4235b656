"""Watching one forward: operations through a torch function mode, modules through hooks."""

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import resolve_name

from stratascope.capture._activations import Recording, list_further_names
from stratascope.capture._backward import BackwardWatch
from stratascope.capture._flops import count_flops
from stratascope.capture._hooks import Hook
from stratascope.capture._measure import MemoryWatch, Sight, summarise
from stratascope.capture._modes import uncompiled
from stratascope.capture._operations import (
    Function,
    OperationMode,
    OperationNames,
    find_given,
    find_written,
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
    sight: Sight = field(default_factory=Sight)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
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

    @property
    def last(self) -> Forward:
        """The forward that runs, or the last one that ran, also into an error."""
        return self._now

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
        if depth.operations:
            for tensor in self._list_own():
                now.sight.note(tensor)
        for tensor in collect_tensors(inputs):
            now.sight.note(tensor, MODEL_INPUT)
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
            now.operations += map(_make_operation, now.rows)
            now.modules += map(_make_call, now.calls)
            now.rows.clear()
            now.calls.clear()
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
                now.stack.append(_Running(path, time.perf_counter(), len(now.rows)))

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if self.running:
                self._end_module(path, module, output)

        return begin, end

    def _list_own(self) -> Iterator[Tensor]:
        """Iterate over the parameters and buffers, but for those that are still to be made."""
        for module in self._modules.values():
            for tensor in chain(module._parameters.values(), module._buffers.values()):
                if type(tensor) in (Tensor, nn.Parameter):
                    yield tensor

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
        # Where no operations are recorded, nothing else tells that a tensor has changed its shape.
        look = now.sight.look if self._depth.operations else now.sight.note
        with DisableTorchFunction():
            outputs = [look(tensor) for tensor in collect_tensors((output,))]
        seconds, depth = ended - running.began, len(now.stack)
        now.calls.append((path, module, depth, running.first, len(now.rows), seconds, outputs))
        counts = now.recording.counts
        call = counts[path, "out"] = counts.get((path, "out"), 0) + 1
        if self._depth.keep_modules:
            self._keep(path, call, output)

    def _run(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        written = find_written(function, args, kwargs)
        if written and self._keeps:
            self._copy_before_write(written)
        began = time.perf_counter()
        output = proceed(function, args, kwargs)
        seconds = time.perf_counter() - began
        given = find_given(output, written)
        if given is None:
            # Such as x.numpy(), and what was written for this network in C++.
            self._now.sight.forget_finite()
        else:
            self._note(function, args, kwargs, given, seconds, written)
        return output

    def _note(
        self,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        seconds: float,
        written: list[Tensor],
    ) -> None:
        now, depth = self._now, self._depth
        path = now.stack[-1].path if now.stack else ""
        inputs = collect_tensors(args)
        if kwargs:
            inputs += collect_tensors(kwargs.values())
        outputs = collect_tensors((output,))
        index = len(now.rows)
        name = now.names.next(path, function)
        taken = [now.sight.look(tensor) for tensor in inputs]
        given = [now.sight.note(tensor, index) for tensor in outputs]
        kind, nans, infs = name_function(function), None, None
        if depth.nonfinite:
            found = now.sight.count_nonfinite(kind, inputs, taken, outputs, given, len(written))
            nans, infs = found
        row = (
            index,
            name,
            function,
            path,
            taken,
            given,
            now.sight.find_origins(taken),
            bool(written),
            _find_source(),
            seconds,
            now.memory.follow(given),
            count_flops(kind, args, kwargs, output),
            nans,
            infs,
            summarise(inputs) if nans or infs else (),
            summarise(outputs) if depth.statistics else (),
        )
        now.rows.append(row)
        now.sight.note_write(written, index)
        if now.backward is not None:
            now.backward.follow(_make_operation(row), outputs)
        if depth.keep_operations:
            now.recording.counts[name, "out"] = 1
            self._keep(name, 1, output)

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
            storage = self._now.sight.look(tensor).storage
        if storage is not None:
            # With its storage, whose address another one gets as soon as nobody refers to it.
            self._now.shared.setdefault(storage.cdata, (storage, []))[1].append(taken)
        return taken

    def _copy_before_write(self, written: list[Tensor]) -> None:
        # Left to itself, torch would copy when the write comes, on one core only.
        for tensor in written:
            storage = self._now.sight.look(tensor).storage
            if storage is not None and storage.cdata in self._now.shared:
                unshare(tensor, self._now.shared.pop(storage.cdata)[1])


def _make_operation(row: tuple[Any, ...]) -> Operation:
    # When the forward is over, as there is no hurry then.
    index, name, function, path, taken, given, parents, written, (file, line), *rest = row
    return Operation(
        index,
        name,
        _name_fully(function),
        path,
        tuple([seen.info for seen in taken]),
        tuple([seen.info for seen in given]),
        tuple(sorted(parents)),
        written,
        f"{os.path.basename(file)}:{line}" if file else "",
        *rest,
    )


def _make_call(row: tuple[Any, ...]) -> ModuleCall:
    path, module, depth, first, stop, seconds, outputs = row
    infos = tuple([seen.info for seen in outputs])
    name, kind = path or ROOT_NAME, class_name(module)
    return ModuleCall(name, kind, depth, first, stop, seconds, infos)


@lru_cache(maxsize=4096)
def _name_fully(function: Function) -> str:
    return resolve_name(function) or name_function(function)


def _find_source() -> tuple[str, int]:
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if _is_users(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return "", 0


@lru_cache(maxsize=4096)
def _is_users(file: str) -> bool:
    return not file.startswith(_NOT_USERS)
