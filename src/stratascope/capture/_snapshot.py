"""Copies of tensors that cost nothing until somebody writes.

``torch._lazy_clone`` shares the storage copy-on-write: whoever writes first, the network or the
user, gets the copy. So a snapshot shows what a layer put out at that moment even if the next layer
works in place, at the price of a reference. The function is private to torch, so all knowledge of
its holes stands here: it refuses storages that torch did not allocate itself (NumPy arrays, shared
memory, sparse tensors), and of quantized tensors it loses the quantizer; those are cloned. Once a
shared storage has been resized, the next write to it fails inside torch: ``fully_shard`` resizes
those of parameters, so these are never shared. Two holes stay: who took a NumPy view of a tensor
before the snapshot still writes into the shared storage, and no network may resize what it put out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_lazy_clone = getattr(torch, "_lazy_clone", None)
# Where a tensor's storage lies, without the copy of what is shared that data_ptr() would make.
_find_memory: Callable[[Tensor], int] = torch._C._data_address  # pyright: ignore
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def copies_on_write() -> bool:
    """Tell whether this torch can share a tensor until somebody writes."""
    return _lazy_clone is not None


def leave_parameters(tensor: Tensor) -> Tensor:
    """Give a tensor as it is, or a copy where it lies in the memory of a parameter.

    Args:
        tensor: Any tensor, not detached: that hides where it lies.
    """
    owner = tensor if tensor._base is None else tensor._base
    # The plain type first, since asking a parameter's metaclass takes longer than a snapshot.
    if type(owner) is Tensor or not isinstance(owner, nn.Parameter):
        return tensor
    return tensor.clone()


def snapshot(tensor: Tensor) -> Tensor:
    """Take a copy that later writes to the tensor do not reach; the graph stays attached.

    Args:
        tensor: Any tensor.

    >>> import torch
    >>> x = torch.zeros(2)
    >>> kept = snapshot(x)
    >>> _ = x.add_(1)
    >>> kept
    tensor([0., 0.])
    """
    # What is exported must be made of operations that other runtimes know.
    if _lazy_clone is None or tensor.is_quantized or _is_exporting():
        return tensor.clone()
    try:
        return _lazy_clone(tensor)
    except RuntimeError:
        return tensor.clone()


def unshare(written: Tensor, taken: Sequence[Tensor]) -> None:
    """Copy at once, on all cores, what would be copied on one core when a write comes.

    Args:
        written: The tensor that is about to be written to.
        taken: What `snapshot` gave of its storage, detached from the graph. Those that still share
            its memory, and are alike, are changed to share a copy of it; others are left to torch.

    >>> import torch
    >>> x = torch.zeros(2)
    >>> kept = snapshot(x)
    >>> unshare(x, [kept])
    >>> _ = x.add_(1)
    >>> kept
    tensor([0., 0.])
    """
    # A write that nobody announced has parted those that were taken before it.
    address = _find_memory(written)
    sharing = [part for part in taken if _find_memory(part) == address]
    if len({_name_layout(part) for part in sharing}) != 1:
        return
    copied = sharing[0].clone()
    for part in sharing:
        part.data = snapshot(copied)


def _name_layout(tensor: Tensor) -> tuple[Any, ...]:
    kind = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
    return (*kind, tensor.shape, tensor.stride(), tensor.storage_offset())
