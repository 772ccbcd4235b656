"""How much the representations at several sites are alike: CKA, SVCCA, Procrustes distance."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope.errors import DataError
from stratascope.stats._arrays import Array, namespace, zeros
from stratascope.stats._statistic import Statistic, open_sites


@dataclass(frozen=True, eq=False, slots=True)
class SiteSimilarity:
    """Similarities of each two of S sites, as symmetric matrices of shape ``(S, S)``.

    A site with values that are not finite has NaN in its row and column, and so have two sites that
    were not compared.

    Attributes:
        count: Number of samples.
        widths: Length of the vectors of each site.
        pairs: Which sites were compared, each with itself included, shape ``(P, 2)``.
        scatter: Sums of products of the centred vectors, flat, those of one pair after the other's.
        quartic: Sum over the samples of the product of two sites' squared lengths, ``(S, S)``.

    >>> similarity = Similarity()
    >>> similarity.update([np.eye(5), 2 * np.eye(5), np.arange(5.0)])
    >>> similarity.compute().cka().round(3).tolist()[0]
    [1.0, 1.0, 0.5]
    """

    count: int
    widths: tuple[int, ...]
    pairs: NDArray[np.int64]
    scatter: NDArray[np.float64]
    quartic: NDArray[np.float64]

    def cka(self) -> NDArray[np.float64]:
        """Give linear centred kernel alignment: Kornblith et al. (2019).

        ``‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)`` of centred X and Y, in Frobenius norms. 1 for vectors that are
        equal up to rotation, scale and shift. Too large if there are few samples for the width.
        """
        return normalise_hsic(self._map_pairs(_align))

    def unbiased_cka(self) -> NDArray[np.float64]:
        """Give linear CKA by the unbiased HSIC of Song et al. (2012), over all samples at once.

        About 0, and sometimes below, for independent vectors of any width; NaN for fewer than four
        samples.
        """
        n, aligned = self.count, self._map_pairs(_align)
        if n < 4:
            return np.full_like(aligned, np.nan)
        lengths, quartic = self._lengths(), self.quartic
        # Song's estimator for a linear kernel; of centred vectors the sums over the rows of the
        # kernel, less its diagonal, are the squared lengths.
        ends = np.outer(lengths, lengths) / ((n - 1) * (n - 2))
        return normalise_hsic(aligned - quartic + ends - 2 * quartic / (n - 2))

    def procrustes(self) -> NDArray[np.float64]:
        """Give the orthogonal Procrustes distance: Ding, Denain & Steinhardt (2021).

        ``‖X‖² + ‖Y‖² - 2 ‖XᵀY‖⁎`` of X and Y centred and scaled to length 1, with the nuclear norm:
        from 0, for vectors that are equal up to rotation, scale and shift, to 2.
        """
        lengths = np.sqrt(self._lengths())
        nuclear = self._map_pairs(lambda i, j, block: float(np.linalg.norm(block, "nuc")))
        scale = np.outer(lengths, lengths)
        return np.clip(2 - 2 * nuclear / np.where(scale > 0, scale, np.nan), 0, None)

    def svcca(self, variance: float = 0.99) -> NDArray[np.float64]:
        """Give the mean canonical correlation of the leading components: Raghu et al. (2017).

        Args:
            variance: The fewest principal components of each site that hold this part of its
                variance are compared.

        Raises:
            ValueError: `variance` is not above 0 and up to 1.
        """
        if not 0 < variance <= 1:
            raise ValueError(f"variance must be above 0 and at most 1, got {variance!r}")
        blocks = self._blocks()
        bases = [_whiten(blocks[k, k], variance) for k in range(len(self.widths))]

        def correlate(i: int, j: int, block: NDArray[np.float64]) -> float:
            kept = min(bases[i].shape[1], bases[j].shape[1])
            joint = np.linalg.svd(bases[i].T @ block @ bases[j], compute_uv=False)
            return float(np.clip(joint, 0, 1).sum()) / (kept or math.nan)

        return self._map_pairs(correlate)

    def _blocks(self) -> dict[tuple[int, int], NDArray[np.float64]]:
        return view_blocks(self.scatter, self.widths, self.pairs)

    def _lengths(self) -> NDArray[np.float64]:
        """Give for each site the sum of its vectors' squared lengths."""
        blocks = self._blocks()
        return np.array([np.trace(blocks[k, k]) for k in range(len(self.widths))])

    def _map_pairs(
        self, measure: Callable[[int, int, NDArray[np.float64]], float]
    ) -> NDArray[np.float64]:
        """Give a figure for each block of the scatter; NaN for those that are not finite."""
        found = np.full((len(self.widths), len(self.widths)), np.nan)
        for (i, j), block in self._blocks().items():
            if np.isfinite(block).all():
                found[i, j] = found[j, i] = measure(i, j, block)
        return found


@final
@dataclass(frozen=True, eq=False)
class Similarity(Statistic[SiteSimilarity]):
    """Compare sites, of one network or of several, that have seen the same samples.

    A batch is a list of one array a site, all of the same samples. Each two sites are compared in
    one pass, through the products of their vectors; takes 8 bytes for each number of the one's
    vector times each of the other's.

    Args:
        flatten: Whether a sample's vector is all of its values, rather than the channels' means
            over the positions. For wide maps use `MinibatchCKA` instead.
        first: Compare so many sites, from the first on, with the others only, and these not among
            themselves: those of one network with those of another, for half of the memory. None
            compares all.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 4))
    >>> similarity = Similarity()
    >>> similarity.update([x, x[:, ::-1] * 7, x[:, :1]])
    >>> similarity.compute().procrustes().round(2).tolist()[0]
    [0.0, 0.0, 0.98]
    """

    flatten: bool = False
    first: int | None = None

    def update(self, batch: Any, *, samples: Any = None) -> None:
        """Take in a batch, a list of one array a site; see `Statistic.update`."""
        batches = open_sites(batch, samples)
        if self.first is not None and not 0 < self.first < len(batches):
            raise DataError(
                f"the batch must have more than first={self.first} sites, and first be at least 1, "
                f"got {len(batches)} sites"
            )
        widths = [one.feature_width(flatten=self.flatten) for one in batches]
        self._check(widths)
        self._open(widths, batches[0].array)
        if any(one.empty for one in batches):
            return
        xp = namespace(batches[0].array)
        with np.errstate(over="ignore", invalid="ignore"):
            vectors = xp.concatenate([one.features(flatten=self.flatten) for one in batches], 1)
            mean = vectors.mean(0)
            vectors = vectors - mean
            lengths = _sum_sites(vectors * vectors, widths)
            parts = [vectors[:, span] for span in cut(widths)]
            products = [
                (parts[i].swapaxes(0, 1) @ parts[j]).reshape(-1) for i, j in self._pairs(widths)
            ]
            self._combine(
                self.state,
                {
                    "count": zeros((1,), vectors) + len(vectors),
                    "mean": mean,
                    "scatter": xp.concatenate(products),
                    "cubic": lengths.swapaxes(0, 1) @ vectors,
                    "quartic": lengths.swapaxes(0, 1) @ lengths,
                },
            )

    def compute(self) -> SiteSimilarity:
        """Give the similarities."""
        known = self._known()
        widths = tuple(known["widths"].tolist())
        pairs = np.array(self._pairs(widths))
        return SiteSimilarity(
            int(known["count"][0]), widths, pairs, known["scatter"], known["quartic"]
        )

    @property
    def _unit(self) -> str:
        return "values a sample" if self.flatten else "channels"

    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        width, sites = sum(widths), len(widths)
        return {
            "count": zeros((1,), like),
            "mean": zeros((width,), like),
            "scatter": zeros((sum(widths[i] * widths[j] for i, j in self._pairs(widths)),), like),
            "cubic": zeros((sites, width), like),
            "quartic": zeros((sites, sites), like),
        }

    def _pairs(self, widths: Sequence[int]) -> list[tuple[int, int]]:
        """List which sites are compared."""
        sites, first = range(len(widths)), self.first
        if first is None:
            return list(itertools.combinations_with_replacement(sites, 2))
        crossed = itertools.product(sites[:first], sites[first:])
        return [*((k, k) for k in sites), *crossed]

    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        n = namespace(own["count"]).clip(own["count"] + parts["count"], 1, None)
        apart = parts["mean"] - own["mean"]
        widths = self.state["widths"].tolist()
        pairs, spans = self._pairs(widths), list(cut(widths))
        blocks, others = (view_blocks(sums["scatter"], widths, pairs) for sums in (own, parts))
        ours = _recentre(own, blocks, -apart * (parts["count"] / n), widths)
        theirs = _recentre(parts, others, apart * (own["count"] / n), widths)
        for name in ("cubic", "quartic"):
            own[name] = ours[name] + theirs[name]
        weighted = apart * (own["count"] * parts["count"] / n)
        # In place, since these may be gigabytes.
        for (i, j), block in blocks.items():
            block += others[i, j]
            block += weighted[spans[i]][:, None] * apart[spans[j]]
        own["mean"] = own["mean"] + apart * (parts["count"] / n)
        own["count"] = own["count"] + parts["count"]


def view_blocks(
    scatter: Array, widths: Sequence[int], pairs: Iterable[Any]
) -> dict[tuple[int, int], Any]:
    """Give the products of each pair of sites as a matrix, without a copy."""
    keys = [(int(i), int(j)) for i, j in pairs]
    sizes = [widths[i] * widths[j] for i, j in keys]
    return {
        (i, j): scatter[span].reshape(widths[i], widths[j])
        for (i, j), span in zip(keys, cut(sizes), strict=True)
    }


def cut(widths: Sequence[int]) -> Iterator[slice]:
    """Give where the vector of each site lies among those of all.

    >>> list(cut([2, 3]))
    [slice(0, 2, None), slice(2, 5, None)]
    """
    ends = itertools.accumulate(widths)
    return (slice(end - width, end) for end, width in zip(ends, widths, strict=True))


def normalise_hsic(hsic: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide by the roots of a site's HSIC with itself; NaN where that is not positive."""
    own = hsic.diagonal()
    scale = np.sqrt(np.where(own > 0, own, np.nan))
    return hsic / np.outer(scale, scale)


def _sum_sites(values: Array, widths: Sequence[int]) -> Array:
    """Add up the last axis, site by site; NaN stays with its site, unlike in a product."""
    return namespace(values).stack([values[..., span].sum(-1) for span in cut(widths)], -1)


def _recentre(
    about: dict[str, Any],
    blocks: dict[tuple[int, int], Array],
    shift: Array,
    widths: Sequence[int],
) -> dict[str, Array]:
    """Give the sums of vectors that are all longer by `shift` than those that were added up.

    With d for the vectors, whose sum is zero, p for a site's squared length and e for the shift,
    p becomes p + 2 d·e + e·e: the products of these terms, added up.
    """
    xp, n, spans = namespace(shift), about["count"], list(cut(widths))
    moved = _sum_sites(shift * shift, widths)
    total = xp.stack([blocks[k, k].diagonal().sum() for k in range(len(widths))])
    # Of sites that are not compared nothing is known, and nothing asked.
    along = about["cubic"] * math.nan
    for (i, j), block in blocks.items():
        along[i, spans[j]] = shift[spans[i]] @ block
        along[j, spans[i]] = block @ shift[spans[j]]
    crossed = 2 * _sum_sites(about["cubic"] * shift, widths) + moved * total[:, None]
    return {
        "cubic": about["cubic"] + 2 * along + (total + n * moved)[:, None] * shift,
        "quartic": about["quartic"]
        + crossed
        + crossed.swapaxes(0, 1)
        + 4 * _sum_sites(along * shift, widths)
        + n * moved[:, None] * moved,
    }


def _align(i: int, j: int, block: NDArray[np.float64]) -> float:
    """Give ``‖XᵀY‖²``, the biased HSIC but for a factor."""
    return float((block * block).sum())


def _whiten(scatter: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
    """Give the leading principal components as columns, each divided by its singular value."""
    if not np.isfinite(scatter).all():
        return np.zeros((len(scatter), 0))
    values, vectors = (array[..., ::-1] for array in np.linalg.eigh(scatter))
    resolved = values > len(values) * np.finfo(np.float64).eps * max(values, default=0.0)
    reached = np.cumsum(np.where(resolved, values, 0.0))
    enough = np.searchsorted(reached, variance * reached[-1] * (1 - 1e-12)) + 1
    kept = min(int(enough), int(resolved.sum()))
    return vectors[:, :kept] / np.sqrt(values[:kept])
