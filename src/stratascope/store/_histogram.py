"""What the histograms beside a site's values tell of it, added up over the units."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from stratascope.store._bins import EDGES, NAN, ZERO, find_ends


@final
@dataclass(frozen=True, eq=False)
class StoredHistogram:
    """How often the values of each channel of a site lie in each of 248 bins.

    The bins are the same for all sites and stores, so that counts may be added up: two from each
    power of two to the next from 2 ** -30 to 2 ** 30, of either sign, and one each for -inf, what
    is below, what is nearer to 0 from below, 0, what is nearer to 0 from above, what is above, inf
    and NaN, in this order.

    Attributes:
        counts: Counts, int64 ``(channels, 248)``; ``(248,)`` where a sample is one number.
        share: The part of the values that was counted, evenly spread over samples and places.
        samples: Number of samples whose values they are of.

    >>> import numpy as np, torch, stratascope as ss
    >>> data = np.random.default_rng(0).normal(size=(100, 1, 64)).astype("float32")
    >>> store = ss.extract(torch.nn.ReLU(), data, "model", to="counts.zarr")
    >>> histogram = store["model"].histogram
    >>> histogram
    StoredHistogram of 1 channels: 6,400 counts of 100 samples, 100 % of the values
    >>> histogram.zero_share.round(2), histogram.quantile([0.5, 0.9]).round(1)
    (array([0.51]), array([[0. , 1.3]]))
    """

    counts: np.ndarray[Any, Any]
    share: float
    samples: int

    @cached_property
    def counted(self) -> np.ndarray[Any, Any]:
        """How many values of each channel were counted, int64 ``(channels,)``."""
        return self.counts.sum(-1)

    @property
    def lower(self) -> np.ndarray[Any, Any]:
        """The least value of each bin, float64 ``(248,)``."""
        return find_ends()[0]

    @property
    def upper(self) -> np.ndarray[Any, Any]:
        """The greatest value of each bin, or where the next one begins, float64 ``(248,)``."""
        return find_ends()[1]

    @property
    def zero_share(self) -> np.ndarray[Any, Any]:
        """Which part of each channel's values is 0; NaN where none were counted."""
        return self._divide(self.counts[..., ZERO])

    @property
    def nan_share(self) -> np.ndarray[Any, Any]:
        """Which part of each channel's values is NaN; NaN where none were counted."""
        return self._divide(self.counts[..., NAN])

    def quantile(self, q: float | Sequence[float]) -> np.ndarray[Any, Any]:
        """Estimate quantiles of each channel's values that are not NaN.

        An estimate lies in the bin of the true value, at most half of its size away; what is beyond
        2 ** 30 is given as that.

        Args:
            q: Numbers from 0 to 1.

        Returns:
            float64 ``(channels,)``, for several numbers ``(channels, len(q))``; NaN where there are
            no values.

        Raises:
            ValueError: A number is not from 0 to 1.
        """
        wanted = np.asarray(q, np.float64)
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ValueError(f"q must be from 0 to 1, got {q!r}")
        ends = self.counts[..., :NAN].cumsum(-1)
        total = ends[..., -1:]
        # At least the first of them, which is in no empty bin.
        target = np.maximum(wanted.reshape(-1) * total, 0.5)
        place = (ends[..., None, :] < target[..., None]).sum(-1).clip(max=NAN - 1)
        count = np.take_along_axis(self.counts, place, -1)
        inside = (target - np.take_along_axis(ends, place, -1)) / np.maximum(count, 1) + 1
        low, high = (end[:NAN].clip(-EDGES[-1], EDGES[-1]) for end in find_ends())
        width = high - low
        low[[0, -1]] = -np.inf, np.inf
        values = np.where(total > 0, low[place] + inside * width[place], np.nan)
        return values.reshape((*self.counts.shape[:-1], *wanted.shape))

    def __repr__(self) -> str:
        channels = len(self.counts) if self.counts.ndim > 1 else 1
        return (
            f"StoredHistogram of {channels} channels: {self.counted.sum():,} counts of "
            f"{self.samples:,} samples, {self.share:.0%} of the values".replace("%", " %")
        )

    def _divide(self, part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.divide(
            part, self.counted, out=np.full(part.shape, np.nan), where=self.counted > 0
        )
