"""A data set through a model into a store."""

import json
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from stratascope.capture import Activations, Tap, evaluating, match_forward_sites, tap
from stratascope.errors import CaptureError, DataError, StoreError
from stratascope.pipeline._fingerprint import describe_model, describe_transform, differences
from stratascope.pipeline._plan import plan
from stratascope.pipeline._progress import ProgressBar
from stratascope.pipeline._source import Batch, Source, digest_batch, make_source
from stratascope.pipeline._table import RunOrder, describe_sites
from stratascope.pipeline._transfer import (
    placed,
    run_forward,
    span,
    stage_values,
    takes_all_cores,
    to_numpy,
)
from stratascope.pipeline._values import (
    collect_values,
    describe_arrays,
    name_kinds,
    parse_dtype,
)
from stratascope.pipeline._warn import warn_caller
from stratascope.sites import Selector, unwrap
from stratascope.store import (
    UNIT_MULTIPLE,
    Codec,
    Paths,
    StepSpec,
    StepWriter,
    Store,
    find_root,
    is_vacant,
    open_store,
    read_spec,
)

_USED_UP = "a generator that was used goes on where it stopped, so make it anew"


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
    step: int = 0,
    limit: int | None = None,
    resume: bool = False,
    unit_size: int = 256,
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
            iterable of batches. Of ``(input, target)`` pairs the input is used; dicts become named
            arguments.
        sites: What to store: names, globs, modules, classes, predicates.
        to: The store's folder, new or one that lacks this step.
        batch_size: Samples a forward, where the data does not come in batches.
        dtype: What floating-point values are cast to before they are stored, such as ``"float16"``.
            ``"uint8"`` stores codes of one byte, with a scale and an offset for each map of a
            sample, that are read as float32: wrong by half of 1/252 of the map's range at most.
        codec: How the values are compressed: ``"fast"`` costs next to nothing; ``"compact"`` takes
            up to 30 % less room and two to three times the processor time to write and to read.
        device: Where to run; the model is moved there and back. None runs where it is.
        transform: Applied to each captured tensor, on its device: pool, slice, reduce.
        step: Number of the step, such as the training step of a checkpoint.
        limit: Use only the first samples.
        resume: Continue an interrupted run; refused if model, data or settings differ.
        unit_size: Samples in one shard file, a multiple of 64; also what a crash can cost.
        provenance: What to keep beside the values, such as where the weights are from: anything
            that JSON can hold. The command and the versions are kept in any case.
        progress: Show a progress bar on a terminal for what takes longer than two seconds.

    Returns:
        The finished `Store`, opened for reading.

    Raises:
        SiteNotFoundError: A selector matches nothing.
        CaptureError: A site did not run, or gives what cannot be stored.
        DataError: The data is empty, or not what the model takes.
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
    origin = describe_provenance(provenance)
    root = Path(to)
    sites = tuple(sites) if isinstance(sites, Iterator) else sites
    matches = match_forward_sites(model, sites)
    source = make_source(data, batch_size=batch_size, limit=limit)
    parsed = parse_dtype(dtype, codes=True)
    network = unwrap(model)
    settings = describe_settings(
        network,
        [match.text for match in matches],
        source.describe(),
        batch_size=batch_size,
        dtype=parsed,
        transform=transform,
        unit_size=unit_size,
    )
    paths = Paths(root, step)
    spec = _find_spec(paths, settings, codec, resume=resume)
    if spec is None or not paths.complete.exists():
        cast = None if parsed is torch.uint8 else parsed
        handle = tap(model, sites, dtype=cast, transform=transform)
        begin = StepSpec(
            *(step, source.samples, unit_size, (), codec), settings=settings, provenance=origin
        )
        run = _Run(root, source, spec or begin)
        # The hooks are on already: they must go even if the model cannot be moved.
        with handle, placed(model, device) as place, evaluating(model), torch.no_grad():
            run.execute(network, handle, place, progress=progress)
    return open_store(root, step=step)


class _Run:
    """One pass over what a step still lacks.

    Args:
        root: The store's folder.
        source: The data.
        spec: The step; without arrays where it is still to be begun.
    """

    def __init__(self, root: Path, source: Source, spec: StepSpec) -> None:
        self._root = root
        self._source = source
        self._spec = spec
        self._writer: StepWriter | None = None

    def execute(
        self, model: nn.Module, handle: Tap, place: torch.device | None, *, progress: bool
    ) -> None:
        try:
            if self._spec.arrays:
                self._open_writer()
            with ProgressBar("extract", self._source.samples, enabled=progress) as bar:
                for batch in self._missing_batches():
                    run = self._run_first if self._writer is None else run_forward
                    acts = run(model, handle, batch, place)
                    bar.update(batch.start + batch.size, self._write(batch, acts))
            if self._writer is None:
                raise DataError("data must have at least one sample, got none")
            self._writer.finish()
        except BaseException as error:
            self._stop(error)
            raise

    def _run_first(
        self, model: nn.Module, handle: Tap, batch: Batch, place: torch.device | None
    ) -> Activations:
        """Run the first batch, which shows what the step will hold."""
        order = RunOrder(model)
        with order.watching():
            acts = run_forward(model, handle, batch, place)
        handle.check()
        codes = self._spec.settings["dtype"] == "uint8"
        values, kinds = collect_values(acts), name_kinds(model)
        arrays, skipped = describe_arrays(values, batch, kinds, quantized=codes)
        if self._source.samples is None:
            self._spec.settings["data"]["beginning"] = digest_batch(batch)
        stored = {array.site for array in arrays}
        sites = [site for site in acts.sites if str(site) in stored]
        table = describe_sites(model, sites, calls=order.calls, ordinals=order.number_classes())
        self._spec = replace(self._spec, arrays=arrays, skipped=skipped, sites=table)
        self._open_writer()
        return acts

    def _missing_batches(self) -> Iterator[Batch]:
        committed = set() if self._writer is None else set(self._writer.committed)
        done = came = 0
        ranges = plan(self._spec.samples, self._spec.unit, committed)
        if self._source.samples is None and ranges:
            # An iterable may be one that is run through but once.
            ranges = [range(ranges[0].start, ranges[-1].stop)]
        for missing in ranges:
            # What has no length is watched from its beginning, to see that it is the same again.
            first = 0 if self._source.samples is None else missing.start
            for batch in self._source.batches(first, missing.stop):
                came = batch.start + batch.size
                if batch.start == 0:
                    self._check_beginning(batch)
                if self._spec.samples is not None and came > self._spec.samples:
                    raise DataError(
                        f"data must have {self._spec.samples} samples, as when step "
                        f"{self._spec.step} of {self._root} was written, but goes on"
                    )
                # A batch that reaches over a committed unit into the next gap fills both at once.
                if batch.start >= done and came > missing.start:
                    done = came
                    yield batch
            if self._source.samples is None and came < missing.start:
                raise DataError(
                    f"data must begin with the {missing.start} samples that are committed, but "
                    f"ended after {came}: {_USED_UP}"
                )

    def _check_beginning(self, batch: Batch) -> None:
        known = self._spec.settings["data"].get("beginning")
        if known is not None and known != digest_batch(batch):
            raise StoreError(
                f"{self._root} cannot be continued: the data begins with other values than when "
                f"its step {self._spec.step} was begun. Restore what was, or extract to another "
                f"step or folder; {_USED_UP}"
            )

    def _write(self, batch: Batch, acts: Activations) -> int:
        """Hand a batch to the writer; give the bytes that are on disk so far."""
        assert self._writer is not None
        values, spec = collect_values(acts), self._spec
        wanted = {array.key for array in spec.values}
        if (others := values.keys() ^ (wanted | spec.skipped.keys())) != set():
            raise CaptureError(
                f"every forward must pass the same sites, but samples {span(batch)} differ from "
                f"the first ones in {', '.join(sorted(others))}: choose sites that always run"
            )
        for key in wanted:
            if values[key].tensor.shape[:1] != (batch.size,):
                raise CaptureError(
                    f"'{values[key].site}' must give one value for each sample, got shape "
                    f"{tuple(values[key].tensor.shape)} for the {batch.size} samples {span(batch)}"
                )
        tensors = {key: values[key].tensor for key in wanted}
        staged = stage_values(spec.values, tensors)
        self._writer.write(batch.start, staged, wait=takes_all_cores(tensors.values()))
        return self._writer.bytes_written

    def _open_writer(self) -> None:
        spec = self._spec
        self._writer = StepWriter(
            self._root, spec, sample_index=self._source.sample_index, convert=to_numpy
        )
        if spec.samples is not None:
            need = spec.samples * sum(array.sample_bytes for array in spec.arrays)
            free = shutil.disk_usage(self._root).free
            if need > free:
                warn_caller(
                    f"{spec.samples} samples take up to {need / 1e6:,.0f} MB uncompressed, and "
                    f"{free / 1e6:,.0f} MB are free: dtype='float16', a transform or fewer sites "
                    "store less"
                )

    def _stop(self, error: BaseException) -> None:
        if self._writer is None:
            return
        self._writer.abort()
        if isinstance(error, KeyboardInterrupt):
            error.add_note(
                f"{self._writer.samples_committed} samples of step {self._spec.step} are "
                f"committed in {self._root}: the same call with resume=True (--resume) continues"
            )


def describe_settings(
    model: nn.Module,
    sites: Iterable[str],
    data: dict[str, Any],
    *,
    batch_size: int,
    dtype: torch.dtype | None,
    transform: Callable[[Tensor], Tensor] | None,
    unit_size: int,
) -> dict[str, Any]:
    """Say what the values of a step depend on."""
    return {
        "model": describe_model(model),
        "sites": sorted(set(sites)),
        "data": data,
        "batch_size": batch_size,
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "transform": describe_transform(transform),
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
    root = paths.root
    if is_vacant(root):
        return None
    if not paths.run.exists():
        raise StoreError(
            f"{root} exists and is not a stratascope store: nothing was written. Choose another "
            "folder"
        )
    find_root(root)
    return read_spec(paths) if paths.spec.exists() else None


def _find_spec(
    paths: Paths, settings: dict[str, Any], codec: Codec, *, resume: bool
) -> StepSpec | None:
    """Find the same run, to be continued, or nothing (None).

    Raises:
        StoreError: Something else is there, which is left as it is.
    """
    root, spec = paths.root, find_held(paths)
    if spec is None:
        return None
    changed = differences(
        {**comparable(spec.settings), "codec": spec.codec},
        {**comparable(settings), "codec": codec},
    )
    if not resume:
        raise StoreError(_describe_held(paths, changed))
    if changed:
        raise StoreError(
            f"{root} cannot be continued: since its step {paths.step} was begun, "
            f"{', '.join(changed)} changed. Restore what was, or extract to another step or folder"
        )
    return spec


def _describe_held(paths: Paths, changed: list[str]) -> str:
    complete = paths.complete.exists()
    held = f"{paths.root} already holds step {paths.step}"
    if changed:
        state = "complete" if complete else "unfinished"
        what, remedy = f"({state}) of another run, with other {', '.join(changed)}", "Choose"
    elif complete:
        what, remedy = "(complete) of the same run", "Open it with stratascope.open_store, choose"
    else:
        what, remedy = "(unfinished)", "Pass resume=True (--resume) to continue it, or choose"
    return f"{held} {what}: nothing was written. {remedy} another step or another folder"


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not, or not yet, known to be of the same run."""
    data = {name: value for name, value in settings["data"].items() if name != "beginning"}
    return {**settings, "data": data, "written_by": None}
