"""Arrays of a store as vectors of their samples, and the similarities of these."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratascope import stats
from stratascope.errors import DataError
from stratascope.store import StoredArray

# As in most of the literature; a piece of samples that is read is made of whole groups.
GROUP = 32
RSA_SAMPLES = 1024
_MOST_BYTES = 4 * 10**9

Vectors = NDArray[Any]


@dataclass(eq=False, slots=True)
class Layer:
    """An array of a store, and what is noticed in it on the way.

    Attributes:
        name: The site, and the place in it of one of several tensors.
        array: The array.
        rows: Place in the store of each sample that is compared.
        flatten: Whether a sample's vector is all of its values.
        problem: Why this site is like no other; None where nothing is known against it.
    """

    name: str
    array: StoredArray
    rows: NDArray[np.int64]
    flatten: bool
    problem: str | None = field(init=False, default=None)
    _first: Vectors | None = field(init=False, default=None)
    _varies: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.array.length_dim is None:
            return
        if self._length_axis == self._axis:
            self.problem = "its samples differ in their number of channels"
        elif self.flatten:
            self.problem = (
                "its samples differ in length; method='unbiased_cka' compares their channel means"
            )

    @property
    def channels(self) -> int:
        """Number of channels; 1 where a sample is a single number."""
        return self.array.shape[self._axis] if self._axis else 1

    @property
    def width(self) -> int:
        """Length of a sample's vector."""
        real = math.prod(self.array.shape[1:]) if self.flatten else self.channels
        return real * (2 if self.array.dtype.kind == "c" else 1)

    @property
    def _axis(self) -> int:
        axis = self.array.spec.channel_axis
        return 0 if axis is None else 1 + axis

    @property
    def _length_axis(self) -> int:
        return self.array.dims.index(str(self.array.length_dim))

    def read(self, part: slice) -> Vectors:
        """Read the values of some of the samples that are compared."""
        rows = self.rows[part]
        ends = slice(int(rows[0]), int(rows[-1]) + 1)
        # A list is looked up chunk by chunk, a range is read as it lies there.
        return self.array[ends if (np.diff(rows) == 1).all() else rows]

    def arrange(self, values: Vectors) -> Vectors:
        """Bring values to the shape ``(n, channels, positions)``."""
        if not self._axis:
            return values[:, None, None]
        moved = np.moveaxis(values, self._axis, 1)
        return moved.reshape(*moved.shape[:2], math.prod(moved.shape[2:]))

    def to_vectors(self, values: Vectors, part: slice) -> Vectors:
        """Make a vector of real numbers of each sample; complex ones count as two."""
        if self.problem is not None:
            return np.full((len(values), self.width), np.nan)
        arranged, inside = self.arrange(values), self._look_inside(values.shape, part)
        if arranged.dtype.kind == "c":
            arranged = np.concatenate([np.real(arranged), np.imag(arranged)], 1)
        if self.flatten:
            vectors = arranged.reshape(len(values), self.width)
        else:
            count = arranged.shape[2] if inside is True else inside.sum(-1)
            with np.errstate(all="ignore"):
                vectors = arranged.sum(-1, dtype=np.float64, where=inside) / count
        if self._first is None:
            self._first = vectors[0].copy()
        if not np.isfinite(vectors).all():
            self.problem = "it has values that are not finite"
        self._varies = self._varies or bool((vectors != self._first).any())
        return vectors

    def conclude(self) -> str | None:
        """Say why this site is like no other, when all was seen, or None."""
        return self.problem or (None if self._varies else "it is the same for all samples")

    def _look_inside(self, shape: tuple[int, ...], part: slice) -> Any:
        """Tell which positions of a sample are not behind its end; True where all have one."""
        if self.array.length_dim is None:
            return True
        ahead = np.arange(shape[self._length_axis]) < self.array.lengths[self.rows[part]][:, None]
        axes = [0, self._length_axis]
        ahead = np.expand_dims(ahead, [axis for axis in range(len(shape)) if axis not in axes])
        return self.arrange(np.broadcast_to(ahead, shape))[:, :1]


class Meter:
    """Compares layers by what is left of their vectors, some samples at a time.

    Args:
        method: How.
        layers: All of them.
        first: How many of them are compared with the others only; None compares all.

    Raises:
        DataError: It would need too much memory.
    """

    def __init__(self, method: str, layers: Sequence[Layer], first: int | None) -> None:
        self._method = method
        self._hsic, self._count = np.zeros((len(layers), len(layers))), 0
        self._similarity = stats.Similarity(first=first)
        self._kept = [stats.Reservoir(RSA_SAMPLES, flatten=True) for _ in layers]
        widths = np.array([float(layer.width) for layer in layers])
        across = (
            widths.sum() ** 2 / 2 if first is None else widths[:first].sum() * widths[first:].sum()
        )
        kept = {"minibatch_cka": 0.0, "rsa": RSA_SAMPLES * widths.sum()}
        # float64, and as much again to add to it.
        num_bytes = 16 * kept.get(method, across + (widths**2).sum())
        if num_bytes > _MOST_BYTES:
            raise DataError(
                f"what {method} keeps of these sites must fit into {_MOST_BYTES / 1e9:.0f} GB, got "
                f"{num_bytes / 1e9:.1f} GB; choose fewer with sites=, leave out flatten=True, or "
                "use method='minibatch_cka', which needs next to nothing"
            )

    def reduce(self, vectors: Vectors) -> list[Vectors]:
        """Give what is needed of the vectors of one layer: of groups of samples small kernels."""
        if self._method != "minibatch_cka":
            return [vectors.astype(np.float64)]
        starts = range(0, len(vectors) - 3, GROUP)
        return [stats.centred_kernel(vectors[start : start + GROUP]) for start in starts]

    def take(self, layers: Sequence[list[Vectors]], samples: NDArray[np.int64]) -> None:
        """Take in some samples, what is needed of them layer by layer."""
        if self._method == "minibatch_cka":
            for kernels in zip(*layers, strict=True):
                stacked = np.stack(kernels).reshape(len(kernels), -1)
                self._hsic += stacked @ stacked.T / (len(kernels[0]) - 3)
                self._count += len(kernels[0])
            return
        joined = [np.concatenate(parts) for parts in layers]
        if self._method != "rsa":
            self._similarity.update(joined)
            return
        for reservoir, vectors in zip(self._kept, joined, strict=True):
            reservoir.update(vectors, samples=samples)

    def compute(self) -> NDArray[np.float64]:
        """Give the similarity of each two layers; NaN where there is none."""
        if self._method == "minibatch_cka":
            return stats.MinibatchSimilarity(self._count, self._hsic / (self._count or np.nan)).cka
        if self._method != "rsa":
            return getattr(self._similarity.compute(), self._method)()
        kept = [reservoir.compute() for reservoir in self._kept]
        return stats.rsa(kept) if len(kept[0].samples) > 2 else np.full_like(self._hsic, np.nan)
