"""A network while it trains, into a store: one step of the store for each step that is due."""

import contextlib
import inspect
import operator
import warnings
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from stratascope._random import keeping_random
from stratascope.capture import (
    Activations,
    Tap,
    evaluating,
    map_tensors,
    match_forward_sites,
    named_tensors,
    tap,
)
from stratascope.capture._hooks import Hook
from stratascope.capture._modes import keeping_buffers, uncompiled
from stratascope.errors import CaptureError, DataError, StoreError, StratascopeError
from stratascope.pipeline._axes import AxisOrder
from stratascope.pipeline._extract import (
    comparable,
    describe_provenance,
    describe_settings,
    find_held,
)
from stratascope.pipeline._fingerprint import differences
from stratascope.pipeline._source import Batch, digest_batch, make_source
from stratascope.pipeline._table import RunOrder, describe_sites
from stratascope.pipeline._together import meet
from stratascope.pipeline._transfer import describe_inputs, placed, run_forward, to_host, to_numpy
from stratascope.pipeline._values import collect_values, describe_arrays, name_kinds, parse_dtype
from stratascope.sites import Selector, parse_class_index, unwrap
from stratascope.store import (
    UNIT_MULTIPLE,
    ArraySpec,
    Folder,
    Paths,
    SiteSpec,
    StepSpec,
    StepWriter,
    add_previews,
    open_folder,
)

_TRAINING = {"kind": "training batch"}


def record(
    model: nn.Module,
    sites: Selector | Iterable[Selector],
    *,
    to: str | Path | None,
    every: int = 100,
    probe: Any = None,
    dtype: torch.dtype | str | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    previews: bool = True,
    resume: bool = False,
) -> "TrainingRecord":
    """Write what the sites of a model hold to a store, every so many steps of its training.

    Call ``step(n)`` once in each step of the training. Steps 0, ``every``, 2 × ``every``, … are
    due, and each becomes a step of the store. With a ``probe``, always the same samples, a due step
    runs it through the model in evaluation mode; the training goes on as if that had not been:
    parameters, gradients, statistics of BatchNorm, random numbers and modes are as they were.
    Without one, the last forward before a due step is kept: that of the training batch.

    Where the numbers jump over a multiple of ``every``, the first step after it is due. A step that
    falls due unexpectedly, with no forward kept, is made up for at the next one.

    Hooks of your own on the model see the probe too.

    With DistributedDataParallel, record in one process. Parameters that ``fully_shard`` has spread
    over several need all of these for the probe's forward: record in each, one with ``to`` and the
    others with None.

    Args:
        model: The network.
        sites: What to keep: names, globs, modules, classes, predicates.
        to: The store's folder, new or one that lacks the steps to come, or the URL of one in a
            bucket, as for `extract`. None writes nothing, and
            takes part in the forwards.
        every: How many steps apart.
        probe: A tensor with the samples first, or a batch as a DataLoader gives it: of
            ``(input, target)`` the input, a dict as named arguments. It is copied. None records
            the training's own batches.
        dtype: What floating-point values are cast to before they are stored, such as ``"float16"``.
        transform: Applied to each captured tensor, on its device: pool, slice, reduce.
        previews: Write small maps of each sample and a histogram of each channel beside the values,
            for a first look that reads no values.
        resume: Pass over steps that the store already holds, for a training that went on from a
            checkpoint; refused where the model is not the same as it was then.

    Returns:
        A `TrainingRecord`.

    Raises:
        SiteNotFoundError: A selector matches nothing.
        CaptureError: A gradient is asked for, or some of the processes which hold the network
            together do not record it.
        DataError: The probe is empty, or of no kind that can be run through.
        StoreError: The folder holds something else.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with ss.record(model, "0", to="run.zarr", every=2, probe=torch.randn(8, 1, 16)) as rec:
    ...     for step in range(5):
    ...         loss = model(torch.randn(4, 1, 16)).square().mean()
    ...         optimiser.zero_grad(); loss.backward(); optimiser.step()
    ...         rec.step(step)
    >>> ss.open_store("run.zarr").steps
    (0, 2, 4)
    >>> ss.open_store("run.zarr", step=4)["0"].shape
    (8, 4, 14)
    """
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a whole number from 1, got {every!r}")
    sites = tuple(sites) if isinstance(sites, Iterator) else sites
    names = [match.text for match in match_forward_sites(model, sites)]
    parsed = parse_dtype(dtype)
    network = unwrap(model)
    if probe is not None:
        meet(network, writes=to is not None)
    # Before the first hours of training, not after them.
    path = None
    if to is not None:
        folder = open_folder(to)
        find_held(Paths(folder, 0))
        path = folder.path

    def describe(data: dict[str, Any], size: int) -> dict[str, Any]:
        return describe_settings(
            network,
            names,
            data,
            batch_size=size,
            dtype=parsed,
            transform=transform,
            unit_size=-(-size // UNIT_MULTIPLE) * UNIT_MULTIPLE,
        )

    def attach() -> Tap:
        return tap(model, sites, dtype=parsed, transform=transform)

    source = (
        _Forwards(network, attach(), names) if probe is None else _Probe(network, attach, probe)
    )
    return TrainingRecord(path, source, describe, every=every, previews=previews, resume=resume)


class TrainingRecord(AbstractContextManager["TrainingRecord"]):
    """What writes a training to a store; made by `record`.

    Writing runs in the background; an error there is raised by the next `step` or by `close`.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Linear(3, 2)
    >>> rec = ss.record(model, "", to="batches.zarr", every=10)
    >>> for step in range(20):
    ...     _ = model(torch.randn(4, 3))
    ...     rec.step(step)
    >>> rec.close()
    >>> rec.steps
    (0, 10)

    Attributes:
        path: The store's folder, or its URL; None where another process writes.
    """

    def __init__(
        self,
        path: Path | str | None,
        source: "_Probe | _Forwards",
        describe: Callable[[dict[str, Any], int], dict[str, Any]],
        *,
        every: int,
        previews: bool,
        resume: bool,
    ) -> None:
        self.path = path
        self._source = source
        self._describe = describe
        self._every = every
        self._previews = previews
        self._resume = resume
        self._last: int | None = None
        self._due = False
        self._closed = False
        self._steps: list[int] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="stratascope-record")
        self._writing: Future[None] | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that this record has taken, in order; those passed over are not among them."""
        return tuple(self._steps)

    def step(self, global_step: int) -> None:
        """Say that a step of the training is done; a due one is recorded.

        Args:
            global_step: Its number, counted as the training counts.

        Raises:
            StoreError: An earlier step could not be written, or the store already holds this one.
            CaptureError: A site did not run or gives what cannot be stored, or the training never
                called the model itself, but only its parts.
            DataError: The model cannot take the probe.
        """
        number = operator.index(global_step)
        if number < 0:
            raise ValueError(f"global_step must not be negative, got {number}")
        if self._closed:
            raise StoreError(f"this record of {self.path or 'nothing'} is closed: make a new one")
        self._raise_error()
        stride = 1 if self._last is None else max(1, number - self._last)
        self._due = self._due or self._is_due(number, stride)
        self._last = number
        try:
            if self._due:
                self._source.check_called(number)
            if self._due and self._source.ready:
                self._due = False
                self._finish_writing()
                self._record(number)
        finally:
            # The next step is expected as far away as this one was from the last.
            self._source.prepare(self._due or self._is_due(number + stride, stride))

    def close(self) -> None:
        """Finish writing and take the hooks off the model. Idempotent.

        Raises:
            StoreError: The last step could not be written.
        """
        if self._closed:
            return
        self._closed = True
        self._source.close()
        try:
            self._finish_writing()
        finally:
            self._writer.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except StratascopeError as failure:
            # The training's own error goes first.
            if error is None:
                raise
            error.add_note(str(failure))

    def _is_due(self, number: int, stride: int) -> bool:
        """Tell whether a multiple of ``every`` lies in the last ``stride`` numbers."""
        return number // self._every > (number - stride) // self._every

    def _record(self, number: int) -> None:
        if self._source.size == 0:
            raise DataError(
                "the model's inputs must begin with a tensor that has the samples first, but no "
                "samples came: record with a probe"
            )
        # Before all that concerns the writing, as every process takes part in a probe's forward.
        acts = self._source.take()
        if self.path is None:
            return
        paths = Paths(open_folder(self.path), number)
        settings = self._describe(self._source.describe(), self._source.size)
        held = self._check_held(paths, settings)
        if held is not None and paths.is_complete:
            return
        values = collect_values(acts)
        batch = Batch(0, self._source.size, (), {})
        arrays, skipped = describe_arrays(values, batch, self._source.kinds, axes=self._source.axes)
        if held is not None and _without_previews(held.values) != arrays:
            raise self._refuse(number, "the shapes or types at the sites")
        staged = {array.key: to_host(values[array.key].tensor) for array in arrays}
        if self._previews:
            arrays = add_previews(arrays, batch.size, settings["unit_size"])
        spec = StepSpec(
            step=number,
            samples=batch.size,
            unit=settings["unit_size"],
            arrays=arrays,
            settings=settings,
            skipped=skipped,
            sites=self._source.describe_sites(acts, {array.site for array in arrays}),
            provenance=describe_provenance(None),
        )
        self._writing = self._writer.submit(_write_step, paths.folder, held or spec, staged)
        self._steps.append(number)

    def _check_held(self, paths: Paths, settings: dict[str, Any]) -> StepSpec | None:
        held = find_held(paths)
        if held is None:
            return None
        if not self._resume:
            state = "complete" if paths.is_complete else "unfinished"
            raise StoreError(
                f"{self.path} already holds step {paths.step} ({state}), which was left as it is. "
                "Pass resume=True to pass over the steps that are held, or record to another folder"
            )
        changed = differences(comparable(held.settings), comparable(settings))
        if changed:
            raise self._refuse(paths.step, ", ".join(changed))
        return held

    def _refuse(self, number: int, changed: str) -> StoreError:
        return StoreError(
            f"{self.path} holds step {number} of another training, which was left as it is: since "
            f"then {changed} changed. Restore what was, or record to another folder"
        )

    def _raise_error(self) -> None:
        if self._writing is not None and self._writing.done():
            self._finish_writing()

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


class _Probe:
    """Always the same samples, run through the model when a step is due."""

    ready = True

    def __init__(self, model: nn.Module, attach: Callable[[], Tap], probe: Any) -> None:
        self._model = model
        self._attach = attach
        self.kinds = name_kinds(model)
        batch = next(make_source([probe], batch_size=1).batches(0, None), None)
        if batch is None:
            raise DataError("the probe must have at least one sample, got none")
        inputs = (batch.args, batch.kwargs)
        args, kwargs = map_tensors(lambda tensor: tensor.detach().clone(), inputs)
        self._batch = Batch(0, batch.size, args, kwargs)
        try:
            inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise DataError(
                f"the probe must have the arguments of {type(model).__name__}.forward, got "
                f"{describe_inputs(self._batch)}: {error}. A dict gives them by their names, "
                "anything else by its place"
            ) from error
        self._digest = digest_batch(self._batch)
        self._order = RunOrder(model)

    @property
    def size(self) -> int:
        return self._batch.size

    @property
    def axes(self) -> AxisOrder | None:
        """What the last forward said of the axes."""
        return self._order.axes

    def describe(self) -> dict[str, Any]:
        return {"kind": "probe", "samples": self.size, "digest": self._digest}

    def take(self) -> Activations:
        handle = self._attach()
        self._order = RunOrder(self._model)
        model, watching = self._model, self._order.watching()
        with handle, placed(model, None) as place, _undisturbed(model, place), watching:
            return run_forward(model, handle, self._batch, place)

    def describe_sites(self, acts: Activations, stored: Container[str]) -> tuple[SiteSpec, ...]:
        sites = [site for site in acts.sites if str(site) in stored]
        calls, ordinals = self._order.calls, self._order.number_classes()
        return describe_sites(self._model, sites, calls=calls, ordinals=ordinals)

    def check_called(self, number: int) -> None:
        """Nothing: no forward of the training is needed."""

    def prepare(self, due: bool) -> None:
        """Nothing: the probe runs when it is asked to."""

    def close(self) -> None:
        """Nothing stays on the model."""


class _Forwards:
    """The training's own forwards, of which the last is kept while a due step is expected."""

    # They are not watched.
    axes: AxisOrder | None = None

    def __init__(self, model: nn.Module, handle: Tap, names: Sequence[str]) -> None:
        self._model = model
        self._handle = handle
        self._names = names
        self._armed = True
        self._awaited = False
        self._seen = False
        self.kinds = name_kinds(model)
        self.size = 0
        self.ready = False
        # A copy of the model must not note its forwards here.
        hook = Hook(self._note_size)
        self._hook = model.register_forward_pre_hook(hook, with_kwargs=True)

    def describe(self) -> dict[str, Any]:
        return {**_TRAINING, "samples": self.size}

    def take(self) -> Activations:
        acts = self._handle.pop()
        self._handle.check()
        return acts

    def describe_sites(self, acts: Activations, stored: Container[str]) -> tuple[SiteSpec, ...]:
        sites = [site for site in acts.sites if str(site) in stored]
        # Only what was asked for is known: the training's own forward is not watched any further.
        ordinals: dict[str, dict[str, int]] = {}
        for name in self._names:
            indexed = parse_class_index(name)
            if indexed is not None and indexed[1] is not None:
                path = next(site.path for site in sites if acts[site] is acts[name])
                ordinals.setdefault(path, {})[indexed[0]] = indexed[1]
        calls = {site.path: 1 for site in sites if site.call is None}
        return describe_sites(self._model, sites, calls=calls, ordinals=ordinals)

    def check_called(self, number: int) -> None:
        """Make sure that the hooks were not on the model in vain."""
        if self._awaited and not self._seen:
            raise CaptureError(
                "the training must call the model itself for its batches to be recorded, but did "
                f"not before step {number}: record the part that it calls, record before "
                "torch.compile, or record with a probe"
            )

    def prepare(self, due: bool) -> None:
        """Keep the forwards to come, or let them pass so that nothing is held in vain."""
        self._handle.pop()
        self.ready = False
        self._armed = self._awaited = due
        if due:
            self._handle.resume()
        else:
            self._handle.pause()

    def close(self) -> None:
        self._hook.remove()
        with warnings.catch_warnings():
            # What never ran, a due step has said already.
            warnings.simplefilter("ignore")
            self._handle.remove()

    def _note_size(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._armed:
            self.ready = self._seen = True
            tensors = (tensor for _, tensor in named_tensors((args, kwargs)) if tensor.ndim)
            self.size = next((tensor.shape[0] for tensor in tensors), 0)


@contextmanager
def _undisturbed(model: nn.Module, place: torch.device | None) -> Generator[None]:
    """Run a model in the midst of its training, and leave nothing of it behind."""
    kind = "cpu" if place is None else place.type
    with contextlib.ExitStack() as stack:
        # Hooks and another mode would fill the caches of what the training has compiled.
        stack.enter_context(uncompiled())
        stack.enter_context(keeping_random(model))
        if torch.backends.cudnn.benchmark:
            # Trying out kernels for the probe's shape must not choose those of the training.
            stack.callback(setattr, torch.backends.cudnn, "benchmark", True)
            torch.backends.cudnn.benchmark = False
        for device in {"cpu", kind}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(keeping_buffers(model))
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        yield


def _without_previews(arrays: Iterable[ArraySpec]) -> tuple[ArraySpec, ...]:
    return tuple(replace(array, about={}) for array in arrays)


def _write_step(folder: Folder, spec: StepSpec, values: dict[str, Any]) -> None:
    writer = StepWriter(folder, spec, convert=to_numpy)
    try:
        writer.write(0, values)
        writer.finish()
    except BaseException:
        writer.abort()
        raise
