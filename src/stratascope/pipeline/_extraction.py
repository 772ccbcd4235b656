"""An extraction as a job: batches through a model, and what the sites hold into units of a step."""

import functools
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stratascope.capture import Activations, Staged, Tap, evaluating, tap
from stratascope.errors import CaptureError, DataError, StoreError
from stratascope.pipeline._coordinates import describe_coordinates, take_coordinates
from stratascope.pipeline._executor import Job, Run
from stratascope.pipeline._lengths import (
    Length,
    describe_lengths,
    find_extent,
    gather,
    split_batch,
    to_array,
)
from stratascope.pipeline._plan import join, plan
from stratascope.pipeline._progress import Progress
from stratascope.pipeline._source import Batch, Source, digest_batch
from stratascope.pipeline._table import RunOrder, describe_sites
from stratascope.pipeline._transfer import (
    placed,
    run_forward,
    span,
    stage_values,
    takes_all_cores,
)
from stratascope.pipeline._values import collect_values, describe_arrays, name_kinds
from stratascope.pipeline._warn import warn_caller
from stratascope.sites import Selector, unwrap
from stratascope.store import (
    COORDINATES,
    Folder,
    StepClaim,
    StepPart,
    StepSpec,
    UnitWriter,
    add_previews,
)

_USED_UP = "a generator that was used goes on where it stopped, so make it anew"


@dataclass(eq=False)
class Extraction(Job):
    """Runs batches through a model and writes what the sites hold to a step of a store.

    The step is claimed by `prepare`, or, where that was not called, when the first batch has shown
    what it will hold.

    Attributes:
        root: The store's folder.
        spec: The step; without arrays where it is still to be begun.
        part: Which part of the step to do, of how many; None does the whole.
        model: The network.
        data: The data.
        sites: What to store.
        dtype: What floating-point values are cast to.
        transform: Applied to each captured tensor.
        device: Where to run.
        length: Greatest length of a sample, where these differ; None where all are of one shape.
        previews: Whether a step that is begun gets previews and histograms of its values.
        claim: The right to write the step; held by the process that asked, and no other.
    """

    root: Folder
    spec: StepSpec
    part: StepPart | None
    model: nn.Module
    data: Source
    sites: Selector | Iterable[Selector]
    dtype: torch.dtype | None
    transform: Callable[[Tensor], Tensor] | None
    device: torch.device | str | None
    length: Length | None = None
    previews: bool = True
    claim: StepClaim | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What wraps the network for a training has no place in another process.
        return {**vars(self), "model": unwrap(self.model), "claim": None}

    def prepare(self) -> None:
        """Claim the step; if it is still to be begun, run the first batch to see what it holds."""
        if self.spec.arrays:
            self._claim()
            return
        with self._attached() as (handle, place):
            for batch in self.data.batches(0, 1):
                self._capture_first(handle, place, batch)

    def list_units(self) -> list[range]:
        """List what is still to do, each as long as a batch, so that few are run twice."""
        committed = set() if self.claim is None else self.claim.committed
        unit = self.spec.unit
        units = plan(self.spec.samples, unit, committed, part=self.part)
        return join(units, within=unit * -(-self.data.largest_batch // unit))

    @contextmanager
    def begin(self) -> Generator[Run]:
        """Put hooks on the model, and the model on its device."""
        with self._attached() as (handle, place):
            yield functools.partial(self._run, handle, place)

    @contextmanager
    def _attached(self) -> Generator[tuple[Tap, torch.device | None]]:
        handle = tap(self.model, self.sites, dtype=self.dtype, transform=self.transform)
        # The hooks are on already: they must go even if the model cannot be moved.
        with (
            handle,
            placed(self.model, self.device) as place,
            evaluating(self.model),
            torch.no_grad(),
        ):
            yield handle, place

    def _run(
        self, handle: Tap, place: torch.device | None, units: Sequence[range]
    ) -> Generator[Progress]:
        spans = join(units)
        writer: UnitWriter | None = None
        told = 0
        try:
            for batch in self._missing_batches(spans):
                capture = self._capture if self.spec.arrays else self._capture_first
                values = capture(handle, place, batch)
                if writer is None:
                    numbers = self._number_units(spans)
                    writer = UnitWriter(self.root, self.spec, numbers, convert=to_array)
                writer.write(batch.start, values, wait=takes_all_cores(place))
                # Once: the writer goes on meanwhile.
                written = writer.bytes_written
                yield Progress(_count_common(batch, spans), written - told)
                told = written
            if writer is not None:
                writer.finish()
                yield Progress(0, writer.bytes_written - told)
        except BaseException:
            if writer is not None:
                writer.abort()
            raise

    def _missing_batches(self, spans: Sequence[range]) -> Iterator[Batch]:
        done = came = 0
        if self.data.samples is None:
            # An iterable may be one that is run through but once.
            spans = [range(spans[0].start, spans[-1].stop)]
        for missing in spans:
            # What has no length is watched from its beginning, to see that it is the same again.
            first = 0 if self.data.samples is None else missing.start
            for batch in self.data.batches(first, missing.stop):
                came = batch.start + batch.size
                if batch.start == 0:
                    self._check_beginning(batch)
                if self.spec.samples is not None and came > self.spec.samples:
                    raise DataError(
                        f"data must have {self.spec.samples} samples, as when step "
                        f"{self.spec.step} of {self.root} was written, but goes on"
                    )
                # A batch that reaches over a committed unit into the next gap fills both at once.
                if batch.start >= done and came > missing.start:
                    done = came
                    yield batch
            if self.data.samples is None and came < missing.start:
                raise DataError(
                    f"data must begin with the {missing.start} samples that are committed, but "
                    f"ended after {came}: {_USED_UP}"
                )

    def _check_beginning(self, batch: Batch) -> None:
        known = self.spec.settings["data"].get("beginning")
        if known is not None and known != digest_batch(batch):
            raise StoreError(
                f"{self.root} cannot be continued: the data begins with other values than when "
                f"its step {self.spec.step} was begun. Restore what was, or extract to another "
                f"step or folder; {_USED_UP}"
            )

    def _capture(
        self,
        handle: Tap,
        place: torch.device | None,
        batch: Batch,
        first: Activations | None = None,
    ) -> dict[str, Any]:
        """Run a batch, a forward for each shape in it, and start the copies of what is stored."""
        parts: list[tuple[list[int], dict[str, Staged]]] = []
        for group in split_batch(batch):
            acts = first or run_forward(unwrap(self.model), handle, group.batch, place)
            first = None
            parts.append((group.places, self._stage(group.batch, acts)))
        uneven = any(array.length_axis is not None for array in self.spec.arrays)
        several = uneven or len(parts) > 1
        values = gather(self.spec, batch.size, parts) if several else parts[0][1]
        return values | take_coordinates(self.spec.coordinates, batch)

    def _capture_first(
        self, handle: Tap, place: torch.device | None, batch: Batch
    ) -> dict[str, Any]:
        """Run the first batch; it, or samples of all lengths, show what the step will hold."""
        network = unwrap(self.model)
        order = RunOrder(network)
        short, whole = None, split_batch(batch)[0].batch
        if self.length is not None:
            short, whole = find_extent(self.data, self.length).make_probes()
        with order.watching():
            acts = run_forward(network, handle, whole, place)
        handle.check()
        codes = self.spec.settings["dtype"] == "uint8"
        values, kinds = collect_values(acts), name_kinds(network)
        arrays, skipped = describe_arrays(values, whole, kinds, axes=order.axes, quantized=codes)
        if short is not None:
            others = collect_values(run_forward(network, handle, short, place))
            shapes = {key: tuple(value.tensor.shape[1:]) for key, value in others.items()}
            arrays = describe_lengths(arrays, shapes)
        if self.previews:
            arrays = add_previews(arrays, self.spec.samples, self.spec.unit)
        if self.data.samples is None:
            self.spec.settings["data"]["beginning"] = digest_batch(batch)
        beside, left_out = describe_coordinates(batch)
        arrays, skipped = (*arrays, *beside), skipped | left_out
        stored = {array.site for array in arrays}
        sites = [site for site in acts.sites if str(site) in stored]
        calls, ordinals = order.calls, order.number_classes()
        table = describe_sites(network, sites, calls=calls, ordinals=ordinals)
        self.spec = replace(self.spec, arrays=arrays, skipped=skipped, sites=table)
        self._claim()
        return self._capture(handle, place, batch, acts if short is None else None)

    def _claim(self) -> None:
        spec, index = self.spec, self.data.sample_index
        self.claim = StepClaim(self.root, spec, sample_index=index, part=self.part)
        if spec.samples is not None:
            rows = (array.count_rows(spec.samples, spec.unit) for array in spec.arrays)
            need = sum(n * array.sample_bytes for n, array in zip(rows, spec.arrays, strict=True))
            free = self.root.free_bytes()
            if free is not None and need > free:
                warn_caller(
                    f"{spec.samples} samples take up to {need / 1e6:,.0f} MB uncompressed, and "
                    f"{free / 1e6:,.0f} MB are free: dtype='float16', a transform or fewer sites "
                    "store less"
                )

    def _number_units(self, spans: Sequence[range]) -> Collection[int]:
        size = self.spec.unit
        if self.spec.samples is None:
            return range(spans[0].start // size, sys.maxsize)
        return {start // size for missing in spans for start in missing[::size]}

    def _stage(self, batch: Batch, acts: Activations) -> dict[str, Staged]:
        values = collect_values(acts)
        wanted = {array.key for array in self.spec.values}
        known = (wanted | self.spec.skipped.keys()) - {*COORDINATES}
        if (others := values.keys() ^ known) != set():
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
        return stage_values(self.spec.values, {key: values[key].tensor for key in wanted})


def _count_common(batch: Batch, spans: Iterable[range]) -> int:
    """Count the samples of a batch that lie in some ranges."""
    end = batch.start + batch.size
    return sum(max(0, min(end, part.stop) - max(batch.start, part.start)) for part in spans)
