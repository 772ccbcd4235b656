"""What the sites of a network hold over a whole data set, in one pass."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stratascope._progress import ProgressBar
from stratascope.errors import DataError
from stratascope.pipeline._executor import Executor, Inline, Job, Processes, Run
from stratascope.pipeline._plan import join, plan
from stratascope.pipeline._profile_gather import Gatherer, Settings
from stratascope.pipeline._profile_result import Profile
from stratascope.pipeline._progress import Progress
from stratascope.store import StepPart, Store, StoredArray, open_store

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from stratascope.sites import Selector

# Of a model; of the values of a store, which take time to be read, all are looked at.
_MODEL_SHARE = 1 / 128
# How often each process sends what it has gathered, as each time costs some of what it saves.
_PARTS = 8


def profile(
    source: "Store | str | Path | nn.Module",
    data: Any = None,
    sites: "Selector | Iterable[Selector] | None" = None,
    *,
    steps: Literal["all"] | Iterable[int] | None = None,
    threshold: float = 0.0,
    bins: int = 8,
    top: int = 8,
    covariance: bool = True,
    reservoir: int = 1024,
    share: float | None = None,
    batch_size: int = 64,
    device: "torch.device | str | None" = None,
    transform: "Callable[[Tensor], Tensor] | None" = None,
    limit: int | None = None,
    shard: StepPart | None = None,
    workers: int | Executor | None = None,
    progress: bool = True,
) -> Any:
    """Measure what sites hold over a data set, in one pass, within a bounded amount of memory.

    Of a store this reads every value once, and needs no PyTorch. Of a model the values are measured
    as they flow, on their device, and none is kept; the model runs in evaluation mode without
    gradients and is left as it was.

    Args:
        source: A store, or the path or URL of one, or a model.
        data: What to run through a model, as for `extract`; left out for a store.
        sites: Names, globs, all of a class as ``Conv1d[*]``; None means all of a store.
        steps: Which steps of a store, such as those of a recorded training: numbers, or ``"all"``;
            the result is then a dict. None means the one that the store looks at.
        threshold: A channel that is never above this is dead.
        bins: Bins of the histograms between each power of two and the next, a power of two; 0 makes
            none.
        top: How many samples to keep at each end of a channel's range.
        covariance: Whether to gather the covariance of the channels: rank, components, redundancy.
        reservoir: Of how many samples to keep the channel means, for the intrinsic dimension.
        share: Which part of the positions of each map, but at least 16 of them, is looked at.
            Ranges, NaN and Inf, dead, active and constant channels and top samples rest on every
            value in any case; all else, such as moments, quantiles and the share of zeros, on these
            positions. None takes all of a store, and 1/128 of what flows through a model, so as not
            to slow it down.
        batch_size: Samples a forward, where the data does not come in batches.
        device: Where to run the model; it is moved there and back. None runs where it is.
        transform: Applied to each captured tensor, on its device: pool, slice, reduce.
        limit: Use only the first samples.
        shard: Look at only one part of the samples: ``(0, 4)`` the first quarter. `Profile.merge`
            joins the parts.
        workers: In how many processes to run, or an `Executor`; None runs in this one.
        progress: Show a progress bar on a terminal for what takes longer than two seconds.

    Returns:
        A `Profile`; with `steps` a dict of one by the number of each.

    Raises:
        SiteNotFoundError: A selector matches nothing.
        StoreError: The step is incomplete or damaged, or there is none of that number.
        CaptureError: A site did not run, or gives what cannot be told apart by samples.
        DataError: The data is empty, not what the model takes, or cannot be cut.

    >>> import numpy as np, torch, stratascope as ss
    >>> signals = np.random.default_rng(0).normal(size=(200, 1, 64)).astype("float32")
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> prof = ss.profile(model, signals, "**", progress=False)
    >>> prof["1"].count, prof["1"].active_fraction
    (array([12400, 12400, 12400, 12400]), array([1., 1., 1., 1.]))
    """
    if isinstance(source, str | Path):
        source = open_store(source)
    is_store = isinstance(source, Store)
    if share is None:
        share = 1.0 if is_store else _MODEL_SHARE
    settings = Settings(threshold, bins, top, covariance, reservoir, share)
    executor = _find_executor(workers)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(
            f"shard must be a number from 0 and how many there are, as (0, 4), got {shard}"
        )
    if is_store:
        if not (data is device is transform is None):
            raise TypeError(
                "a store has its values: leave out data, device and transform; its sites are "
                "chosen by sites="
            )
        look = partial(
            _profile_step, sites=sites, settings=settings, limit=limit, part=shard,
            executor=executor, progress=progress,
        )  # fmt: skip
        if steps is None:
            return look(source)
        numbers = source.steps if isinstance(steps, str) else steps
        if isinstance(steps, str) and steps != "all":
            raise ValueError(f"steps must be numbers, 'all' or None, got {steps!r}")
        return {number: look(source.at(number)) for number in numbers}
    if steps is not None:
        raise TypeError("steps are those of a store: leave them out for a model")
    from stratascope.pipeline._profile_model import ModelProfiling

    job = ModelProfiling.of(
        source, data, sites, settings=settings, batch_size=batch_size, limit=limit, device=device,
        transform=transform,
    )  # fmt: skip
    if not isinstance(executor, Inline):
        job.prepare()
    units = _cut(job.data.samples, job.data.largest_batch, shard, executor)
    gathered = run_job(job, executor, units, total=job.data.samples, progress=progress)
    return job.finish(gathered)


def run_job(
    job: Job,
    executor: Executor,
    units: Sequence[range],
    *,
    total: int | None,
    progress: bool,
) -> Any:
    """Run a job whose units give what they gathered, and merge that in whatever order it comes."""
    merged: Any = None
    done = 0
    with (
        ProgressBar("profile", total, enabled=progress) as bar,
        closing(executor.map_units(job, units)) as results,
    ):
        for result in results:
            if isinstance(result, Progress):
                done += result.samples
                bar.update(done, 0)
            elif merged is None:
                merged = result
            else:
                for own, its in zip(merged, result, strict=True):
                    own.merge(its)
    return merged


@dataclass(eq=False)
class StoreProfiling(Job):
    """Reads the values of a step, block by block, and measures them.

    Attributes:
        store: The step.
        sites: Which sites.
        settings: What to gather.
        threads: How many threads measure, beside the one that reads.
    """

    store: Store
    sites: tuple[str, ...]
    settings: Settings
    threads: int

    @contextmanager
    def begin(self) -> Generator[Run]:
        """Make ready the threads."""
        with ThreadPoolExecutor(self.threads) as crew, ThreadPoolExecutor(1) as reader:
            yield partial(self._run, crew, reader)

    def _run(
        self, crew: ThreadPoolExecutor, reader: ThreadPoolExecutor, units: Sequence[range]
    ) -> Generator[Any]:
        arrays = list_arrays(self.store, self.sites)
        gatherers = [Gatherer(array.spec, self.settings) for array in arrays]
        # As of a model: a sample's number is its place in the data, in whatever order it came.
        index = self.store.sample_index
        for unit in units:
            for number, rows, values in _read_ahead(reader, _read(arrays, unit)):
                gatherers[number].update(values, index[rows], crew.map)
            yield Progress(len(unit), 0)
        yield gatherers


def list_arrays(store: Store, sites: Iterable[str]) -> list[StoredArray]:
    """List the arrays of some sites of a store."""
    values = [store[site] for site in sites]
    parts = [value.values() if isinstance(value, dict) else [value] for value in values]
    return [array for part in parts for array in part]


def _read(
    arrays: Sequence[StoredArray], unit: range
) -> Iterator[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Read what arrays hold of some samples: which array, their places in the store, values."""
    for number, array in enumerate(arrays):
        for start in range(unit.start, unit.stop, array.block_size):
            stop = min(start + array.block_size, unit.stop)
            values, rows = array[start:stop], np.arange(start, stop)
            for places, part in _cut_lengths(array, values, start):
                yield number, rows[places], part


def _cut_lengths(
    array: StoredArray, values: np.ndarray[Any, Any], start: int
) -> Iterator[tuple[Any, np.ndarray[Any, Any]]]:
    """Part samples by their lengths, without what stands behind their ends."""
    axis = array.spec.length_axis
    if axis is None:
        yield slice(None), values
        return
    lengths = array.lengths[start : start + len(values)]
    for length in np.unique(lengths).tolist():
        places = np.flatnonzero(lengths == length)
        within = (slice(None),) * (1 + axis)
        yield places, values[places][(*within, slice(length))]


def _read_ahead(reader: ThreadPoolExecutor, items: Iterator[Any]) -> Generator[Any]:
    """Give items, while the next one is made by another thread."""
    following = reader.submit(next, items, None)
    while (item := following.result()) is not None:
        following = reader.submit(next, items, None)
        yield item


def _profile_step(
    store: Store,
    *,
    sites: Any,
    settings: Settings,
    limit: int | None,
    part: StepPart | None,
    executor: Executor,
    progress: bool,
) -> Profile:
    chosen = store.select(sites)
    samples = store.samples if limit is None else min(limit, store.samples)
    if not samples:
        raise DataError(f"a store must hold samples to be profiled, got none in {store.path}")
    workers = getattr(executor, "workers", 1)
    job = StoreProfiling(store, chosen, settings, max(1, (os.cpu_count() or 1) // workers))
    units = _cut(samples, store.unit, part, executor)
    gathered = run_job(job, executor, units, total=samples, progress=progress)
    specs = [store.describe(site) for site in chosen]
    return Profile(gathered, specs, source=str(store.path), step=store.step)


def _cut(samples: int | None, unit: int, part: StepPart | None, executor: Executor) -> list[range]:
    """Cut samples into units that are whole batches or shard files."""
    if samples is None:
        if part is not None or not isinstance(executor, Inline):
            raise DataError(
                "data must have a length to be done in parts (workers, shard), got an iterable of "
                "batches: give a Dataset, a DataLoader of one, an array or a memmap"
            )
        return plan(None, unit, set())
    units = plan(samples, unit, set(), part=part)
    if not units:
        raise DataError(
            f"each shard must have at least one of the {-(-samples // unit)} batches or units of "
            f"the data, got shard {part}: make fewer of them"
        )
    if isinstance(executor, Inline):
        return units
    few = max(1, len(units) // (_PARTS * getattr(executor, "workers", 1)))
    return [piece for n in range(0, len(units), few) for piece in join(units[n : n + few])]


def _find_executor(workers: int | Executor | None) -> Executor:
    if workers is None or isinstance(workers, Executor):
        return workers or Inline()
    return Processes(workers)
