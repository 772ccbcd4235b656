"""What a sweep over learning rates found: the metrics of every run, and how they ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from stratascope._tables import lay_out
from stratascope.diagnose._file import read_group, write_group
from stratascope.diagnose._plot_sweep import draw_sweep
from stratascope.diagnose._ranks import correlate_ranks
from stratascope.diagnose._trial import OUTCOMES, Result
from stratascope.errors import DataError
from stratascope.sites import suggest

When = Literal["final", "best"]
Array = NDArray[np.float64]

_KIND = "sweep"
_ROWS, _RUNS = ("steps", "seconds"), ("state_bytes", "parameter_bytes", "peak_bytes")
_ARRAYS = ("rates", "seeds", "values", *_ROWS, *_RUNS)


@dataclass(frozen=True, eq=False, slots=True)
class Sweep:
    """The metrics of runs over learning rates and seeds.

    R rates, S seeds, M metrics; a run has up to E rows, of which the first is before its first
    step. Missing values are NaN.

    Attributes:
        metrics: Names of the metrics; the first is the one that decides.
        rates: Learning rates, in rising order, ``(R,)``.
        seeds: Seeds, ``(S,)``.
        values: Metrics of every row, ``(R, S, E, M)``.
        steps: Optimizer steps before each row, ``(R, S, E)``.
        seconds: Seconds of training before each row, evaluation not counted, ``(R, S, E)``.
        state_bytes: What the optimizers of a run keep, ``(R, S)``.
        parameter_bytes: What their parameters take, ``(R, S)``.
        peak_bytes: By how much a run raised the memory of its process, or what it allocated on a
            GPU at most, ``(R, S)``; NaN where it is not known.
        outcomes: ``finished``, ``diverged`` or ``crashed``, ``(R, S)``.
        messages: Why a run did not finish, ``(R, S)``.
        maximize: The metrics that are better when larger.
        settings: How the runs were made.

    >>> from stratascope.diagnose import lr_sweep
    >>> def make_run(lr, seed):
    ...     x = 1.0
    ...     for _ in range(9):
    ...         yield {"loss": x * x}
    ...         x -= lr * 2 * x
    >>> sweep = lr_sweep(make_run, [0.01, 0.1, 10.0])
    >>> sweep.best_rate("loss"), sweep.outcomes.ravel().tolist()
    (0.1, ['finished', 'finished', 'diverged'])
    """

    metrics: tuple[str, ...]
    rates: Array
    seeds: NDArray[np.int64]
    values: Array
    steps: Array
    seconds: Array
    state_bytes: Array
    parameter_bytes: Array
    peak_bytes: Array
    outcomes: NDArray[np.str_]
    messages: NDArray[np.str_]
    maximize: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = [f"{int((self.outcomes == outcome).sum())} {outcome}" for outcome in OUTCOMES]
        return (
            f"Sweep({len(self.rates)} rates from {self.rates[0]:g} to {self.rates[-1]:g}, "
            f"{_plural(len(self.seeds), 'seed')}: {', '.join(counts)})"
        )

    def start(self, metric: str) -> Array:
        """Give what the untrained model has for each seed, ``(S,)``: the median over the rates."""
        return np.array([_take_median(column) for column in self._take(metric)[:, :, 0].T])

    def final(self, metric: str) -> Array:
        """Give the last value of a metric in each run, ``(R, S)``.

        Infinitely bad for a run that diverged, NaN for one that crashed.
        """
        values = self._take(metric)
        last = np.maximum((~np.isnan(values)).sum(2) - 1, 0)
        found = np.take_along_axis(values, last[:, :, None], 2)[:, :, 0]
        return self._judge(found, metric)

    def best(self, metric: str) -> Array:
        """Give the best value of a metric in each run, ``(R, S)``, as `final` does."""
        values, sign = self._take(metric), self.sign(metric)
        found = sign * np.fmin.reduce(sign * values, axis=2)
        return np.where(self.outcomes == "crashed", np.nan, found)

    def median(self, metric: str, when: When = "final") -> Array:
        """Give the median over the seeds at each rate, ``(R,)``; NaN where all runs crashed."""
        values = self._find(metric, when)
        return np.array([_take_median(row) for row in values])

    def best_rate(self, metric: str, when: When = "final") -> float:
        """Give the learning rate at which the median over the seeds is best; NaN if all crashed."""
        scores = self.sign(metric) * self.median(metric, when)
        return float("nan") if np.isnan(scores).all() else float(self.rates[np.nanargmin(scores)])

    def sensitivity(self, metric: str, *, relative: bool = False) -> Array:
        """Give how much is lost by a learning rate that is not the best, for each seed, ``(S,)``.

        Wortsman et al. (2023), arXiv:2309.14322: the mean over the rates of
        ``min(L(rate), L0) - L*``, with L the final value, L0 that of the untrained model and L* the
        best over the rates. It depends on the range of the rates, and every rate has the same
        weight, so that a logarithmic grid is meant.

        Args:
            metric: Which.
            relative: Divide by ``L0 - L*``, what training gains at best; then it is from 0 to 1,
                and can be compared between metrics. NaN if nothing was gained.
        """
        sign = self.sign(metric)
        start = sign * self.start(metric)
        capped = np.minimum(sign * self.final(metric), start)
        # A rate at which a seed crashed says nothing of it.
        with np.errstate(invalid="ignore", divide="ignore"):
            lowest = np.fmin.reduce(capped, axis=0)
            lost = _mean(capped - lowest)
            return lost / np.where(start > lowest, start - lowest, np.nan) if relative else lost

    def agreement(self, when: When = "final") -> Array:
        """Give Spearman's rank correlation between metrics over the rates, ``(M, M)``.

        Of the medians over the seeds, each signed so that less is better: 1 where two metrics put
        the rates in the same order. NaN for fewer than three rates, or if all are alike.
        """
        medians = [self.sign(metric) * self.median(metric, when) for metric in self.metrics]
        return correlate_ranks(np.array(medians))

    def sign(self, metric: str) -> float:
        """Give -1 for a metric that is better when larger, and 1 for others."""
        return -1.0 if metric in self.maximize else 1.0

    def table(self) -> str:
        """Lay out the medians at each rate, and what each metric says of the rates."""
        rows = [
            [
                f"{rate:.3g}",
                *(_name_median(self.final(metric)[number]) for metric in self.metrics),
                name_outcomes(self.outcomes[number]),
            ]
            for number, rate in enumerate(self.rates)
        ]
        decades = np.log10(self.rates[-1] / self.rates[0])
        facts = [
            [
                metric,
                f"{self.best_rate(metric):.3g}",
                f"{self.best_rate(metric, 'best'):.3g}",
                _name_median(self.start(metric)),
                _name_median(self.sensitivity(metric)),
                _name_median(self.sensitivity(metric, relative=True)),
            ]
            for metric in self.metrics
        ]
        lines = [
            repr(self),
            "",
            lay_out(["rate", *(f"{metric} at the end" for metric in self.metrics), "runs"], rows),
            "",
            lay_out(
                ["metric", "best rate", "by its best epoch", "untrained", "sensitivity", "of gain"],
                facts,
            ),
            f"sensitivity over {decades:.1f} decades; median over the seeds, and their range",
        ]
        if len(self.metrics) > 1:
            agreement = self.agreement()
            ranks = [
                [metric, *(f"{value:.2f}" for value in agreement[number])]
                for number, metric in enumerate(self.metrics)
            ]
            lines += ["", lay_out(["rank correlation over the rates", *self.metrics], ranks)]
        lines += [""] * bool((self.messages != "").any())
        for number, seed in np.argwhere(self.messages != ""):
            lines.append(
                f"lr={self.rates[number]:g}, seed={self.seeds[seed]}: "
                f"{self.outcomes[number, seed]}: {self.messages[number, seed]}"
            )
        return "\n".join(lines)

    def plot(self, *, log: bool = False, to: str | Path | None = None) -> Any:
        """Draw each metric over the rates, and the curves of all runs, on one page.

        Needs matplotlib, the extra ``plot``.

        Args:
            log: Draw the values on a logarithmic axis.
            to: A file to write the picture to, as PNG, SVG or PDF by its name.

        Returns:
            The ``matplotlib.figure.Figure``.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw_sweep(self, log=log, to=to)

    def save(self, path: str | Path) -> None:
        """Write it to a new folder, as a Zarr group.

        Raises:
            StoreError: There is something at this place.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        axes = ("rates", "seeds", "rows", "metrics")
        write_group(
            Path(path),
            _KIND,
            arrays,
            {
                "metrics": list(self.metrics),
                "maximize": list(self.maximize),
                "outcomes": self.outcomes.tolist(),
                "messages": self.messages.tolist(),
                "settings": dict(self.settings),
            },
            axes={
                **{name: axes[: array.ndim] for name, array in arrays.items()},
                "seeds": axes[1:2],
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save`, or `lr_sweep` with ``to``, wrote.

        Raises:
            StoreError: There is none.
        """
        arrays, attributes = read_group(Path(path), _KIND)
        for name in ("metrics", "maximize"):
            attributes[name] = tuple(attributes[name])
        for name in ("outcomes", "messages"):
            attributes[name] = np.array(attributes[name])
        return cls(**arrays, **attributes)

    def _take(self, metric: str) -> Array:
        if metric not in self.metrics:
            raise DataError(
                f"the metric must be one of {', '.join(self.metrics)}, got {metric!r}."
                f"{suggest(metric, self.metrics)}"
            )
        return self.values[..., self.metrics.index(metric)]

    def _find(self, metric: str, when: When) -> Array:
        if when not in ("final", "best"):
            raise DataError(f"when must be 'final' or 'best', got {when!r}")
        return self.final(metric) if when == "final" else self.best(metric)

    def _judge(self, values: Array, metric: str) -> Array:
        diverged = np.where(self.outcomes == "diverged", self.sign(metric) * np.inf, values)
        return np.where(self.outcomes == "crashed", np.nan, diverged)


def gather(
    results: Sequence[Result],
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    maximize: tuple[str, ...],
    settings: Mapping[str, Any],
) -> Sweep:
    """Put what came of runs, rate by rate, into arrays.

    Raises:
        DataError: None of them got as far as its first metrics, or they differ in these.
    """
    metrics = next((tuple(one.rows[0]) for one in results if one.rows), None)
    if metrics is None:
        raise DataError(
            f"at least one of {len(results)} runs must come to its first metrics, and none did: "
            f"{results[0].message}"
        )
    other = next((one for one in results if one.rows and set(one.rows[0]) != set(metrics)), None)
    if other is not None:
        raise DataError(
            f"all runs must yield the same metrics, got {', '.join(other.rows[0])} and "
            f"{', '.join(metrics)}"
        )
    runs = (len(rates), len(seeds))
    length = max(len(one.rows) for one in results)
    values = np.full((len(results), length, len(metrics)), np.nan)
    rows = {name: np.full((len(results), length), np.nan) for name in _ROWS}
    for number, one in enumerate(results):
        for place, row in enumerate(one.rows):
            values[number, place] = [row[metric] for metric in metrics]
        for name, array in rows.items():
            array[number, : len(one.rows)] = getattr(one, name)
    return Sweep(
        metrics=metrics,
        rates=np.array(rates, float),
        seeds=np.array(seeds, np.int64),
        values=values.reshape(*runs, length, len(metrics)),
        **{name: array.reshape(*runs, length) for name, array in rows.items()},
        **{
            name: np.array([getattr(one, name) for one in results], float).reshape(runs)
            for name in _RUNS
        },
        outcomes=np.array([one.outcome for one in results]).reshape(runs),
        messages=np.array([one.message for one in results]).reshape(runs),
        maximize=maximize,
        settings=settings,
    )


def _take_median(values: Array) -> float:
    known = values[~np.isnan(values)]
    # The mean of the middle two, of which one may be infinite.
    return float(np.median(known)) if len(known) else float("nan")


def _mean(values: Array) -> Array:
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)


def _name_median(values: Array) -> str:
    known = values[~np.isnan(values)]
    if not len(known):
        return "–"
    text = f"{np.median(known):.4g}"
    return text if len(known) == 1 else f"{text} ({known.min():.3g} … {known.max():.3g})"


def name_outcomes(outcomes: NDArray[np.str_]) -> str:
    """Say how runs ended."""
    bad = [
        f"{int((outcomes == outcome).sum())} {outcome}"
        for outcome in OUTCOMES[1:]
        if (outcomes == outcome).any()
    ]
    return f"{', '.join(bad)} of {len(outcomes)}" if bad else f"{len(outcomes)} finished"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
