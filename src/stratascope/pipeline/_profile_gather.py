"""What is gathered at one site: which statistics there are, and what of the values each sees."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from stratascope.errors import DataError
from stratascope.stats import (
    Counts,
    Covariance,
    Extremes,
    HalfHistogram,
    Histogram,
    Moments,
    Reservoir,
    TopSamples,
)
from stratascope.stats._arrays import as_array
from stratascope.stats._batch import Batch
from stratascope.stats._covariance import choose_positions
from stratascope.stats._statistic import RunAll, SiteStatistic
from stratascope.store import ArraySpec

# With more channels than this, what takes memory for each or for each two of them is left out.
WIDE = 2048
# What of the positions of a map the covariance looks at, at most.
_COVARIANCE_SHARE = 1 / 16
# Arrays of which less than this part is not zero are handed over and kept as what they hold.
_SPARSE = 0.25
_SMALL = 4096
# Values of a share that are worth a call of the statistics.
_ENOUGH = 2**18


@dataclass(frozen=True, slots=True)
class Settings:
    """What a profile is to hold; see `stratascope.profile`."""

    threshold: float = 0.0
    bins: int = 8
    top: int = 8
    covariance: bool = True
    reservoir: int = 1024
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.bins not in (0, 1, 2, 4, 8, 16, 32, 64, 128):
            raise ValueError(f"bins must be 0 or a power of two up to 128, got {self.bins!r}")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be finite, got {self.threshold!r}")
        for name in ("top", "reservoir"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share!r}")

    @property
    def covariance_share(self) -> float:
        """Which part of the positions of a map the covariance looks at."""
        return min(_COVARIANCE_SHARE, self.share)


class Gatherer:
    """The statistics of one tensor of a site, fed batch by batch.

    Where only a share of the positions is looked at, always the same one, this is kept until it is
    worth a call of the statistics, which for small batches take longer than the values in them.

    Attributes:
        array: What is known of the values.
        settings: What is gathered.
    """

    def __init__(self, array: ArraySpec, settings: Settings) -> None:
        self.array, self.settings = array, settings
        wide = self.channels > WIDE
        self._held: list[Batch] = []
        self._statistics: list[SiteStatistic[Any]] = [
            Counts(), Extremes(settings.threshold), Moments()
        ]  # fmt: skip
        if settings.top:
            self._statistics.append(TopSamples(settings.top))
        if settings.bins:
            self._statistics.append(Histogram(settings.bins, per_channel=not wide))
            if (half := _name_half(array)) is not None:
                self._statistics.append(HalfHistogram(half))
        if settings.covariance and not wide:
            self._statistics.append(Covariance(settings.covariance_share / settings.share))
        if settings.reservoir and not wide:
            self._statistics.append(Reservoir(settings.reservoir))

    @property
    def channels(self) -> int:
        """Number of channels; 1 where no axis is one of channels."""
        axis = channel_axis(self.array)
        return 1 if axis is None else self.array.shape[axis]

    @property
    def statistics(self) -> Sequence[SiteStatistic[Any]]:
        """All statistics, in an order that is the same wherever the settings are."""
        self._release()
        return self._statistics

    def update(self, values: Any, samples: Any, run: RunAll) -> None:
        """Take in values, the samples first; they may be shorter than the longest.

        Raises:
            DataError: They have not the channels of those before.
        """
        batch = Batch(self._arrange(values), samples)
        if self.settings.share == 1 or batch.empty:
            self._take(batch, run)
            return
        batch = batch.thin_out(self._choose(batch.array), run)
        if self._held and self._held[0].array.shape[1:] != batch.array.shape[1:]:
            self._release(run)
        self._held.append(batch)
        if sum(math.prod(held.array.shape) for held in self._held) >= _ENOUGH:
            self._release(run)

    def _choose(self, array: Any) -> Any:
        positions, share = array.shape[2], self.settings.share
        if isinstance(array, np.ndarray):
            return choose_positions(positions, share)
        return _place_chosen(positions, share, array.device)

    def _release(self, run: RunAll = map) -> None:
        """Take in what was kept."""
        if self._held:
            batch, self._held = Batch.join(self._held), []
            self._take(batch, run)

    def _take(self, batch: Batch, run: RunAll) -> None:
        try:
            SiteStatistic.update_together(self._statistics, batch, run)
        except DataError as error:
            raise DataError(f"site '{name_layer(self.array)}': {error}") from error

    def merge(self, other: Self) -> None:
        """Take in what another has seen of the same site."""
        for own, its in zip(self.statistics, other.statistics, strict=True):
            own.merge(its)

    def settle(self) -> Self:
        """Bring what was gathered to the host, where it lies on a device."""
        for statistic in self.statistics:
            if not all(isinstance(array, np.ndarray) for array in statistic.state.values()):
                statistic.load_state_dict(statistic.state_dict())
        return self

    def pack(self) -> dict[str, np.ndarray[Any, Any]]:
        """Give what was gathered as small arrays by name, to be kept or sent."""
        packed: dict[str, np.ndarray[Any, Any]] = {}
        for number, statistic in enumerate(self.statistics):
            for name, array in statistic.state_dict().items():
                packed |= _pack(f"{number}/{name}", array)
        return packed

    def unpack(self, packed: dict[str, np.ndarray[Any, Any]]) -> Self:
        """Take in what `pack` gave, and forget all else.

        Raises:
            ValueError: It is of other statistics, or other settings.
        """
        for number, statistic in enumerate(self.statistics):
            prefix = f"{number}/"
            names = [name for name in packed if name.startswith(prefix)]
            statistic.load_state_dict(dict(_unpack(prefix, {n: packed[n] for n in names})))
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"array": self.array, "settings": self.settings, "packed": self.pack()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Gatherer.__init__(self, state["array"], state["settings"])
        self.unpack(state["packed"])

    def _arrange(self, values: Any) -> Any:
        """Put the channels second, or a single one where there are none; real numbers only."""
        values = as_array(abs(values) if "complex" in str(values.dtype) else values)
        axis = channel_axis(self.array)
        if axis is None:
            return values.reshape(len(values), 1, -1)
        return values if axis == 0 else values.swapaxes(1, 1 + axis)


def channel_axis(array: ArraySpec) -> int | None:
    """Find which axis of a sample is that of the channels; one that grows is none."""
    return None if array.channel_axis == array.length_axis else array.channel_axis


def name_layer(array: ArraySpec) -> str:
    """Name a site, or one tensor of several of it."""
    return array.site + (f" [{array.place}]" if array.place else "")


def _name_half(array: ArraySpec) -> Any:
    """Name the type of 16 bits in which all values are numbers, if there is one."""
    if array.quantized:
        return None
    if array.source_dtype == "bfloat16":
        return "bfloat16"
    return "float16" if array.dtype == "float16" else None


@functools.lru_cache(maxsize=64)
def _place_chosen(positions: int, share: float, device: Any) -> Any:
    import torch

    # Once only: a device is waited for while it is handed something.
    return torch.from_numpy(choose_positions(positions, share)).to(device)


def _pack(name: str, array: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Keep of an array that is nearly all zeros, such as a histogram, what is not."""
    if array.size < _SMALL or np.count_nonzero(array) > _SPARSE * array.size:
        return {name: array}
    places = np.flatnonzero(array)
    values = array.reshape(-1)[places]
    return {f"{name}:at": places, f"{name}:of": values, f"{name}:shape": np.array(array.shape)}


def _unpack(
    prefix: str, packed: dict[str, np.ndarray[Any, Any]]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name, array in packed.items():
        bare, _, part = name.removeprefix(prefix).partition(":")
        if not part:
            yield bare, array
        elif part == "of":
            whole = np.zeros(packed[f"{prefix}{bare}:shape"], array.dtype)
            whole.reshape(-1)[packed[f"{prefix}{bare}:at"]] = array
            yield bare, whole
