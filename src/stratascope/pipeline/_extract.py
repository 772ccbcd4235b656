"""A data set through a model into a store."""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from stratascope._progress import ProgressBar
from stratascope.capture import match_forward_sites
from stratascope.errors import DataError, StoreError
from stratascope.pipeline._executor import Executor, Inline
from stratascope.pipeline._extraction import Extraction
from stratascope.pipeline._fingerprint import describe_model, describe_transform, differences
from stratascope.pipeline._handover import check_portable
from stratascope.pipeline._lengths import Length
from stratascope.pipeline._source import Source, make_source
from stratascope.pipeline._values import parse_dtype
from stratascope.sites import Selector, unwrap
from stratascope.store import (
    RUN_FILE,
    UNIT_MULTIPLE,
    Codec,
    Paths,
    StepSpec,
    Store,
    find_root,
    open_folder,
    open_store,
    read_spec,
)


def extract(
    model: nn.Module,
    data: Any,
    sites: Selector | Iterable[Selector],
    *,
    to: str | Path,
    batch_size: int = 64,
    dtype: torch.dtype | str | None = None,
    codec: Codec = "fast",
    device: torch.device | str | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    length: Length | None = None,
    step: int = 0,
    limit: int | None = None,
    resume: bool = False,
    executor: Executor | None = None,
    shard: tuple[int, int] | None = None,
    unit_size: int = 256,
    previews: bool = True,
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Store:
    """Run a data set through a model and write what the sites hold to a store.

    The model runs in evaluation mode without gradients and is left as it was. Memory does not grow
    with the data. Samples are committed in units: whatever kills the run, committed units are
    whole, and the same call with ``resume=True`` does the rest and ends with the same bytes.

    Args:
        model: The network.
        data: A Dataset, a DataLoader, an array, tensor or memmap with the samples first, or an
            iterable of batches. Of ``(input, target)`` pairs the input is used, and a target of up
            to 64 numbers stored beside the samples; dicts become named arguments.
        sites: What to store: names, globs, modules, classes, predicates.
        to: The store's folder, new or one that lacks this step; ``s3://bucket/name`` or
            ``gs://bucket/name`` keeps it in a bucket.
        batch_size: Samples a forward, where the data does not come in batches.
        dtype: What floating-point values are cast to before they are stored, such as ``"float16"``.
            ``"uint8"`` stores codes of one byte, with a scale and an offset for each map of a
            sample, that are read as float32: wrong by half of 1/252 of the map's range at most.
        codec: How the values are compressed: ``"fast"`` costs next to nothing; ``"compact"`` takes
            up to 30 % less room and two to three times the processor time to write and to read.
        device: Where to run; the model is moved there and back. None runs where it is.
        transform: Applied to each captured tensor, on its device: pool, slice, reduce.
        length: For samples that differ in length, such as signals: the greatest length, or
            ``"longest"`` to look at all of them first. Those of one length run together, so that no
            padding enters the network. Behind the end of what it gives stands NaN.
        step: Number of the step, such as the training step of a checkpoint.
        limit: Use only the first samples.
        resume: Continue an interrupted run; refused if model, data or settings differ.
        executor: Where to run; None runs in this process, ``Processes(4)`` in four others.
        shard: Do only one part of the step: ``(0, 4)`` the first quarter, ``(3, 4)`` the last. As
            many calls as there are parts, on any hosts that share the folder and in any order, do
            it all; the last one marks the step complete. Each goes on where an earlier one stopped,
            as with ``resume=True``.
        unit_size: Samples in one shard file, a multiple of 64; also what a crash can cost. Of
            hundreds of thousands of small samples take some thousands: each unit is a file a site.
        previews: Write small maps of each sample and a histogram of each channel beside the values,
            for a first look that reads no values. A run that continues does as the step has it.
        provenance: What to keep beside the values, such as where the weights are from: anything
            that JSON can hold. The command and the versions are kept in any case.
        progress: Show a progress bar on a terminal for what takes longer than two seconds.

    Returns:
        The finished `Store`, opened for reading; with ``shard``, as far as it is done.

    Raises:
        SiteNotFoundError: A selector matches nothing.
        CaptureError: A site did not run, or gives what cannot be stored.
        DataError: The data is empty, not what the model takes, or cannot be cut or handed over as
            ``shard`` or ``executor`` need it.
        StoreError: The folder holds something else, the settings differ, the disk is full.

    >>> import numpy as np, torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> signals = np.random.default_rng(0).normal(size=(100, 1, 64)).astype("float32")
    >>> store = ss.extract(model, signals, "Conv1d[*]", to="acts.zarr")
    >>> store["0"].shape, store["0"][17, 2].dtype
    ((100, 4, 62), dtype('float32'))
    """
    if unit_size < 1 or unit_size % UNIT_MULTIPLE:
        raise ValueError(f"unit_size must be a multiple of {UNIT_MULTIPLE}, got {unit_size}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if codec not in get_args(Codec):
        raise ValueError(f"codec must be 'fast' or 'compact', got {codec!r}")
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    _check_shard(shard)
    executor = Inline() if executor is None else executor
    if not isinstance(executor, Executor):
        raise TypeError(f"executor must be one such as Processes(4), got {executor!r}")
    origin = describe_provenance(provenance)
    folder = open_folder(to)
    sites = tuple(sites) if isinstance(sites, Iterator) else sites
    matches = match_forward_sites(model, sites)
    source = make_source(data, batch_size=batch_size, limit=limit)
    _check_can_be_cut(source, executor, shard)
    _check_length(length, source)
    parsed = parse_dtype(dtype, codes=True)
    settings = describe_settings(
        unwrap(model),
        [match.text for match in matches],
        source.describe(),
        batch_size=batch_size,
        dtype=parsed,
        transform=transform,
        length=length,
        unit_size=unit_size,
    )
    paths = Paths(folder, step)
    # Whichever shard comes first begins the step, so the others always continue it.
    spec = _find_spec(paths, settings, codec, resume=resume or shard is not None)
    if spec is None or not paths.is_complete:
        begin = StepSpec(
            *(step, source.samples, unit_size, (), codec), settings=settings, provenance=origin
        )
        job = Extraction(
            root=folder,
            spec=spec or begin,
            part=shard,
            model=model,
            data=source,
            sites=sites,
            dtype=None if parsed is torch.uint8 else parsed,
            transform=transform,
            device=device,
            length=length,
            previews=previews,
        )
        _execute(job, executor, progress=progress)
    return open_store(folder, step=step)


def _check_shard(shard: tuple[int, int] | None) -> None:
    if shard is None:
        return
    number, count = shard
    if not 0 <= number < count:
        raise ValueError(
            f"shard must be a number from 0 and how many there are, as (0, 4), got {shard}"
        )


def _check_can_be_cut(source: Source, executor: Executor, shard: tuple[int, int] | None) -> None:
    if source.samples is None and (shard is not None or not isinstance(executor, Inline)):
        raise DataError(
            "data must have a length to be done in parts (executor, shard), got an iterable of "
            "batches: give a Dataset, a DataLoader of one, an array or a memmap"
        )


def _check_length(length: Length | None, source: Source) -> None:
    if length is None:
        return
    if length != "longest" and (not isinstance(length, int) or length < 1):
        raise ValueError(f"length must be a number from 1 or 'longest', got {length!r}")
    if source.samples is None:
        raise DataError(
            "data must be there to be looked at for samples to differ in length, got an iterable "
            "of batches: give a Dataset, or a DataLoader of one or of a list of samples"
        )


def _execute(job: Extraction, executor: Executor, *, progress: bool) -> None:
    """Do what is missing of a step, and mark it complete."""
    if not isinstance(executor, Inline):
        # Before the step is begun.
        check_portable(job)
    try:
        if job.spec.arrays or job.part is not None or not isinstance(executor, Inline):
            job.prepare()
        units = job.list_units()
        if units:
            _run_units(job, executor, units, progress=progress)
        if job.claim is None:
            raise DataError("data must have at least one sample, got none")
        job.claim.finish()
    except KeyboardInterrupt as error:
        if job.claim is not None:
            error.add_note(
                f"{job.claim.samples_committed} samples of step {job.spec.step} are committed in "
                f"{job.root}: the same call with resume=True (--resume) continues"
            )
        raise
    finally:
        if job.claim is not None:
            job.claim.release()


def _run_units(
    job: Extraction, executor: Executor, units: Sequence[range], *, progress: bool
) -> None:
    done = 0 if job.claim is None else job.claim.samples_committed
    nbytes = 0
    with (
        ProgressBar("extract", job.spec.samples, enabled=progress) as bar,
        # Closed here, and not some time: whatever runs elsewhere has ended then.
        closing(executor.map_units(job, units)) as results,
    ):
        for result in results:
            done, nbytes = done + result.samples, nbytes + result.nbytes
            bar.update(done, nbytes)


def describe_settings(
    model: nn.Module,
    sites: Iterable[str],
    data: dict[str, Any],
    *,
    batch_size: int,
    dtype: torch.dtype | None,
    transform: Callable[[Tensor], Tensor] | None,
    unit_size: int,
    length: Length | None = None,
) -> dict[str, Any]:
    """Say what the values of a step depend on."""
    return {
        "model": describe_model(model),
        "sites": sorted(set(sites)),
        "data": data,
        "batch_size": batch_size,
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "transform": describe_transform(transform),
        "length": length,
        "unit_size": unit_size,
        "written_by": f"stratascope {version('stratascope')}",
    }


def describe_provenance(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Say where the values of a step come from.

    Raises:
        TypeError: JSON cannot hold what was given.
    """
    made = {
        "command": shlex.join(sys.argv),
        "versions": {
            "stratascope": version("stratascope"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        **(given or {}),
    }
    try:
        # As it comes back: with lists for tuples, and text for numbers that are keys.
        return json.loads(json.dumps(made))
    except TypeError as error:
        raise TypeError(f"provenance must be what JSON can hold: {error}") from error


def find_held(paths: Paths) -> StepSpec | None:
    """Look at what is at the target: the step, begun or complete, or nothing of it (None).

    Raises:
        StoreError: Something else, which is left as it is.
    """
    folder = paths.folder
    if folder.is_vacant():
        return None
    if not folder.exists(RUN_FILE):
        raise StoreError(
            f"{folder} exists and is not a stratascope store: nothing was written. Choose another "
            "folder"
        )
    find_root(folder)
    return read_spec(paths) if folder.exists(paths.spec) else None


def _find_spec(
    paths: Paths, settings: dict[str, Any], codec: Codec, *, resume: bool
) -> StepSpec | None:
    """Find the same run, to be continued, or nothing (None).

    Raises:
        StoreError: Something else is there, which is left as it is.
    """
    spec = find_held(paths)
    if spec is None:
        return None
    if "beside_digest" not in spec.settings["data"]:
        # Early releases did not look at it.
        settings = {**settings, "data": {**settings["data"], "beside_digest": None}}
    changed = differences(
        {**comparable(spec.settings), "codec": spec.codec},
        {**comparable(settings), "codec": codec},
    )
    if not resume:
        raise StoreError(_describe_held(paths, changed))
    if changed:
        raise StoreError(
            f"{paths.folder} cannot be continued: since its step {paths.step} was begun, "
            f"{', '.join(changed)} changed. Restore what was, or extract to another step or folder"
        )
    return spec


def _describe_held(paths: Paths, changed: list[str]) -> str:
    complete = paths.is_complete
    held = f"{paths.folder} already holds step {paths.step}"
    if changed:
        state = "complete" if complete else "unfinished"
        what, remedy = f"({state}) of another run, which differs in {', '.join(changed)}", "Choose"
    elif complete:
        what, remedy = "(complete) of the same run", "Open it with stratascope.open_store, choose"
    else:
        what, remedy = "(unfinished)", "Pass resume=True (--resume) to continue it, or choose"
    return f"{held} {what}: nothing was written. {remedy} another step or another folder"


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not, or not yet, known to be of the same run."""
    data = {name: value for name, value in settings["data"].items() if name != "beginning"}
    return {**settings, "data": data, "written_by": None}
