"""The route by hooks: the model runs as it always does, and the chosen sites are kept."""

import inspect
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from stratascope.capture._activations import Activations, Recording
from stratascope.capture._snapshot import snapshot
from stratascope.capture._structure import map_tensors, named_tensors
from stratascope.errors import CaptureError, StratascopeError
from stratascope.sites import Match, ModuleTable, Port, Selector, Site, match_sites

# The one frame that every call of a module leaves on the stack.
_CALL_CODE = nn.Module._call_impl.__code__  # pyright: ignore[reportPrivateUsage]

OnCapture = Callable[[Site, Any], object]


def tap(
    model: nn.Module,
    sites: Selector | Iterable[Selector],
    *,
    detach: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    every: int = 1,
    on_capture: OnCapture | None = None,
) -> "Tap":
    """Keep what chosen sites of a model hold in each forward, by hooks that can be removed.

    The hooks attach at once. Used in a ``with``, they go when the block ends, also by an exception;
    otherwise they stay until ``remove()``. What is kept is what flowed: a later in-place write of
    the network, such as ``ReLU(inplace=True)``, does not reach it, and yet nothing is copied until
    such a write happens.

    Args:
        model: The network; it is left as it was when the tap is removed.
        sites: What to keep: names, globs, modules, classes, predicates.
        detach: Cut the values off the autograd graph; False keeps it, for a loss on an activation.
        device: Where to put the values; None leaves them where they are.
        dtype: What floating-point tensors are cast to; None leaves them as they are.
        transform: Applied to each captured tensor first, on its own device: pool, slice, reduce.
        every: Capture only the first, the (every+1)-th, … forward of the model.
        on_capture: Called with each site and value as it is captured; nothing is kept then. The
            first call of a module comes under its plain name, the k-th under ``name@k``.

    Returns:
        A `Tap`; its ``activations``, also what ``with`` binds, hold the last captured forward.

    Raises:
        SiteNotFoundError: A selector matches nothing; the message lists near names.
        CaptureError: At the end of the ``with``: a selector's sites never ran. From the forward:
            ``transform`` or ``on_capture`` failed; the message names the site.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(inplace=True))
    >>> with ss.tap(model, "Conv1d[1]") as acts:
    ...     y = model(torch.randn(2, 1, 10))
    >>> acts["0"].shape, bool((acts["0"] < 0).any()), bool((y < 0).any())
    (torch.Size([2, 4, 8]), True, False)
    """
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a whole number from 1, got {every!r}")
    take = _make_take(detach=detach, device=device, dtype=dtype, transform=transform)
    return Tap(model, sites, take, every=every, on_capture=on_capture)


def _make_take(
    *,
    detach: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    transform: Callable[[Tensor], Tensor] | None,
) -> Callable[[Tensor], Tensor]:
    def take_plain(tensor: Tensor) -> Tensor:
        return snapshot(tensor.detach() if detach and tensor.requires_grad else tensor)

    def take_converted(tensor: Tensor) -> Tensor:
        if detach and tensor.requires_grad:
            tensor = tensor.detach()
        value = tensor if transform is None else transform(tensor)
        if not isinstance(value, Tensor):
            raise TypeError(f"transform must return a tensor, got {type(value).__name__}")
        floating = value.is_floating_point() or value.is_complex()
        moved = value.to(device=device, dtype=dtype if floating else None)
        # A conversion that changed something is a copy already; a view or no change is not.
        return moved if moved is not value else snapshot(value)

    plain = device is None and dtype is None and transform is None
    return take_plain if plain else take_converted


@dataclass(slots=True)
class _Wanted:
    """What is wanted of one module and port: some calls, perhaps only as the k-th of its class."""

    every_call: bool = False
    calls: set[int] = field(default_factory=set)
    ordinals: dict[tuple[str, int], int | None] = field(default_factory=dict)

    def add(self, match: Match) -> None:
        if match.ordinal is not None:
            self.ordinals[match.ordinal] = match.call
        elif match.call is None:
            self.every_call = True
        else:
            self.calls.add(match.call)

    def picks(self, path: str, call: int, ordinals: dict[tuple[str, int], str]) -> bool:
        """Decide while the forward runs; calls counted from the end are sorted out after it."""
        if self.every_call or call in self.calls or any(wanted < 0 for wanted in self.calls):
            return True
        return any(
            ordinals.get(ordinal) == path and (only is None or only < 0 or only == call)
            for ordinal, only in self.ordinals.items()
        )

    def keeps(self, path: str, call: int, count: int, ordinals: dict[tuple[str, int], str]) -> bool:
        """Decide when the number of calls is known."""
        if self.every_call or call in self.calls or call - count - 1 in self.calls:
            return True
        return any(
            ordinals.get(ordinal) == path and only in (None, call, call - count - 1)
            for ordinal, only in self.ordinals.items()
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
    ) -> None:
        table = ModuleTable(model)
        self._matches = match_sites(table, sites)
        self._take = take
        self._every = every
        self._on_capture = on_capture
        self._recording = Recording(aliases=table.aliases)
        self._activations = Activations(self._recording)
        self._paused = False
        self._armed = True
        self._depth = 0
        self._passes = 0
        self._captured_passes = 0
        self._delivered: set[tuple[str, Port]] = set()
        self._failure: CaptureError | None = None
        self._handles: list[Any] = []
        self._wanted: dict[tuple[str, Port], _Wanted] = {}
        for match in self._matches:
            self._wanted.setdefault((match.path, match.port), _Wanted()).add(match)
        self._attach(table)

    @property
    def activations(self) -> Activations:
        """What the last captured forward held; each captured forward replaces it."""
        return self._activations

    def pause(self) -> None:
        """Let forwards pass uncaptured until `resume`; the hooks stay."""
        self._paused = True
        self._armed = False

    def resume(self) -> None:
        """Capture again after `pause`."""
        self._paused = False
        self._armed = True

    def pop(self) -> Activations:
        """Hand over what was captured, and keep nothing of it here."""
        recording = self._recording
        taken = Recording(recording.values, recording.counts, recording.ordinals, recording.aliases)
        recording.restart()
        return Activations(taken)

    def remove(self) -> None:
        """Take the hooks off the model; what was captured stays readable. Idempotent.

        Warns if a selector's sites never ran in the captured forwards.
        """
        if self._handles:
            self._detach()
            if (problem := self._describe_silent_sites()) is not None:
                warnings.warn(problem, stacklevel=2)

    def check(self) -> None:
        """Make sure that every selector has delivered something in the forwards so far.

        Raises:
            CaptureError: The sites of a selector never ran.
        """
        if (problem := self._describe_silent_sites()) is not None:
            raise CaptureError(problem)

    def __enter__(self) -> Activations:
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

    def _attach(self, table: ModuleTable) -> None:
        root = table.modules[""]
        add = self._handles.append
        try:
            add(root.register_forward_pre_hook(self._begin))
            for path, names in self._numbered_classes().items():
                add(
                    table.modules[path].register_forward_pre_hook(self._make_numbering(path, names))
                )
            for (path, port), wanted in self._wanted.items():
                module = table.modules[path]
                if port == "in":
                    hook = self._make_input_hook(path, wanted)
                    add(module.register_forward_pre_hook(hook, with_kwargs=True))
                elif port == "out":
                    add(module.register_forward_hook(self._make_output_hook(path, wanted)))
                else:
                    add(module.register_forward_hook(self._make_gradient_hook(path, wanted)))
            # Last, so that the model's own output is captured before the forward counts as over.
            add(root.register_forward_hook(self._end, always_call=True))
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _numbered_classes(self) -> dict[str, set[str]]:
        numbered: dict[str, set[str]] = {}
        for match in self._matches:
            if match.ordinal is not None:
                numbered.setdefault(match.path, set()).add(match.ordinal[0])
        return numbered

    def _begin(self, module: nn.Module, args: Any) -> None:
        # A forward left by KeyboardInterrupt never told that it ended.
        if self._depth > 0 and not _is_nested(module):
            self._depth = 0
        # A model that calls itself is still one forward.
        if self._depth == 0 and not self._paused:
            self._armed = self._passes % self._every == 0
            self._passes += 1
            if self._armed:
                self._captured_passes += 1
                self._recording.restart()
        self._depth += 1

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        if self._armed:
            self._drop_unwanted_calls()
        self._armed = not self._paused
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _drop_unwanted_calls(self) -> None:
        values, ordinals = self._recording.values, self._recording.ordinals
        for key in list(values):
            path, port, call = key
            count = self._recording.count(path, port)
            if not self._wanted[path, port].keeps(path, call, count, ordinals):
                del values[key]

    def _make_numbering(self, path: str, names: set[str]) -> Callable[[nn.Module, Any], None]:
        def number(module: nn.Module, args: Any) -> None:
            ordinals = self._recording.ordinals
            for name in names:
                ran = [known for (owner, _), known in ordinals.items() if owner == name]
                if path not in ran:
                    ordinals[name, len(ran) + 1] = path

        return number

    def _count(self, path: str, port: Port) -> int:
        counts = self._recording.counts
        call = counts[path, port] = counts.get((path, port), 0) + 1
        return call

    def _make_output_hook(self, path: str, wanted: _Wanted) -> Callable[..., None]:
        def keep_output(module: nn.Module, args: Any, output: Any) -> None:
            if not self._armed:
                return
            call = self._count(path, "out")
            if wanted.every_call or wanted.picks(path, call, self._recording.ordinals):
                self._keep(path, "out", call, output)

        return keep_output

    def _make_input_hook(self, path: str, wanted: _Wanted) -> Callable[..., None]:
        def keep_input(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if not self._armed:
                return
            call = self._count(path, "in")
            if wanted.picks(path, call, self._recording.ordinals):
                self._keep(path, "in", call, _arrange_input(args, kwargs))

        return keep_input

    def _make_gradient_hook(self, path: str, wanted: _Wanted) -> Callable[..., None]:
        counted_here = (path, "out") not in self._wanted

        def follow_output(module: nn.Module, args: Any, output: Any) -> None:
            if not self._armed:
                return
            recording = self._recording
            call = self._count(path, "out") if counted_here else recording.count(path, "out")
            if wanted.picks(path, call, recording.ordinals):
                self._follow_gradient(path, call, output)

        return follow_output

    def _follow_gradient(self, path: str, call: int, output: Any) -> None:
        leaves = [tensor for _, tensor in named_tensors(output)]
        gradients: list[Tensor | None] = [None] * len(leaves)
        # A backward that comes after the next forward belongs to this one all the same.
        values = self._recording.values

        def make_hook(index: int) -> Callable[[Tensor], None]:
            def keep_gradient(gradient: Tensor) -> None:
                gradients[index] = gradient
                remaining = iter(gradients)
                arranged = map_tensors(lambda _: next(remaining), output_shape)
                self._keep(path, "grad", call, arranged, values)

            return keep_gradient

        output_shape = map_tensors(lambda tensor: tensor.new_empty(0), output)
        for index, tensor in enumerate(leaves):
            if tensor.requires_grad:
                tensor.register_hook(make_hook(index))

    def _keep(
        self, path: str, port: Port, call: int, value: Any, values: dict[Any, Any] | None = None
    ) -> None:
        try:
            kept = self._take(value) if type(value) is Tensor else map_tensors(self._take, value)
            if self._on_capture is not None:
                self._on_capture(Site(path, port, call if call > 1 else None), kept)
            else:
                (self._recording.values if values is None else values)[path, port, call] = kept
            self._delivered.add((path, port))
        except StratascopeError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code failed; it is re-raised below
            self._fail(Site(path, port, call if call > 1 else None), error)

    def _fail(self, site: Site, error: Exception) -> None:
        cause = "on_capture" if self._on_capture is not None else "the capture"
        failure = CaptureError(f"{cause} failed at '{site}': {type(error).__name__}: {error}")
        failure.__cause__ = error
        self._armed = False
        # Raised when the forward is over, so that a broken look never leaves it half done.
        if self._depth > 0:
            self._failure = self._failure or failure
        else:
            raise failure

    def _describe_silent_sites(self) -> str | None:
        if self._captured_passes == 0:
            return None
        reached = {
            match.selector for match in self._matches if (match.path, match.port) in self._delivered
        }
        silent = dict.fromkeys(m for m in self._matches if m.selector not in reached)
        if not silent:
            return None
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(m.selector for m in silent))
        if all(match.port == "grad" for match in silent):
            reason = "no backward() reached them while the tap was on"
        else:
            reason = (
                "the forward does not call these modules, calls them fewer times than asked, or "
                "was compiled before the tap (then call "
                "torch.compiler.set_stance('force_eager') first)"
            )
        return f"nothing was captured at {names}: {reason}"


def _is_nested(module: nn.Module) -> bool:
    """Tell whether a module's forward is running further up this stack."""
    running = 0
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is _CALL_CODE and frame.f_locals.get("self") is module:
            running += 1
        frame = frame.f_back
    return running > 1


def _arrange_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give one input as itself, several as a tuple, named ones as a dict after the positions."""
    if not kwargs:
        return args[0] if len(args) == 1 else args
    return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
