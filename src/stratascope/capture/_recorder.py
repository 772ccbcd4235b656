"""Watching one forward: operations through a torch function mode, modules through hooks."""

import inspect
import math
import os
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from stratascope.capture._activations import Recording
from stratascope.capture._flops import count_flops
from stratascope.capture._modes import uncompiled
from stratascope.capture._operations import (
    Function,
    OperationMode,
    OperationNames,
    gives_tensor,
    name_function,
    proceed,
)
from stratascope.capture._records import ModuleCall, Operation, Summary, TensorInfo
from stratascope.capture._snapshot import snapshot
from stratascope.capture._structure import map_tensors, named_tensors
from stratascope.sites import ROOT_NAME, ModuleTable

MODEL_INPUT = -1
_NOT_USERS = (os.path.dirname(torch.__file__), os.path.dirname(__file__))


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
    producers: Any = field(default_factory=WeakTensorKeyDictionary)
    stack: list[_Running] = field(default_factory=list)
    live: list[tuple[StorageWeakRef, int]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    kept_bytes: int = 0
    left_out: int = 0


class Recorder:
    """Records forwards of one model, one at a time.

    Args:
        model: The network.
        keep_modules: Keep what modules put out.
        keep_operations: Keep what operations give.
        max_bytes: Keep no more than so many bytes a forward.
        statistics: Summarise every output.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        keep_modules: bool,
        keep_operations: bool,
        max_bytes: int | None,
        statistics: bool,
    ) -> None:
        table = ModuleTable(model)
        self._model = model
        # TorchScript takes no hooks; a call of it is not seen, but what goes in and comes out is.
        self._modules = {
            path: module
            for path, module in table.modules.items()
            if path and not isinstance(module, torch.jit.ScriptModule)
        }
        self._aliases = table.aliases
        self._keep_modules = keep_modules
        self._keep_operations = keep_operations
        self._max_bytes = math.inf if max_bytes is None else max_bytes
        self._statistics = statistics
        self._now = Forward()
        self.running = False

    def record(self, call: Callable[[], Any], inputs: Any) -> tuple[Forward, Any]:
        """Run one forward and give what it did and what it returned."""
        now = self._now = Forward(recording=Recording(aliases=self._aliases))
        for _, tensor in named_tensors(inputs):
            now.producers[tensor] = MODEL_INPUT
        self.running = True
        try:
            with ExitStack() as hooks:
                for path, module in self._modules.items():
                    hooks.enter_context(self._following(path, module))
                hooks.enter_context(uncompiled())
                hooks.enter_context(OperationMode(self._run))
                began = time.perf_counter()
                now.stack.append(_Running("", began, 0))
                output = call()
                now.seconds = time.perf_counter() - began
            self._end_module("", self._model, output)
        finally:
            self.running = False
        return now, output

    @contextmanager
    def _following(self, path: str, module: nn.Module) -> Generator[None]:
        def begin(module: nn.Module, args: Any) -> None:
            now = self._now
            now.stack.append(_Running(path, time.perf_counter(), len(now.operations)))

        def end(module: nn.Module, args: Any, output: Any) -> None:
            self._end_module(path, module, output)

        handles = [
            module.register_forward_pre_hook(begin, prepend=True),
            module.register_forward_hook(end),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _end_module(self, path: str, module: nn.Module, output: Any) -> None:
        now = self._now
        # A call that a caught exception ended early is still on top of the one that ends now.
        while now.stack and now.stack[-1].path != path:
            now.stack.pop()
        if not now.stack:
            return
        running = now.stack.pop()
        now.modules.append(
            ModuleCall(
                name=path or ROOT_NAME,
                kind=type(module).__name__,
                depth=len(now.stack),
                first=running.first,
                stop=len(now.operations),
                seconds=time.perf_counter() - running.began,
                outputs=tuple(TensorInfo.of(tensor) for _, tensor in named_tensors(output)),
            )
        )
        counts = now.recording.counts
        call = counts[path, "out"] = counts.get((path, "out"), 0) + 1
        if self._keep_modules:
            self._keep(path, call, output)

    def _run(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        began = time.perf_counter()
        output = proceed(function, args, kwargs)
        seconds = time.perf_counter() - began
        if gives_tensor(output):
            self._note(function, args, kwargs, output, seconds)
        return output

    def _note(
        self,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        seconds: float,
    ) -> None:
        now = self._now
        path = now.stack[-1].path if now.stack else ""
        name = now.names.next(path, function)
        inputs = [tensor for _, tensor in named_tensors((args, kwargs))]
        outputs = [tensor for _, tensor in named_tensors(output)]
        index = len(now.operations)
        parents = {now.producers[tensor] for tensor in inputs if tensor in now.producers}
        nans, infs = _count_nonfinite(outputs)
        with torch.no_grad():
            before = [Summary.of(tensor) for tensor in inputs] if nans or infs else []
            after = [Summary.of(tensor) for tensor in outputs] if self._statistics else []
        now.operations.append(
            Operation(
                index=index,
                name=name,
                function=resolve_name(function) or name_function(function),
                module=path,
                inputs=tuple(TensorInfo.of(tensor) for tensor in inputs),
                outputs=tuple(TensorInfo.of(tensor) for tensor in outputs),
                parents=tuple(sorted(parents)),
                in_place=_writes(function, kwargs),
                source=_find_source(),
                seconds=seconds,
                new_bytes=self._follow_memory(inputs, outputs),
                flops=count_flops(name_function(function), args, kwargs, output),
                nans=nans,
                infs=infs,
                input_summaries=tuple(before),
                output_summaries=tuple(after),
            )
        )
        for tensor in outputs:
            now.producers[tensor] = index
        if self._keep_operations:
            now.recording.counts[name, "out"] = 1
            self._keep(name, 1, output)

    def _keep(self, path: str, call: int, value: Any) -> None:
        now = self._now
        size = sum(tensor.nbytes for _, tensor in named_tensors(value))
        if now.kept_bytes + size > self._max_bytes:
            now.left_out += 1
            return
        now.kept_bytes += size
        now.recording.values[path, "out", call] = map_tensors(
            lambda tensor: snapshot(tensor.detach()), value
        )

    def _follow_memory(self, inputs: list[Tensor], outputs: list[Tensor]) -> int:
        now = self._now
        known = {_storage_address(tensor) for tensor in inputs}
        new = 0
        for tensor in outputs:
            address = _storage_address(tensor)
            if address is not None and address not in known:
                known.add(address)
                storage = tensor.untyped_storage()
                now.live.append((StorageWeakRef(storage), storage.nbytes()))
                new += storage.nbytes()
        if new:
            now.live = [(ref, size) for ref, size in now.live if not ref.expired()]
            now.peak_bytes = max(now.peak_bytes, sum(size for _, size in now.live))
        return new


def _count_nonfinite(tensors: list[Tensor]) -> tuple[int, int]:
    nans = infs = 0
    for tensor in tensors:
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.device.type == "meta":
            continue
        # One sum reads the tensor once; counting is for the rare case that it is not finite.
        wide = torch.float32 if tensor.is_floating_point() and tensor.itemsize < 4 else None
        with torch.no_grad():
            total = complex(torch.sum(tensor, dtype=wide).item())
            if not (math.isfinite(total.real) and math.isfinite(total.imag)):
                nans += int(torch.isnan(tensor).sum())
                infs += int(torch.isinf(tensor).sum())
    return nans, infs


def _writes(function: Function, kwargs: dict[str, Any]) -> bool:
    name = getattr(function, "__name__", "")
    named_so = name.endswith("_") and not name.endswith("__")
    return (
        named_so
        or name == "__setitem__"
        or bool(kwargs.get("inplace"))
        or kwargs.get("out") is not None
    )


def _storage_address(tensor: Tensor) -> int | None:
    # Not data_ptr(), which would make a copy-on-write storage copy.
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return None
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _find_source() -> str:
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_USERS):
            return f"{os.path.basename(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
