"""Optimizers side by side, each at the learning rate that suits it."""

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from stratascope._tables import lay_out
from stratascope.diagnose._file import read_group, write_group
from stratascope.diagnose._lr import check_rates, check_seeds, lr_sweep
from stratascope.diagnose._plot_comparison import draw_comparison
from stratascope.diagnose._ranks import bound_median, compare_ranks
from stratascope.diagnose._sweep import Sweep, name_outcomes
from stratascope.diagnose._trial import MakeRun
from stratascope.errors import DataError

_KIND = "comparison"
_LEVEL = 0.05

COMPARISON = "comparison.zarr"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one optimizer differs from the one with the best median.

    Attributes:
        name: The one.
        best: The one with the best median.
        p: Of the two-sided rank sum test between their runs, times the number of comparisons that
            are still to be made after those with a smaller one: Holm (1979).
        differs: Whether that is below 0.05.

    >>> Verdict("sgd", "lamb", 0.4, False).differs
    False
    """

    name: str
    best: str
    p: float
    differs: bool


@dataclass(frozen=True, eq=False, slots=True)
class OptimizerComparison:
    """Runs of several optimizers, each at the learning rate that its own search found.

    Attributes:
        searches: By name, the sweep in which its learning rate was sought.
        runs: By name, the runs at that rate, with seeds that the search did not see.
        target: The value of the first metric to which steps are counted.

    >>> def make_run(lr, seed, power):
    ...     x = 1.0 + seed % 10 / 100
    ...     for _ in range(9):
    ...         yield {"distance": abs(x)}
    ...         x -= lr * power * x ** (power - 1)
    >>> found = compare_optimizers(
    ...     make_run, {"two": {"power": 2}, "four": {"power": 4}}, rates=[0.01, 0.1],
    ...     seeds=range(5),
    ... )
    >>> found.best_rates(), [(v.name, v.differs) for v in found.verdicts("distance")]
    ({'two': 0.1, 'four': 0.1}, [('four', True)])
    """

    searches: Mapping[str, Sweep]
    runs: Mapping[str, Sweep]
    target: float

    def __repr__(self) -> str:
        run = next(iter(self.runs.values()))
        return f"OptimizerComparison({', '.join(self.runs)}: {len(run.seeds)} seeds each)"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return next(iter(self.runs.values())).metrics

    def best_rates(self) -> dict[str, float]:
        """Give the learning rate of each, as its search found it."""
        return {name: float(sweep.rates[0]) for name, sweep in self.runs.items()}

    def verdicts(self, metric: str) -> list[Verdict]:
        """Say of each optimizer but the best whether its final values differ from the best one's.

        Runs that crashed are left out; those that diverged count as worst.
        """
        finals = {name: _known(sweep.final(metric)) for name, sweep in self.runs.items()}
        signs = {name: sweep.sign(metric) for name, sweep in self.runs.items()}
        ranked = sorted(
            (name for name, values in finals.items() if len(values)),
            key=lambda name: signs[name] * float(np.median(finals[name])),
        )
        if not ranked:
            return []
        best, *others = ranked
        tests = sorted((compare_ranks(finals[best], finals[name]), name) for name in others)
        verdicts, least = {}, 0.0
        for place, (p, name) in enumerate(tests):
            least = max(least, min(1.0, p * (len(tests) - place)))
            verdicts[name] = Verdict(name, best, least, least < _LEVEL)
        return [verdicts[name] for name in others]

    def steps_to_target(self, name: str, *, seconds: bool = False) -> np.ndarray[Any, Any]:
        """Give the optimizer steps of each run until the first metric reached the target.

        Counted at the first row that has reached it; infinite for runs that never did.

        Args:
            name: The optimizer.
            seconds: Give seconds of training instead.
        """
        sweep = self.runs[name]
        metric = sweep.metrics[0]
        values = sweep.sign(metric) * sweep.values[0, :, :, 0]
        reached = values <= sweep.sign(metric) * self.target
        counts = (sweep.seconds if seconds else sweep.steps)[0]
        return np.array(
            [
                count[there.argmax()] if there.any() else np.inf
                for count, there in zip(counts, reached, strict=True)
            ]
        )

    def table(self) -> str:
        """Lay out medians with intervals, costs, and what is within noise."""
        return "\n".join([repr(self), "", *self._list_values(), "", *self._list_costs(), ""]) + (
            "\n".join(self._list_remarks())
        )

    def _list_values(self) -> list[str]:
        rows = []
        for name, sweep in self.runs.items():
            cells = [name, f"{sweep.rates[0]:.3g}"]
            for metric in self.metrics:
                known = _known(sweep.final(metric))
                if not len(known):
                    cells.append("–")
                    continue
                low, high, _ = bound_median(known)
                cells.append(f"{np.median(known):.4g} [{low:.3g}, {high:.3g}]")
            rows.append([*cells, name_outcomes(sweep.outcomes[0])])
        count = len(next(iter(self.runs.values())).seeds)
        coverage = bound_median(np.zeros(count))[2]
        return [
            lay_out(["optimizer", "rate", *self.metrics, "runs"], rows),
            f"final values: the median of {count} seeds, and an interval that holds the true "
            f"median with {coverage:.0%}",
        ]

    def _list_costs(self) -> list[str]:
        rows = []
        for name, sweep in self.runs.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                costs = [
                    1000 * np.nanmax(sweep.seconds, 2) / np.nanmax(sweep.steps, 2),
                    sweep.state_bytes / sweep.parameter_bytes,
                    sweep.peak_bytes / 1e6,
                    self.steps_to_target(name),
                    self.steps_to_target(name, seconds=True),
                ]
            known = [_known(cost) for cost in costs]
            rows.append([name, *(f"{np.median(k):.3g}" if len(k) else "–" for k in known)])
        headings = ["optimizer", "ms a step", "state / parameters", "peak MB"]
        return [
            lay_out([*headings, "steps to target", "seconds to target"], rows),
            f"target: {self.metrics[0]} of {self.target:.4g}; medians, counted at whole epochs",
        ]

    def _list_remarks(self) -> list[str]:
        lines = [""]
        for metric in self.metrics:
            verdicts = self.verdicts(metric)
            same = [f"{v.name} (p = {v.p:.2g})" for v in verdicts if not v.differs]
            worse = [f"{v.name} (p = {v.p:.2g})" for v in verdicts if v.differs]
            best = verdicts[0].best if verdicts else "–"
            lines.append(
                f"{metric}: {best} has the best median; worse: {', '.join(worse) or 'none'}; "
                f"within noise of it: {', '.join(same) or 'none'}"
            )
        seeds = len(next(iter(self.runs.values())).seeds)
        others = len(self.runs) - 1
        needed = next(n for n in range(2, 99) if 2 * others / math.comb(2 * n, n) < _LEVEL)
        if seeds < needed:
            lines.append(
                f"{seeds} seeds cannot show a difference at 5 %, whatever they give: {needed} are "
                f"needed for {others + 1} optimizers"
            )
        for name, sweep in self.searches.items():
            rate = self.best_rates()[name]
            if len(sweep.rates) > 1 and rate in (sweep.rates[0], sweep.rates[-1]):
                lines.append(
                    f"the rate of {name}, {rate:.3g}, lies at an end of its grid: widen the grid "
                    "before this is taken for its best"
                )
        return lines

    def plot(self, *, to: str | Path | None = None) -> Any:
        """Draw the searches, the runs and the first metric over time on one page.

        Needs matplotlib, the extra ``plot``.

        Args:
            to: A file to write the picture to, as PNG, SVG or PDF by its name.

        Returns:
            The ``matplotlib.figure.Figure``.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw_comparison(self, to=to)

    def save(self, path: str | Path) -> None:
        """Write it to a new folder, as a Zarr group with a group for each sweep.

        Raises:
            StoreError: There is something at this place.
        """
        write_group(Path(path), _KIND, {}, {"names": list(self.runs), "target": self.target})
        for number, name in enumerate(self.runs):
            self.searches[name].save(Path(path) / f"search_{number}")
            self.runs[name].save(Path(path) / f"runs_{number}")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save`, or `compare_optimizers` with ``to``, wrote.

        Raises:
            StoreError: There is none.
        """
        _, attributes = read_group(Path(path), _KIND)
        names = list(enumerate(attributes["names"]))
        searches = {name: Sweep.load(Path(path) / f"search_{number}") for number, name in names}
        runs = {name: Sweep.load(Path(path) / f"runs_{number}") for number, name in names}
        return cls(searches, runs, attributes["target"])


def compare_optimizers(
    make_run: MakeRun,
    optimizers: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int] = range(5),
    *,
    rates: Iterable[float] | Mapping[str, Iterable[float]],
    search_seeds: Iterable[int] = (1000, 1001, 1002),
    target: float | None = None,
    to: str | Path | None = None,
    **settings: Any,
) -> OptimizerComparison:
    """Compare optimizers, each at the learning rate that a search of the same size found for it.

    ``make_run(lr, seed, **given)`` is as `lr_sweep` asks for, and takes by keyword what stands
    beside each name. First every optimizer is run at each of its rates with ``search_seeds``; then
    at the rate with the best median of the first metric, with ``seeds``, which the search has not
    seen: the same runs would flatter whoever was luckiest in the search.

    Times are fair only while nothing else runs: leave ``workers`` out, or below the number of
    cores.

    Args:
        make_run: Begins a run.
        optimizers: By name, what ``make_run`` is to be called with.
        seeds: Of the runs that are compared. With three, no difference can be shown.
        rates: Learning rates to search, for all, or by name, as many for each.
        search_seeds: Of the runs of the search; with one seed it may well find a wrong rate.
        target: A value of the first metric to which steps are counted. Without it, the worst over
            the optimizers of their median best values, which all reach in half of their runs.
        to: A folder, in which each run is kept as it ends, and the result as
            ``comparison.zarr``.
        settings: Other arguments of `lr_sweep`: ``maximize``, ``explosion``, ``resume``,
            ``workers``, ``progress``.

    Raises:
        DataError: There are no optimizers, the searches are of different sizes, the seeds overlap,
            all runs of an optimizer crashed, or ``make_run`` does not keep to what is asked.
        StoreError: The folder holds runs already, or those of another training.

    >>> def make_run(lr, seed, scale):
    ...     x = 1.0
    ...     for _ in range(5):
    ...         yield {"distance": abs(x)}
    ...         x -= lr * scale * x
    >>> both = {"slow": {"scale": 1}, "fast": {"scale": 3}}
    >>> compare_optimizers(make_run, both, range(4), rates=[0.1, 0.3]).best_rates()
    {'slow': 0.3, 'fast': 0.3}
    """
    if not optimizers:
        raise DataError("optimizers must hold at least one, got none: give {'adamw': {...}, ...}")
    grids = _match_grids(rates, list(optimizers))
    chosen, sought = check_seeds(seeds), check_seeds(search_seeds)
    if both := set(chosen) & set(sought):
        raise DataError(
            f"seeds and search_seeds must have none in common, got {', '.join(map(str, both))} in "
            "both: those of the search may not count twice"
        )
    folder = None if to is None else Path(to)
    searches, runs = {}, {}
    for name, given in optimizers.items():
        place = None if folder is None else folder / name
        common = {**settings, "settings": dict(given)}
        searches[name] = lr_sweep(
            make_run, grids[name], sought, to=place and place / "search", **common
        )
        rate = searches[name].best_rate(searches[name].metrics[0])
        if math.isnan(rate):
            raise DataError(
                f"{name} must finish at least one run, and all crashed: "
                f"{searches[name].messages[0, 0]}"
            )
        runs[name] = lr_sweep(make_run, [rate], chosen, to=place and place / "runs", **common)
    found = OptimizerComparison(searches, runs, _find_target(runs) if target is None else target)
    if folder is not None:
        shutil.rmtree(folder / COMPARISON, ignore_errors=True)
        found.save(folder / COMPARISON)
    return found


def _match_grids(rates: Any, names: Sequence[str]) -> dict[str, list[float]]:
    if not isinstance(rates, Mapping):
        return dict.fromkeys(names, check_rates(rates))
    given = dict(rates)
    if set(given) != set(names):
        raise DataError(
            f"rates by name must be those of {', '.join(names)}, got {', '.join(map(str, given))}"
        )
    grids = {name: check_rates(given[name]) for name in names}
    if len({len(grid) for grid in grids.values()}) > 1:
        sizes = ", ".join(f"{len(grid)} for {name}" for name, grid in grids.items())
        raise DataError(f"every optimizer must be given as many rates to search, got {sizes}")
    return grids


def _find_target(runs: Mapping[str, Sweep]) -> float:
    metric = next(iter(runs.values())).metrics[0]
    medians = [float(sweep.median(metric, "best")[0]) for sweep in runs.values()]
    sign = next(iter(runs.values())).sign(metric)
    return sign * max(sign * value for value in medians if not math.isnan(value))


def _known(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values[~np.isnan(values)]
