"""CKA of wide layers, from small groups of samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from stratascope.errors import DataError
from stratascope.stats._arrays import Array, namespace, zeros
from stratascope.stats._batch import Batch
from stratascope.stats._similarity import cut, normalise_hsic
from stratascope.stats._statistic import Statistic, open_sites


@dataclass(frozen=True, eq=False, slots=True)
class MinibatchSimilarity:
    """Similarities of each two of S sites, from groups of samples.

    Attributes:
        count: Number of samples in the groups.
        hsic: Mean of the groups' unbiased HSIC, shape ``(S, S)``.

    >>> MinibatchSimilarity(8, np.array([[4.0, 1.0], [1.0, 1.0]])).cka.tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """

    count: int
    hsic: NDArray[np.float64]

    @property
    def cka(self) -> NDArray[np.float64]:
        """Linear CKA, shape ``(S, S)``; NaN for sites that are constant or not finite."""
        return normalise_hsic(self.hsic)


@final
@dataclass(frozen=True, eq=False)
class MinibatchCKA(Statistic[MinibatchSimilarity]):
    """Compare sites by all their values, however wide: Nguyen, Raghu & Kornblith (2021).

    Samples are compared with each other inside groups, and the groups' estimates of HSIC, which are
    unbiased (Song et al. 2012), are averaged. A group is made of samples whose numbers follow each
    other, whatever batches they come in; until it is complete its values are kept. A batch is a
    list of one array a site.

    Args:
        group: Number of samples in a group, at least 4. A last group that stays smaller counts by
            its size; with fewer than 4 samples, not at all.

    Raises:
        ValueError: `group` is below 4.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(64, 3, 8, 8))
    >>> minibatch = MinibatchCKA()
    >>> minibatch.update([x, -2 * x[..., ::-1]], samples=range(64))
    >>> minibatch.compute().cka.round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    needs_samples: ClassVar[bool] = True

    group: int = 32

    def __post_init__(self) -> None:
        if self.group < 4:
            raise ValueError(f"group must be at least 4, got {self.group!r}")

    def update(self, batch: Any, *, samples: Any = None) -> None:
        """Take in a batch, a list of one array a site; see `Statistic.update`."""
        batches = open_sites(batch, samples)
        self._check_numbered(batches[0])
        widths = [one.feature_width(flatten=True) for one in batches]
        self._check(widths)
        self._open(widths, batches[0].array)
        if any(one.empty for one in batches):
            return
        vectors = [one.features(flatten=True) for one in batches]
        joint = namespace(vectors[0]).concatenate(vectors, 1)
        self._gather(batches[0].samples, joint)

    def compute(self) -> MinibatchSimilarity:
        """Give the similarities; all NaN without a group of 4 samples."""
        known = self._known()
        hsic, count = known["hsic"], int(known["count"][0])
        for rows in self._split(known["numbers"]).values():
            if len(rows) >= 4:
                hsic = hsic + self._measure(known["pending"][rows])
                count += len(rows)
        return MinibatchSimilarity(count, hsic / (count or np.nan))

    @property
    def _unit(self) -> str:
        return "values a sample"

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        return {
            "count": zeros((1,), like),
            "hsic": zeros((len(widths), len(widths)), like),
            "numbers": np.zeros(0, np.int64),
            "pending": zeros((0, sum(widths)), like),
        }

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        own["hsic"] = own["hsic"] + parts["hsic"]
        own["count"] = own["count"] + parts["count"]
        self._gather(parts["numbers"], parts["pending"])

    def _gather(self, samples: NDArray[np.int64], vectors: Array) -> None:
        """Add vectors to those that wait for their group, and measure the groups that are there."""
        if len(self.state["numbers"]):
            samples = np.concatenate([self.state["numbers"], samples])
            vectors = namespace(vectors).concatenate([self.state["pending"], vectors])
        left: list[NDArray[np.int64]] = []
        for rows in self._split(samples).values():
            if len(rows) < self.group:
                left.append(rows)
                continue
            self.state["hsic"] = self.state["hsic"] + self._measure(vectors[rows])
            self.state["count"] = self.state["count"] + len(rows)
        waiting = np.concatenate([np.zeros(0, np.int64), *left])
        self.state["numbers"], self.state["pending"] = samples[waiting], vectors[waiting]

    def _split(self, samples: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Give for each group the rows of its samples, in the order of their numbers."""
        order = np.argsort(samples, kind="stable")
        groups, starts = np.unique(samples[order] // self.group, return_index=True)
        ends = [*starts[1:], len(order)][: len(groups)]
        parts = zip(groups.tolist(), starts, ends, strict=True)
        return {group: order[start:end] for group, start, end in parts}

    def _measure(self, vectors: Array) -> Array:
        """Give the unbiased HSIC of each two sites in a group, times the size of the group."""
        xp = namespace(vectors)
        sites = [vectors[:, span] for span in cut(self.state["widths"].tolist())]
        stacked = xp.stack([centred_kernel(site).reshape(-1) for site in sites])
        return stacked @ stacked.swapaxes(0, 1) / (len(vectors) - 3)


def centred_kernel(batch: Any) -> Any:
    """Give how alike each two samples of a group are, so that HSIC is a sum of products.

    With n samples, the kernels of two sites times each other, added up and divided by
    ``n (n - 3)``, are the unbiased HSIC of Song et al. (2012) of these samples. A kernel is small
    however wide the site is, so sites that do not fit into memory together are compared by theirs.

    Args:
        batch: The values of one site, shape ``(n, …)``, at least 4 samples.

    Returns:
        Shape ``(n, n)``, float64, where the batch lies; NaN if a value is not finite.

    Raises:
        DataError: There are fewer samples.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = centred_kernel(rng.normal(size=(32, 9))), centred_kernel(rng.normal(size=(32, 7)))
    >>> bool(abs((x * y).sum()) < 0.1 * (x * x).sum())
    True
    """
    opened = Batch(batch)
    vectors = opened.features(flatten=True)
    xp, n = namespace(vectors), len(vectors)
    if n < 4:
        raise DataError(f"the batch must have at least 4 samples, got {n}")
    apart = 1 - xp.eye(n, dtype=xp.float64, device=vectors.device)
    with np.errstate(over="ignore", invalid="ignore"):
        centred = vectors - vectors.mean(0)
        kernel = centred @ centred.swapaxes(0, 1) * apart
        sums = kernel.sum(0) / (n - 2)
        return (kernel - sums - sums[:, None] + sums.sum() / (n - 1)) * apart
