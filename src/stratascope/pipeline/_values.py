"""The captured values of a batch as arrays to be stored."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stratascope.capture import Activations, named_tensors
from stratascope.errors import CaptureError, StoreError
from stratascope.pipeline._axes import AxisOrder
from stratascope.pipeline._source import Batch
from stratascope.pipeline._warn import warn_caller
from stratascope.sites import ModuleTable, Port, Site, class_name
from stratascope.store import (
    COORDINATES,
    DTYPES,
    ArraySpec,
    count_group_axes,
    name_file,
    quantized_dtype,
)

# Modules that have an order of the axes and do not say so: their attention does.
_STACKS = (
    nn.TransformerDecoder, nn.TransformerDecoderLayer, nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
)  # fmt: skip
_AXES = {1: ("channel",), 2: ("channel", "time"), 3: ("channel", "y", "x")}
_RESERVED = ("sample", "zarr.json", *COORDINATES)


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of a site."""

    site: str
    place: str
    tensor: Tensor
    path: str
    port: Port


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a module decides how its values are stored.

    Attributes:
        name: Name of its class.
        sequence_first: Whether its values may have the sequence before the samples.
    """

    name: str
    sequence_first: bool = False


def name_kinds(model: nn.Module) -> dict[str, Kind]:
    """Say of each module, by path, what decides how its values are stored."""
    unsure: set[int] = set()
    modules = ModuleTable(model).modules
    for module in modules.values():
        deciding = module.modules() if isinstance(module, _STACKS) else (module,)
        if any(getattr(part, "batch_first", None) is False for part in deciding):
            # What lies within gets its values in the same order.
            unsure.update(id(part) for part in module.modules())
    return {
        path: Kind(class_name(module), id(module) in unsure) for path, module in modules.items()
    }


def collect_values(acts: Activations) -> dict[str, Value]:
    """Name every tensor of a forward by the array that it belongs to."""
    values: dict[str, Value] = {}
    for site, value in acts.items():
        for place, tensor in named_tensors(value):
            key = _name_array(site, place)
            if key in values:
                raise StoreError(
                    f"the sites '{site}' and '{values[key].site}' would both be stored as {key}: "
                    "store one of them"
                )
            values[key] = Value(str(site), place, tensor, site.path, site.port)
    return values


def _name_array(site: Site, place: str) -> str:
    folder = name_file(str(site))
    folder += "~" if folder in _RESERVED else ""
    # The array's attributes keep the names themselves.
    return f"{folder}/{name_file('activation', place)}"


def describe_arrays(
    values: dict[str, Value],
    batch: Batch,
    kinds: dict[str, Kind],
    *,
    axes: AxisOrder | None = None,
    quantized: bool = False,
    verb: str = "stored",
) -> tuple[tuple[ArraySpec, ...], dict[str, str]]:
    """Decide how each value is stored, and which cannot be.

    Args:
        values: What the first batch gave.
        batch: That batch.
        kinds: What `name_kinds` says of the model.
        axes: What the modules of that forward said of the axes; None where it was not watched, and
            only the values themselves tell.
        quantized: Whether floating-point values are stored as codes.
        verb: What is done with them, for messages.

    Returns:
        The arrays, with those of what lies beside the values, and for every other value the reason.

    Raises:
        CaptureError: Nothing can be stored, or samples and sequence cannot be told apart.
    """
    axes = axes or _note_axes(values, kinds)
    several = {value.site for value in values.values() if value.place}
    arrays: list[ArraySpec] = []
    skipped: dict[str, str] = {}
    for key, value in values.items():
        problem = _find_problem(value.tensor, batch)
        if problem is not None:
            skipped[key] = problem
            continue
        kind = kinds.get(value.path, Kind(""))
        if kind.sequence_first and value.tensor.shape[1:2] == (batch.size,):
            raise CaptureError(
                f"the samples of '{value.site}' cannot be told from its sequence: both axes of its "
                f"shape {tuple(value.tensor.shape)} have the batch's {batch.size}, and {kind.name} "
                "has batch_first=False. Give another batch_size (--batch-size), or a transform "
                "that leaves one of them"
            )
        dims = _name_axes(value, axes)
        if value.site in several:
            # Arrays of one group share their axes by name, and these are not the same length.
            dims = tuple(f"{name}_{name_file(value.place)}" for name in dims)
        array = ArraySpec(
            key=key,
            site=value.site,
            place=value.place,
            shape=tuple(value.tensor.shape[1:]),
            dtype=_stored_dtype(value.tensor.dtype),
            source_dtype=str(value.tensor.dtype).removeprefix("torch."),
            dims=dims,
            kind=kind.name,
        )
        if quantized and value.tensor.is_floating_point():
            array = replace(array, dtype="uint8", quantized=True)
        arrays.append(array)
    _report_skipped(skipped, arrays, verb)
    beside = [other for array in arrays if array.quantized for other in _describe_codes(array)]
    return (*arrays, *beside), skipped


def _describe_codes(array: ArraySpec) -> list[ArraySpec]:
    """Say how the scales and offsets of quantized values are stored."""
    axes = count_group_axes(array.shape) - 1
    dtype = quantized_dtype(array.source_dtype).name
    groups = replace(
        array,
        shape=array.shape[:axes],
        dims=array.dims[:axes],
        dtype=dtype,
        source_dtype=dtype,
        quantized=False,
    )
    return [replace(groups, key=array.key_of(role), role=role) for role in ("scale", "offset")]


def _find_problem(tensor: Tensor, batch: Batch) -> str | None:
    if tensor.ndim == 0 or tensor.shape[0] != batch.size:
        return (
            f"its shape {tuple(tensor.shape)} does not begin with the batch's {batch.size} samples"
        )
    if tensor.layout is not torch.strided:
        return f"its layout is {str(tensor.layout).removeprefix('torch.')}"
    if _stored_dtype(tensor.dtype) not in DTYPES:
        return f"its type {str(tensor.dtype).removeprefix('torch.')} has no place in Zarr"
    return None


def _report_skipped(skipped: dict[str, str], arrays: list[ArraySpec], verb: str) -> None:
    if not skipped:
        return
    listed = "; ".join(f"{key}: {reason}" for key, reason in skipped.items())
    if not arrays:
        raise CaptureError(f"nothing of the chosen sites can be {verb} sample by sample: {listed}")
    warn_caller(f"not {verb}: {listed}")


def _note_axes(values: dict[str, Value], kinds: dict[str, Kind]) -> AxisOrder:
    axes = AxisOrder({path: kind.name for path, kind in kinds.items()})
    for value in values.values():
        axes.note(value.path, value.port, [value.tensor])
    return axes


def _name_axes(value: Value, axes: AxisOrder) -> tuple[str, ...]:
    shape = tuple(value.tensor.shape[1:])
    if len(shape) == 2 and axes.is_tokens(value.path, value.port, shape):
        return ("token", "channel")
    known = (*_AXES.get(len(shape), ("channel", "z", "y", "x")),)
    return known[: len(shape)] + tuple(f"axis_{n}" for n in range(len(known) + 1, len(shape) + 1))


def _stored_dtype(dtype: torch.dtype) -> str:
    return "float32" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")


def parse_dtype(dtype: torch.dtype | str | None, *, codes: bool = False) -> torch.dtype | None:
    """Read the type that floating-point values are stored as.

    Args:
        dtype: The type, or its name.
        codes: Whether uint8, for codes, is one as well.

    Raises:
        ValueError: It is no such type.
    """
    parsed = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if parsed is None and dtype is None:
        return None
    if codes and parsed is torch.uint8:
        return parsed
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point:
        also = ", or 'uint8'" if codes else ""
        raise ValueError(
            f"dtype must be a floating-point type such as 'float16' or 'bfloat16'{also}, got "
            f"{dtype!r}"
        )
    return parsed
