"""How far the values of one site lie apart in two stores, channel by channel."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Measure = Literal["relative", "cosine", "largest"]

# Values of which several copies as float64 stay in a cache.
_IN_CACHE = 2**15


@dataclass(frozen=True, eq=False, slots=True)
class ChannelDifferences:
    """Figures of each channel, and the sample in which the channel by itself is at its worst.

    Attributes:
        relative: L2 norm of the difference, divided by that of the first store's values, ``(C,)``;
            infinite where only one of two values is finite.
        cosine: Cosine of the angle between the two, ``(C,)``; NaN where one of them is all zero.
        largest: Largest absolute difference, ``(C,)``.
        relative_sample: Index in the data set of the sample that has the greatest relative
            difference, ``(C,)``; -1 where none differs.
        cosine_sample: The same for the least cosine; -1 where there is none.
        largest_sample: The same for the largest difference; -1 where none differs.

    >>> import numpy as np, torch, stratascope as ss
    >>> data = np.ones((20, 1, 10), "float32")
    >>> a, b = (
    ...     ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to=f"{name}.zarr") for name in "ab"
    ... )
    >>> channels = ss.compare(a, b, method="cka").differences["model"].channels
    >>> channels.largest.shape, channels.largest_sample.tolist()
    ((4,), [0, 0, 0, 0])
    """

    relative: NDArray[np.float64]
    cosine: NDArray[np.float64]
    largest: NDArray[np.float64]
    relative_sample: NDArray[np.int64]
    cosine_sample: NDArray[np.int64]
    largest_sample: NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class SiteDifference:
    """How far a site's values lie apart in two stores.

    Attributes:
        site: The site, and the place in it of one of several tensors.
        identical: Whether all values are the same to the bit, their types included.
        changed: Number of values that differ.
        values: Number of values that were compared.
        relative: L2 norm of the difference, divided by that of the first store's values.
        cosine: Cosine of the angle between the two.
        largest: Largest absolute difference.
        channels: The same for each channel.

    >>> import numpy as np, torch, stratascope as ss
    >>> data = np.ones((20, 1, 10), "float32")
    >>> store = ss.extract(torch.nn.ReLU(), data, "model", to="store.zarr")
    >>> codes = ss.extract(torch.nn.ReLU(), data, "model", to="codes.zarr", dtype="uint8")
    >>> print(ss.compare(store, codes).differences["model"])
    model: identical to the bit
    """

    site: str
    identical: bool
    changed: int
    values: int
    relative: float
    cosine: float
    largest: float
    channels: ChannelDifferences

    def worst(self, measure: Measure = "relative") -> tuple[int, int] | None:
        """Give the channel that differs most, and its worst sample; None where nothing differs.

        Args:
            measure: By which figure of `channels`.
        """
        figures, samples = (getattr(self.channels, measure + end) for end in ("", "_sample"))
        if not self.changed or (samples < 0).all():
            return None
        weighed = np.where(samples < 0, -np.inf, -figures if measure == "cosine" else figures)
        channel = int(np.argmax(weighed))
        return channel, int(samples[channel])

    def __str__(self) -> str:
        if self.identical:
            return f"{self.site}: identical to the bit"
        worst = self.worst("largest")
        if worst is None:
            return f"{self.site}: equal in value, not to the bit"
        return (
            f"{self.site}: {self.changed:,} of {self.values:,} values differ, relative L2 "
            f"{self.relative:.3g}, cosine {self.cosine:.6g}, max |Δ| {self.largest:.3g} in channel "
            f"{worst[0]} of sample {worst[1]}"
        )


class ChannelGauge:
    """Takes in the values of one site in two stores, some samples at a time."""

    def __init__(self, site: str, channels: int) -> None:
        self._site = site
        self._identical, self._changed, self._values = True, 0, 0
        # Of the difference, of the first, of the second, and of the first with the second.
        self._sums = np.zeros((4, channels))
        self._largest = np.zeros(channels)
        # What counts is how bad the worst sample is; an equal one does not count.
        self._worst = np.array([[0.0], [-np.inf], [0.0]]).repeat(channels, 1)
        self._samples = np.full((3, channels), -1)

    def update(
        self, one: NDArray[Any], other: NDArray[Any], samples: NDArray[np.int64], *, identical: bool
    ) -> None:
        """Take in values, channels on the second axis, with the indices of their samples."""
        self._identical &= identical
        self._values += one.size
        step = max(1, _IN_CACHE // max(1, math.prod(one.shape[1:])))
        with np.errstate(all="ignore"):
            for start in range(0, len(samples), step):
                part = slice(start, start + step)
                self._take(one[part], other[part], samples[part])

    def compute(self) -> SiteDifference:
        """Give the figures."""
        with np.errstate(all="ignore"):
            relative, cosine = _figures(self._sums)
            whole_relative, whole_cosine = _figures(self._sums.sum(1))
        return SiteDifference(
            self._site,
            self._identical,
            self._changed,
            self._values,
            float(whole_relative),
            float(whole_cosine),
            float(self._largest.max(initial=0)),
            ChannelDifferences(relative, cosine, self._largest, *self._samples),
        )

    def _take(self, one: NDArray[Any], other: NDArray[Any], samples: NDArray[np.int64]) -> None:
        wide = np.complex128 if "c" in one.dtype.kind + other.dtype.kind else np.float64
        x, y = one.astype(wide), other.astype(wide)
        apart: Any = x - y if wide is np.float64 else np.abs(x - y)
        sums = _add_up(apart, x, y)
        if not np.isfinite(sums).all():
            apart = _set_apart(x, y)
            sums = _add_up(apart, x, y)
        self._sums += sums.sum(1)
        self._changed += int(np.count_nonzero(apart))
        np.abs(apart, out=apart)
        largest = apart.max(-1, initial=0) if apart.shape[2] != 1 else apart[:, :, 0]
        self._largest = np.maximum(self._largest, largest.max(0, initial=0))
        relative, cosine = _figures(sums)
        self._note_worst(np.array([relative, -cosine, largest]), samples)

    def _note_worst(self, figures: NDArray[np.float64], samples: NDArray[np.int64]) -> None:
        figures = np.where(np.isnan(figures), -np.inf, figures)
        rows = figures.argmax(1)
        found = np.take_along_axis(figures, rows[:, None], 1)[:, 0]
        worse = found > self._worst
        self._worst[worse] = found[worse]
        self._samples[worse] = samples[rows][worse]


def _set_apart(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Give ``|x - y|``, and put 0 in place of what is not finite, in both of them.

    What is NaN in both, or the same infinity, does not differ; what is not finite in one of them
    differs by more than any number.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    alike = (x == y) | (np.isnan(x) & np.isnan(y))
    x[~finite] = y[~finite] = 0
    return np.where(finite | alike, np.abs(x - y), np.inf)


def _add_up(apart: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Add up over the positions: squares of the difference, of both, and what they share."""
    return np.array([_multiply(*pair) for pair in ((apart, apart), (x, x), (y, y), (x, y))])


def _multiply(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Give the real part of the inner products over the positions."""
    if x.dtype.kind == "c":
        return _multiply(np.real(x), np.real(y)) + _multiply(np.imag(x), np.imag(y))
    # One by one, the products of single numbers would cost more than the rest together.
    return np.einsum("ncp,ncp->nc", x, y) if x.shape[2] != 1 else (x * y)[:, :, 0]


def _figures(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give relative difference and cosine of the four sums."""
    apart, first, second, both = sums
    relative = np.where(apart > 0, np.sqrt(apart / first), 0.0)
    return relative, np.clip(both / (np.sqrt(first) * np.sqrt(second)), -1, 1)
