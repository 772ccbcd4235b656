"""How many values of each channel are zero, NaN or infinite, and where that begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, count, namespace, share, zeros
from stratascope.stats._batch import Block
from stratascope.stats._ends import NONFINITE
from stratascope.stats._statistic import ChannelStatistic

_NAMES = ("values", "compared", "zeros", *NONFINITE)
_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False, slots=True)
class ChannelCounts:
    """Numbers of values by kind, each of shape ``(C,)``.

    Attributes:
        values: All values.
        compared: The finite ones that were compared with zero: all, or a share in a profile.
        zeros: Those of them that are exactly zero.
        nans: Values that are NaN.
        plus_infs: Values that are +Inf.
        minus_infs: Values that are -Inf.
        first_nonfinite: The least number of a sample that holds one of the last three; -1 where
            there is none, or the numbers were not passed.

    >>> ChannelCounts(*np.array([[4], [2], [1], [2], [0], [0], [7]])).zero_fraction
    array([0.5])
    """

    values: NDArray[np.int64]
    compared: NDArray[np.int64]
    zeros: NDArray[np.int64]
    nans: NDArray[np.int64]
    plus_infs: NDArray[np.int64]
    minus_infs: NDArray[np.int64]
    first_nonfinite: NDArray[np.int64]

    @property
    def finite(self) -> NDArray[np.int64]:
        """Numbers of values that are neither NaN nor infinite."""
        return self.values - self.nans - self.plus_infs - self.minus_infs

    @property
    def zero_fraction(self) -> NDArray[np.float64]:
        """Share of the compared values that is exactly zero; NaN where there is none."""
        return share(self.zeros, self.compared)


@final
@dataclass(frozen=True, eq=False)
class Counts(ChannelStatistic[ChannelCounts]):
    """Count zeros, NaN and infinite values, exactly.

    >>> counts = Counts()
    >>> counts.update([[0.0, 1.0], [0.0, float("nan")]])
    >>> counts.compute().zeros.tolist(), counts.compute().nans.tolist()
    ([2, 0], [0, 1])
    """

    def compute(self) -> ChannelCounts:
        """Give the counts."""
        known = self._known()
        first = np.where(known["first"] == _NONE, -1, known["first"])
        return ChannelCounts(**{name: known[name] for name in _NAMES}, first_nonfinite=first)

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        state = {name: zeros(widths, like, "int64") for name in _NAMES}
        return state | {"first": zeros(widths, like, "int64") + _NONE}

    def _add(self, block: Block, own: dict[str, Array]) -> None:
        rows, found = block.rows, block.nonfinite
        own["values"] += rows.shape[1] if block.ends is None else block.ends["values"].sum(1)
        own["compared"] += rows.shape[1]
        own["zeros"] += count(rows == 0)
        if block.bad is not None:
            own["compared"] -= count(block.bad.reshape(rows.shape))
        if found is not None:
            for name in NONFINITE:
                own[name] += found[name].sum(1)
            if block.samples is not None:
                xp = namespace(rows)
                numbers = xp.asarray(block.samples, device=rows.device)
                bad = sum(found[name] for name in NONFINITE) > 0
                least = xp.amin(xp.where(bad, numbers, _NONE), 1)
                own["first"][...] = xp.minimum(own["first"], least)

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        for name in _NAMES:
            own[name] += parts[name]
        own["first"][...] = namespace(own["first"]).minimum(own["first"], parts["first"])
