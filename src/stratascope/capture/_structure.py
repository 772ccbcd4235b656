"""Values that modules pass around: tensors, and tuples, lists, dicts and dataclasses of them."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# Most arguments of a call of torch are one of these, and they hold no tensors.
_BARE = frozenset((type(None), bool, int, float, str))


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to every tensor of a value and keep the structure around them.

    Tuples, named tuples, lists, mappings and dataclasses are rebuilt as what they were; anything
    else that is no tensor comes back as it is.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        parts = [map_tensors(function, part) for part in value]
        # A named tuple takes its fields one by one; a plain one, and what torch.max returns, takes
        # them all at once.
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, list):
        parts = [map_tensors(function, part) for part in value]
        return parts if type(value) is list else _copy_list(value, parts)
    if isinstance(value, Mapping):
        return _map_mapping(function, value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _map_dataclass(function, value)
    return value


def _copy_list(value: list[Any], parts: list[Any]) -> list[Any]:
    mapped = copy.copy(value)
    mapped[:] = parts
    return mapped


def _map_dataclass(function: Callable[[Tensor], Any], value: Any) -> Any:
    # Copied, not built anew: a constructor may compute, count or refuse.
    mapped = copy.copy(value)
    for field in dataclasses.fields(value):
        part = getattr(value, field.name, None)
        replaced = map_tensors(function, part)
        if replaced is not part:
            # A frozen dataclass refuses plain assignment.
            object.__setattr__(mapped, field.name, replaced)
    return mapped


def _map_mapping(function: Callable[[Tensor], Any], value: Mapping[Any, Any]) -> Any:
    mapped = {key: map_tensors(function, part) for key, part in value.items()}
    if type(value) is dict:
        return mapped
    try:
        # Copied, not built anew: what the constructor takes differs from class to class.
        copied: Any = copy.copy(value)
        for key, part in mapped.items():
            copied[key] = part
    except TypeError:
        # A mapping that cannot be written to still has its keys and values.
        return mapped
    return copied


def named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """List the tensors of a value with their place in it, such as ``1.h``; ``""`` if it is one."""
    if isinstance(value, Tensor):
        yield prefix, value
        return
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple | list):
        parts = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value) if hasattr(value, field.name))
        parts = ((name, getattr(value, name)) for name in names)
    else:
        return
    for name, part in parts:
        yield from named_tensors(part, f"{prefix}.{name}" if prefix else str(name))


def collect_tensors(values: Iterable[Any]) -> list[Tensor]:
    """List the tensors in several values, such as the arguments of a call."""
    found: list[Tensor] = []
    _collect(values, found)
    return found


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        kind = type(value)
        if kind in _BARE:
            continue
        if kind is Tensor or isinstance(value, Tensor):
            found.append(value)
        elif kind is tuple or kind is list:
            _collect(value, found)
        else:
            found += [tensor for _, tensor in named_tensors(value)]


def count_bytes(value: Any) -> int:
    """Count what the tensors of a value take, each in full even where some share memory."""
    if type(value) is Tensor and value.layout is torch.strided:
        return value.nbytes
    return sum(part.nbytes for tensor in collect_tensors((value,)) for part in _list_parts(tensor))


def _list_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    # The size of a sparse tensor is that of its parts, and torch does not say it.
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def name_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments of a call as a dict: positions by number, then the named ones."""
    return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
