"""NumPy arrays, and the tensors of a device, handled by the same code where they lie.

What the processor can reach is measured by NumPy, a tensor through a view of its memory: for blocks
that fit into a cache this takes half the time of torch. Tensors of a device stay there. NumPy 2 and
torch agree on the names of nearly all that a statistic needs, so the library of an array serves as
its namespace, and the little that differs is bridged here. The bits of floats and adding up by
index, the hottest paths, are in no library that would bridge it.
"""

import functools
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

# From this length on it pays to count row by row, by the one call that is faster at that.
_LONG = 2**13
# Up to here NumPy's BLAS works in the thread that calls it; beyond, threads of its own take part,
# which get in the way of a network's, and may add up in another order.
_ONE_THREAD = 2**13
# A NumPy array, or a torch tensor, of which nothing may be known before torch is imported.
Array = Any


def namespace(array: Array) -> Any:
    """Give the library of an array; that of a tensor is imported already, or there were none."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def lies_on_device(tensor: Any) -> bool:
    """Tell whether a tensor is out of the processor's reach."""
    return tensor.device.type != "cpu"


def as_array(source: Any) -> Array:
    """Take a tensor of a device as it is, and all else as a NumPy array of real numbers.

    Raises:
        TypeError: The values are masked, or not real numbers.
    """
    if hasattr(source, "detach"):
        tensor = source.detach()
        if tensor.is_complex():
            raise _not_real(tensor.dtype)
        if lies_on_device(tensor):
            return tensor
        # NumPy has no such types; float32 holds each of their values.
        small = str(tensor.dtype).startswith(("torch.bfloat16", "torch.float8"))
        return (tensor.float() if small else tensor).numpy()
    if isinstance(source, np.ma.MaskedArray):
        raise TypeError("a batch must not be a masked array; pass array.filled(numpy.nan)")
    array = np.asarray(source)
    if array.dtype.kind in "biuf":
        return array
    small = array.dtype.names is None and array.dtype.name.startswith(("bfloat16", "float8"))
    if not small:
        raise _not_real(array.dtype)
    return array


def widen(array: Array, dtype: str = "float64") -> Array:
    """Give the values as a wider float, contiguous in memory; not to be written to."""
    xp = namespace(array)
    wanted = getattr(xp, dtype)
    if xp is not np:
        return array.to(wanted, memory_format=xp.contiguous_format).contiguous()
    if array.dtype == np.float16:
        # NumPy converts halves one by one; looking them up takes a fifth of the time.
        return np.take(half_values(dtype), array.view(np.uint16))
    return np.ascontiguousarray(array.astype(wanted, order="C", copy=False))


def fits_float32(array: Array) -> bool:
    """Tell whether float32 holds every value of this type."""
    dtype = str(array.dtype).removeprefix("torch.")
    small = ("bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16", "float32")
    return dtype in small or dtype.startswith("float8")


@functools.cache
def half_values(dtype: str = "float64") -> NDArray[Any]:
    """Give the value of each of the 65,536 bit patterns of a float16."""
    return np.arange(65536, dtype=np.uint16).view(np.float16).astype(dtype)


def add_at(counts: Array, keys: Array) -> None:
    """Add 1 to the count at each key, in place."""
    if isinstance(counts, np.ndarray):
        np.add.at(counts, keys, 1)
    else:
        counts.index_add_(0, keys, namespace(counts).ones_like(keys))


def count(mask: Array) -> Array:
    """Count what is true in each row."""
    if isinstance(mask, np.ndarray) and mask.shape[1] >= _LONG:
        return np.array([np.count_nonzero(row) for row in mask], np.int32)
    # Adding up truth values as int64, the default, takes more than twice the time.
    return mask.sum(1, dtype=namespace(mask).int32)


def dot_rows(a: Array, b: Array) -> Array:
    """Give the dot product of each two rows."""
    if not isinstance(a, np.ndarray):
        return namespace(a).linalg.vecdot(a, b)
    pieces = _count_pieces(a.shape[-1])
    if not pieces:
        return (a * b).sum(-1)
    cut = (rows.reshape(*rows.shape[:-1], pieces, -1) for rows in (a, b))
    return np.vecdot(*cut).sum(-1)


@functools.lru_cache(maxsize=64)
def _count_pieces(length: int) -> int:
    """Tell into how many pieces of one length to cut rows for BLAS; 0 if that does not work out."""
    fewest = max(1, -(-length // _ONE_THREAD))
    return next((pieces for pieces in range(fewest, 8 * fewest) if length % pieces == 0), 0)


def multiply(a: Array, b: Array) -> Array:
    """Give the product of two matrices, on the threads of a network where one may be running."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(a, np.ndarray):
        return a @ b
    return torch.mm(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def to_numpy(array: Array) -> NDArray[Any]:
    """Bring an array to the host, as NumPy."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def move(array: Array, like: Array) -> Array:
    """Bring an array to where another lies, as one of the same library."""
    if isinstance(like, np.ndarray):
        return to_numpy(array)
    return namespace(like).as_tensor(array, device=like.device)


def lasting(like: Array) -> AbstractContextManager[Any]:
    """Make tensors that can be written to later, also where torch is in inference mode."""
    return nullcontext() if isinstance(like, np.ndarray) else namespace(like).inference_mode(False)


def zeros(shape: Sequence[int], like: Array, dtype: str = "float64") -> Array:
    """Give an array of zeros that lies where another does."""
    xp = namespace(like)
    return xp.zeros(tuple(shape), dtype=getattr(xp, dtype), device=like.device)


def copy(array: Array) -> Array:
    """Give an array of its own memory."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the part as a share of the whole; NaN where that is zero."""
    return np.where(whole, part, np.nan) / np.maximum(whole, 1)


def _not_real(dtype: Any) -> TypeError:
    return TypeError(f"a batch must be real numbers, got {dtype}; take the abs() of complex values")
