"""What a profile tells: figures of each channel and each layer, read off what was gathered."""

import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stratascope._tables import lay_out, lay_out_html
from stratascope.errors import DataError
from stratascope.pipeline._profile_findings import RULES, Finding, find
from stratascope.pipeline._profile_gather import (
    WIDE,
    Gatherer,
    Settings,
    channel_axis,
    name_layer,
)
from stratascope.sites import Site
from stratascope.stats import (
    ChannelCounts,
    ChannelCovariance,
    ChannelExtremes,
    ChannelMoments,
    ChannelSamples,
    Counts,
    Covariance,
    Distribution,
    Extremes,
    HalfHistogram,
    Histogram,
    IntrinsicDimension,
    Moments,
    Reservoir,
    SampleVectors,
    TopSamples,
    intrinsic_dimension,
)
from stratascope.stats._covariance import FEWEST
from stratascope.store import ArraySpec, SiteNames, SiteSpec

FIGURES = (
    "count", "mean", "std", "variance", "min", "max", "mean_abs", "kurtosis", "zero_fraction",
    "active_fraction", "nans", "infs", "share_at_min", "share_at_max",
)  # fmt: skip
"""Figures that each channel has, by the names of their attributes."""


@dataclass(frozen=True, eq=False)
class SiteProfile:
    """What one site holds over a data set; arrays have one entry for each channel, ``(C,)``.

    All but `nans` and `infs` are figures of the finite values. Where a share of the positions is
    looked at, `zero_fraction`, `share_at_min`, `share_at_max`, moments, quantiles, covariance and
    sample vectors rest on that, and the others on every value all the same.

    Attributes:
        array: What is known of the values: site, place in the site's value, class of the module,
            shape and axes of a sample, type.

    >>> import numpy as np, torch, stratascope as ss
    >>> signals = np.random.default_rng(0).normal(size=(100, 1, 64)).astype("float32")
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> site = ss.profile(model, signals, "1", progress=False)["1"]
    >>> site
    SiteProfile '1' of 100 samples, 4 channels
    >>> site.min, site.dead()
    (array([0., 0., 0., 0.]), array([False, False, False, False]))
    """

    array: ArraySpec
    _gathered: Gatherer

    @property
    def name(self) -> str:
        """The site's text, with the place in its value where it passes several tensors."""
        return name_layer(self.array)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.extremes.samples.max(initial=0))

    @property
    def channels(self) -> int:
        """Number of channels; 1 where no axis is one of channels."""
        return self._gathered.channels

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Shape of what a channel holds of a sample, such as ``(H, W)``.

        The positions of `top_samples` count through it: ``numpy.unravel_index(p, map_shape)``.
        Where samples differ in length, through the shape of the sample's own map instead.
        """
        axis = channel_axis(self.array)
        return tuple(size for n, size in enumerate(self.array.shape) if n != axis)

    @functools.cached_property
    def counts(self) -> ChannelCounts:
        """Numbers of values, NaN and infinite values; of zeros among those that are looked at."""
        return self._compute(Counts, "")

    @functools.cached_property
    def extremes(self) -> ChannelExtremes:
        """Ranges, how often their ends are met, and in how many samples a channel is active."""
        return self._compute(Extremes, "")

    @functools.cached_property
    def moments(self) -> ChannelMoments:
        """Moments; their count is that of the values that they rest on, which may be a share."""
        return self._compute(Moments, "")

    @functools.cached_property
    def distribution(self) -> Distribution:
        """The distribution of each channel's values, for quantiles with their bounds."""
        self._check_narrow("distribution of each channel")
        return self._compute(Histogram, "bins")

    @functools.cached_property
    def layer_distribution(self) -> Distribution:
        """The distribution of all values; exact where these are of float16 or bfloat16."""
        exact = any(isinstance(one, HalfHistogram) for one in self._gathered.statistics)
        return self._compute(HalfHistogram if exact else Histogram, "bins").layer

    @functools.cached_property
    def covariance(self) -> ChannelCovariance:
        """Means, covariance and principal components of the channels."""
        self._check_narrow("covariance")
        return self._compute(Covariance, "covariance")

    @property
    def has_covariance(self) -> bool:
        """Whether `covariance` was gathered, and all that follows from it."""
        return any(isinstance(one, Covariance) for one in self._gathered.statistics)

    @property
    def has_quantiles(self) -> bool:
        """Whether the distribution of each channel was gathered."""
        return self.channels <= WIDE and bool(self._gathered.settings.bins)

    @functools.cached_property
    def top_samples(self) -> ChannelSamples:
        """The samples that excite each channel most and least, and where in the map."""
        return self._compute(TopSamples, "top")

    @functools.cached_property
    def sample_vectors(self) -> SampleVectors:
        """Channel means of some samples, the same ones at every site."""
        self._check_narrow("reservoir of samples")
        return self._compute(Reservoir, "reservoir")

    @property
    def count(self) -> NDArray[np.int64]:
        """Number of finite values."""
        return self.counts.finite

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean."""
        return self.moments.mean

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance, as `numpy.var` has it."""
        return self.moments.variance

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation."""
        return self.moments.std

    @property
    def kurtosis(self) -> NDArray[np.float64]:
        """Fourth standardised moment less 3: 0 for a normal distribution."""
        return self.moments.kurtosis

    @property
    def mean_abs(self) -> NDArray[np.float64]:
        """Mean of the absolute values."""
        return self.moments.mean_abs

    @property
    def min(self) -> NDArray[np.float64]:
        """Least value."""
        return self.extremes.minimum

    @property
    def max(self) -> NDArray[np.float64]:
        """Largest value."""
        return self.extremes.maximum

    @property
    def zero_fraction(self) -> NDArray[np.float64]:
        """Share of the values, or of those that are looked at, that is exactly zero."""
        return self.counts.zero_fraction

    @property
    def nans(self) -> NDArray[np.int64]:
        """Number of NaN."""
        return self.counts.nans

    @property
    def infs(self) -> NDArray[np.int64]:
        """Number of infinite values of either sign."""
        return self.counts.plus_infs + self.counts.minus_infs

    @property
    def active_fraction(self) -> NDArray[np.float64]:
        """Share of the samples in which a channel is above the threshold somewhere."""
        return self.extremes.active_fraction

    @property
    def share_at_min(self) -> NDArray[np.float64]:
        """Share of the values, or of those that are looked at, that equal the least of all."""
        return self.extremes.share_at_minimum

    @property
    def share_at_max(self) -> NDArray[np.float64]:
        """Share of the values, or of those that are looked at, that equal the largest of all."""
        return self.extremes.share_at_maximum

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether all values of a channel are the same."""
        return self.extremes.constant

    @property
    def effective_rank(self) -> float:
        """Number of directions that count: Roy & Vetterli (2007)."""
        return self.covariance.effective_rank

    @property
    def participation_ratio(self) -> float:
        """Number of directions that hold the variance: Gao et al. (2017)."""
        return self.covariance.participation_ratio

    @functools.cached_property
    def intrinsic_dimension(self) -> IntrinsicDimension:
        """How many dimensions the samples' channel means fill: TwoNN, Facco et al. (2017)."""
        vectors = self.sample_vectors.vectors
        return intrinsic_dimension(vectors[np.isfinite(vectors).all(1)])

    @property
    def rms(self) -> float:
        """Root of the mean square of all values of the layer; NaN where there is none."""
        # Means far out have squares beyond the largest float.
        with np.errstate(over="ignore", invalid="ignore"):
            squares = (self.variance + self.mean**2) * self.count
        total = int(self.count.sum())
        return math.sqrt(float(squares[self.count > 0].sum()) / total) if total else math.nan

    def dead(self, threshold: float | None = None) -> NDArray[np.bool_]:
        """Tell which channels have values, and none above a threshold.

        Args:
            threshold: None takes that of the profile, which is 0 unless it was made with another.
        """
        return self.max <= (self.extremes.threshold if threshold is None else threshold)

    def saturated(self, share: float = 0.5) -> NDArray[np.bool_]:
        """Tell which channels are at the ends of their range for more than a share of the values.

        An end at zero is none, for there a ReLU does what it should; nor are those of a constant
        channel.
        """
        low = self.share_at_min * (self.min != 0)
        high = self.share_at_max * (self.max != 0)
        return (low + high > share) & ~self.constant

    def redundant_groups(self, threshold: float = 0.95) -> tuple[tuple[int, ...], ...]:
        """Group channels that say the same up to sign and scale.

        Args:
            threshold: Two channels whose correlation is above this in size share a group.
        """
        return self.covariance.redundant_groups(threshold)

    def quantile(self, q: Any, *, layer: bool = False) -> NDArray[np.float64]:
        """Estimate quantiles: off by less than an eighth of their size, with the default bins.

        Args:
            q: Probabilities from 0 to 1, a number or an array.
            layer: Of all values of the layer, instead of each channel's; exact where these are of
                float16 or bfloat16.

        Returns:
            Shape ``(*q.shape, C)``; with `layer` ``q.shape``. ``distribution.bounds`` gives the
            interval in which each is sure to lie.
        """
        if layer:
            return self.layer_distribution.quantile(q)[..., 0]
        return self.distribution.quantile(q)

    def __repr__(self) -> str:
        return f"SiteProfile '{self.name}' of {self.samples:,} samples, {self.channels:,} channels"

    def _compute(self, kind: type[Any], setting: str) -> Any:
        for statistic in self._gathered.statistics:
            if isinstance(statistic, kind):
                return statistic.compute()
        raise DataError(
            f"the profile of '{self.name}' holds no {kind.__name__}: make it with {setting}= other "
            f"than {getattr(self._gathered.settings, setting)!r}"
        )

    def _check_narrow(self, what: str) -> None:
        if self.channels > WIDE:
            raise DataError(
                f"the {what} must be of at most {WIDE:,} channels, and '{self.name}' has "
                f"{self.channels:,}: it was not gathered"
            )


class Profile(Mapping[str, SiteProfile]):
    """Statistics of every site over a data set: a read-only mapping from site to `SiteProfile`.

    Sites are found by all names under which a store finds them. Those that pass several tensors
    are there once for each, as ``"lstm [0]"``.

    Attributes:
        source: What was profiled: the store's path, or the class of the model.
        step: The step of a store; None where a model was profiled.

    >>> import numpy as np, torch, stratascope as ss
    >>> signals = np.random.default_rng(0).normal(size=(100, 1, 64)).astype("float32")
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> prof = ss.profile(model, signals, "**", progress=False)
    >>> list(prof), prof["Conv1d[1]"].mean.shape
    (['0', '1'], (4,))
    >>> prof.save("prof") / "profile.json"
    PosixPath('prof/profile.json')
    """

    def __init__(
        self,
        gathered: Sequence[Gatherer],
        sites: Sequence[SiteSpec],
        *,
        source: str,
        step: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.source, self.step = source, step
        self._gathered, self._specs = tuple(gathered), tuple(sites)
        self._notes = tuple(notes)
        self._sites = {name_layer(one.array): SiteProfile(one.array, one) for one in gathered}
        self._names = SiteNames(f"the profile of {source}", sites)

    @property
    def settings(self) -> Settings:
        """What was gathered."""
        return self._gathered[0].settings

    @property
    def samples(self) -> int:
        """Number of samples."""
        return max((site.samples for site in self.values()), default=0)

    def merge(self, other: Self) -> "Profile":
        """Join what two profiles have seen of different samples, such as two shards.

        Counts, extremes and histograms come out as from one pass, all else to the rounding of
        float64. Samples must have numbers of their own: profile shards, not data sets cut by hand.

        Raises:
            DataError: They are of other sites, or have other settings.

        >>> import numpy as np, torch, stratascope as ss
        >>> signals = np.random.default_rng(0).normal(size=(100, 1, 64)).astype("float32")
        >>> parts = [
        ...     ss.profile(torch.nn.Tanh(), signals, "model", shard=(k, 2), batch_size=10)
        ...     for k in (0, 1)
        ... ]
        >>> parts[0].merge(parts[1]).samples
        100
        """
        if list(self) != list(other) or self.settings != other.settings:
            raise DataError(
                "profiles must be of the same sites and settings to be merged, got "
                f"{', '.join(self)} with {self.settings} and {', '.join(other)} with "
                f"{other.settings}"
            )
        joined = copy.deepcopy(self._gathered)
        for own, its in zip(joined, other._gathered, strict=True):
            own.merge(its)
        notes = dict.fromkeys((*self._notes, *other._notes))
        return Profile(joined, self._specs, source=self.source, step=self.step, notes=[*notes])

    def findings(self, rules: str = RULES) -> list[Finding]:
        """List what a person should look at, the gravest first, each with the rule behind it.

        Args:
            rules: Kinds, with commas between them, each alone for "at all" or with a limit, as
                ``"nan, dead>0.5"``: see the guide on profiles.

        Raises:
            ValueError: A rule is none.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
        >>> prof = ss.profile(torch.nn.Threshold(9, 0), data, "model", progress=False)
        >>> print(prof.findings("dead>0.5")[0])
        model: 100 % of 2 channels dead (never above 0 in 100 samples)
        """
        return find(self, rules)

    def table(self) -> str:
        """Lay out the layers as text: range, mean, deviation, zeros, dead channels, rank.

        What rests on a share of the positions has a star.
        """
        share = self.settings.share
        foot = f"* from {_name_share(share)}" if share < 1 else ""
        return f"{lay_out(*self._list_rows())}\n{foot}".rstrip("\n")

    def to_dict(self) -> dict[str, Any]:
        """Give all figures and findings as plain values, ready for JSON; None stands for NaN."""
        from stratascope.pipeline._profile_save import to_plain

        return to_plain(self)

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with a row for each site and channel.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from stratascope.pipeline._profile_save import to_pandas

        return to_pandas(self)

    def to_xarray(self) -> Any:
        """Give an `xarray.DataTree` with a node for each site: figures, quantiles, covariance.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        from stratascope.pipeline._profile_save import to_xarray

        return to_xarray(self)

    def save(self, path: str | Path | None = None) -> Path:
        """Write it to a folder: JSON, Parquet, and all that was gathered.

        Args:
            path: The folder, new or one with an earlier profile, which is replaced. None means
                beside the store that was profiled, where `load` finds it by the store's path.

        Returns:
            The folder.

        Raises:
            DataError: A model was profiled, and no path given.
            StoreError: The folder holds something else, or is in a bucket.
            MissingExtraError: PyArrow is not installed.
        """
        from stratascope.pipeline._profile_save import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path, *, step: int | None = None) -> "Profile":
        """Read what `save` wrote.

        Args:
            path: The folder, or a store that has a profile beside it.
            step: Which step of a store; None means the last one that has a profile.

        Raises:
            StoreError: There is no profile, or not of this step.
        """
        from stratascope.pipeline._profile_save import load

        return load(Path(path), step)

    def take_apart(self) -> tuple[tuple[Gatherer, ...], tuple[SiteSpec, ...], tuple[str, ...]]:
        """Give what it is made of: what was gathered, what is known of the sites, and notes."""
        return self._gathered, self._specs, self._notes

    def __getitem__(self, name: str | Site) -> SiteProfile:
        text = str(name)
        if text in self._sites:
            return self._sites[text]
        found = self._names.find(text)
        if found not in self._sites:
            several = [layer for layer in self._sites if layer.startswith(f"{found} [")]
            raise DataError(
                f"'{found}' passes several tensors: ask for one of {', '.join(map(repr, several))}"
            )
        return self._sites[found]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return "\n".join(self._list_facts())

    def _repr_html_(self) -> str:
        facts = [*self._list_facts(), *(str(finding) for finding in self.findings())]
        headings, rows = self._list_rows()
        return lay_out_html(facts, headings, list(rows))

    def _list_facts(self) -> list[str]:
        step = "" if self.step is None else f" step {self.step}"
        facts = [f"Profile of {self.source}{step}: {len(self)} sites, {self.samples:,} samples"]
        share = self.settings.share
        if share < 1:
            facts.append(
                "ranges, NaN, Inf, dead, active and constant channels, top samples: from all values"
            )
            facts.append(f"all else: from {_name_share(share)}")
        seen = self.settings.covariance_share
        if self.settings.covariance and seen < share:
            facts.append(f"covariance: from {_name_share(seen)}")
        wide = [name for name, site in self.items() if site.channels > WIDE]
        if wide:
            facts.append(
                f"more than {WIDE:,} channels, so no figures for each two of them, nor quantiles "
                f"of each: {', '.join(wide)}"
            )
        return [*facts, *self._notes]

    def _list_rows(self) -> tuple[list[str], list[list[str]]]:
        star = "*" if self.settings.share < 1 else ""
        headings = [
            "site", "class", "channels", f"mean{star}", f"std{star}", "min", "max", f"zeros{star}",
            "dead", "constant", "NaN", "Inf", f"rank{star}",
        ]  # fmt: skip
        return headings, [_list_site(site) for site in self.values()]


def layer_figures(site: SiteProfile) -> dict[str, float]:
    """Give the figures of a whole layer that hold for all of its values."""
    weights = site.count / max(1, int(site.count.sum()))
    there = weights > 0
    # What of a channel is huge has squares beyond the largest float.
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float((weights * site.mean)[there].sum()) if there.any() else math.nan
        spread = site.variance + (site.mean - mean) ** 2
        variance = float((weights * spread)[there].sum()) if there.any() else math.nan
    return {
        "mean": mean,
        "std": math.sqrt(variance) if variance >= 0 else math.nan,
        "rms": site.rms,
        "min": float(np.min(site.min[there], initial=math.inf)) if there.any() else math.nan,
        "max": float(np.max(site.max[there], initial=-math.inf)) if there.any() else math.nan,
        "zero_fraction": float((weights * site.zero_fraction)[there].sum()),
        "dead": int(site.dead().sum()),
        "constant": int(site.constant.sum()),
        "saturated": int(site.saturated().sum()),
        "nans": int(site.nans.sum()),
        "infs": int(site.infs.sum()),
    }


def _list_site(site: SiteProfile) -> list[str]:
    found = layer_figures(site)
    return [
        site.name,
        site.array.kind,
        f"{site.channels:,}",
        *(f"{found[name]:.4g}" for name in ("mean", "std", "min", "max")),
        f"{found['zero_fraction']:.1%}",
        *(
            f"{found[name]:,}" if found[name] else ""
            for name in ("dead", "constant", "nans", "infs")
        ),
        f"{site.effective_rank:.1f}" if site.has_covariance else "",
    ]


def _name_share(share: float) -> str:
    return f"1 in {1 / share:.3g} of the positions of a map, at least {FEWEST}"
