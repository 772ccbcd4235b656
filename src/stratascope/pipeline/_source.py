"""Data sets of every kind as batches in a fixed order, each with the number of its first sample."""

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from array import array as int_array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from stratascope.capture import map_tensors
from stratascope.errors import DataError
from stratascope.pipeline._fingerprint import raw_bytes

MOST_TARGET_VALUES = 64

_PROBED_SAMPLES = 8
_TARGET_KEYS = ("target", "targets", "label", "labels")


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples that come together, with what goes into the model.

    Attributes:
        start: Number of the first sample.
        size: Number of samples.
        args: Positional arguments of the model: a tensor with the samples first, or, where these
            are not of one shape, a list of tensors.
        kwargs: Named arguments of the model, where the data gives dicts.
        numbers: Numbers of the samples, where they do not follow one another.
        beside: What the data gives beside the inputs, as ``"target"`` and ``"id"``.
    """

    start: int
    size: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    numbers: tuple[int, ...] = ()
    beside: dict[str, Any] = field(default_factory=dict)


def inputs_of(batch: Batch) -> tuple[Any, ...]:
    """List all that goes into the model."""
    return (*batch.args, *batch.kwargs.values())


class Source(ABC):
    """A data set that can be run through from any sample on, always in the same batches."""

    samples: int | None
    """Number of samples, or None where only the end shows it."""

    even: bool = False
    """Whether all samples are known to be of one shape."""

    largest_batch: int = 1
    """Number of samples in the largest batch, where that is known beforehand."""

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
            of batches. Of ``(input, target)`` pairs the input is used, and the target kept beside
            it; dicts become named inputs.
        batch_size: Samples a forward, where the data does not come in batches.
        limit: Use only the first samples.

    Raises:
        DataError: The data is empty or of no kind that can be run through.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    if data is None or isinstance(data, str | bytes | Mapping | nn.Module):
        raise _wrong_kind(data)
    if isinstance(data, DataLoader):
        source = _from_loader(data)
    elif isinstance(data, IterableDataset):
        source = _Batches(DataLoader(data, batch_size=batch_size))
    elif hasattr(data, "shape") and hasattr(data, "dtype"):
        source = _Array(data, batch_size)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        listed = isinstance(data, list | tuple)
        source = _Batches(data) if listed else _from_loader(DataLoader(data, batch_size=batch_size))
    elif isinstance(data, Iterable):
        source = _Batches(data)
    else:
        raise _wrong_kind(data)
    if source.samples == 0:
        raise DataError("data must have at least one sample, got none")
    return source if limit is None else _Limited(source, limit)


def _wrong_kind(data: Any) -> DataError:
    name = type(data).__name__
    hint = ""
    if isinstance(data, Mapping):
        hint = ". Named inputs come as a Dataset or an iterable of dicts"
    elif hasattr(data, "__getitem__") and not hasattr(data, "__len__"):
        hint = f". A Dataset has a length: give {name} a __len__"
    return DataError(
        "data must be a Dataset, a DataLoader, an array or an iterable of batches, got "
        f"{name}{hint}"
    )


class _Array(Source):
    """An array, tensor or memmap with the samples on its first axis."""

    even = True

    def __init__(self, array: Any, batch_size: int) -> None:
        if array.ndim < 1:
            raise DataError("data must have samples on its first axis, got a single number")
        if not isinstance(array, Tensor):
            _check_numbers(array.dtype)
        self._array = array
        self._batch_size = self.largest_batch = batch_size
        self._length = self.samples = int(array.shape[0])

    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        size = self._batch_size
        end = self._length if stop is None else min(stop, self._length)
        for first in range(start - start % size, end, size):
            part = self._array[first : first + size]
            tensor = _as_tensor(part)
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

    def __init__(self, loader: DataLoader[Any], indices: Iterable[list[int]]) -> None:
        self._loader = loader
        self._indices = [_pack(batch) for batch in indices]
        sizes = [len(batch) for batch in self._indices]
        self._starts = [0, *itertools.accumulate(sizes)]
        self.samples = self._starts[-1]
        self.largest_batch = max(sizes, default=1)
        packed = all(isinstance(batch, int_array) for batch in self._indices)
        whole = self._indices if packed else [[*itertools.chain(*self._indices)]]
        order = np.concatenate([np.asarray(batch) for batch in whole]) if whole else np.empty(0)
        # A batch_sampler of the user's own hides behind a sequential sampler: look at the order.
        if order.dtype.kind in "iu" and not np.array_equal(order, np.arange(len(order))):
            self.sample_index = order.astype(np.int64)
        self._ids = _find_ids(loader.dataset) if order.dtype.kind in "iu" else None

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
            batch_sampler=(list(self._indices[number]) for number in wanted),
            num_workers=loader.num_workers,
            collate_fn=collate if loader.collate_fn is default_collate else loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            timeout=loader.timeout,
            multiprocessing_context=loader.multiprocessing_context,
        )
        for number, item in zip(wanted, part, strict=True):
            batch, indices = _make_batch(self._starts[number], item), [*self._indices[number]]
            if batch.size != len(indices):
                raise DataError(
                    f"a batch must have one sample for each of its {len(indices)} "
                    f"indices, got {batch.size} from the DataLoader (its collate_fn?)"
                )
            if self._ids is not None:
                batch.beside["id"] = self._ids[indices]
            yield batch

    def describe(self) -> dict[str, Any]:
        dataset: Any = self._loader.dataset
        places = {*_spread(self._starts[-1])}
        order = enumerate(itertools.chain(*self._indices))
        chosen = [index for place, index in order if place in places]
        items = [dataset[index] for index in chosen]
        beside: list[Any] = [target for item in items for target in _small_targets_of(item)]
        beside += [] if self._ids is None else [self._ids[chosen]]
        return {
            "kind": type(dataset).__name__,
            "samples": self.samples,
            "batch_sizes": sorted({len(batch) for batch in self._indices}),
            "order": _digest_order(self._indices),
            "digest": _digest(_input_of(item)[0] for item in items),
            **({"beside_digest": _digest(beside)} if beside else {}),
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
            if batch.size == 0:
                continue
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
        self.largest_batch = source.largest_batch
        self.even = source.even
        known = source.sample_index
        self.sample_index = None if known is None else known[:limit]

    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        end = self._limit if stop is None else min(stop, self._limit)
        for batch in self._source.batches(start, end):
            yield cut(batch, self._limit - batch.start)

    def describe(self) -> dict[str, Any]:
        return {**self._source.describe(), "samples": self.samples, "limit": self._limit}


def _from_loader(loader: DataLoader[Any]) -> Source:
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return _Batches(loader)
    return _Loader(loader, loader.batch_sampler)


def _pack(indices: Iterable[Any]) -> Sequence[Any]:
    """Keep whole numbers in eight bytes each; of a million samples, lists would take 40 MB."""
    listed = list(indices)
    return int_array("q", listed) if all(type(index) is int for index in listed) else listed


def _digest_order(batches: Iterable[Sequence[Any]]) -> str:
    """Digest the text of one list of all indices, which need not be in memory at once."""
    state, before = hashlib.blake2b(digest_size=16), "["
    for batch in batches:
        if batch:
            state.update((before + repr([*batch])[1:-1]).encode())
            before = ", "
    state.update(b"]")
    return state.hexdigest()


class Samples(list[Any]):
    """An input as a list of what each sample has for it, where these are not of one shape."""


def collate(samples: list[Any]) -> Any:
    """Join samples as PyTorch does; the inputs of those that differ in shape are listed."""
    try:
        return default_collate(samples)
    except RuntimeError:
        inputs = [_input_of(sample)[0] for sample in samples]
        targets = [_targets_of(sample) for sample in samples]
        beside = [_join([*itertools.chain(*targets)])] if _is_pair(samples[0]) else []
        if all(isinstance(sample, Mapping) for sample in inputs):
            joined = {name: _join([sample[name] for sample in inputs]) for name in inputs[0]}
            return (joined, *beside)
        return (_join(inputs), *beside)


def _join(values: list[Any]) -> Any:
    shapes = {getattr(value, "shape", None) for value in values}
    return default_collate(values) if len(shapes) == 1 or None in shapes else Samples(values)


def _make_batch(start: int, item: Any) -> Batch:
    args, kwargs = _input_of(item), {}
    if len(args) == 1 and isinstance(args[0], Mapping):
        args, kwargs = (), {str(key): value for key, value in args[0].items()}
    # A list beside a tensor is one input of several tensors.
    listed = not any(hasattr(value, "shape") for value in (*args, *kwargs.values()))
    args = tuple(_as_input(arg, listed=listed) for arg in args)
    kwargs = {name: _as_input(value, listed=listed) for name, value in kwargs.items()}
    counted = [
        value
        for value in (*args, *kwargs.values())
        if isinstance(value, Samples) or hasattr(value, "shape")
    ]
    if not counted or not getattr(counted[0], "shape", True):
        raise DataError(
            "a batch must be a tensor with the samples on its first axis, a list of tensors, a "
            f"tuple that begins with either, or a dict of them, got {type(item).__name__}"
        )
    beside = dict(zip(["target"], map(_as_rows, _targets_of(item)), strict=False))
    return Batch(start, len(counted[0]), args, kwargs, beside=beside)


def _as_input(value: Any, *, listed: bool) -> Any:
    if isinstance(value, np.ndarray):
        return _as_tensor(value)
    arrays = isinstance(value, list) and value and all(hasattr(part, "shape") for part in value)
    if arrays and (listed or isinstance(value, Samples)):
        tensors = [_as_tensor(part) for part in value]
        even = len({part.shape for part in tensors}) == 1
        return torch.stack(tensors) if even else Samples(tensors)
    return value


def cut(batch: Batch, size: int) -> Batch:
    """Keep the first samples of a batch."""
    if batch.size <= size:
        return batch

    def cut_tensor(tensor: Tensor) -> Tensor:
        return tensor[:size] if tensor.shape[:1] == (batch.size,) else tensor

    def cut_input(value: Any) -> Any:
        if isinstance(value, Samples):
            return _as_input(Samples(value[:size]), listed=True)
        return map_tensors(cut_tensor, value)

    kwargs = {name: cut_input(value) for name, value in batch.kwargs.items()}
    args = tuple(cut_input(arg) for arg in batch.args)
    beside = {
        role: rows[:size] if getattr(rows, "shape", ())[:1] == (batch.size,) else rows
        for role, rows in batch.beside.items()
    }
    return Batch(batch.start, size, args, kwargs, beside=beside)


def _as_tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    _check_numbers(values.dtype)
    # A copy: files are read-only, and of the other byte order where they are SEG-Y.
    return torch.from_numpy(np.array(values, dtype=np.dtype(values.dtype).newbyteorder("=")))


def _check_numbers(dtype: Any) -> None:
    try:
        torch.from_numpy(np.empty(0, dtype=np.dtype(dtype).newbyteorder("=")))
    except TypeError as error:
        found = "Python objects" if np.dtype(dtype).kind == "O" else str(dtype)
        raise DataError(f"data must be an array of numbers, got one of {found}") from error


def _input_of(item: Any) -> tuple[Any, ...]:
    """Take the input of an ``(input, target)`` pair."""
    if isinstance(item, list | tuple):
        if not item:
            raise DataError("a batch must hold an input, got an empty tuple")
        return (item[0],)
    return (item,)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2


def _targets_of(item: Any) -> list[Any]:
    """Take the target of an ``(input, target)`` pair, or of a dict; an empty list if there is none.

    What a dict holds goes into the model all the same.
    """
    if _is_pair(item):
        return [item[1]]
    named = item if isinstance(item, Mapping) else {}
    return [named[key] for key in _TARGET_KEYS if key in named][:1]


def _small_targets_of(item: Any) -> list[Any]:
    """Take the target of one sample if it is of a kind that is stored, which stays the same."""
    numbers = Tensor | np.ndarray | np.generic | int | float
    return [
        target
        for target in _targets_of(item)
        if isinstance(target, numbers)
        and math.prod(getattr(target, "shape", ())) <= MOST_TARGET_VALUES
    ]


def _as_rows(target: Any) -> Any:
    """Make an array of numbers in a list."""
    numbers = isinstance(target, list | tuple) and all(
        isinstance(value, int | float | np.generic) for value in target
    )
    return np.asarray(target) if numbers else target


def _find_ids(dataset: Any) -> np.ndarray[Any, Any] | None:
    """Read the ``ids`` of a data set, if it has whole numbers or texts, one for each sample."""
    ids = getattr(dataset, "ids", None)
    if not isinstance(ids, list | tuple | np.ndarray) or len(ids) != len(dataset):
        return None
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of several lengths
        return None
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        return None
    return np.strings.encode(array, "utf-8") if array.dtype.kind == "U" else array


def _spread(length: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, length - 1, _PROBED_SAMPLES)})


def _digest(values: Iterable[Any]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        for part in _leaves(value):
            state.update(part)
    return state.hexdigest()


def _leaves(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield raw_bytes(value)
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        plain = np.asarray(value)
        # The bytes of an object are where it lies in memory, another place in each run.
        yield type(value).__name__.encode() if plain.dtype == object else plain.tobytes()


def digest_batch(batch: Batch) -> str:
    """Say what a batch holds."""
    return _digest([batch.args, batch.kwargs])
