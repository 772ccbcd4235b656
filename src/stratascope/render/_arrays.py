"""From anything array-like to float64, without importing the library that it comes from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Values:
    """An array as float64, and what was done to get it there."""

    array: NDArray[np.float64]
    note: str = ""


def as_values(source: Any, *, what: str = "array") -> Values:
    """Read an array, tensor or nested sequence as float64; complex numbers become magnitudes.

    Raises:
        TypeError: The data are not numbers.

    >>> as_values([1, 2]).array.tolist()
    [1.0, 2.0]
    """
    array = _as_numpy(source)
    note = ""
    # A long double or a huge complex number may exceed float64; it is then shown as infinite.
    with np.errstate(over="ignore"):
        if array.dtype.kind == "c":
            array, note = np.abs(array), "magnitude of complex values"
        elif array.dtype.kind not in "biuf" and not _is_small_float(array.dtype):
            raise TypeError(
                f"{what} must be numbers, got dtype {array.dtype}; convert it to a number type"
            )
        if isinstance(array, np.ma.MaskedArray):
            array = np.ma.filled(array.astype(np.float64), np.nan)
        return Values(np.asarray(array, np.float64), note)


def as_numbers(source: Any) -> NDArray[Any]:
    """Read an array as `as_values` does, but leave real numbers in their own type.

    >>> as_numbers(np.ones(2, np.float16)).dtype
    dtype('float16')
    """
    array = _as_numpy(source)
    plain = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8
    return array if plain and not isinstance(array, np.ma.MaskedArray) else as_values(array).array


def _as_numpy(source: Any) -> NDArray[Any]:
    if not (hasattr(source, "detach") and hasattr(source, "cpu")):
        return source if isinstance(source, np.ma.MaskedArray) else np.asarray(source)
    tensor = source.detach()
    if getattr(tensor, "is_sparse", False):
        tensor = tensor.to_dense()
    # NumPy has no such types; float32 holds each of their values exactly.
    if any(name in str(tensor.dtype) for name in ("bfloat16", "float8")):
        tensor = tensor.float()
    tensor = tensor.cpu()
    for lazy in ("resolve_conj", "resolve_neg"):
        tensor = getattr(tensor, lazy, lambda tensor=tensor: tensor)()
    return np.asarray(tensor)


def _is_small_float(dtype: np.dtype[Any]) -> bool:
    return dtype.names is None and dtype.name.startswith(("bfloat16", "float8"))
