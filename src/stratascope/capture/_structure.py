"""Values that modules pass around: tensors, and tuples, lists, dicts and dataclasses of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to every tensor of a value and keep the structure around them.

    Tuples, named tuples, lists, mappings and dataclasses are rebuilt as what they were; anything
    else that is no tensor comes back as it is.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        parts = [map_tensors(function, part) for part in value]
        # A named tuple takes its fields one by one, a plain one takes them all at once.
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [map_tensors(function, part) for part in value]
    if isinstance(value, Mapping):
        return _map_mapping(function, value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.init]
        mapped = {field.name: map_tensors(function, getattr(value, field.name)) for field in fields}
        return dataclasses.replace(value, **mapped)
    return value


def _map_mapping(function: Callable[[Tensor], Any], value: Mapping[Any, Any]) -> Any:
    mapped = {key: map_tensors(function, part) for key, part in value.items()}
    if type(value) is dict:
        return mapped
    try:
        return type(value)(mapped)  # pyright: ignore[reportCallIssue]
    except TypeError:
        # A mapping that cannot be built from a dict still has its keys and values.
        return mapped


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
        parts = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    else:
        return
    for name, part in parts:
        yield from named_tensors(part, f"{prefix}.{name}" if prefix else str(name))
