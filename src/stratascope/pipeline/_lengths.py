"""Samples that differ in length: those of one length run together, and all are stored side by side.

No padding enters the network. What it gives for the shorter samples ends where it ends, and NaN
stands behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stratascope.capture import Staged, map_tensors
from stratascope.errors import CaptureError, DataError
from stratascope.pipeline._source import Batch, Samples, Source, inputs_of
from stratascope.pipeline._transfer import refuse_type, to_numpy
from stratascope.store import COORDINATES, VALUES, ArraySpec, StepSpec, missing_value

Length = int | Literal["longest"]


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of a batch that have one shape, and so go through the network together.

    Attributes:
        places: Their places in the batch.
        batch: What goes into one forward.
    """

    places: list[int]
    batch: Batch


def split_batch(batch: Batch) -> list[Group]:
    """Sort the samples of a batch by their shapes; one that came as tensors is a group."""
    lists = [value for value in inputs_of(batch) if isinstance(value, Samples)]
    if not lists:
        return [Group([*range(batch.size)], batch)]
    found: dict[tuple[Any, ...], list[int]] = {}
    for place in range(batch.size):
        found.setdefault(tuple(value[place].shape for value in lists), []).append(place)
    return [Group(places, _pick(batch, places)) for places in found.values()]


def _pick(batch: Batch, places: list[int]) -> Batch:
    def pick(value: Any) -> Any:
        if isinstance(value, Samples):
            return torch.stack([value[place] for place in places])
        return map_tensors(pick_rows, value)

    def pick_rows(tensor: Tensor) -> Tensor:
        return tensor[places] if tensor.shape[:1] == (batch.size,) else tensor

    args = tuple(pick(arg) for arg in batch.args)
    kwargs = {name: pick(value) for name, value in batch.kwargs.items()}
    numbers = tuple(batch.start + place for place in places)
    return Batch(numbers[0], len(places), args, kwargs, numbers)


@dataclass(frozen=True, slots=True)
class Extent:
    """How the samples of a data set differ.

    Attributes:
        axis: Which axis of a sample has another length in each.
        longest: The greatest length.
        example: The shortest sample that was seen, as a batch of one.
    """

    axis: int
    longest: int
    example: Batch

    def make_probes(self) -> tuple[Batch, Batch]:
        """Make two batches that show what becomes of the length: a short one, and a longest.

        Each holds the example twice, the latter filled up with zeros, to tell what has an entry for
        each sample from what has one for all.
        """
        short = _pick(self.example, [0, 0])
        before = _first_tensor(short).shape[1 + self.axis]

        def lengthen(value: Any) -> Any:
            axis = 1 + self.axis
            if not isinstance(value, Tensor) or value.shape[axis : axis + 1] != (before,):
                return value
            filled = value.new_zeros(*value.shape[:axis], self.longest, *value.shape[axis + 1 :])
            filled.narrow(axis, 0, before).copy_(value)
            return filled

        args = tuple(lengthen(arg) for arg in short.args)
        kwargs = {name: lengthen(value) for name, value in short.kwargs.items()}
        return short, replace(short, args=args, kwargs=kwargs)


def find_extent(source: Source, length: Length) -> Extent:
    """Look at the samples of a data set to see in which axis they differ, and how much.

    Args:
        source: The data.
        length: The greatest length, for which they are looked at until two differ; ``"longest"``
            looks at all of them to find it.

    Raises:
        DataError: They differ in more than one axis, or are longer than they should be.
    """
    shapes: set[tuple[int, ...]] = set()
    example: Batch | None = None
    for batch in source.batches(0, None):
        for group in split_batch(batch):
            shape = _shape_of(group.batch)
            shapes.add(shape)
            if example is None or sum(shape) < sum(_shape_of(example)):
                example = _pick(group.batch, [0])
        if source.even or (length != "longest" and len(shapes) > 1):
            break
    assert example is not None  # a source without samples is none
    axis = _find_axis(shapes)
    longest = max(shape[axis] for shape in shapes)
    if length != "longest" and length < longest:
        raise DataError(
            f"length must be at least that of the longest sample, got {length} for one of {longest}"
        )
    return Extent(axis, longest if length == "longest" else length, example)


def _find_axis(shapes: set[tuple[int, ...]]) -> int:
    ranks = {len(shape) for shape in shapes}
    sizes = [set(along) for along in zip(*shapes, strict=False)]
    differing = [axis for axis, along in enumerate(sizes) if len(along) > 1]
    if len(ranks) > 1 or not sizes or len(differing) > 1:
        listed = " and ".join(str(shape) for shape in sorted(shapes)[:: max(1, len(shapes) - 1)])
        raise DataError(
            "samples must have one axis along which they differ in length, the same in all, got "
            f"shapes {listed}: leave out length, or make them so"
        )
    # What is all of one length is filled up along the last axis.
    return differing[0] if differing else len(sizes) - 1


def _shape_of(batch: Batch) -> tuple[int, ...]:
    return tuple(_first_tensor(batch).shape[1:])


def _first_tensor(batch: Batch) -> Tensor:
    return next(value for value in inputs_of(batch) if isinstance(value, Tensor))


def describe_lengths(
    arrays: Sequence[ArraySpec], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[ArraySpec, ...]:
    """Find which axis of each array has the length of its sample, and add arrays of the lengths.

    Args:
        arrays: The arrays, as long as the longest sample makes them.
        shapes: Shapes of what the sites hold of one that is shorter, by the keys of the values.

    Raises:
        CaptureError: Values change in more than their length.
    """
    axes = {
        (array.site, array.place): _find_growth(array, shapes[array.key])
        for array in arrays
        if array.key in shapes
    }
    described: list[ArraySpec] = []
    for array in arrays:
        axis = axes.get((array.site, array.place))
        # Scales have the first axes only.
        inside = axis is not None and axis < len(array.shape)
        described.append(replace(array, length_axis=axis if inside else None))
        if inside and array.role == VALUES:
            described.append(_describe_length(array))
    return tuple(described)


def _find_growth(array: ArraySpec, shorter: tuple[int, ...]) -> int | None:
    """Find the axis along which values grow with the length of their sample."""
    sizes = list(zip(array.shape, shorter, strict=False))
    differing = [axis for axis, (whole, part) in enumerate(sizes) if whole != part]
    if len(array.shape) != len(shorter) or len(differing) > 1 or any(a < b for a, b in sizes):
        raise CaptureError(
            f"the values of '{array.site}' must grow along one axis with the length of their "
            f"sample, got shapes {shorter} and {array.shape}: give a transform that leaves one"
        )
    return differing[0] if differing else None


def _describe_length(array: ArraySpec) -> ArraySpec:
    return ArraySpec(
        key=array.key_of("length"),
        site=array.site,
        place=array.place,
        shape=(),
        dtype="int64",
        source_dtype="int64",
        dims=(),
        kind=array.kind,
        role="length",
    )


@dataclass(frozen=True, slots=True)
class Gathered:
    """The values of a batch that came in parts.

    Attributes:
        array: How they are stored.
        size: Number of samples of the batch.
        parts: Places of samples in the batch, and their values.
    """

    array: ArraySpec
    size: int
    parts: list[tuple[list[int], Staged]]

    def assemble(self) -> np.ndarray[Any, Any]:
        """Put the parts side by side; what is behind the end of a shorter sample is missing.

        Raises:
            DataError: A part is of another type or shape.
        """
        array = self.array
        whole = np.full((self.size, *array.shape), missing_value(array), array.dtype)
        for places, staged in self.parts:
            part = to_numpy(staged)
            if not np.can_cast(part.dtype, array.dtype, "equiv"):
                raise refuse_type(array, str(part.dtype))
            shape = part.shape[1:]
            if not _fits(shape, array):
                shorter = "" if array.length_axis is None else " or be shorter"
                raise DataError(
                    f"samples of '{array.site}' must have shape {array.shape}{shorter}, got "
                    f"{shape}: extract with length='longest' (--length longest), or a greater one"
                )
            whole[(places, *map(slice, shape))] = part
        return whole


def _fits(shape: tuple[int, ...], array: ArraySpec) -> bool:
    return len(shape) == len(array.shape) and all(
        part == whole or (axis == array.length_axis and part < whole)
        for axis, (part, whole) in enumerate(zip(shape, array.shape, strict=True))
    )


def gather(
    spec: StepSpec, size: int, parts: list[tuple[list[int], dict[str, Staged]]]
) -> dict[str, Any]:
    """Line up the values of a batch that came in parts, for a writer that has them assembled.

    Args:
        spec: What the step holds.
        size: Number of samples of the batch.
        parts: Places of samples in the batch, and their values by the arrays' keys.
    """
    gathered: dict[str, Any] = {
        array.key: Gathered(array, size, [(places, staged[array.key]) for places, staged in parts])
        for array in spec.arrays
        if array.role not in ("length", *COORDINATES) and not array.derived
    }
    for array in spec.values:
        if array.length_axis is not None:
            lengths = np.zeros(size, np.int64)
            for places, staged in parts:
                lengths[places] = staged[array.key].value.shape[1 + array.length_axis]
            gathered[array.key_of("length")] = lengths
    return gathered


def to_array(value: Any) -> np.ndarray[Any, Any]:
    """Give what `gather` or a single forward gave as an array; waits for copies from a device."""
    if isinstance(value, Gathered):
        return value.assemble()
    return value if isinstance(value, np.ndarray) else to_numpy(value)
