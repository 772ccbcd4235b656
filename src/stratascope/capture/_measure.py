"""What a trace says of tensors: their shape, their memory, what in them is not finite."""

import cmath
from functools import lru_cache
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from stratascope.capture._records import Summary, TensorInfo


def describe(tensors: list[Tensor]) -> tuple[TensorInfo, ...]:
    """Describe tensors as they are at this moment."""
    return tuple([_describe_one(tensor) for tensor in tensors])


def _describe_one(tensor: Tensor) -> TensorInfo:
    stride = tensor.stride() if tensor.layout is torch.strided else ()
    return _make_info(tensor.shape, tensor.dtype, tensor.device, stride)


@lru_cache(maxsize=4096)
def _make_info(
    shape: torch.Size, dtype: torch.dtype, device: torch.device, stride: tuple[int, ...]
) -> TensorInfo:
    # The tensors of a network are of few kinds, so that most are described already.
    return TensorInfo(tuple(shape), str(dtype).removeprefix("torch."), str(device), tuple(stride))


def summarise(tensors: list[Tensor]) -> tuple[Summary, ...]:
    """Summarise the values of tensors."""
    with torch.no_grad():
        return tuple(Summary.of(tensor) for tensor in tensors)


def count_nonfinite(tensors: list[Tensor]) -> tuple[int, int]:
    """Count NaN and Inf in tensors."""
    nans = infs = 0
    for tensor in tensors:
        real = tensor.is_floating_point()
        if not (real or tensor.is_complex()) or tensor.device.type == "meta":
            continue
        # One sum reads the tensor once; counting is for the rare case that it is not finite.
        values = tensor.detach() if tensor.requires_grad else tensor
        wide = torch.float32 if real and tensor.itemsize < 4 else None
        if not cmath.isfinite(torch.sum(values, dtype=wide).item()):
            nans += int(torch.isnan(values).sum())
            infs += int(torch.isinf(values).sum())
    return nans, infs


class Seen(NamedTuple):
    """A tensor that a forward has shown.

    Attributes:
        tensor: The tensor, as long as it lives.
        info: Its description.
        storage: The storage that it lies in, None where it has none of the plain kind. As long as
            it is referred to, no other storage gets its address.
        origin: The operation that gave it, None for what no operation has.
    """

    tensor: ref[Tensor]
    info: TensorInfo
    storage: StorageWeakRef | None
    origin: int | None


class Sight:
    """The tensors that a forward has shown so far, so that each is described once.

    Between the operations of a network its tensors have pushed all else out of the processor's
    caches: whatever is looked up again there costs several times what it costs elsewhere.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        # By id: a dictionary keyed by tensors would compare their values.
        self._seen: dict[int, Seen] = {}

    def note(self, tensor: Tensor, origin: int | None) -> Seen:
        """Describe a tensor as it is now, and remember where it comes from."""
        plain = tensor.layout is torch.strided and not tensor.is_meta
        # Not data_ptr(), which would make a copy-on-write storage copy.
        storage = StorageWeakRef(tensor.untyped_storage()) if plain else None
        seen = Seen(ref(tensor), _describe_one(tensor), storage, origin)
        self._seen[id(tensor)] = seen
        return seen

    def look(self, tensor: Tensor) -> Seen:
        """Find what is known of a tensor, and describe it if nothing is."""
        seen = self._seen.get(id(tensor))
        return seen if seen is not None and seen.tensor() is tensor else self.note(tensor, None)


class MemoryWatch:
    """How much memory the tensors of a forward take, and how much they took at most."""

    __slots__ = ("_live", "_total", "peak")

    def __init__(self) -> None:
        self._live: list[tuple[StorageWeakRef, int]] = []
        self._total = 0
        self.peak = 0

    def follow(self, inputs: list[Seen], outputs: list[Tensor], given: list[Seen]) -> int:
        """Count the storages that an operation made, in bytes.

        Args:
            inputs: What went in.
            outputs: What came out.
            given: What is known of what came out.
        """
        known = {seen.storage.cdata for seen in inputs if seen.storage is not None}
        new = 0
        for tensor, seen in zip(outputs, given, strict=True):
            if seen.storage is not None and seen.storage.cdata not in known:
                known.add(seen.storage.cdata)
                size = tensor.untyped_storage().nbytes()
                self._live.append((seen.storage, size))
                new += size
        self._total += new
        # What has gone since is only looked for when a new peak seems to be there.
        if self._total > self.peak:
            self._live = [(storage, size) for storage, size in self._live if not storage.expired()]
            self._total = sum(size for _, size in self._live)
            self.peak = max(self.peak, self._total)
        return new
