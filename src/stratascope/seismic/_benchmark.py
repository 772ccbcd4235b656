"""InversionNet and ReconstructionNet on the same data, with the same budget and seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stratascope.errors import DataError
from stratascope.seismic._metrics import Scores, score
from stratascope.seismic._openfwi import OpenFWI
from stratascope.seismic._simulate import RECORD
from stratascope.seismic._train import Recipe, Samples, evaluate, hold_out, take_evenly, train
from stratascope.seismic._weights import NETWORKS, build_network, read_weights
from stratascope.seismic._whole import replacing

MEAN_MAP, MEAN_BY_DEPTH = "mean map", "mean by depth"

_TEST_FILE = "test.json"
_VALIDATION = 0.1
# Quantiles of Student's t distribution, of 97.5 %, by the degrees of freedom from 1 on.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its 95 % confidence interval, by Student's t distribution.

    Attributes:
        mean: The mean.
        half_width: How far the interval reaches to either side.

    >>> str(Interval(0.25, 0.0321))
    '0.250 ± 0.032'
    """

    mean: float
    half_width: float

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 10 else 3
        return f"{self.mean:.{digits}f} ± {self.half_width:.{digits}f}"


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One network after its training with one seed.

    >>> run = BenchmarkRun("InversionNet", 0, 24_409_123, 80, 64.5, "epochs", {"mae": 0.25}, [])
    >>> run.metrics["mae"]
    0.25

    Attributes:
        network: Its name.
        seed: Of its first weights and of the order of the samples.
        parameters: How many it has.
        steps: How many steps it took.
        seconds: How long these took, without validation.
        ended: Why the training ended, as in `Training`.
        metrics: On the test samples, with the weights of the epoch that was best in validation.
        history: The training, a line an epoch.
    """

    network: str
    seed: int
    parameters: int
    steps: int
    seconds: float
    ended: str
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What `benchmark` found.

    >>> found = {("InversionNet", 0): 0.25, ("ReconstructionNet", 0): 0.5}
    >>> found |= {("InversionNet", 1): 0.5, ("ReconstructionNet", 1): 0.75}
    >>> runs = [
    ...     BenchmarkRun(network, seed, 9, 80, 64.5, "epochs", {"mae": mae}, [])
    ...     for (network, seed), mae in found.items()
    ... ]
    >>> Benchmark({}, tuple(runs), {}, Path("out")).difference("mae")
    Interval(mean=0.25, half_width=0.0)

    Attributes:
        settings: Data and budget.
        runs: Every training.
        baselines: The same metrics of two guesses that look at no seismic data: the mean of the
            training maps, and their mean at each depth.
        folder: Where the trainings lie.
    """

    settings: Mapping[str, Any]
    runs: tuple[BenchmarkRun, ...]
    baselines: Mapping[str, Mapping[str, float]]
    folder: Path

    def interval(self, network: str, metric: str) -> Interval:
        """Give the mean of a metric over the seeds, with its confidence interval."""
        return find_interval([run.metrics[metric] for run in self.of(network)])

    def difference(self, metric: str) -> Interval:
        """Give by how much ReconstructionNet is above InversionNet, seed by seed."""
        pairs = zip(self.of(NETWORKS[1]), self.of(NETWORKS[0]), strict=True)
        return find_interval([one.metrics[metric] - other.metrics[metric] for one, other in pairs])

    def of(self, network: str) -> list[BenchmarkRun]:
        """List the runs of a network, by seed."""
        return [run for run in self.runs if run.network == network]

    def seconds_per_sample(self, network: str) -> float:
        """Give how long a training step takes, for each sample of its batch."""
        runs = self.of(network)
        samples = self.settings["recipe"]["batch_size"] * sum(run.steps for run in runs)
        return sum(run.seconds for run in runs) / samples


def benchmark(
    folder: str | Path,
    *,
    to: str | Path,
    samples: int | None = None,
    recipe: Recipe | None = None,
    seeds: int = 3,
    minutes: float | None = None,
    base_channels: int = 32,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Benchmark:
    """Train InversionNet and ReconstructionNet alike, several times each, and test them.

    Both see the same samples, in the same order for each seed, as often, with the same optimizer. A
    tenth of the training samples, the same for both, is held out to choose the best epoch; the test
    samples are looked at once, at the end. What is done is kept, and not done again when it is run
    again.

    Args:
        folder: Of OpenFWI's data or of a simulation, with training and test files.
        to: Where the trainings go.
        samples: How many of the training samples to use; None for all.
        recipe: How to train; its seed is that of the first run. OpenFWI's unless given.
        seeds: How many trainings of each network, at least two.
        minutes: A limit for all trainings together, of which each has an equal share.
        base_channels: Channels of the first layers; 32 are usual.
        device: Where to run.
        workers: Processes that read samples.
        progress: Show bars, on a terminal.

    Raises:
        DataError: The data cannot be read, or ``to`` holds a benchmark with other settings.

    >>> from stratascope.seismic import Recipe, simulate
    >>> simulate("CurveFault_A", samples=6, test_samples=1)
    >>> recipe = Recipe(epochs=1, batch_size=5)
    >>> found = benchmark("CurveFault_A", to="out", recipe=recipe, seeds=2, base_channels=1)
    >>> len(found.runs), sorted(found.baselines), found.interval("InversionNet", "mae").mean < 2
    (4, ['mean by depth', 'mean map'], True)
    """
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2, for an interval, got {seeds}")
    recipe = recipe or Recipe()
    data, test = OpenFWI(folder, split="train"), OpenFWI(folder, split="test")
    chosen = data if samples is None else take_evenly(data, samples)
    learn, validation = hold_out(chosen, _VALIDATION)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, len(learn)))
    settings = {
        "family": data.family.name,
        "simulated": (Path(folder) / RECORD).exists(),
        "training_samples": len(learn),
        "validation_samples": len(validation),
        "test_samples": len(test),
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "seeds": seeds,
        "minutes": minutes,
        "base_channels": base_channels,
    }
    to = Path(to)
    _claim(to, settings)
    runs: list[BenchmarkRun] = []
    for seed in range(recipe.seed, recipe.seed + seeds):
        for network in NETWORKS:
            run = _Entry(network, seed, base_channels, to / "runs" / f"{network}-{seed}")
            if not run.is_tested():
                share = None if minutes is None else minutes / (len(NETWORKS) * seeds)
                torch.manual_seed(seed)
                model = build_network(network, base_channels).to(device or "cpu")
                training = train(
                    *(model, learn, validation),
                    to=run.folder,
                    recipe=replace(recipe, seed=seed),
                    minutes=share,
                    workers=workers,
                    resume=True,
                    progress=progress,
                )
                run.load_best(model)
                scores = evaluate(model, test, workers=workers, progress=progress)
                run.write(training.ended, training.history, scores.means(), model)
            runs.append(run.read())
    return Benchmark(settings, tuple(runs), _score_means(learn, test), to)


def find_interval(values: Sequence[float]) -> Interval:
    """Give the mean of some values, at least two, with its 95 % confidence interval.

    >>> find_interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, half_width=2.484...)
    """
    freedom = len(values) - 1
    # Beyond the table by the first terms of its expansion, 0.2 % off at most.
    more = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    quantile = _T[freedom - 1] if freedom <= len(_T) else more
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(float(np.mean(values)), quantile * spread)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A training of the benchmark, in a folder of its own."""

    network: str
    seed: int
    base_channels: int
    folder: Path

    def is_tested(self) -> bool:
        return (self.folder / _TEST_FILE).exists()

    def load_best(self, model: torch.nn.Module) -> None:
        model.load_state_dict(read_weights(self.folder / "best.safetensors")[0])

    def write(
        self,
        ended: str,
        history: Sequence[Mapping[str, float]],
        metrics: Mapping[str, float],
        model: torch.nn.Module,
    ) -> None:
        found = BenchmarkRun(
            self.network,
            self.seed,
            sum(parameter.numel() for parameter in model.parameters()),
            int(history[-1]["step"]),
            sum(row["seconds"] for row in history),
            ended,
            metrics,
            history,
        )
        _write_json(self.folder / _TEST_FILE, asdict(found))

    def read(self) -> BenchmarkRun:
        text = (self.folder / _TEST_FILE).read_text(encoding="utf-8")
        return BenchmarkRun(**json.loads(text))


def _claim(to: Path, settings: Mapping[str, Any]) -> None:
    """Write down what is compared in a folder, or make sure that it is the same."""
    record = to / "benchmark.json"
    if not record.exists():
        to.mkdir(parents=True, exist_ok=True)
        _write_json(record, settings)
        return
    found = json.loads(record.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if found.get(name) != value:
            raise DataError(
                f"{to} holds a benchmark with {name} {found.get(name)}, and goes on with the same "
                f"only, got {value}: write to another folder"
            )


def _score_means(learn: Samples, test: Samples) -> dict[str, dict[str, float]]:
    """Score the mean of the maps to learn from, and their mean at each depth."""
    total = torch.zeros(1, 1, 1, dtype=torch.float64)
    for place in range(len(learn)):
        total = total + learn[place][1]
    mean = (total / len(learn)).float()
    guesses = {MEAN_MAP: mean, MEAN_BY_DEPTH: mean.mean(2, keepdim=True).expand_as(mean)}
    return {name: _score_guess(guess, test).means() for name, guess in guesses.items()}


def _score_guess(guess: Tensor, test: Samples) -> Scores:
    return Scores.join([score(guess[None], test[place][1][None]) for place in range(len(test))])


def _write_json(path: Path, plain: Any) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
