"""Every value of a float16 or bfloat16 layer, counted by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from stratascope.errors import DataError
from stratascope.stats._arrays import Array, add_at, half_values, namespace, zeros
from stratascope.stats._batch import Batch
from stratascope.stats._distribution import Distribution, make_distribution
from stratascope.stats._statistic import SiteStatistic

_PATTERNS = 65_536
# Bit patterns that are looked at together, which bounds the memory for them as int64.
_AT_ONCE = 2**20


@final
@dataclass(frozen=True, eq=False)
class HalfHistogram(SiteStatistic[Distribution]):
    """Count each of the 65,536 values that a 16-bit float can have, over a whole layer.

    Exact: its quantiles are values of the layer, and everything else about the distribution
    follows from the counts. Takes 512 kB.

    Args:
        dtype: Type of the values. bfloat16 may also come widened to float32, as stores keep it.

    Raises:
        ValueError: `dtype` is neither.

    >>> import numpy as np
    >>> histogram = HalfHistogram("float16")
    >>> histogram.update(np.array([[0.1], [0.1], [7.0]], "float16"))
    >>> histogram.compute().quantile(0.5)
    array([0.09997559])
    """

    dtype: Literal["float16", "bfloat16"]

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "bfloat16"):
            raise ValueError(f"dtype must be 'float16' or 'bfloat16', got {self.dtype!r}")

    def compute(self) -> Distribution:
        """Give the distribution, of one row."""
        counts = self._known()["counts"]
        if self.dtype == "float16":
            values = half_values()
        else:
            patterns = np.arange(_PATTERNS, dtype=np.uint32) << 16
            with np.errstate(invalid="ignore"):
                values = patterns.view(np.float32).astype(np.float64)
        finite = np.isfinite(values)
        order = np.argsort(values[finite], kind="stable")
        ascending = values[finite][order]
        nonfinite = counts[:, ~finite].sum(1)
        return make_distribution(ascending, ascending, counts[:, finite][:, order], nonfinite)

    def _check_batch(self, batch: Batch) -> None:
        super()._check_batch(batch)
        dtype = str(batch.array.dtype).removeprefix("torch.")
        if dtype != self.dtype and (self.dtype, dtype) != ("bfloat16", "float32"):
            raise TypeError(f"the batch must be {self.dtype}, got {dtype}; use Histogram")

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        return {"counts": zeros((1, _PATTERNS), like, "int64")}

    def _take(self, batch: Batch) -> None:
        flat = batch.array.reshape(-1)
        counts = zeros((_PATTERNS,), flat, "int64")
        for start in range(0, len(flat), _AT_ONCE):
            add_at(counts, _read_bits(flat[start : start + _AT_ONCE]))
        self.state["counts"] += counts

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        own["counts"] += parts["counts"]


def _read_bits(values: Array) -> Array:
    """Give the 16 bits of each value as an int64."""
    xp = namespace(values)
    if values.dtype.itemsize == 2:
        return values.view(xp.int16) + zeros((1,), values, "int64") & 0xFFFF
    bits = values.view(xp.int32)
    if bool((bits & 0xFFFF).any()):
        raise DataError("a float32 batch must hold bfloat16 values, got others; use Histogram")
    return (bits >> 16) + zeros((1,), values, "int64") & 0xFFFF
