"""Models and data named on the command line, as ``package.module:function``."""

import hashlib
import importlib
import importlib.util
import inspect
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stratascope._optional import require
from stratascope.errors import UsageError, first_line
from stratascope.sites import suggest

_SHOWN_KEYS = 3
_WRAPPER = "module."


def load_model(target: str, weights: Path | None = None) -> nn.Module:
    """Load a model, and its weights if there are any.

    Args:
        target: A function that builds the model without arguments, a module class, or a module.
        weights: A ``.pt`` or ``.safetensors`` file of a state dict; no code in it is run.

    Raises:
        UsageError: Something of it cannot be loaded, or does not fit.
    """
    made = _call(target, _load_object(target), unless=nn.Module)
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"{target} must give a torch.nn.Module, got {type(made).__name__}: name a function "
            "that returns the model"
        )
    if weights is not None:
        _load_weights(made, weights)
    return made


def load_data(target: str) -> Any:
    """Load data: a ``.npy`` file, memory-mapped, or what a function gives.

    Raises:
        UsageError: It cannot be loaded.
    """
    if target.endswith(".npy"):
        path = Path(target)
        if not path.is_file():
            raise UsageError(f"the data file {target} does not exist")
        try:
            return np.load(path, mmap_mode="r")
        except (ValueError, EOFError, OSError) as error:
            raise UsageError(f"{target} is not a NumPy file of numbers: {error}") from error
    if ":" not in target:
        raise UsageError(
            "data must be a .npy file, or named as package.module:function or "
            f"path/to/file.py:function, got {target!r}"
        )
    found = _load_object(target)
    return _call(target, found, unless=()) if _builds(found) else found


def load_problem(target: str, weights: Path | None = None) -> tuple[nn.Module, Any, Any]:
    """Load what a diagnostic looks at: a model, metrics by name, and batches.

    Raises:
        UsageError: It cannot be loaded, or is something else.
    """
    made = _call(target, _load_object(target), unless=())
    match made:
        case (nn.Module() as model, metrics, batches):
            if weights is not None:
                _load_weights(model, weights)
            return model, metrics, batches
        case _:
            raise UsageError(
                f"{target} must give a model, metrics by name and batches, as a tuple of three, "
                f"got {type(made).__name__}"
            )


def load_state(path: Path) -> dict[str, Tensor]:
    """Load a state dict: a ``.pt`` or ``.safetensors`` file; no code in it is run.

    Raises:
        UsageError: It cannot be loaded.
    """
    return _read_weights(path)


def load_function(target: str) -> Any:
    """Load a function that other processes can load too.

    Raises:
        UsageError: It cannot be loaded, or is none.
    """
    found = _load_object(target)
    if not callable(found):
        raise UsageError(f"{target} must be a function, got {type(found).__name__}")
    return found


def describe_targets(model: str, data: str, weights: Path | None) -> dict[str, Any]:
    """Say what a command was given, to be kept beside what it makes."""
    given: dict[str, Any] = {"model": model, "data": data}
    if weights is not None:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        given["weights"] = {"file": str(weights), "sha256": digest}
    return given


def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``1x3x224x224``.

    Raises:
        UsageError: It is no shape.

    >>> parse_shape("1x3x224x224")
    (1, 3, 224, 224)
    """
    parts = text.replace(",", "x").split("x")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"a shape must be whole numbers such as 1x3x224x224, got {text!r}")
    return tuple(int(part) for part in parts)


def _builds(found: Any) -> bool:
    return inspect.isroutine(found) or isinstance(found, type)


def _call(target: str, found: Any, *, unless: type | tuple[type, ...]) -> Any:
    if isinstance(found, unless) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise UsageError(
            f"{target} could not be called without arguments: {type(error).__name__}: {error}"
        ) from error


def _load_object(target: str) -> Any:
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise UsageError(
            "a model or data set must be named as package.module:function or "
            f"path/to/file.py:function, got {target!r}"
        )
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [known for known in vars(module) if not known.startswith("_")]
            raise UsageError(f"{place} has no {name!r}.{suggest(name, names)}")
        found = getattr(found, part)
    return found


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"the file {path} does not exist")
    file = path.resolve()
    # Under its own name classes of it can be pickled, unless another module has that name.
    name = path.stem
    if (known := sys.modules.get(name)) is not None:
        if getattr(known, "__file__", None) == str(file):
            return known
        name = f"{name}_{hashlib.sha1(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    # As python path/to/file.py does: files beside it can be imported.
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{path} does not import: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str) -> ModuleType:
    # As python -m does: packages in the working folder are found.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        hint = ": a file is named with .py, as path/to/file.py:function" if "/" in name else ""
        raise UsageError(
            f"{name} does not import: {type(error).__name__}: {error}{hint}"
        ) from error


def _load_weights(model: nn.Module, path: Path) -> None:
    state = _read_weights(path)
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    misfits = [
        f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN_KEYS])}{' …' * (len(names) > _SHOWN_KEYS)})"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", misfits),
        )
        if names
    ]
    if problems:
        raise UsageError(
            f"the weights of {path} do not fit {type(model).__name__}: {', '.join(problems)}. "
            "Give the weights of this architecture, or the architecture of these weights"
        )
    model.load_state_dict(state)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"the weights file {path} does not exist")
    if path.suffix == ".safetensors":
        loader = require("safetensors.torch", extra="safetensors")
        try:
            return loader.load_file(path)
        except Exception as error:
            raise UsageError(f"{path} is no safetensors file: {first_line(error)}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise UsageError(
            f"{path} is no file of weights, or holds more than weights, and its code is not run: "
            "save model.state_dict() with torch.save"
        ) from error
    return _strip_wrapper(_find_state(path, state))


def _find_state(path: Path, saved: Any) -> dict[str, Tensor]:
    """Take the state dict, also where a trainer has put it beside its own things."""
    if _is_state(saved):
        return saved
    parts = saved if isinstance(saved, dict) else {}
    states = {name: part for name, part in parts.items() if _is_state(part)}
    if "state_dict" in states:
        return states["state_dict"]
    if len(states) == 1:
        return next(iter(states.values()))
    held = f"a dict of {', '.join(map(repr, parts))}" if parts else f"a {type(saved).__name__}"
    raise UsageError(f"{path} must hold a state dict, or one under a key, got {held}")


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(part, Tensor) for part in value.values())
    )


def _strip_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefix that DataParallel and its like put before every name."""
    if not all(name.startswith(_WRAPPER) for name in state):
        return state
    return {name.removeprefix(_WRAPPER): value for name, value in state.items()}
