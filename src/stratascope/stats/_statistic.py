"""What all statistics have in common: update, merge, compute, and a state of plain arrays."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from stratascope.errors import DataError
from stratascope.stats._arrays import Array, copy, lasting, move, to_numpy
from stratascope.stats._batch import Batch, Block

Result = TypeVar("Result")

# `map`, or that of a pool of threads.
RunAll = Callable[[Callable[[Any], None], Iterable[Any]], Iterable[Any]]

# What is looked at to decide, or seldom written to, and therefore stays with the processor.
_ON_HOST = {"widths", "numbers", "vectors"}


@dataclass(frozen=True, eq=False)
class Statistic(ABC, Generic[Result]):
    """What is known of the samples seen so far, whatever batches they came in.

    Any split of the data into batches, and any order of merging, gives what one pass gives:
    counts, extremes and histograms exactly, all else to the rounding of float64. The fields are
    settings and stay as they are; what was learned lies in `state`, where the last batch lay.

    Attributes:
        state: Arrays by name; empty before the first batch.
        needs_samples: Whether `update` must be told the numbers of the samples.

    >>> from stratascope.stats import Counts
    >>> first, second = Counts(), Counts()
    >>> first.update([[0.0, 1.0]]); second.update([[2.0, 3.0], [4.0, 5.0]])
    >>> first.merge(second).compute().values.tolist()
    [3, 3]
    """

    needs_samples: ClassVar[bool] = False

    state: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    @abstractmethod
    def update(self, batch: Any, *, samples: Any = None) -> None:
        """Take in a batch.

        Args:
            batch: Array or tensor, shape ``(N,)``, ``(N, C)`` or ``(N, C, …)``, of real numbers of
                any type. Statistics that compare sites take a list of them, one a site.
            samples: Number of each sample in the data set, shape ``(N,)``; looked at only by
                statistics that tell samples apart.

        Raises:
            DataError: The shape is not that of the batches before, or fits no shape above.
            TypeError: The values are not real numbers.
            ValueError: `samples` is needed and was not passed.
        """

    @abstractmethod
    def compute(self) -> Result:
        """Give the figures, as NumPy arrays.

        Raises:
            ValueError: There was no batch yet.
        """

    def merge(self, other: Self) -> Self:
        """Take in what another has seen, which stays as it is; give this one.

        Raises:
            DataError: The other has seen batches of another shape.
            TypeError: The other is another statistic, or has other settings.
        """
        if repr(other) != repr(self):
            raise TypeError(f"{self!r} can be merged with the same only, got {other!r}")
        if other.state and self.state:
            self._check(other.state["widths"])
            moved = {name: self._place(name, array) for name, array in other.state.items()}
            with np.errstate(over="ignore", invalid="ignore"):
                self._combine(self.state, moved)
        else:
            self.state.update({name: copy(array) for name, array in other.state.items()})
        return self

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Give all that was learned as NumPy arrays, to be kept with ``numpy.savez``.

        >>> from stratascope.stats import Counts
        >>> sorted(Counts().state_dict())
        ['statistic']
        """
        arrays = {name: np.array(to_numpy(array)) for name, array in self.state.items()}
        return {"statistic": np.array(repr(self)), **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; what was learned before is forgotten.

        Raises:
            ValueError: It is the state of another statistic, or one with other settings.
        """
        whose = state.get("statistic")
        if str(whose) != repr(self):
            raise ValueError(f"the state must be that of {self!r}, got that of {whose}")
        self.state.clear()
        self.state.update({name: np.array(state[name]) for name in state if name != "statistic"})

    @abstractmethod
    def _start(self, widths: Sequence[int], like: Array) -> dict[str, Array]:
        """Give the state that stands for no samples."""

    @abstractmethod
    def _combine(self, own: dict[str, Any], parts: dict[str, Any]) -> None:
        """Add to a state, in place, another or what was measured in a part of a batch."""

    def _open(self, widths: Sequence[int], like: Array) -> None:
        """Make ready for a batch of so many channels that lies with `like`."""
        with lasting(like):
            if not self.state:
                self.state.update(widths=np.array(widths), **self._start(widths, like))
            for name in self.state.keys() - _ON_HOST:
                self.state[name] = move(self.state[name], like)

    def _check(self, widths: Sequence[int]) -> None:
        """Refuse a batch or state of other lengths than those before."""
        known = [int(width) for width in self.state.get("widths", widths)]
        if known != [int(width) for width in widths]:
            raise DataError(
                f"the batch must have {_name(known)} {self._unit} like those before, got "
                f"{_name(widths)}; use one {type(self).__name__} for each site"
            )

    def _check_numbered(self, batch: Batch) -> None:
        """Refuse a batch that came without the numbers of its samples."""
        if batch.samples is None:
            raise ValueError(
                f"{self!r} must know which samples it sees; pass their numbers in the data set: "
                "update(batch, samples=range(start, stop))"
            )

    @property
    def _unit(self) -> str:
        """What widths are numbers of."""
        return "channels"

    def _place(self, name: str, array: Array) -> Array:
        return array if name in _ON_HOST else move(array, self.state[name])

    def _known(self) -> dict[str, NDArray[Any]]:
        """Give a copy of the state as NumPy arrays.

        Raises:
            ValueError: There was no batch yet.
        """
        if not self.state:
            raise ValueError(f"{self!r} has seen no batch; call update(batch) before compute()")
        return {name: np.array(to_numpy(array)) for name, array in self.state.items()}


class SiteStatistic(Statistic[Result]):
    """A statistic of one site."""

    @property
    def _apart(self) -> bool:
        """Whether channels do not meet in the state, so that each can be seen to by itself."""
        return False

    def update(self, batch: Any, *, samples: Any = None) -> None:
        """Take in a batch; see `Statistic.update`."""
        self.update_together([self], Batch(batch, samples))

    @staticmethod
    def update_together(
        statistics: "Sequence[SiteStatistic[Any]]", batch: Batch, run: RunAll = map
    ) -> None:
        """Take a batch into several statistics, each block of it into all while it is at hand."""
        for statistic in statistics:
            statistic._check_batch(batch)
        for statistic in statistics:
            statistic._open(statistic._widths(batch), batch.array)
        if batch.empty:
            return
        apart = [statistic for statistic in statistics if statistic._apart]
        tasks = [
            functools.partial(SiteStatistic._take_blocks, apart, batch, channels)
            for channels in (batch.channel_spans() if apart else ())
        ]
        # A device works through what it is given by itself.
        running = (run if isinstance(batch.array, np.ndarray) else map)(_run_task, tasks)
        for statistic in statistics:
            if not statistic._apart:
                _run_task(functools.partial(statistic._take, batch))
        for _ in running:
            pass

    def _widths(self, batch: Batch) -> list[int]:
        """Give the lengths that must be the same in all batches."""
        return [batch.array.shape[1]]

    def _check_batch(self, batch: Batch) -> None:
        """Refuse a batch that this statistic cannot take."""
        if self.needs_samples:
            self._check_numbered(batch)
        self._check(self._widths(batch))

    def _take(self, batch: Batch) -> None:
        """Take in a whole batch, in which there is at least one value."""
        for channels in batch.channel_spans():
            self._take_blocks([self], batch, channels)

    @staticmethod
    def _take_blocks(
        statistics: "Sequence[SiteStatistic[Any]]", batch: Batch, channels: slice
    ) -> None:
        """Take some channels of a batch into statistics, block by block."""
        own = [
            {name: array[channels] for name, array in statistic.state.items() if name != "widths"}
            for statistic in statistics
        ]
        for block in batch.blocks(channels):
            for statistic, state in zip(statistics, own, strict=True):
                statistic._add(block, state)

    def _add(self, block: Block, own: dict[str, Array]) -> None:
        """Take in a block; `own` is the state of its channels, to be changed in place."""


class ChannelStatistic(SiteStatistic[Result]):
    """A statistic for which each channel stands by itself, so that it can go block by block."""

    @property
    def _apart(self) -> bool:
        return True


def _run_task(task: Callable[[], None]) -> None:
    # Infinite values give NaN in places that are then left out, or that nothing else looks at.
    with np.errstate(over="ignore", invalid="ignore"):
        task()


def update_all(
    statistics: Sequence[SiteStatistic[Any]],
    batch: Any,
    *,
    samples: Any = None,
    run: RunAll = map,
) -> None:
    """Take a batch of one site into several statistics, with fewer reads of it than one by one.

    Args:
        statistics: Any that take a single batch.
        batch: See `Statistic.update`.
        samples: See `Statistic.update`.
        run: How to go through the channels of an array: the ``map`` of a pool of threads takes
            several at once, with the same result. A device is not shared out.

    Raises:
        DataError: See `Statistic.update`; no statistic has changed then.
        TypeError: The values are not real numbers.
        ValueError: One of the statistics needs `samples`, which was not passed.

    >>> from stratascope import stats
    >>> counts, moments = stats.Counts(), stats.Moments()
    >>> stats.update_all([counts, moments], [[0.0, 1.0], [0.0, 3.0]])
    >>> counts.compute().zeros.tolist(), moments.compute().mean.tolist()
    ([2, 0], [0.0, 2.0])
    """
    SiteStatistic.update_together(statistics, Batch(batch, samples), run)


def open_sites(batches: Any, samples: Any) -> list[Batch]:
    """Check a batch of several sites.

    Raises:
        DataError: There is no site, or the sites differ in their numbers of samples.
        TypeError: It is a single array.
    """
    if not isinstance(batches, list | tuple):
        raise TypeError(
            f"the batch must be a list of one array a site, got {type(batches).__name__}"
        )
    found = [Batch(batch, samples) for batch in batches]
    lengths = [len(batch.array) for batch in found]
    if len(set(lengths)) != 1:
        raise DataError(
            "the batch must have the same samples at every site, got "
            f"{', '.join(map(str, lengths)) or 'no'} samples"
        )
    return found


def _name(widths: Sequence[int]) -> str:
    return " and ".join(str(int(width)) for width in widths)
