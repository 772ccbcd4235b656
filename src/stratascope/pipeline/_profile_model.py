"""A profile of a model: batches through it, and what the sites hold measured as it flows."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from stratascope.capture import Tap, evaluating, match_forward_sites, named_tensors, tap
from stratascope.errors import CaptureError, DataError
from stratascope.pipeline._executor import Job, Run
from stratascope.pipeline._lengths import split_batch
from stratascope.pipeline._plan import join
from stratascope.pipeline._profile_gather import Gatherer, Settings
from stratascope.pipeline._profile_result import Profile
from stratascope.pipeline._progress import Progress
from stratascope.pipeline._source import Batch, Source, cut, make_source
from stratascope.pipeline._table import RunOrder, describe_sites
from stratascope.pipeline._transfer import placed, run_forward, span
from stratascope.pipeline._values import collect_values, describe_arrays, name_kinds
from stratascope.sites import Selector, Site, class_name, unwrap
from stratascope.stats._statistic import RunAll
from stratascope.store import ArraySpec, SiteSpec

# Samples that are run beforehand: more than one, to tell them from what holds for all.
_LOOKED_AT = 2

Key = tuple[str, str, int, str]
"""Path, port, call and place of a tensor."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the first forward has shown.

    Attributes:
        arrays: The tensors that are measured, by their keys.
        skipped: Those that cannot be told apart by samples.
        sites: What is known of the sites.
        notes: What was left out, and why.
    """

    arrays: dict[Key, ArraySpec]
    skipped: frozenset[Key]
    sites: tuple[SiteSpec, ...]
    notes: tuple[str, ...]


@dataclass(eq=False)
class ModelProfiling(Job):
    """Runs batches through a model and measures what the sites hold.

    Attributes:
        model: The network.
        data: The data.
        sites: What to measure.
        settings: What to gather.
        transform: Applied to each captured tensor.
        device: Where to run.
        layout: What the first forward has shown; None before it.
    """

    model: nn.Module
    data: Source
    sites: Selector | Iterable[Selector]
    settings: Settings
    transform: Callable[[Tensor], Tensor] | None
    device: torch.device | str | None
    layout: Layout | None = field(default=None)

    @classmethod
    def of(
        cls,
        model: Any,
        data: Any,
        sites: Any,
        *,
        settings: Settings,
        batch_size: int,
        limit: int | None,
        device: Any,
        transform: Any,
    ) -> Self:
        """Check what a caller gave, and make the job.

        Raises:
            DataError: The data cannot be run through.
            SiteNotFoundError: A selector matches nothing.
            TypeError: The model is none, or there are no sites.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"source must be a Store or a torch.nn.Module, got {type(model).__name__}: open a "
                "store by its path with stratascope.open_store"
            )
        if sites is None:
            raise TypeError("sites must say what of a model to profile, such as '**' for all")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        sites = tuple(sites) if isinstance(sites, Iterator) else sites
        match_forward_sites(model, sites)
        source = make_source(data, batch_size=batch_size, limit=limit)
        return cls(model, source, sites, settings, transform, device)

    def __getstate__(self) -> dict[str, Any]:
        # What wraps the network for a training has no place in another process.
        return {**vars(self), "model": unwrap(self.model)}

    def prepare(self) -> None:
        """Run the first batch to see what there is to gather."""
        with ExitStack() as stack:
            place = self._enter(stack)
            for batch in self.data.batches(0, 1):
                self.layout = self._look(split_batch(batch)[0].batch, place)

    def finish(self, gathered: Sequence[Gatherer] | None) -> Profile:
        """Make a profile of what all units have gathered.

        Raises:
            DataError: There was no sample.
        """
        if gathered is None or self.layout is None:
            raise DataError("data must have at least one sample, got none")
        name, layout = class_name(unwrap(self.model)), self.layout
        return Profile(gathered, layout.sites, source=name, notes=layout.notes)

    @contextmanager
    def begin(self) -> Generator[Run]:
        """Put the model on its device, and make ready the threads."""
        threads = torch.get_num_threads()
        with ExitStack() as stack, ThreadPoolExecutor(threads) as crew:
            # A crew of one would take turns with the thread that waits for it.
            yield partial(self._run, self._enter(stack), crew.map if threads > 1 else map)

    def _enter(self, stack: ExitStack) -> torch.device | None:
        place = stack.enter_context(placed(self.model, self.device))
        stack.enter_context(evaluating(self.model))
        stack.enter_context(torch.no_grad())
        return place

    def _run(
        self, place: torch.device | None, run: RunAll, units: Sequence[range]
    ) -> Generator[Any]:
        with ExitStack() as stack:
            meter: _Meter | None = None
            handle: Tap | None = None
            for unit in join(units):
                for batch in self.data.batches(unit.start, unit.stop):
                    for group in split_batch(batch):
                        if meter is None or handle is None:
                            meter = self._make_meter(group.batch, place, run)
                            handle = meter.attach(self)
                            stack.enter_context(handle)
                        meter.open(group.batch, unit, self.data.sample_index)
                        run_forward(unwrap(self.model), handle, group.batch, place)
                        meter.close()
                    yield Progress(batch.size, 0)
            if meter is not None:
                yield [gatherer.settle() for gatherer in meter.gatherers.values()]

    def _make_meter(self, batch: Batch, place: torch.device | None, run: RunAll) -> "_Meter":
        if self.layout is None:
            self.layout = self._look(batch, place)
        return _Meter(self.layout, self.settings, run)

    def _look(self, batch: Batch, place: torch.device | None) -> Layout:
        """Run a few samples to see what the sites hold."""
        network, few = unwrap(self.model), cut(batch, _LOOKED_AT)
        handle, order = tap(self.model, self.sites, transform=self.transform), RunOrder(network)
        with handle, order.watching():
            acts = run_forward(network, handle, few, place)
            handle.check()
        values = collect_values(acts)
        arrays, skipped = describe_arrays(
            values, few, name_kinds(network), axes=order.axes, verb="measured"
        )
        # The text of the root is no path.
        known = {str(site): site for site in acts.sites}
        keys = {name: _name_key(known[one.site], one.place) for name, one in values.items()}
        held = {array.site for array in arrays}
        sites = [site for site in acts.sites if str(site) in held]
        ordinals = order.number_classes()
        return Layout(
            {keys[array.key]: array for array in arrays},
            frozenset(keys[name] for name in skipped),
            describe_sites(network, sites, calls=order.calls, ordinals=ordinals),
            tuple(f"not measured: {name}: {reason}" for name, reason in skipped.items()),
        )


class _Meter:
    """Measures what a tap hands over, forward by forward."""

    def __init__(self, layout: Layout, settings: Settings, run: RunAll) -> None:
        self.gatherers = {key: Gatherer(array, settings) for key, array in layout.arrays.items()}
        self._skipped = layout.skipped
        self._run = run
        self._seen: set[Key] = set()
        self._batch: Batch | None = None
        self._rows: list[int] = []
        self._samples = np.zeros(0, np.int64)

    def attach(self, job: ModelProfiling) -> Tap:
        """Put hooks on the model."""
        # In inference mode torch does not count writes, and what a transform gets it may write to.
        plain = job.transform is None and not torch.is_inference_mode_enabled()
        return tap(
            job.model,
            job.sites,
            copy=False if plain else None,
            transform=job.transform,
            on_capture=self._take,
        )

    def open(self, batch: Batch, unit: range, index: np.ndarray[Any, Any] | None) -> None:
        """Say what goes into the next forward, and which of it is wanted."""
        numbers = batch.numbers or range(batch.start, batch.start + batch.size)
        self._rows = [row for row, number in enumerate(numbers) if number in unit]
        chosen = np.array(numbers)[self._rows]
        self._samples = chosen if index is None else index[chosen]
        self._batch, self._seen = batch, set()

    def close(self) -> None:
        """Make sure that the forward passed every site.

        Raises:
            CaptureError: It did not.
        """
        missing = self.gatherers.keys() - self._seen
        if missing:
            self._refuse(missing)

    def _take(self, site: Site, value: Any) -> None:
        for place, tensor in named_tensors(value):
            key = _name_key(site, place)
            if key in self._skipped:
                continue
            if key not in self.gatherers:
                self._refuse([key])
            self._seen.add(key)
            self._measure(self.gatherers[key], tensor.detach())

    def _measure(self, gatherer: Gatherer, tensor: Tensor) -> None:
        assert self._batch is not None
        size = self._batch.size
        if tensor.shape[:1] != (size,):
            raise CaptureError(
                f"'{gatherer.array.site}' must give one value for each sample, got shape "
                f"{tuple(tensor.shape)} for the {size} samples {span(self._batch)}"
            )
        if len(self._rows) < size:
            tensor = tensor[self._rows]
        if self._rows:
            gatherer.update(tensor, self._samples, self._run)

    def _refuse(self, keys: Iterable[Key]) -> None:
        assert self._batch is not None
        names = ", ".join(sorted({path for path, *_ in keys}))
        raise CaptureError(
            f"every forward must pass the same sites, but samples {span(self._batch)} differ from "
            f"the first ones in {names}: choose sites that always run"
        )


def _name_key(site: Site, place: str) -> Key:
    return site.path, site.port, site.call or 1, place
