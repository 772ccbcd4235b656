"""What a trace says of tensors: their shape, their memory, what in them is not finite."""

import cmath
from functools import lru_cache

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


def storage_address(tensor: Tensor) -> int | None:
    """Tell which storage a tensor lies in, None where it has none of the plain kind."""
    # Not data_ptr(), which would make a copy-on-write storage copy.
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return None
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


class MemoryWatch:
    """How much memory the tensors of a forward take, and how much they took at most."""

    __slots__ = ("_live", "_total", "peak")

    def __init__(self) -> None:
        self._live: list[tuple[StorageWeakRef, int]] = []
        self._total = 0
        self.peak = 0

    def follow(self, inputs: list[Tensor], outputs: list[Tensor]) -> int:
        """Count the storages that an operation made, in bytes."""
        known = {storage_address(tensor) for tensor in inputs}
        new = 0
        for tensor in outputs:
            address = storage_address(tensor)
            if address is not None and address not in known:
                known.add(address)
                storage = tensor.untyped_storage()
                self._live.append((StorageWeakRef(storage), storage.nbytes()))
                new += storage.nbytes()
        self._total += new
        # What has gone since is only looked for when a new peak seems to be there.
        if self._total > self.peak:
            self._live = [(storage, size) for storage, size in self._live if not storage.expired()]
            self._total = sum(size for _, size in self._live)
            self.peak = max(self.peak, self._total)
        return new
