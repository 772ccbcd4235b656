"""From a source of activations to a part of its rows, always the same part."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope._scramble import mix
from stratascope.errors import DataError
from stratascope.render._arrays import as_values

# Three components of this many rows are as steady as those of all; the bytes bound wide layers.
MOST_ROWS = 16_384
_MOST_VALUES = 2**24
# Values that are widened to float64 at once.
_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a colour basis is fitted to: one row of channels a position, finite.

    Attributes:
        values: Shape ``(n, C)``, in the order of their keys.
        keys: Scrambled number of sample and position of each row, ascending.
        seen: How many rows there were.
        dropped: How many of these were not finite.
    """

    values: NDArray[np.float64]
    keys: NDArray[np.uint64]
    seen: int
    dropped: int


def gather(source: Any, *, samples: Any = None, seed: int = 0, most: int = MOST_ROWS) -> Rows:
    """Read a source once and keep the finite rows whose scrambled numbers are least."""
    start = mix(np.array([seed]))
    values, keys = None, np.zeros(0, np.uint64)
    seen = dropped = 0
    for numbers, block in _spans(source, samples):
        n, channels, positions = block.shape
        values = np.zeros((0, channels)) if values is None else values
        if channels != values.shape[1]:
            raise DataError(
                f"all blocks must have {values.shape[1]} channels, got one of {channels}"
            )
        size = max(1, min(most, _MOST_VALUES // max(1, channels)))
        finite = np.isfinite(block).all(1)
        fresh = mix(mix(numbers ^ start)[:, None] + np.arange(positions, dtype=np.uint64))
        seen += n * positions
        dropped += int(finite.size - np.count_nonzero(finite))
        chosen = finite & (fresh < keys[-1]) if len(keys) == size else finite
        keys = np.concatenate([keys, fresh[chosen]])
        least = np.argsort(keys, kind="stable")[:size]
        values = np.concatenate([values, block.swapaxes(1, 2)[chosen]])[least]
        keys = keys[least]
    if values is None:
        raise DataError("the source must hold at least one sample, got none")
    return Rows(values, keys, seen, dropped)


def _spans(source: Any, samples: Any) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float64]]]:
    """Cut a source into blocks `(n, C, P)` of float64 that are small beside its own."""
    start = 0
    axis = _channel_axis(source)
    for numbers, given in _blocks(source, samples):
        block = given if hasattr(given, "shape") else np.asarray(given)
        shape = tuple(block.shape)
        if len(shape) < 2:
            raise DataError(
                f"each block must have shape (N, C, ...), got {shape}; add the sample axis: "
                "array[None]"
            )
        own = start + np.arange(shape[0]) if numbers is None else _numbers(numbers, shape[0])
        start += shape[0]
        step = max(1, _AT_ONCE // max(1, int(np.prod(shape[1:]))))
        for first in range(0, shape[0], step):
            part = np.moveaxis(as_values(block[first : first + step]).array, axis, 1)
            place = own[first : first + step].astype(np.uint64)
            yield place, part.reshape(*part.shape[:2], int(np.prod(part.shape[2:])))


def _blocks(source: Any, samples: Any) -> Iterable[tuple[Any, Any]]:
    if hasattr(source, "blocks"):
        return source.blocks()
    if hasattr(source, "shape"):
        return [(samples, source)]
    return (block if isinstance(block, tuple) else (None, block) for block in source)


def _channel_axis(source: Any) -> int:
    dims: Sequence[str] = getattr(source, "dims", ("sample", "channel"))
    # With the place behind it, as in channel_0, where a site passes several tensors.
    return next((n for n, name in enumerate(dims) if name.startswith("channel")), 1)


def _numbers(numbers: Any, length: int) -> NDArray[np.int64]:
    """Give the number of each sample of a block, which names all or the first of them."""
    given = np.asarray(numbers)
    given = given + np.arange(length) if given.ndim == 0 else given
    if given.shape != (length,) or given.dtype.kind not in "iu":
        raise DataError(
            f"samples must be {length} whole numbers, one for each sample, got {numbers!r}"
        )
    return given
