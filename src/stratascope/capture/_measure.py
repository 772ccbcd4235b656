"""What a trace says of tensors: their shape, their memory, what in them is not finite."""

import cmath
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

from stratascope.capture._records import Summary, TensorInfo

_GROWTH = 1.02
# What these give is finite where what they take is: they only choose and move.
_PASSING = frozenset(
    (
        "relu", "relu_", "relu6", "flatten", "reshape", "permute", "transpose", "squeeze",
        "unsqueeze", "contiguous", "getitem", "chunk", "split", "unbind", "cat", "stack",
    )
)  # fmt: skip
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
        # Its shape may hold a symbol; of the older kind only the first size may be asked for.
        sizes = tensor.shape if tensor.layout is torch.jagged else (tensor.size(0),)
        shape = tuple(int(size) if isinstance(size, int) else -1 for size in sizes)
        shape += (-1,) * (tensor.dim() - len(shape))
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
        looks: What its description is made of when there is time, or the description.
        storage: The storage that it lies in, None where it has none of the plain kind. As long as
            it is referred to, no other storage gets its address.
        new_bytes: Size of that storage where it had not been shown before.
        origin: The operation that gave it, None for what no operation has.
    """

    tensor: ref[Tensor]
    looks: tuple[Any, ...] | TensorInfo
    storage: StorageWeakRef | None
    new_bytes: int
    origin: int | None

    @property
    def info(self) -> TensorInfo:
        """Describe the tensor as it was when it was seen."""
        return self.looks if isinstance(self.looks, TensorInfo) else _make_info(*self.looks)


class Sight:
    """The tensors that a forward has shown so far, so that each is looked at once.

    Between the operations of a network its tensors have pushed all else out of the processor's
    caches: whatever is looked up again there costs several times what it costs elsewhere.
    """

    __slots__ = ("_finite", "_seen", "_storages", "_written")

    def __init__(self) -> None:
        # By id: a dictionary keyed by tensors would compare their values.
        self._seen: dict[int, Seen] = {}
        self._storages: dict[int, StorageWeakRef] = {}
        self._written: dict[int, int] = {}
        # What was seen, and how often it had been written to then.
        self._finite: dict[int, tuple[Seen, int]] = {}

    def note(self, tensor: Tensor, origin: int | None = None) -> Seen:
        """Look at a tensor as it is now, and remember where it comes from."""
        storage, size = None, 0
        if has_memory(tensor):
            looks = tensor.shape, tensor.dtype, tensor.device, tensor.stride()
            # Not data_ptr(), which would make a copy-on-write storage copy.
            memory = tensor.untyped_storage()
            address = memory._cdata  # pyright: ignore[reportPrivateUsage]
            storage = self._storages.get(address)
            if storage is None:
                storage = self._storages[address] = StorageWeakRef(memory)
                size = memory.nbytes()
        else:
            looks = _describe_one(tensor)
        seen = self._seen[id(tensor)] = Seen(ref(tensor), looks, storage, size, origin)
        return seen

    def look(self, tensor: Tensor) -> Seen:
        """Find what is known of a tensor, and look at it if nothing is."""
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
        found = {seen.origin for seen in taken if seen.origin is not None}
        if self._written:
            for seen in taken:
                if seen.storage is not None:
                    writer = self._written.get(seen.storage.cdata)
                    if writer is not None and (seen.origin is None or writer > seen.origin):
                        found.add(writer)
        return found

    def count_nonfinite(
        self,
        name: str,
        inputs: list[Tensor],
        taken: list[Seen],
        outputs: list[Tensor],
        given: list[Seen],
        writes: int,
    ) -> tuple[int, int]:
        """Count NaN and Inf in what an operation gave, and look only where there can be some.

        Args:
            name: Name of its function.
            inputs: What went in.
            taken: What is known of it.
            outputs: What came out.
            given: What is known of it.
            writes: How often the operation wrote to what went in.
        """
        passes = name in _PASSING and all(map(self._is_finite, inputs, taken, repeat(writes)))
        alike = passes and len({tensor.dtype for tensor in (*inputs, *outputs)}) == 1
        found = (0, 0) if alike else count_nonfinite(outputs)
        if found == (0, 0):
            for tensor, seen in zip(outputs, given, strict=True):
                # Of those made in inference mode torch does not tell whether they were written to.
                if seen.storage is not None and not tensor.is_inference():
                    self._finite[id(tensor)] = seen, tensor._version
        return found

    def forget_finite(self) -> None:
        """Mind that from now on something may write past torch."""
        self._finite.clear()

    def _is_finite(self, tensor: Tensor, seen: Seen, writes: int) -> bool:
        known, version = self._finite.get(id(tensor), (None, 0))
        if known is not seen or seen.storage is None or tensor._version != version + writes:
            return False
        # A write through tensor.data leaves the tensor's own count as it is.
        return self._written.get(seen.storage.cdata, -1) <= (seen.origin or 0)


class MemoryWatch:
    """How much memory the tensors of a forward take, and how much they took at most, to 2 %."""

    __slots__ = ("_live", "_purged", "_total", "peak")

    def __init__(self) -> None:
        self._live: list[tuple[StorageWeakRef, int]] = []
        self._total = 0
        self._purged = 0
        self.peak = 0

    def follow(self, given: list[Seen]) -> int:
        """Count the storages that an operation made, in bytes.

        Args:
            given: What is known of what came out.
        """
        new = 0
        for seen in given:
            if seen.storage is not None and seen.new_bytes:
                self._live.append((seen.storage, seen.new_bytes))
                new += seen.new_bytes
        self._total += new
        # Looked for at every step, what has gone since would cost the square of their number.
        if self._total > max(self.peak, _GROWTH * self._purged):
            self._purge()
        return new

    def _purge(self) -> None:
        self._live = [(storage, size) for storage, size in self._live if not storage.expired()]
        self._total = self._purged = sum(size for _, size in self._live)
        self.peak = max(self.peak, self._total)
