"""Which part of the input a position of a layer can depend on."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from stratascope.capture._modes import probing
from stratascope.capture._recorder import MODEL_INPUT
from stratascope.capture._records import Operation
from stratascope.capture._survey import select
from stratascope.capture._trace import Trace, trace
from stratascope.errors import CaptureError
from stratascope.sites import ROOT_NAME, Selector, Site, unwrap

# For each axis, positions along it.
Places = list[set[int]]

# What gives each position from the same position alone.
_POINTWISE = frozenset({
    "abs", "add", "batch_norm", "cat", "clamp", "clamp_min", "clone", "contiguous", "detach", "div",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "elu", "exp", "feature_dropout", "gelu",
    "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log", "logsigmoid", "mish", "mul", "neg",
    "pow", "prelu", "relu", "relu6", "rsub", "selu", "sigmoid", "silu", "softplus", "sqrt", "sub",
    "tanh", "to", "type",
})  # fmt: skip


def receptive_field(
    model: nn.Module, site: Selector, *, example: tuple[Any, ...], position: Sequence[int]
) -> tuple[range, ...]:
    """Find the part of the input that a position of a layer can depend on.

    It is computed, not measured: from kernels, strides, padding and dilation of what ran between
    the input and the layer, branches included. What lies beyond the rim is left out.

    Args:
        model: The network; it is run in evaluation mode without gradients, and left as it was.
        site: A module or operation; one that gives several is refused.
        example: Positional arguments for one forward, the first of them the input.
        position: Where in the layer: row and column, or the one axis of a signal.

    Returns:
        A range for each axis of the input, such as rows and columns.

    Raises:
        CaptureError: Something between the two is not known to look at a limited neighbourhood of
            each position; or the layer does not depend on the input.
        SiteNotFoundError: There is no such site.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> receptive_field(model, "2", example=(torch.zeros(1, 1, 16, 16),), position=(0, 3))
    (range(0, 3), range(5, 9))
    """
    found = select(model, site, example=example)
    if len(found) != 1 or found[0].port != "out":
        listed = ", ".join(map(str, found[:5]))
        raise CaptureError(f"site must be the output of one layer, got {listed}; name one of them")
    shape = tuple(example[0].shape) if isinstance(example[0], Tensor) else ()
    with probing(model):
        run = trace(model, *example, keep="none", nonfinite=False)
    last = _find(run, found[0])
    axes = last.outputs[0].shape[2:]
    inside = len(position) == len(axes) and all(
        0 <= k < size for k, size in zip(position, axes, strict=True)
    )
    if not axes or not inside:
        raise CaptureError(
            f"position must be one of {'x'.join(map(str, axes)) or 'no'} positions of "
            f"'{found[0]}', got {tuple(position)}"
        )
    wanted: dict[int, Places] = {last.index: [{k} for k in position]}
    modules = dict(unwrap(model).named_modules())
    for operation in reversed(run.operations[: last.index + 1]):
        if operation.index not in wanted:
            continue
        for parent in operation.parents:
            before = shape if parent == MODEL_INPUT else run[parent].outputs[0].shape
            module = modules.get(operation.module)
            needed = _step_back(operation, module, before, wanted[operation.index])
            known = wanted.setdefault(parent, [set() for _ in needed])
            for places, more in zip(known, needed, strict=True):
                places |= more
    if not all(wanted.get(MODEL_INPUT, [set()])):
        raise CaptureError(f"'{found[0]}' does not depend on the input at {tuple(position)}")
    return tuple(range(min(places), max(places) + 1) for places in wanted[MODEL_INPUT])


def _find(run: Trace, site: Site) -> Operation:
    """Find the operation that made what a site holds."""
    calls = [call for call in run.modules if call.name == (site.path or ROOT_NAME)]
    if not calls:
        return run[str(site)]
    call = calls[0 if site.call is None else site.call - 1]
    last = run[call.stop - 1] if call.stop > call.first else None
    if last is None or not call.outputs or last.outputs[:1] != call.outputs[:1]:
        raise CaptureError(
            f"which operation made what '{site}' holds is not known; name the operation or a "
            "module inside of it"
        )
    return last


def _step_back(
    operation: Operation, module: nn.Module | None, before: tuple[int, ...], places: Places
) -> Places:
    """Give what one operation looks at to make some positions, of an input of a known shape."""
    after, name = operation.outputs[0].shape, operation.function.rpartition(".")[2].strip("_")
    if len(before) == len(after) > 2 and before[0] == after[0]:
        if name in _POINTWISE and before[2:] == after[2:]:
            return places
        look = _find_window(operation, name, module, before[2:])
        if look is not None:
            return [
                {k for place in along for k in look(axis, place) if 0 <= k < before[2 + axis]}
                for axis, along in enumerate(places)
            ]
    raise CaptureError(
        f"the receptive field cannot be known through {operation.name} ({operation.function}) at "
        f"{operation.source}: pass a box of your own"
    )


def _find_window(
    operation: Operation, name: str, module: Any, before: tuple[int, ...]
) -> Callable[[int, int], Iterable[int]] | None:
    """Give the function from a position to what it is made of along an axis, where it is known."""
    after = operation.outputs[0].shape[2:]
    if name.startswith(("adaptive_avg_pool", "adaptive_max_pool")):
        return lambda axis, place: range(
            place * before[axis] // after[axis], -(-(place + 1) * before[axis] // after[axis])
        )
    convolves = name.startswith("conv") and getattr(module, "padding_mode", "") == "zeros"
    if not (convolves or name.startswith(("max_pool", "avg_pool"))):
        return None
    kernel, stride, dilation, padding = (
        _spread(getattr(module, part, default), len(after))
        for part, default in (("kernel_size", 0), ("stride", 1), ("dilation", 1), ("padding", 0))
    )
    if getattr(module, "padding", 0) == "same":
        padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    # A forward of the module's own may have called the function with other numbers.
    if not all(kernel) or (convolves and operation.inputs[1].shape[2:] != tuple(kernel)):
        return None
    taps = [range(0, d * k, d) for k, d in zip(kernel, dilation, strict=True)]
    if "transpose" not in name:
        return lambda axis, place: (
            place * stride[axis] - padding[axis] + tap for tap in taps[axis]
        )
    moved = [[(padding[axis] - tap) for tap in along] for axis, along in enumerate(taps)]
    return lambda axis, place: (
        (place + by) // stride[axis] for by in moved[axis] if (place + by) % stride[axis] == 0
    )


def _spread(number: Any, axes: int) -> list[int]:
    """Give a number for each axis, which a module may hold once for all."""
    if isinstance(number, str):
        return [0] * axes
    return [number] * axes if isinstance(number, int) else list(number)
