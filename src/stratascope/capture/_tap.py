"""The route by hooks: the model runs as it always does, and the chosen sites are kept."""

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from threading import get_ident
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from stratascope.capture._activations import (
    Activations,
    Key,
    Recording,
    list_classes,
    list_further_names,
    name_key,
)
from stratascope.capture._budget import describe_excess
from stratascope.capture._compiled import run_uncompiled
from stratascope.capture._hookable import check_hookable, check_runs_itself
from stratascope.capture._hooks import Hook
from stratascope.capture._operations import aside, is_operation
from stratascope.capture._running import in_backward, is_nested, refuse_second_thread
from stratascope.capture._staging import stage
from stratascope.capture._structure import (
    collect_tensors,
    count_bytes,
    map_tensors,
    name_arguments,
)
from stratascope.capture._take import make_take
from stratascope.capture._wanted import Wanted, describe_silent, is_match, was_reached
from stratascope.capture._watch import OperationWatch
from stratascope.errors import CaptureError, StratascopeError
from stratascope.sites import (
    PORTS,
    ROOT_NAME,
    ModuleTable,
    Port,
    Selector,
    Site,
    match_sites,
)

# Stands in a remembered structure where a tensor was.
_PLACE = torch.empty(0)

OnCapture = Callable[[Site, Any], object]


def tap(
    model: nn.Module,
    sites: Selector | Iterable[Selector],
    *,
    detach: bool = True,
    copy: bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    every: int = 1,
    on_capture: OnCapture | None = None,
    max_bytes: int | None = None,
) -> "Tap":
    """Keep what chosen sites of a model hold in each forward, by hooks that can be removed.

    The hooks attach at once. Used in a ``with``, they go when the block ends, also by an exception;
    otherwise they stay until ``remove()``, or `Tap.remove_all`. What is kept is what flowed: a
    later in-place write of the network, such as ``ReLU(inplace=True)``, does not reach it, and yet
    nothing is copied until such a write happens.

    A part that is called by itself, or ``model.forward(x)``, is captured too. As no forward of the
    model begins there, each module then keeps its last call only, and a warning says so.

    Args:
        model: The network; it is left as it was when the tap is removed.
        sites: What to keep: names, globs, modules, classes, predicates. One input of a module is
            kept as it is, several as a tuple, and where some are named, all as a dict.
        detach: Cut the values off the autograd graph; False keeps it, for a loss on an activation.
        copy: True copies every value at once; False keeps references, and reading one that was
            written to since is an error; None, the default, copies when somebody writes.
        device: Where to put the values; None leaves them where they are. ``"cpu"`` copies from a
            CUDA device while the forward goes on, and who reads a value waits for its copy.
        dtype: What floating-point tensors are cast to, one of their kind; None leaves them so.
        transform: Applied to each captured tensor first, on its own device: pool, slice, reduce.
            It works on a copy of its own, so it may write.
        every: Capture only the first, the (every+1)-th, … forward of the model.
        on_capture: Called with each site and value as it is captured; nothing is kept then. The
            first call of a module comes under its plain name, the k-th under ``name@k``; calls
            counted from the last come when the forward is over, for only then they are known.
        max_bytes: The most that the values kept of one forward may take, gradients included; a
            forward that needs more is let go of, and raises. Each value counts in full
            (``nbytes``), also where it still shares memory with another.

    Returns:
        A `Tap`; its ``activations``, also what ``with`` binds, hold the last captured forward.

    Raises:
        SiteNotFoundError: A selector matches nothing; the message lists near names.
        CaptureError: At the end of the ``with``: a selector's sites never ran. From the forward,
            or the backward for gradients: ``transform`` or ``on_capture`` failed, or the values
            take more than ``max_bytes``; the message names the sites.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(inplace=True))
    >>> with ss.tap(model, "Conv1d[1]") as acts:
    ...     y = model(torch.randn(2, 1, 10))
    >>> acts["0"].shape, bool((acts["0"] < 0).any()), bool((y < 0).any())
    (torch.Size([2, 4, 8]), True, False)
    """
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a whole number from 1, got {every!r}")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype such as torch.float16, got {dtype!r}")
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(
            f"dtype must be of floating-point or complex numbers, got {dtype}, which cuts off what "
            f"comes after the point: if that is meant, transform=lambda value: value.to({dtype})"
        )
    if copy is False and not (device is dtype is transform is None):
        raise ValueError("copy=False keeps values as they are: leave out device, dtype, transform")
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, got {max_bytes!r}")
    # A callback gets its values at once, so there is no time in which to copy them.
    to_host = device is not None and torch.device(device).type == "cpu" and on_capture is None
    take = make_take(
        copy=copy,
        detach=detach,
        # Cast first: torch copies to slower memory where it has to cast on the way.
        device=None if to_host else device,
        dtype=dtype,
        transform=transform,
    )
    return Tap(
        model,
        sites,
        take,
        every=every,
        on_capture=on_capture,
        by_reference=copy is False,
        to_host=to_host,
        max_bytes=max_bytes,
    )


class Tap(AbstractContextManager[Activations]):
    """Hooks on chosen sites of a model; made by `tap`.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    >>> seen = []
    >>> handle = ss.tap(model, "**", on_capture=lambda site, value: seen.append(str(site)))
    >>> _ = model(torch.zeros(1, 3))
    >>> handle.pause(); _ = model(torch.zeros(1, 3)); handle.resume()
    >>> handle.remove()
    >>> _ = model(torch.zeros(1, 3)); seen
    ['0', '1']
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Selector | Iterable[Selector],
        take: Callable[[Tensor], Tensor],
        *,
        every: int = 1,
        on_capture: OnCapture | None = None,
        after_each: Callable[[Key], None] | None = None,
        by_reference: bool = False,
        to_host: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        table = ModuleTable(model, is_operation)
        self._matches = match_sites(table, sites)
        self._unreached = list(self._matches)
        self._take = take
        self._every = every
        self._on_capture = on_capture
        self._after_each = after_each
        self._by_reference = by_reference
        self._to_host = to_host
        self._max_bytes = max_bytes
        self._stores_plainly = not (by_reference or to_host or max_bytes is not None)
        self._watch: OperationWatch | None = None
        self._recording = Recording(aliases=list_further_names(table))
        self._activations = Activations(self._recording)
        self._root = id(table.modules[""])
        self._paused = False
        self._armed = True
        self._depth = 0
        self._thread = 0
        self._passes = 0
        self._captured_passes = 0
        self._handled = id(None)
        self._has_warned = False
        self._forget_counts()
        self._failure: StratascopeError | None = None
        self._handles: list[Any] = []
        self._leaf_handles: list[Any] = []
        self._wanted: dict[tuple[str, Port], Wanted] = {}
        for match in self._matches:
            self._wanted.setdefault((match.path, match.port), Wanted()).add(match)
        tapped = {path for path, port in self._wanted if port == "out"}
        self._recording.classes = list_classes(table, tapped)
        self._has_from_end = any(wanted.from_end for wanted in self._wanted.values())
        self._attach(model, table)

    @property
    def activations(self) -> Activations:
        """What the last captured forward held; each captured forward replaces it."""
        return self._activations

    def pause(self) -> None:
        """Let forwards pass uncaptured until `resume`; the hooks stay."""
        self._paused = True
        self._recording.state = "its tap is paused"
        self._armed = False

    def resume(self) -> None:
        """Capture again after `pause`.

        Raises:
            CaptureError: The tap was removed.
        """
        self._check_attached()
        self._paused = False
        self._recording.state = ""
        # Not in the middle of a forward that began uncaptured.
        self._armed = self._armed or self._depth == 0

    def pop(self) -> Activations:
        """Hand over what was captured, and keep nothing of it here."""
        self._note_reached()
        self._forget_counts()
        return Activations(self._recording.hand_over())

    def remove(self) -> None:
        """Take the hooks off the model; what was captured stays readable. Idempotent.

        Warns if a selector's sites never ran in the captured forwards.
        """
        if not self._handles:
            return
        self._detach()
        # In the middle of a forward, as from a callback, the rest is not missing but unwanted.
        if self._depth == 0 and (problem := self._describe_silent_sites()) is not None:
            warnings.warn(problem, stacklevel=2)

    @staticmethod
    def remove_all(model: nn.Module) -> int:
        """Take every tap off a model and its parts, also where the handle was thrown away.

        Taps that are still in use go too, those of a `record` among them; what they captured stays
        readable.

        Args:
            model: The network.

        Returns:
            How many taps were removed.

        >>> import torch, stratascope as ss
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
        >>> _ = ss.tap(model, "0"), ss.tap(model, "1")
        >>> ss.Tap.remove_all(model), ss.Tap.remove_all(model)
        (2, 0)
        """
        taps = {
            hook.owner: None
            for module in model.modules()
            for hook in module._forward_pre_hooks.values()  # pyright: ignore[reportPrivateUsage]
            if isinstance(hook, Hook) and isinstance(hook.owner, Tap)
        }
        for handle in taps:
            handle._detach()
        return len(taps)

    def _check_attached(self) -> None:
        if not self._handles:
            raise CaptureError("this tap was removed: make a new one with stratascope.tap")

    def __repr__(self) -> str:
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(m.text for m in self._matches))
        state = "removed" if not self._handles else "paused" if self._paused else "attached"
        return f"Tap of {names} ({state})"

    def check(self) -> None:
        """Make sure that every selector has delivered something in the forwards so far.

        Raises:
            CaptureError: The sites of a selector never ran.
        """
        if (problem := self._describe_silent_sites()) is not None:
            raise CaptureError(problem)

    def __enter__(self) -> Activations:
        self._check_attached()
        return self._activations

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        attached = bool(self._handles)
        self._detach()
        # After an exception the missing sites are its consequence, not news.
        if kind is None and attached:
            self.check()

    def _attach(self, model: nn.Module, table: ModuleTable) -> None:
        root = table.modules[""]
        check_hookable("", root)
        check_runs_itself(model)
        add = self._handles.append
        try:
            self._handles += run_uncompiled(model)
            # First, so that whatever another hook makes of the input belongs to this forward.
            add(root.register_forward_pre_hook(Hook(self._begin), prepend=True))
            for path, names in self._numbered_classes().items():
                hook = self._make_numbering(id(table.modules[path]), path, names)
                add(table.modules[path].register_forward_pre_hook(Hook(hook)))
            # Outputs before gradients, which take their call number from them.
            operations = {m.path: m.owner for m in self._matches if m.owner is not None}
            for path, port in sorted(self._wanted, key=lambda key: PORTS.index(key[1])):
                if path in operations:
                    continue
                module, wanted = table.modules[path], self._wanted[path, port]
                check_hookable(path, module)
                if port == "in":
                    hook = self._make_input_hook(id(module), path, wanted)
                    add(module.register_forward_pre_hook(Hook(hook), with_kwargs=True))
                elif port == "out":
                    hook = self._make_output_hook(id(module), path, wanted)
                    add(module.register_forward_hook(Hook(hook)))
                else:
                    hook = self._make_gradient_hook(id(module), path, wanted)
                    add(module.register_forward_hook(Hook(hook)))
            if operations:
                self._watch = OperationWatch(
                    table,
                    wanted=[key for key in self._wanted if key[0] in operations],
                    owners=set(operations.values()),
                    keep=self._keep_operation,
                    follow=self._follow_operation,
                )
                add(self._watch)
            # Last, so that the model's own output is captured before the forward counts as over.
            add(root.register_forward_hook(Hook(self._end), always_call=True))
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        for handle in self._handles + self._leaf_handles:
            handle.remove()
        self._handles.clear()
        self._leaf_handles.clear()
        # The hooks of the module that is running just now are called once more.
        self._armed = False
        if self._captured_passes:
            self._recording.state = "its tap was removed"

    def _numbered_classes(self) -> dict[str, set[str]]:
        numbered: dict[str, set[str]] = {}
        for match in self._matches:
            if match.ordinal is not None:
                numbered.setdefault(match.path, set()).add(match.ordinal[0])
        return numbered

    def _begin(self, module: nn.Module, args: Any) -> None:
        if self._is_foreign(module, self._root):
            return
        # A forward left by KeyboardInterrupt never told that it ended.
        if self._depth > 0 and not is_nested(module):
            if not self._paused:
                refuse_second_thread(module, self._thread)
            self._depth = 0
        # A model that calls itself is still one forward.
        if self._depth == 0:
            self._thread = get_ident()
            self._failure = None
            self._handled = id(sys.exc_info()[1])
            if not self._paused:
                self._begin_pass()
        self._depth += 1

    def _begin_pass(self) -> None:
        self._armed = self._passes % self._every == 0
        self._passes += 1
        if not self._armed:
            return
        self._captured_passes += 1
        self._note_reached()
        self._recording.restart()
        self._forget_counts()
        # What is no result of this forward, such as a parameter put out, outlives it.
        for handle in self._leaf_handles:
            handle.remove()
        self._leaf_handles.clear()

    def _forget_counts(self) -> None:
        # Of the recording that begins: which modules of a class ran, and how often calls outside
        # a forward replaced those of a module.
        self._numbered: dict[str, set[str]] = {}
        self._replaced: dict[str, int] = {}

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        # Without a beginning: another hook failed before it, or another thread is inside.
        if self._depth == 0 or self._thread != get_ident() or self._is_foreign(module, self._root):
            return
        error = sys.exc_info()[1]
        failed = error is not None and id(error) != self._handled
        if self._depth == 1 and self._armed and self._has_from_end and not failed:
            self._settle_calls()
        self._depth -= 1
        if self._depth > 0:
            return
        self._armed = not self._paused
        failure, self._failure = self._failure, None
        if failure is None:
            return
        if error is None or not failed:
            raise failure
        # The network's own error goes first; torch would only warn of this one.
        error.add_note(str(failure))

    def _settle_calls(self) -> None:
        """Sort out the calls that count from the last, now that their number is known."""
        recording = self._recording
        for key in list(recording.values):
            path, port, call = key
            wanted = self._wanted[path, port]
            if not wanted.keeps(call, recording.count(path, port), recording.ordinals):
                recording.drop(key)
            elif self._on_capture is not None:
                try:
                    value = recording.read(key)
                except CaptureError as error:
                    self._fail(key, "the capture", error)
                else:
                    self._hand_over(key, value)
                recording.drop(key)

    def _is_foreign(self, module: nn.Module, own: int) -> bool:
        """Tell a copy of the model, to which deepcopy gave the hooks too, and a recomputation."""
        return id(module) != own or (self._depth == 0 and in_backward())

    def _make_numbering(
        self, own: int, path: str, names: set[str]
    ) -> Callable[[nn.Module, Any], None]:
        def number(module: nn.Module, args: Any) -> None:
            if not self._armed or self._is_foreign(module, own):
                return
            for name in names:
                ran = self._numbered.setdefault(name, set())
                if path not in ran:
                    ran.add(path)
                    self._recording.ordinals[name, len(ran)] = path

        return number

    def _count(self, path: str, port: Port) -> int:
        counts = self._recording.counts
        call = counts.get((path, port), 0) + 1
        # Where no forward begins, none would ever let go of the calls before.
        if self._depth == 0 and call > 1:
            self._replace(path, port, call)
            call = 1
        counts[path, port] = call
        return call

    def _replace(self, path: str, port: Port, calls: int) -> None:
        """Let go of the calls of a module before this one."""
        self._recording.discard(path, port, calls)
        if port == "out":
            self._recording.discard(path, "grad", calls)
            self._replaced[path] = self._replaced.get(path, 0) + 1
        if not self._has_warned and self._on_capture is None:
            self._has_warned = True
            warnings.warn(
                f"'{path or ROOT_NAME}' was called again without a call of the tapped model, as by "
                "model.forward(x) or by a part of it: of such calls only the last of each module "
                "is kept. Call the model itself, or tap the part that is called",
                stacklevel=2,
            )

    def _make_output_hook(self, own: int, path: str, wanted: Wanted) -> Callable[..., None]:
        def keep_output(module: nn.Module, args: Any, output: Any) -> None:
            # As _is_foreign, without the price of a call.
            if not self._armed or id(module) != own or (self._depth == 0 and in_backward()):
                return
            call = self._count(path, "out")
            if wanted.every_call or wanted.may_pick(call, self._recording.ordinals):
                self._keep((path, "out", call), output)

        return keep_output

    def _make_input_hook(self, own: int, path: str, wanted: Wanted) -> Callable[..., None]:
        def keep_input(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if not self._armed or self._is_foreign(module, own):
                return
            call = self._count(path, "in")
            if wanted.every_call or wanted.may_pick(call, self._recording.ordinals):
                self._keep((path, "in", call), _arrange_input(args, kwargs))

        return keep_input

    def _make_gradient_hook(self, own: int, path: str, wanted: Wanted) -> Callable[..., None]:
        counted_here = (path, "out") not in self._wanted

        def follow_output(module: nn.Module, args: Any, output: Any) -> None:
            if not self._armed or self._is_foreign(module, own):
                return
            recording = self._recording
            call = self._count(path, "out") if counted_here else recording.count(path, "out")
            if wanted.may_pick(call, recording.ordinals):
                self._follow_gradient((path, "grad", call), output)

        return follow_output

    def _keep_operation(self, key: Key, value: Any) -> None:
        if self._armed:
            self._recording.counts[key[0], key[1]] = 1
            self._keep(key, value)

    def _follow_operation(self, key: Key, output: Any) -> None:
        if self._armed:
            self._recording.counts[key[0], "out"] = 1
            self._follow_gradient(key, output)

    def _follow_gradient(self, key: Key, output: Any) -> None:
        leaves = [tensor for tensor in collect_tensors((output,)) if tensor.requires_grad]
        places = map_tensors(lambda tensor: _PLACE if tensor.requires_grad else None, output)
        # A backward that comes after the next forward belongs to this one all the same.
        own = self._recording.share()
        replaced, before = self._replaced, self._replaced.get(key[0], 0)

        def keep(found: Sequence[Tensor | None]) -> None:
            if replaced.get(key[0], 0) != before:
                return
            remaining = iter(found)
            self._keep_gradient(key, map_tensors(lambda _: next(remaining), places), own)

        if self._on_capture is not None and len(leaves) > 1:
            # Handed over once, when all are there.
            handles = [register_multi_grad_hook(leaves, keep)]
        else:
            handles = _hook_each(leaves, keep)
        if any(tensor.is_leaf for tensor in leaves):
            self._leaf_handles += handles

    def _keep_gradient(self, key: Key, gradient: Any, own: Recording) -> None:
        path, port, call = key
        count, ordinals = own.count(path, port), own.ordinals
        running = self._depth > 0 and own.values is self._recording.values
        wanted = self._wanted[path, port]
        removed = not self._handles
        if (removed and self._on_capture) or not (running or wanted.keeps(call, count, ordinals)):
            return
        self._keep(key, gradient, own, settled=not running)
        self._unreached = [
            match
            for match in self._unreached
            if (match.path, match.port) != (path, port)
            or not is_match(match, call, count, ordinals)
        ]

    def _keep(
        self, key: Key, value: Any, own: Recording | None = None, *, settled: bool = False
    ) -> None:
        try:
            kept = self._take(value) if type(value) is Tensor else map_tensors(self._take, value)
        except Exception as error:  # noqa: BLE001 - the user's own code failed; raised when it is safe
            self._fail(key, "the capture", error)
            return
        recording = self._recording if own is None else own
        if self._on_capture is not None and (
            settled or self._wanted[key[:2]].picks(key[2], recording.ordinals)
        ):
            self._hand_over(key, kept)
        elif self._stores_plainly:
            recording.values[key] = kept
        else:
            self._store(recording, key, kept)
        if self._after_each is not None:
            self._after_each(key)

    def _store(self, recording: Recording, key: Key, value: Any) -> None:
        """Store a value that is counted, sent to the host, or no copy."""
        limit = self._max_bytes
        if limit is not None and not self._fits(limit, recording, key, value):
            return
        if self._by_reference:
            recording.versions[key] = [(t, t._version) for t in collect_tensors((value,))]
        try:
            recording.values[key] = stage(value) if self._to_host else value
        except RuntimeError as error:
            self._fail(key, "the copy to the host", error)

    def _fits(self, limit: int, recording: Recording, key: Key, value: Any) -> bool:
        """Count what a value takes, and let go of a forward that takes too much.

        The rest of it is counted all the same, so that the error can name the biggest sites.
        """
        recording.sizes[key] = count_bytes(value)
        if sum(recording.sizes.values()) <= limit:
            return True
        # What was handed over is not the tap's any more.
        if recording.values is self._recording.values:
            recording.values.clear()
            recording.versions.clear()
        failure = CaptureError(describe_excess(recording.sizes, limit))
        if self._depth == 0 or not self._handles:
            raise failure
        self._failure = failure
        return False

    def _hand_over(self, key: Key, value: Any) -> None:
        assert self._on_capture is not None
        try:
            with aside:
                self._on_capture(name_key(key), value)
        except Exception as error:  # noqa: BLE001 - the user's own code failed; raised when it is safe
            self._fail(key, "on_capture", error)

    def _fail(self, key: Key, what: str, error: Exception) -> None:
        if isinstance(error, StratascopeError):
            failure = error
        else:
            failure = CaptureError(
                f"{what} failed at '{name_key(key)}': {type(error).__name__}: {error}"
            )
            failure.__cause__ = error
        # Raised when the forward is over, so that a broken look never leaves it half done.
        if self._depth > 0 and self._handles:
            self._armed = False
            self._failure = self._failure or failure
        else:
            raise failure

    def _note_reached(self) -> None:
        recording = self._recording
        self._unreached = [match for match in self._unreached if not was_reached(match, recording)]

    def _describe_silent_sites(self) -> str | None:
        if self._captured_passes == 0:
            return None
        self._note_reached()
        ran = None if self._watch is None else self._watch.ran
        return describe_silent(self._matches, self._unreached, ran)


def _hook_each(
    tensors: Sequence[Tensor], keep: Callable[[Sequence[Tensor | None]], None]
) -> list[Any]:
    found: list[Tensor | None] = [None] * len(tensors)

    def make_hook(index: int) -> Callable[[Tensor], None]:
        def keep_one(gradient: Tensor) -> None:
            found[index] = gradient
            keep(found)

        return keep_one

    return [tensor.register_hook(make_hook(index)) for index, tensor in enumerate(tensors)]


def _arrange_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give one input as itself, several as a tuple, named ones as a dict after the positions."""
    if not kwargs:
        return args[0] if len(args) == 1 else args
    return name_arguments(args, kwargs)
