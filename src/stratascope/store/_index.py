"""An index as NumPy takes it, in one part for each axis; what needs more than that is refused."""

import itertools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

Part = int | slice | np.ndarray[Any, Any]

_ACCEPTED = (
    "index with integers, slices that go forwards, one ellipsis, and one list or mask along one "
    "axis, and do the rest with what comes back"
)


@dataclass(frozen=True, slots=True)
class Index:
    """What to read.

    Attributes:
        parts: One for each axis, counted from the start.
        list_axis: Axis of the result that a list gives, or None where there is none.
        list_first: Whether NumPy puts that axis first: where anything parts it from an integer.
    """

    parts: tuple[Part, ...]
    list_axis: int | None
    list_first: bool

    def arrange(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Put what was read, with an axis for every part, into the shape that NumPy gives."""
        places = (0 if isinstance(part, int) else slice(None) for part in self.parts)
        # The ellipsis keeps a single number an array.
        values = values[(*places, ...)]
        return np.moveaxis(values, self.list_axis or 0, 0) if self.list_first else values


def parse_index(index: Any, shape: tuple[int, ...], dims: tuple[str, ...]) -> Index:
    """Read an index.

    Raises:
        IndexError: It goes beyond an end, or is of a kind that is not read.

    >>> parse_index((-1, ...), (10, 4, 5), ("sample", "y", "x")).parts
    (9, slice(0, 4, 1), slice(0, 5, 1))
    """
    given = index if isinstance(index, tuple) else (index,)
    places = [place for place, part in enumerate(given) if part is ...]
    if len(places) > 1:
        raise IndexError(f"{_ACCEPTED}: got {len(places)} ellipses")
    missing = len(shape) - (len(given) - len(places))
    if missing < 0:
        raise IndexError(f"too many indices: got {len(shape) - missing} for {len(shape)} axes")
    place = places[0] if places else len(given)
    rest = [slice(None)] * missing
    axes = zip((*given[:place], *rest, *given[place + 1 :]), shape, dims, strict=True)
    parts = tuple(_parse_part(part, size, dim) for part, size, dim in axes)
    lists = [axis for axis, part in enumerate(parts) if isinstance(part, np.ndarray)]
    if len(lists) > 1:
        raise IndexError(f"{_ACCEPTED}: got more than one list or mask")
    if not lists:
        return Index(parts, None, list_first=False)
    before = sum(isinstance(part, slice) for part in parts[: lists[0]])
    # Even an ellipsis that stands for no axis counts here.
    fancy = [k for k, part in enumerate(given) if not (part is ... or isinstance(part, slice))]
    return Index(parts, before, any(b - a > 1 for a, b in itertools.pairwise(fancy)))


def _parse_part(part: Any, size: int, dim: str) -> Part:
    if isinstance(part, slice):
        if part.step is not None and operator.index(part.step) < 1:
            raise IndexError(f"{_ACCEPTED}: got a step of {part.step}")
        found = range(*part.indices(size))
        return slice(found.start, found.stop, found.step) if found else slice(0, 0, 1)
    if isinstance(part, str | bool | np.bool_) or part is None:
        raise IndexError(f"{_ACCEPTED}: got {part!r}")
    values = np.asarray(part)
    if isinstance(part, list | tuple) and not part:
        values = values.astype(np.intp)  # to NumPy alone, one of floats
    if values.dtype == bool and values.ndim == 1:
        if len(values) != size:
            raise IndexError(f"a mask along {dim} must have {size} entries, got {len(values)}")
        return np.flatnonzero(values)
    if values.dtype.kind not in "iu" or values.ndim > 1:
        kind = f"{values.dtype} of shape {values.shape}" if values.ndim else repr(part)
        raise IndexError(f"{_ACCEPTED}: got {kind}")
    values = values.astype(np.intp)
    beyond = values[(values < -size) | (values >= size)]
    if beyond.size:
        raise IndexError(
            f"{dim} must be -{size} to {size - 1}, got {beyond.flat[0]}"
            if size
            else f"{dim} has no entries, got {beyond.flat[0]}"
        )
    values = np.where(values < 0, values + size, values)
    return values if values.ndim else int(values)
