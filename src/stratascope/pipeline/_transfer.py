"""Batches to the device and through the model, values back to the host."""

import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stratascope.capture import Activations, Staged, Tap, map_tensors, named_tensors, stage
from stratascope.errors import DataError, StratascopeError, first_line
from stratascope.pipeline._quantize import quantize
from stratascope.pipeline._source import Batch
from stratascope.store import ArraySpec, count_group_axes, name_samples

_LISTED = 8


@contextmanager
def placed(model: nn.Module, device: torch.device | str | None) -> Generator[torch.device | None]:
    """Run a model on a device and bring it back; without one, tell where it is."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    home = None if first is None else first.device
    if device is None:
        yield home
        return
    homes = {(id(module), name): tensor.device for module, name, tensor in _own_tensors(model)}
    try:
        _send(model, device)
        yield torch.device(device)
    finally:
        if home is not None:
            _bring_back(model, homes, home)


def _send(model: nn.Module, device: torch.device | str) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        if _is_out_of_memory(error):
            raise DataError(
                f"the memory of {str(device)!r} must hold the model, but did not: "
                f"{first_line(error)}. Free some of it, or choose another device (--device)"
            ) from error
        raise DataError(
            f"device must be one that is there, got {str(device)!r}: {first_line(error)}"
        ) from error


def _bring_back(
    model: nn.Module, homes: dict[tuple[int, str], torch.device], home: torch.device
) -> None:
    """Move every tensor to where it was; what the forwards made anew goes with the first."""
    where: dict[int, torch.device] = {}
    for module, name, tensor in _own_tensors(model):
        where[id(tensor)] = homes.get((id(module), name), home)
        if isinstance(tensor, nn.Parameter) and tensor.grad is not None:
            where[id(tensor.grad)] = where[id(tensor)]
    # As model.to does it, which knows of what modules keep beside their tensors.
    apply = model._apply  # pyright: ignore[reportPrivateUsage]
    apply(lambda tensor: tensor.to(where.get(id(tensor), home)))


def _own_tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            yield module, name, tensor
        for name, tensor in module.named_buffers(recurse=False):
            yield module, name, tensor


def run_forward(
    model: nn.Module, handle: Tap, batch: Batch, place: torch.device | None
) -> Activations:
    """Run one batch and take what was captured.

    Raises:
        DataError: The model cannot take the batch.
    """

    def move(tensor: Tensor) -> Tensor:
        # Always a copy: a network that works in place must not write into the caller's data, and
        # a caller that uses one buffer for all batches must not write into what was captured.
        return tensor.clone() if place is None else tensor.to(place, non_blocking=True, copy=True)

    try:
        args, kwargs = map_tensors(move, (batch.args, batch.kwargs))
        model(*args, **kwargs)
    except StratascopeError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        if _is_out_of_memory(error):
            raise DataError(
                f"memory must hold a forward of {batch.size} samples, but did not: "
                f"{first_line(error)}. Use a smaller batch_size (--batch-size)"
            ) from error
        raise DataError(
            f"the model cannot take samples {span(batch)} of the data, {describe_inputs(batch)}: "
            f"{first_line(error)}. Give data of the shape and type that the model's forward "
            "expects"
        ) from error
    return handle.pop()


def describe_inputs(batch: Batch) -> str:
    """List the tensors of a batch: their types and shapes, of a dict after their names."""
    tensors = [("", tensor) for _, tensor in named_tensors(batch.args)]
    tensors += [(f"{name} = ", tensor) for name, tensor in named_tensors(batch.kwargs)]
    listed = [
        f"{name}{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for name, tensor in tensors
    ]
    return ", ".join(listed) or "no tensor"


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a plain RuntimeError of its allocator.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def span(batch: Batch) -> str:
    """Name the samples of a batch, as ``0 to 63``, or ``3, 8, 9`` where others lie between them."""
    if batch.numbers:
        listed = ", ".join(map(str, batch.numbers[:_LISTED]))
        return listed + (" …" if len(batch.numbers) > _LISTED else "")
    return name_samples(batch.start, batch.start + batch.size - 1)


def to_host(tensor: Tensor) -> Staged:
    """Start the copy to the host, so that the next forward need not wait for it."""
    # The order in which it is stored is made sooner on the device than on the host.
    return stage(tensor.contiguous() if tensor.is_cuda else tensor)


def stage_values(arrays: Iterable[ArraySpec], values: Mapping[str, Tensor]) -> dict[str, Staged]:
    """Start the copies of values to the host, as what the store holds of them.

    Args:
        arrays: The arrays of the values.
        values: The values of a batch, by the arrays' keys.
    """
    staged: dict[str, Staged] = {}
    for array in arrays:
        stored = {array.key: values[array.key]}
        if array.quantized:
            stored = _quantize(array, values[array.key])
        staged |= {key: to_host(tensor) for key, tensor in stored.items()}
    return staged


def refuse_type(array: ArraySpec, found: str) -> DataError:
    """Say that values are of another type than the first ones."""
    return DataError(
        f"samples of '{array.site}' must all be {array.source_dtype}, as the first were, got "
        f"{found}: give the data one type, or a transform that does"
    )


def _quantize(array: ArraySpec, values: Tensor) -> dict[str, Tensor]:
    found = str(values.dtype).removeprefix("torch.")
    if found != array.source_dtype:
        raise refuse_type(array, found)
    codes, scale, offset = quantize(values, count_group_axes(array.shape))
    return {array.key: codes, array.key_of("scale"): scale, array.key_of("offset"): offset}


def takes_all_cores(place: torch.device | None) -> bool:
    """Tell whether a forward of a model that is in some place has every core of this machine.

    Then encoding beside the next forward makes both slower: torch's threads wait for each other.
    """
    cores = os.cpu_count() or 1
    return torch.get_num_threads() >= cores and (place is None or place.type == "cpu")


def to_numpy(staged: Staged) -> np.ndarray[Any, Any]:
    """Give a captured tensor as an array; waits for its copy from a device."""
    value = staged.wait()
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.resolve_conj().resolve_neg().numpy()
