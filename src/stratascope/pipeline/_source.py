"""Data sets of every kind as batches in a fixed order, each with the number of its first sample."""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from stratascope.errors import DataError

_PROBED_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into one forward.

    Attributes:
        start: Number of the first sample.
        size: Number of samples.
        args: Positional arguments of the model.
        kwargs: Named arguments of the model, where the data gives dicts.
    """

    start: int
    size: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Source(ABC):
    """A data set that can be run through from any sample on, always in the same batches."""

    samples: int | None
    """Number of samples, or None where only the end shows it."""

    sample_index: np.ndarray[Any, Any] | None = None
    """Index in the data set of each sample, where that is not its number."""

    @abstractmethod
    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        """Iterate over the batches that hold samples of ``start`` to ``stop``."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Say what the data is, so that a run that continues can see whether it is the same."""


def make_source(data: Any, *, batch_size: int, limit: int | None = None) -> Source:
    """Make a source of anything the ecosystem has.

    Args:
        data: A Dataset, a DataLoader, an array, tensor or memmap (samples first), or an iterable
            of batches. Of ``(input, target)`` pairs the input is used; dicts become named inputs.
        batch_size: Samples a forward, where the data does not come in batches.
        limit: Use only the first samples.

    Raises:
        DataError: The data is empty or of no kind that can be run through.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    if isinstance(data, DataLoader):
        source = _from_loader(data)
    elif isinstance(data, IterableDataset):
        source = _Batches(DataLoader(data, batch_size=batch_size))
    elif hasattr(data, "shape") and hasattr(data, "dtype"):
        source = _Array(data, batch_size)
    elif isinstance(data, list | tuple) or not hasattr(data, "__getitem__"):
        if not isinstance(data, Iterable):
            raise DataError(
                "data must be a Dataset, a DataLoader, an array or an iterable of batches, got "
                f"{type(data).__name__}"
            )
        source = _Batches(data)
    else:
        source = _from_loader(DataLoader(data, batch_size=batch_size))
    if source.samples == 0:
        raise DataError("data must have at least one sample, got none")
    return source if limit is None else _Limited(source, limit)


class _Array(Source):
    """An array, tensor or memmap with the samples on its first axis."""

    def __init__(self, array: Any, batch_size: int) -> None:
        if array.ndim < 1:
            raise DataError("data must have samples on its first axis, got a single number")
        if array.dtype == object:
            raise DataError("data must be an array of numbers, got one of Python objects")
        self._array = array
        self._batch_size = batch_size
        self._length = self.samples = len(array)

    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        size = self._batch_size
        end = self._length if stop is None else min(stop, self._length)
        for first in range(start - start % size, end, size):
            part = self._array[first : first + size]
            # A copy: a network that works in place must not write into the caller's data.
            tensor = part.clone() if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
            yield Batch(first, len(tensor), (tensor,), {})

    def describe(self) -> dict[str, Any]:
        chosen = _spread(self._length)
        return {
            "kind": "array",
            "samples": self.samples,
            "shape": [int(size) for size in self._array.shape[1:]],
            "dtype": str(self._array.dtype).removeprefix("torch."),
            "digest": _digest(self._array[index] for index in chosen),
        }


class _Loader(Source):
    """A DataLoader over a data set with indices; the order it draws is drawn once and kept."""

    def __init__(self, loader: DataLoader[Any], indices: list[list[int]]) -> None:
        self._loader = loader
        self._indices = indices
        sizes = [len(batch) for batch in indices]
        self._starts = [0, *itertools.accumulate(sizes)]
        self.samples = self._starts[-1]
        if not isinstance(loader.sampler, SequentialSampler):
            self.sample_index = np.array(list(itertools.chain(*indices)), dtype=np.int64)

    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        end = self._starts[-1] if stop is None else stop
        wanted = [
            number
            for number, first in enumerate(self._starts[:-1])
            if first < end and self._starts[number + 1] > start
        ]
        loader = self._loader
        # A new loader over the wanted batches only: the skipped ones are not even read.
        part: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=[self._indices[number] for number in wanted],
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            timeout=loader.timeout,
            multiprocessing_context=loader.multiprocessing_context,
        )
        for number, item in zip(wanted, part, strict=True):
            yield _make_batch(self._starts[number], item)

    def describe(self) -> dict[str, Any]:
        dataset: Any = self._loader.dataset
        order = list(itertools.chain(*self._indices))
        chosen = [order[position] for position in _spread(len(order))]
        return {
            "kind": type(dataset).__name__,
            "samples": self.samples,
            "batch_sizes": sorted({len(batch) for batch in self._indices}),
            "order": hashlib.blake2b(np.array(order, "<i8").tobytes(), digest_size=16).hexdigest(),
            "digest": _digest(_input_of(dataset[index])[0] for index in chosen),
        }


class _Batches(Source):
    """An iterable of batches, run through from its beginning."""

    samples = None

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        first = 0
        for item in self._batches:
            batch = _make_batch(first, item)
            first += batch.size
            # Batches before the start are passed over: an iterable has no other way to them.
            if first > start:
                yield batch
            if stop is not None and first >= stop:
                return

    def describe(self) -> dict[str, Any]:
        return {"kind": "batches", "samples": None}


class _Limited(Source):
    """The first samples of another source."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source = source
        self._limit = limit
        self.samples = None if source.samples is None else min(limit, source.samples)
        known = source.sample_index
        self.sample_index = None if known is None else known[:limit]

    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        end = self._limit if stop is None else min(stop, self._limit)
        yield from self._source.batches(start, end)

    def describe(self) -> dict[str, Any]:
        return {**self._source.describe(), "samples": self.samples, "limit": self._limit}


def _from_loader(loader: DataLoader[Any]) -> Source:
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return _Batches(loader)
    return _Loader(loader, [list(batch) for batch in loader.batch_sampler])


def _make_batch(start: int, item: Any) -> Batch:
    args, kwargs = _input_of(item), {}
    if len(args) == 1 and isinstance(args[0], Mapping):
        args, kwargs = (), {str(key): value for key, value in args[0].items()}
    tensors = [value for value in (*args, *kwargs.values()) if hasattr(value, "shape")]
    if not tensors or not tensors[0].shape:
        raise DataError(
            "a batch must be a tensor with the samples on its first axis, a tuple that begins with "
            f"one, or a dict of them, got {type(item).__name__}"
        )
    args = tuple(torch.from_numpy(arg) if isinstance(arg, np.ndarray) else arg for arg in args)
    return Batch(start, int(tensors[0].shape[0]), args, kwargs)


def _input_of(item: Any) -> tuple[Any, ...]:
    """Take the input of an ``(input, target)`` pair."""
    if isinstance(item, list | tuple):
        if not item:
            raise DataError("a batch must hold an input, got an empty tuple")
        return (item[0],)
    return (item,)


def _spread(length: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, length - 1, _PROBED_SAMPLES)})


def _digest(values: Iterable[Any]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        parts = value.values() if isinstance(value, Mapping) else (value,)
        for part in parts:
            if isinstance(part, Tensor):
                part = part.detach().cpu()
                part = part.float() if part.dtype == torch.bfloat16 else part
            state.update(np.ascontiguousarray(part).tobytes())
    return state.hexdigest()
