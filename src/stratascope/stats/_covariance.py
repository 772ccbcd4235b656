"""How the channels of a layer vary together: rank, principal components, redundancy."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, multiply, namespace, widen, zeros
from stratascope.stats._batch import Batch, mix
from stratascope.stats._statistic import SiteStatistic

# Each sample gives at least so many positions, if it has them: fewer say little of a small map.
FEWEST = 16


@dataclass(frozen=True, eq=False)
class ChannelCovariance:
    """The covariance of the channels, and what follows from it.

    A channel with a value that is not finite has NaN in its row and column; the figures of the
    layer are then those of the other channels.

    Attributes:
        count: Number of positions that were looked at.
        mean: Mean of each channel over these, shape ``(C,)``.
        covariance: Covariance, as ``numpy.cov(..., bias=True)``, shape ``(C, C)``.

    >>> found = ChannelCovariance(9, np.zeros(2), np.array([[4.0, 0.0], [0.0, 4.0]]))
    >>> found.participation_ratio, round(found.effective_rank, 9)
    (2.0, 2.0)
    """

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def correlation(self) -> NDArray[np.float64]:
        """Correlation of each two channels, shape ``(C, C)``; NaN for constant channels."""
        variance = self.covariance.diagonal()
        deviation = np.sqrt(np.where(variance > 0, variance, np.nan))
        return np.clip(self.covariance / np.outer(deviation, deviation), -1, 1)

    @property
    def eigenvalues(self) -> NDArray[np.float64]:
        """Variances along the principal components of the finite channels, descending."""
        return self._spectrum[0]

    @property
    def components(self) -> NDArray[np.float64]:
        """Principal components, one a row, in the order of `eigenvalues`; shape ``(K, C)``.

        In each the entry of the largest size is positive. Channels that are not finite have zeros.
        """
        return self._spectrum[1]

    @property
    def effective_rank(self) -> float:
        """Number of directions that count: Roy & Vetterli (2007).

        ``exp(-Σ p log p)``, where p are the singular values of the centred data (the roots of the
        eigenvalues) divided by their sum. 0 if nothing varies.
        """
        values = np.sqrt(self.eigenvalues)
        shares = values[values > 0] / values.sum()
        return math.exp(-float((shares * np.log(shares)).sum())) if shares.size else 0.0

    @property
    def participation_ratio(self) -> float:
        """Number of directions that hold the variance: ``(Σ λ)² / Σ λ²``, Gao et al. (2017).

        0 if nothing varies.
        """
        values = self.eigenvalues
        return float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0

    def redundant_groups(self, threshold: float = 0.95) -> tuple[tuple[int, ...], ...]:
        """Group channels that say the same up to sign and scale.

        Args:
            threshold: Two channels whose correlation is above this in size share a group, and so do
                all that are linked through others.

        Returns:
            The channels of each group of two or more, ascending; largest groups first.
        """
        linked = np.abs(np.nan_to_num(self.correlation)) > threshold
        groups: list[tuple[int, ...]] = []
        left = set(range(len(linked)))
        while left:
            group: set[int] = set()
            reached = {min(left)}
            while reached:
                group |= reached
                reached = set(np.flatnonzero(linked[list(reached)].any(0)).tolist()) - group
            left -= group
            if len(group) > 1:
                groups.append(tuple(sorted(group)))
        return tuple(sorted(groups, key=lambda group: (-len(group), group)))

    @functools.cached_property
    def _spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        finite = np.isfinite(self.covariance.diagonal())
        values, vectors = np.linalg.eigh(self.covariance[np.ix_(finite, finite)])
        # Rounding leaves something of each direction; this much cannot be told from nothing.
        resolved = values > len(values) * np.finfo(np.float64).eps * max(values, default=0.0)
        values = np.where(resolved, values, 0.0)[::-1]
        components = np.zeros((len(values), len(finite)))
        components[:, finite] = vectors.T[::-1]
        largest = np.abs(components).argmax(1)[:, None]
        signs = np.sign(np.take_along_axis(components, largest, 1))
        return values, components * signs


@final
@dataclass(frozen=True, eq=False)
class Covariance(SiteStatistic[ChannelCovariance]):
    """Gather the covariance of a layer's channels over samples and positions.

    Positions of a map resemble their neighbours, so a part of them gives the same figures for less
    work. They are scattered, and the same ones in every sample. Takes 8 bytes for each two
    channels.

    Args:
        share: Part of the positions of each sample to look at; at least 16 of them.

    Raises:
        ValueError: `share` is not above 0 and up to 1.

    >>> import numpy as np
    >>> covariance = Covariance()
    >>> x = np.random.default_rng(0).normal(size=(1000, 2))
    >>> covariance.update(np.column_stack([x, -3 * x[:, 0]]))
    >>> covariance.compute().redundant_groups()
    ((0, 2),)
    """

    share: float = 1 / 16

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share!r}")

    def compute(self) -> ChannelCovariance:
        """Give the covariance; all NaN without samples."""
        known = self._known()
        count = int(known["count"][0])
        mean = known["mean"] if count else np.full_like(known["mean"], np.nan)
        return ChannelCovariance(count, mean, known["scatter"] / (count or np.nan))

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        (channels,) = widths
        return {
            "count": zeros((1,), like),
            "mean": zeros((channels,), like),
            "scatter": zeros((channels, channels), like),
        }

    def _take(self, batch: Batch) -> None:
        channels, positions = batch.array.shape[1:]
        chosen = choose_positions(positions, self.share)
        for span in batch.spans():
            part = batch.array[span]
            part = part if len(chosen) == positions else part[:, :, chosen]
            rows = widen(part.swapaxes(0, 1)).reshape(channels, -1)
            # After one of a channel's values came off, a constant is exactly constant.
            first = rows[:, :1]
            rows = rows - first
            mean = rows.mean(1)[:, None]
            rows -= mean
            parts = {
                "count": zeros((1,), rows) + rows.shape[1],
                "mean": (first + mean)[:, 0],
                "scatter": multiply(rows, rows.swapaxes(0, 1)),
            }
            self._combine(self.state, parts)

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        n = namespace(own["count"]).clip(own["count"] + parts["count"], 1, None)
        apart = parts["mean"] - own["mean"]
        between = own["count"] * parts["count"] / n
        own["scatter"] += parts["scatter"] + apart[:, None] * apart * between
        own["mean"] += apart * (parts["count"] / n)
        own["count"] += parts["count"]


@functools.lru_cache(maxsize=64)
def choose_positions(positions: int, share: float) -> NDArray[np.int64]:
    """Choose a part of the positions, the same every time and along no line of the map.

    >>> choose_positions(1000, 1 / 16).shape, choose_positions(4, 1 / 16).tolist()
    ((63,), [0, 1, 2, 3])
    """
    amount = max(math.ceil(positions * share), min(positions, FEWEST))
    return np.sort(np.argsort(mix(np.arange(positions)), kind="stable")[:amount])
