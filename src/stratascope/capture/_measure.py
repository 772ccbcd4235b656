"""What a trace says of tensors: their shape, their memory, what in them is not finite."""

import cmath
from functools import lru_cache
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

from stratascope.capture._records import Summary, TensorInfo

_GROWTH = 1.02
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore

# Types in which a sum of finite values overflows, or which torch cannot sum.
_WIDE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


def has_memory(tensor: Tensor) -> bool:
    """Tell whether a tensor lies in memory of its own as plain numbers."""
    return (
        tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_nested or tensor.is_quantized)
        and not is_lazy(tensor)
        and not _is_wrapped(tensor)
    )


def describe(tensors: list[Tensor]) -> tuple[TensorInfo, ...]:
    """Describe tensors as they are at this moment."""
    return tuple([_describe_one(tensor) for tensor in tensors])


def _describe_one(tensor: Tensor) -> TensorInfo:
    if is_lazy(tensor):
        return TensorInfo((), str(tensor.dtype).removeprefix("torch."), str(tensor.device), ())
    plain = tensor.layout is torch.strided and not tensor.is_nested
    stride = tensor.stride() if plain else ()
    if tensor.is_nested:
        # Its shape may hold a symbol.
        shape = tuple(int(size) if isinstance(size, int) else -1 for size in tensor.shape)
        return TensorInfo(shape, str(tensor.dtype).removeprefix("torch."), str(tensor.device), ())
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
        if not (real or tensor.is_complex()) or not has_memory(tensor):
            continue
        # One sum reads the tensor once; counting is for the rare case that it is not finite.
        values = tensor.detach() if tensor.requires_grad else tensor
        wide = _WIDE.get(tensor.dtype)
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

    __slots__ = ("_seen", "_written")

    def __init__(self) -> None:
        # By id: a dictionary keyed by tensors would compare their values.
        self._seen: dict[int, Seen] = {}
        self._written: dict[int, int] = {}

    def note(self, tensor: Tensor, origin: int | None = None) -> Seen:
        """Describe a tensor as it is now, and remember where it comes from."""
        # Not data_ptr(), which would make a copy-on-write storage copy.
        storage = StorageWeakRef(tensor.untyped_storage()) if has_memory(tensor) else None
        seen = Seen(ref(tensor), _describe_one(tensor), storage, origin)
        self._seen[id(tensor)] = seen
        return seen

    def look(self, tensor: Tensor) -> Seen:
        """Find what is known of a tensor, and describe it if nothing is."""
        seen = self._seen.get(id(tensor))
        return seen if seen is not None and seen.tensor() is tensor else self.note(tensor, None)

    def note_write(self, written: list[Tensor], index: int) -> None:
        """Remember that an operation wrote into the memory of tensors."""
        for tensor in written:
            storage = self.look(tensor).storage
            if storage is not None:
                self._written[storage.cdata] = index

    def find_origins(self, taken: list[Seen]) -> set[int]:
        """List the operations that gave tensors, and those that wrote into their memory since."""
        found: set[int] = set()
        for seen in taken:
            if seen.origin is not None:
                found.add(seen.origin)
            if self._written and seen.storage is not None:
                writer = self._written.get(seen.storage.cdata)
                # An older one wrote into what had this address before.
                if writer is not None and (seen.origin is None or writer > seen.origin):
                    found.add(writer)
        return found


class MemoryWatch:
    """How much memory the tensors of a forward take, and how much they took at most, to 2 %."""

    __slots__ = ("_live", "_purged", "_total", "peak")

    def __init__(self) -> None:
        self._live: list[tuple[StorageWeakRef, int]] = []
        self._total = 0
        self._purged = 0
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
        # Looked for at every step, what has gone since would cost the square of their number.
        if self._total > max(self.peak, _GROWTH * self._purged):
            self._purge()
        return new

    def _purge(self) -> None:
        self._live = [(storage, size) for storage, size in self._live if not storage.expired()]
        self._total = self._purged = sum(size for _, size in self._live)
        self.peak = max(self.peak, self._total)
