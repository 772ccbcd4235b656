"""Weights of the networks in files: written as safetensors, read from checkpoints of any kind."""

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stratascope._optional import require
from stratascope.errors import DataError, first_line
from stratascope.seismic._inversion_net import InversionNet, rename_legacy
from stratascope.seismic._networks import ReconstructionNet
from stratascope.seismic._whole import replacing
from stratascope.sites import suggest

Network = Literal["InversionNet", "ReconstructionNet"]

NETWORKS = ("InversionNet", "ReconstructionNet")
_USUAL_CHANNELS = 32
_SHOWN = 3
_FORMAT = "stratascope"


def build_network(name: str, base_channels: int = _USUAL_CHANNELS) -> nn.Module:
    """Build a network from five shots to a velocity map.

    Args:
        name: ``"InversionNet"`` or ``"ReconstructionNet"``.
        base_channels: Channels of its first layer; all others have a multiple of them.

    Raises:
        DataError: There is no such network.

    >>> build_network("InversionNet", 4)(torch.zeros(1, 5, 1000, 70)[[0, 0]]).shape
    torch.Size([2, 1, 70, 70])
    """
    if name == "InversionNet":
        b = base_channels
        return InversionNet((b, 2 * b, 4 * b, 8 * b, 16 * b))
    if name == "ReconstructionNet":
        return ReconstructionNet(5, base_channels, out_channels=1, out_size=(70, 70))
    raise DataError(
        f"network must be {' or '.join(NETWORKS)}, got {name!r}.{suggest(name, NETWORKS)}"
    )


def save_weights(model: nn.Module, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the state of a network as safetensors, whole or not at all, with facts beside it."""
    save_file = require("safetensors.torch", extra="safetensors").save_file
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as unfinished:
        save_file(state, unfinished, metadata={_FORMAT: json.dumps(dict(facts))})


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the state of a network, and what was written beside it.

    A safetensors file, or one of `torch.save`: a state dict, or a dict with one under ``model`` or
    ``state_dict``, as OpenFWI's checkpoints are. No code in it is run.

    Raises:
        DataError: There is no such file, or it holds no state.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"the weights file {path} does not exist")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    saved = read_checkpoint(path)
    for key in ("model", "state_dict"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            return saved[key], {name: saved[name] for name in ("epoch", "step") if name in saved}
    if not isinstance(saved, dict) or not all(isinstance(v, Tensor) for v in saved.values()):
        raise DataError(
            f"{path} must hold the state of a network, alone or under 'model' or 'state_dict', got "
            f"a {type(saved).__name__}"
        )
    return saved, {}


def read_checkpoint(path: Path) -> Any:
    """Read what `torch.save` wrote, on the CPU, as long as it is tensors and plain values.

    Raises:
        DataError: It is not, or it is not whole.
    """
    try:
        # OpenFWI's checkpoints hold the words of their command line, too.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} must be a whole file that torch.save wrote, without code in it, and cannot be "
            f"read as one ({first_line(error)}): fetch or save it again"
        ) from error


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load the weights of a network from a file, if they are of this network.

    Takes what `train` writes, plain state dicts, and the published checkpoints of OpenFWI with the
    old names of their blocks.

    Args:
        model: The network.
        path: A ``.safetensors`` file, or one of `torch.save`.

    Returns:
        What the file says of them, such as the step after which they were saved.

    Raises:
        DataError: There is no such file, it holds no state, or that of another network.

    >>> net = build_network("InversionNet", 2)
    >>> torch.save({"model": net.state_dict(), "epoch": 7, "step": 40}, "checkpoint.pth")
    >>> load_weights(net, "checkpoint.pth")
    {'epoch': 7, 'step': 40}
    """
    state, facts = read_weights(path)
    check_state(model, state, path)
    model.load_state_dict(state)
    return facts


def check_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse the state of another network, by what distinguishes the two.

    Raises:
        DataError: It does not fit.
    """
    own = model.state_dict()
    found = {rename_legacy(name): value for name, value in state.items()}
    problems = {
        "lacks": [name for name in own if name not in found],
        "has besides": [name for name in found if name not in own],
        "has in another shape": [
            f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
            for name, value in found.items()
            if name in own and value.shape != own[name].shape
        ],
    }
    told = [
        f"it {what} {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in problems.items()
        if names
    ]
    if told:
        raise DataError(
            f"{path} must hold the state of this {type(model).__name__}, got that of another "
            f"network: {'; '.join(told)}. Build the network of which it is, or name another file"
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    safetensors = require("safetensors", extra="safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_FORMAT, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise DataError(
            f"{path} must be a whole safetensors file, and cannot be read ({first_line(error)}): "
            "fetch or save it again"
        ) from error
