"""A few samples of a data set, always the same ones, as vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from stratascope.stats._arrays import Array, to_numpy
from stratascope.stats._batch import Batch, mix
from stratascope.stats._statistic import SiteStatistic


@dataclass(frozen=True, eq=False, slots=True)
class SampleVectors:
    """One vector a sample.

    Attributes:
        samples: Numbers of the samples, ascending, shape ``(K,)``.
        vectors: Their vectors, shape ``(K, D)``.

    >>> SampleVectors(np.array([3, 8]), np.zeros((2, 5))).vectors.shape
    (2, 5)
    """

    samples: NDArray[np.int64]
    vectors: NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Reservoir(SiteStatistic[SampleVectors]):
    """Keep a random part of the samples, chosen by their numbers alone.

    The numbers are scrambled, and those that come out least are kept. So the choice depends neither
    on the order nor on the split, and it is the same at every site. `intrinsic_dimension` needs
    such a part of the data, and `rsa` the same part from several sites.

    Args:
        size: How many samples to keep.
        flatten: Whether a sample's vector is all of its values, rather than the channels' means
            over the positions.

    Raises:
        ValueError: `size` is below 1.

    >>> reservoir = Reservoir(2)
    >>> reservoir.update([[1.0], [2.0], [3.0], [4.0]], samples=range(4))
    >>> reservoir.compute().samples.tolist()
    [1, 3]
    """

    needs_samples: ClassVar[bool] = True

    size: int = 1024
    flatten: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size!r}")

    def compute(self) -> SampleVectors:
        """Give the samples that were kept."""
        known = self._known()
        order = np.argsort(known["numbers"], kind="stable")
        # Behind them there may be room for more.
        return SampleVectors(known["numbers"][order], known["vectors"][order])

    @property
    def _unit(self) -> str:
        return "values a sample" if self.flatten else "channels"

    def _widths(self, batch: Batch) -> list[int]:
        return [batch.feature_width(flatten=self.flatten)]

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        return {"numbers": np.zeros(0, np.int64), "vectors": np.zeros((0, widths[0]))}

    def _take(self, batch: Batch) -> None:
        # Most samples of a long data set are not kept, and nothing of them is then computed.
        kept = self._choose(np.concatenate([self.state["numbers"], batch.samples]))
        new = kept[kept >= len(self.state["numbers"])] - len(self.state["numbers"])
        if len(new):
            part = Batch(batch.array[new])
            vectors = to_numpy(part.features(flatten=self.flatten))
            self._combine(self.state, {"numbers": batch.samples[new], "vectors": vectors})

    def _choose(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.argsort(mix(samples), kind="stable")[: self.size]

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        held, vectors = len(own["numbers"]), own["vectors"]
        samples = np.concatenate([own["numbers"], parts["numbers"]])
        kept = self._choose(samples)
        new, stays = kept[kept >= held], np.zeros(held, bool)
        stays[kept[kept < held]] = True
        # In place of those that go, and behind the others: most batches change little.
        rows = np.concatenate([np.flatnonzero(~stays), np.arange(held, len(kept))])
        if len(kept) > len(vectors):
            room = min(self.size, max(len(kept), 2 * len(vectors)))
            vectors = np.zeros((room, vectors.shape[1]))
            vectors[:held] = own["vectors"][:held]
        vectors[rows] = parts["vectors"][new - held]
        numbers = np.append(own["numbers"], np.zeros(len(kept) - held, np.int64))
        numbers[rows] = samples[new]
        own["numbers"], own["vectors"] = numbers, vectors
