"""What a run depends on, and how two runs differ."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stratascope.errors import CaptureError

_MEANINGS = {
    "model.class": "the model's class",
    "model.parameters": "the model's parameters",
    "sites": "the sites",
    "data.digest": "the data",
    "data.beside_digest": "the targets or ids of the data",
    "data.order": "the order of the data (shuffle=False keeps one)",
    "data.samples": "the number of samples",
    "batch_size": "batch_size",
    "dtype": "dtype",
    "transform": "transform",
    "unit_size": "unit_size",
}


def describe_model(model: nn.Module) -> dict[str, str]:
    """Name a model and the state that it is in.

    Raises:
        CaptureError: A parameter has no values yet.
    """
    kind = type(model)
    state = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        if is_lazy(value):
            raise CaptureError(
                f"'{name}' has no values yet, which its first input decides: run the model once "
                "first"
            )
        state.update(name.encode())
        if isinstance(value, Tensor):
            state.update(raw_bytes(value))
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "parameters": state.hexdigest()}


def describe_transform(transform: Callable[[Tensor], Tensor] | None) -> str | None:
    """Name a transform; its code is not compared."""
    if transform is None:
        return None
    return getattr(transform, "__qualname__", type(transform).__qualname__)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in words what differs between the settings of two runs.

    >>> differences({"dtype": None, "sites": ["a"]}, {"dtype": "float16", "sites": ["a"]})
    ["dtype (was None, is 'float16')"]
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    found = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was != now:
            digest = name.endswith(("digest", "parameters", "order"))
            found.append(
                _MEANINGS.get(name, name) + ("" if digest else f" (was {was!r}, is {now!r})")
            )
    return found


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def raw_bytes(tensor: Tensor) -> bytes:
    """Give the values of a tensor of any type as they lie in memory."""
    # Of what several processes hold together, this one's part: to ask for the whole would need all.
    part = getattr(tensor, "to_local", lambda: tensor)()
    plain = part.detach().cpu()
    if plain.is_quantized:
        plain = plain.int_repr()
    # What is conjugated, or negated, only says so of the memory of another.
    plain = plain.to_dense().resolve_conj().resolve_neg()
    return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
