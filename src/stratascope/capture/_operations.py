"""Seeing every operation of a forward, and naming it.

An operation is a call of torch that gives tensors: ``torch.cat``, ``x + y``, ``F.relu``. It is
named by the module in whose forward it runs and by its function, as torchvision names the nodes of
a graph: ``layer1.0.add``, and ``layer1.0.add_1`` for the next addition of the same module.
"""

import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stratascope.capture._structure import collect_tensors

# x += y and x.add_(y) are one and the same call to torch; a graph names the first one "add".
_AUGMENTED = frozenset(
    f"{name}_"
    for name in (
        "add", "sub", "mul", "div", "floor_divide", "remainder", "pow", "matmul", "bitwise_and",
        "bitwise_or", "bitwise_xor",
    )
)  # fmt: skip
_REFLECTED = {
    "radd": "add", "rsub": "sub", "rmul": "mul", "rtruediv": "div", "rdiv": "div", "rpow": "pow",
    "rfloordiv": "floor_divide", "rmatmul": "matmul", "rmod": "remainder",
}  # fmt: skip

_WRITERS = frozenset(
    f"__{name}__"
    for name in (
        "setitem", "iadd", "isub", "imul", "idiv", "itruediv", "ifloordiv", "imod", "ipow",
        "imatmul", "iand", "ior", "ixor", "ilshift", "irshift",
    )
)  # fmt: skip

_OWN_FOLDER = os.path.dirname(__file__)
_FSDP_FOLDER = os.path.join(os.path.dirname(torch.__file__), "distributed", "fsdp", "")

Function = Callable[..., Any]


@lru_cache(maxsize=4096)
def name_function(function: Function) -> str:
    """Name a torch function as a graph would: ``add`` for ``x + y``, ``x += y`` and ``1 + x``.

    >>> name_function(torch.Tensor.__rsub__), name_function(torch.Tensor.__getitem__)
    ('sub', 'getitem')
    """
    name = getattr(function, "__name__", type(function).__name__)
    if type(function).__name__ == "OpOverload":
        # What torch.export wrote: conv1d.default.
        name = name.partition(".")[0]
    if name in ("__get__", "__set__"):
        # An attribute such as x.T: the name stands on what the accessor belongs to.
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    name = f"{name.strip('_')}_" if _works_in_place(name) else name.strip("_")
    if name in _AUGMENTED:
        name = name[:-1]
    return _REFLECTED.get(name, name)


def _works_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


@lru_cache(maxsize=1)
def _known_names() -> frozenset[str]:
    places = (torch, torch.Tensor, nn.functional, torch.special, torch.fft, torch.linalg)
    names = (name for place in places for name in dir(place))
    return frozenset(
        f"{name.strip('_')}{'_' * _works_in_place(name)}" for name in names if name.strip("_")
    )


def is_operation(name: str) -> bool:
    """Tell whether a name can be that of an operation: ``add``, ``relu_``, ``cat_2``.

    >>> is_operation("cat_2"), is_operation("conv_first")
    (True, False)
    """
    base, _, count = name.rpartition("_")
    return name in _known_names() or (count.isdigit() and base in _known_names())


def proceed(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a call of torch that an `OperationMode` was handed."""
    return function(*args, **kwargs)


class _Aside(threading.local):
    """Where a user's function runs beside the network: what it calls is no operation of it."""

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


aside = _Aside()


class OperationMode(TorchFunctionMode):
    """Hands every call of torch that a network makes in Python to a function.

    What runs inside one call, such as the products inside ``lstm``, is not seen; neither is what
    this package does itself, such as the snapshot that a hook takes, nor what runs in `aside`, nor
    what ``fully_shard`` does before and after a module.

    Args:
        run: Takes the torch function, its arguments and its named arguments, and returns what
            `proceed` gives for them.
    """

    def __init__(self, run: Callable[[Function, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._run = run
        # A function that runs aside may watch a network of its own.
        self._depth = aside.depth

    def __torch_function__(
        self,
        func: Function,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        if aside.depth > self._depth or _is_beside(caller):
            return func(*args, **kwargs or {})
        return self._run(func, args, kwargs or {})


def _is_beside(caller: FrameType) -> bool:
    """Tell what runs beside a network, such as a hook of ours, from what is the network's."""
    code = caller.f_code
    # A call that another mode hands on is the network's, although it comes from here.
    if code.co_filename.startswith(_OWN_FOLDER):
        return code is not proceed.__code__
    # Who shards has imported it.
    if "torch.distributed.fsdp" not in sys.modules:
        return False
    if code.co_filename.startswith(_FSDP_FOLDER):
        return True
    # Of an operator or an autograd function, the call comes from a file of torch's own.
    before = caller.f_back
    return before is not None and before.f_code.co_filename.startswith(_FSDP_FOLDER)


class OperationNames:
    """Counts the operations of a forward, so that each has a name of its own."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def peek(self, path: str, function: Function) -> str:
        """Name the next call of a function in the forward of the module at a path."""
        base = name_function(function)
        return _join(path, base, self._counts.get((path, base), 0))

    def next(self, path: str, function: Function) -> str:
        """Name the next call and count it."""
        key = path, base = path, name_function(function)
        count = self._counts.get(key, 0)
        self._counts[key] = count + 1
        return _join(path, base, count)


def _join(path: str, base: str, count: int) -> str:
    name = f"{base}_{count}" if count else base
    return f"{path}.{name}" if path else name


def find_written(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Find what a call of torch writes into."""
    if kwargs and kwargs.get("out") is not None:
        return collect_tensors((kwargs["out"],))
    if _writes_always(function) or (kwargs and kwargs.get("inplace")):
        return collect_tensors(args[:1] or (kwargs.get("input", kwargs.get("self")),))
    return []


@lru_cache(maxsize=4096)
def _writes_always(function: Function) -> bool:
    schema = getattr(function, "_schema", None)
    if schema is not None:
        # What torch.export wrote: relu_.default.
        return bool(schema.is_mutable)
    name = getattr(function, "__name__", "")
    return name in _WRITERS or (name.endswith("_") and not name.endswith("__"))


def find_given(output: Any, written: list[Tensor]) -> Any:
    """Find what an operation gave, None where it is none: of ``x[0] = y`` it is x."""
    if _gives_tensor(output):
        return output
    return (written[0] if len(written) == 1 else written) if written else None


def _gives_tensor(value: Any) -> bool:
    """Tell whether an operation gave a tensor, alone or in a tuple or list."""
    if isinstance(value, Tensor):
        return True
    return isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value)
