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

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_lazy_clone = getattr(torch, "_lazy_clone", None)
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


def unshare(taken: Sequence[Tensor]) -> None:
    """Copy at once, on all cores, what would be copied on one core when the write comes.

    Args:
        taken: All that `snapshot` gave of one storage, detached from the graph. They are changed
            to share a copy of it; views of it that differ are left to torch.

    >>> import torch
    >>> x = torch.zeros(2)
    >>> kept = snapshot(x)
    >>> unshare([kept])
    >>> _ = x.add_(1)
    >>> kept
    tensor([0., 0.])
    """
    if len({(part.shape, part.stride(), part.storage_offset()) for part in taken}) != 1:
        return
    copied = taken[0].clone()
    for part in taken:
        part.data = snapshot(copied)
