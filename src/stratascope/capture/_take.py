"""What is kept of a captured tensor: a snapshot of it, or what it is made into."""

from collections.abc import Callable

import torch
from torch import Tensor

from stratascope.capture._operations import aside
from stratascope.capture._snapshot import leave_parameters, snapshot
from stratascope.errors import CaptureError

_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore


def make_take(
    *,
    copy: bool | None,
    detach: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    transform: Callable[[Tensor], Tensor] | None,
) -> Callable[[Tensor], Tensor]:
    """Make the function that turns a tensor which flowed into the one that is kept.

    Args:
        copy: True copies at once, None when somebody writes; False gives the tensor itself,
            unless somebody else can write into its memory.
        detach: Cut it off the autograd graph.
        device: Where to put it; None leaves it where it is.
        dtype: What floating-point tensors are cast to.
        transform: Applied first.
    """
    keep = {None: snapshot, True: torch.clone, False: _keep_reference}[copy]

    def take_plain(tensor: Tensor) -> Tensor:
        _refuse_wrapped(tensor)
        tensor = leave_parameters(tensor)
        return keep(tensor.detach() if detach and tensor.requires_grad else tensor)

    def take_converted(tensor: Tensor) -> Tensor:
        _refuse_wrapped(tensor)
        tensor = leave_parameters(tensor)
        if detach and tensor.requires_grad:
            tensor = tensor.detach()
        if transform is None:
            value = tensor
        else:
            with aside:
                value = transform(snapshot(tensor))
        if not isinstance(value, Tensor):
            raise TypeError(f"transform must return a tensor, got {type(value).__name__}")
        moved = value.to(device=device, dtype=dtype if _can_cast(value, dtype) else None)
        if moved is not value:
            return moved
        # A slice would keep alive all that it was cut from.
        return value.clone() if _is_part(value) else keep(value)

    plain = device is None and dtype is None and transform is None
    return take_plain if plain else take_converted


def _refuse_wrapped(tensor: Tensor) -> None:
    # What it wraps is gone when the function that wrapped it is over.
    if _is_wrapped(tensor):
        raise CaptureError(
            "inside torch.vmap or torch.func a layer's value is not a tensor of its own: run the "
            "model on the batch without it"
        )


def _keep_reference(tensor: Tensor) -> Tensor:
    if tensor.is_inference():
        raise ValueError(
            "in inference_mode torch does not count writes, so copy=False cannot tell a lost value"
        )
    # What NumPy or another process writes, torch does not count.
    return tensor if _is_own_memory(tensor) else tensor.clone()


def _is_own_memory(tensor: Tensor) -> bool:
    if tensor.layout is not torch.strided or not tensor.is_cpu:
        return True
    storage = tensor.untyped_storage()
    return storage.resizable() and not storage.is_shared()


def _can_cast(value: Tensor, dtype: torch.dtype | None) -> bool:
    # A complex number made real would lose its imaginary part.
    return value.is_floating_point() or (
        value.is_complex() and dtype is not None and dtype.is_complex
    )


def _is_part(value: Tensor) -> bool:
    if value.layout is not torch.strided:
        return False
    return value.untyped_storage().nbytes() > value.numel() * value.element_size()
