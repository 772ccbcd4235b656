"""One training run under watch: its metrics, its steps, its time and memory, and how it ended."""

import math
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from stratascope.errors import DataError
from stratascope.sites import suggest

MakeRun = Callable[..., Iterable[Mapping[str, Any]]]
Outcome = Literal["finished", "diverged", "crashed"]
OUTCOMES: tuple[Outcome, ...] = ("finished", "diverged", "crashed")


@dataclass(frozen=True, slots=True)
class Trial:
    """What one run is called with.

    Attributes:
        lr: Its learning rate.
        seed: Its seed.
        settings: What else it is given, by keyword.
    """

    lr: float
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        others = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"lr={self.lr:g}, seed={self.seed}{others}"


@dataclass(frozen=True, slots=True)
class Rules:
    """How runs are judged.

    Attributes:
        explosion: A run whose first metric is worse than at the start by more than this many times
            its size at the start has diverged.
        maximize: The metrics that are better when larger.
    """

    explosion: float
    maximize: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run.

    Attributes:
        outcome: Whether it went through, diverged, or raised an error or died.
        message: Why it did not go through.
        rows: What it yielded.
        steps: Optimizer steps before each row.
        seconds: Seconds of training before each row, evaluation not counted.
        state_bytes: What its optimizers keep.
        parameter_bytes: What their parameters take.
        peak_bytes: What it held at most on a GPU, or on Linux in a process of its own; NaN
            elsewhere.
    """

    outcome: Outcome
    message: str = ""
    rows: list[dict[str, float]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    state_bytes: int = 0
    parameter_bytes: int = 0
    peak_bytes: float = math.nan


def run_trial(make_run: MakeRun, trial: Trial, rules: Rules) -> Result:
    """Run one training to its end, or to where it diverges.

    Raises:
        DataError: The run does not keep to what `lr_sweep` asks of it.
    """
    result = Result("finished")
    with _watching() as meter:
        try:
            for row in _begin(make_run, trial):
                meter.pause()
                result.rows.append(_read_row(row, trial, result.rows))
                result.steps.append(meter.steps)
                result.seconds.append(meter.seconds)
                if len(result.rows) == 1:
                    _check_start(result, trial, rules)
                trouble = _find_trouble(result, rules)
                if trouble:
                    return _close(result, meter, "diverged", trouble)
                meter.go_on()
        except DataError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a crashed run is a result
            reason = traceback.format_exception_only(error)[-1].splitlines()[0]
            return _close(result, meter, "crashed", reason)
        if not result.rows:
            raise DataError(
                f"make_run({trial}) must yield its metrics, once before the first step and once "
                "after each epoch, and yielded nothing"
            )
        return _close(result, meter, "finished", "")


def _begin(make_run: MakeRun, trial: Trial) -> Iterable[Any]:
    rows = make_run(trial.lr, trial.seed, **trial.settings)
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise DataError(
            f"make_run({trial}) must yield the metrics of each epoch, got {type(rows).__name__}: "
            "use yield in place of return"
        )
    return rows


def _read_row(row: Any, trial: Trial, before: list[dict[str, float]]) -> dict[str, float]:
    if not isinstance(row, Mapping) or not row:
        raise DataError(
            f"make_run({trial}) must yield metrics by name, such as {{'loss': 0.5}}, got {row!r}"
        )
    found: dict[str, float] = {}
    for name, value in row.items():
        try:
            plain = value.detach() if isinstance(value, Tensor) else value
            found[str(name)] = float(plain)
        except (TypeError, ValueError, RuntimeError) as error:
            shape = getattr(value, "shape", None)
            kind = repr(value) if shape is None else f"shape {tuple(shape)}"
            raise DataError(f"the metric {name!r} must be one number, got {kind}") from error
    if before and found.keys() != before[0].keys():
        raise DataError(
            f"make_run({trial}) must yield the same metrics each time, got {', '.join(found)} "
            f"after {', '.join(before[0])}"
        )
    return found


def _check_start(result: Result, trial: Trial, rules: Rules) -> None:
    start = result.rows[0]
    for name in rules.maximize:
        if name not in start:
            raise DataError(
                f"maximize must name metrics of the run, which are {', '.join(start)}, got "
                f"{name!r}.{suggest(name, start)}"
            )
    if result.steps[0]:
        raise DataError(
            f"make_run({trial}) must yield its metrics once before its first step, got the first "
            f"after {result.steps[0]}: yield those of the untrained model first"
        )
    for name, value in start.items():
        if not math.isfinite(value):
            raise DataError(
                f"the metric {name!r} of make_run({trial}) must be a number before the first "
                f"step, got {value}: look at what it computes for an untrained model"
            )


def _find_trouble(result: Result, rules: Rules) -> str:
    """Say in what way a run has diverged with its last row, or nothing."""
    start, row, steps = result.rows[0], result.rows[-1], result.steps[-1]
    for name, value in row.items():
        if not math.isfinite(value):
            return f"{name} was {value} after {steps} steps"
    name = next(iter(row))
    worse = (row[name] - start[name]) * (-1 if name in rules.maximize else 1)
    if worse > rules.explosion * abs(start[name]):
        return f"{name} went from {start[name]:.4g} to {row[name]:.4g} in {steps} steps"
    return ""


def _close(result: Result, meter: "_Meter", outcome: Outcome, message: str) -> Result:
    state, parameters, peak = meter.measure()
    return Result(
        outcome, message, result.rows, result.steps, result.seconds, state, parameters, peak
    )


class _Meter:
    """Counts the steps of every optimizer, and the time from each row to the last step after it."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self._optimizers: dict[int, Optimizer] = {}
        self.go_on()

    def note(self, optimizer: Optimizer, *_: Any) -> None:
        """A step has been taken."""
        self.steps += 1
        self._optimizers[id(optimizer)] = optimizer
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._last = time.perf_counter()

    def pause(self) -> None:
        """A row has come: what passed since the last step was evaluation."""
        self.seconds += self._last - self._resumed

    def go_on(self) -> None:
        """Training goes on."""
        self._resumed = self._last = time.perf_counter()

    def measure(self) -> tuple[int, int, float]:
        """Give the bytes of the optimizers' state, of their parameters, and the peak."""
        owned = list(self._optimizers.values())
        state = _list_storages([list(one.state.values()) for one in owned])
        parameters = _list_storages(
            [group["params"] for one in owned for group in one.param_groups]
        )
        on_gpu = torch.cuda.is_initialized()
        peak = float(torch.cuda.max_memory_allocated()) if on_gpu else math.nan
        kept = sum(size for where, size in state.items() if where not in parameters)
        return kept, sum(parameters.values()), peak


@contextmanager
def _watching() -> Generator["_Meter"]:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    meter = _Meter()
    hook = register_optimizer_step_post_hook(meter.note)
    try:
        yield meter
    finally:
        hook.remove()


def _list_storages(value: Any) -> dict[int, int]:
    """Give the bytes of all memory that tensors in a value lie in, by its address, each once."""
    found: dict[int, int] = {}
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple | set):
            waiting += one
        elif hasattr(one, "__dict__") and not isinstance(one, type):
            waiting += vars(one).values()
    return found
