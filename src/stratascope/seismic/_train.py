"""One plain loop that trains a network on velocity maps, and goes on where it was stopped."""

import contextlib
import csv
import importlib.util
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from stratascope._optional import require
from stratascope._progress import ProgressBar
from stratascope.capture import evaluating
from stratascope.errors import DataError
from stratascope.pipeline._record import TrainingRecord, record
from stratascope.seismic._metrics import Scores, score
from stratascope.seismic._weights import check_state, read_checkpoint, save_weights
from stratascope.seismic._whole import replacing
from stratascope.sites import Selector

_COLDEST = 1e-5  # of the learning rate, where the warm-up begins
_PROBE = 8
_SAVE_EVERY_S = 600.0
# What may change between a run and its continuation.
_FREE = ("epochs", "patience")
_PROGRESS = ("epoch", "batch", "step", "stale", "loss", "seconds", "history")

Ending = Literal["epochs", "patience", "minutes", "diverged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained; the defaults are those of OpenFWI's benchmark.

    AdamW; the loss is ``l1`` × the mean absolute error + ``l2`` × the mean squared error of maps in
    [-1, 1].

    Attributes:
        epochs: How often all samples are seen.
        batch_size: Samples a step; what is left over in an epoch is left out of it.
        learning_rate: Of all parameters.
        weight_decay: Of all parameters.
        l1: Weight of the mean absolute error.
        l2: Weight of the mean squared error.
        warmup_epochs: Over how many epochs the learning rate rises from almost nothing.
        milestones: After which epochs it is multiplied by ``gamma``.
        gamma: By what.
        patience: After how many epochs without a better MAE to stop; None never does.
        seed: Of the order of the samples, and of random numbers in the network.

    >>> recipe = Recipe(warmup_epochs=2, milestones=(10,), learning_rate=1.0)
    >>> [round(recipe.rate_at(epoch), 3) for epoch in (0, 1, 2, 9.9, 10)]
    [0.0, 0.5, 1.0, 1.0, 0.1]
    """

    epochs: int = 120
    batch_size: int = 256
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    l1: float = 1.0
    l2: float = 0.0
    warmup_epochs: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        # BatchNorm at a map of one cell needs two samples.
        for name, least in (("epochs", 1), ("batch_size", 2), ("patience", 1)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise ValueError(f"{name} must be at least {least}, got {count}")
        if min(self.l1, self.l2) < 0 or self.l1 + self.l2 <= 0:
            raise ValueError(
                f"l1 and l2 must not be negative, and one of them positive, got {self.l1} and "
                f"{self.l2}"
            )

    def rate_at(self, epoch: float) -> float:
        """Give the learning rate after so many epochs, parts of one included."""
        rate = self.learning_rate * self.gamma ** bisect_right(sorted(self.milestones), epoch)
        if epoch < self.warmup_epochs:
            done = epoch / self.warmup_epochs
            rate *= _COLDEST * (1 - done) + done
        return rate


@dataclass(frozen=True, slots=True)
class Training:
    """How a training went.

    Attributes:
        history: For each epoch the step after it, the learning rate, the mean training loss, the
            metrics on the validation samples and the seconds that it took.
        ended: Why it ended: all ``"epochs"`` are done, ``"patience"`` was lost, the ``"minutes"``
            are over, or it ``"diverged"`` to a loss that is not finite.
        folder: Where its files are.

    >>> Training(({"epoch": 1, "mae": 0.4}, {"epoch": 2, "mae": 0.3}), "epochs", Path("run")).best
    {'epoch': 2, 'mae': 0.3}
    """

    history: tuple[Mapping[str, float], ...]
    ended: Ending
    folder: Path

    @property
    def best(self) -> Mapping[str, float]:
        """The epoch with the least MAE, whose weights are in ``best.safetensors``."""
        return min(self.history, key=lambda row: row["mae"])


class Samples(Protocol):
    """Pairs of seismic data and velocity maps, both in [-1, 1], by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]: ...


def train(
    model: nn.Module,
    data: Samples,
    validation: Samples,
    *,
    to: str | Path,
    recipe: Recipe | None = None,
    minutes: float | None = None,
    device: torch.device | str | None = None,
    workers: int = 0,
    sites: Selector | Iterable[Selector] | None = None,
    every: int = 100,
    facts: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
) -> Training:
    """Train a network to give velocity maps of seismic data.

    The folder gets ``checkpoint.pt``, to go on from, at the end of each epoch and every ten
    minutes; ``last.safetensors`` and ``best.safetensors``, the weights after the last epoch and
    after that with the least MAE on the validation samples; ``metrics.csv``, a line an epoch; where
    the package tensorboard is installed, the same for it; and with ``sites``, ``activations.zarr``.

    A training that was stopped and resumed gives the weights, bit for bit, that it would have given
    in one go, on the CPU with as many threads; on a GPU that is so only if its kernels repeat
    themselves. The random numbers of the caller are left as they were. Weights are kept with their
    channels last in memory, which is faster, and on a GPU the forward runs in bfloat16.

    Args:
        model: The network; it is trained in place.
        data: Samples to learn from, such as an `OpenFWI`.
        validation: Samples by which the best epoch is chosen. Take none of the test samples, or
            the choice makes their scores too good.
        to: The folder, new, or with ``resume`` that of a training.
        recipe: How to train; OpenFWI's unless given.
        minutes: Stop after so many, in the midst of an epoch if need be.
        device: Where to run; where the model is unless given.
        workers: Processes that read samples.
        sites: What to record while it trains: what these sites make of eight validation samples,
            always the same, as `stratascope.record` does.
        every: How many steps apart to record.
        facts: Kept beside the weights, as JSON: what network it is, and of what data.
        resume: Go on from the folder's checkpoint, if there is one.
        progress: Show a bar, on a terminal.
        on_epoch: Called with each new line of the history.

    Returns:
        A `Training`.

    Raises:
        DataError: There are fewer than two samples, the folder holds a training and ``resume`` is
            not said, or it holds that of another network, recipe or number of samples.
        MissingExtraError: The package safetensors is not installed.

    >>> from stratascope.seismic import InversionNet, Recipe
    >>> data = [(torch.randn(5, 1000, 70), torch.zeros(1, 70, 70)) for _ in range(4)]
    >>> net = InversionNet((2, 2, 2, 2, 2))
    >>> ended = train(net, data, data, to="run", recipe=Recipe(epochs=2, batch_size=2))
    >>> ended.ended, [row["step"] for row in ended.history]
    ('epochs', [2, 4])
    """
    require("safetensors.torch", extra="safetensors")  # before the hours of training
    run = _Run(model, data, recipe or Recipe(), Path(to), device, facts or {})
    run.start(resume)
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    total = run.recipe.epochs * run.batches * run.batch_size
    with contextlib.ExitStack() as stack:
        stack.enter_context(run.saying_how_to_go_on())
        stack.enter_context(run.own_random_numbers())
        board = stack.enter_context(_open_board(run.folder, run.step))
        bar = stack.enter_context(ProgressBar("training", total, enabled=progress))
        rec = None
        if sites is not None:
            rec = record(
                *(run.model, sites),
                to=run.folder / "activations.zarr",
                every=every,
                probe=_take_probe(validation, run.device),
                resume=resume,
            )
            stack.enter_context(rec)
            if run.step == 0:
                rec.step(0)
        while (ended := run.ending()) is None:
            ended = _run_epoch(run, rec, bar, workers=workers, deadline=deadline)
            scores = evaluate(model, validation, batch_size=run.batch_size, workers=workers)
            row = run.finish_epoch(scores, whole=ended is None)
            for name in row:
                board.add_scalar(name, row[name], run.step)
            if on_epoch is not None:
                on_epoch(row)
            if ended is not None:
                break
    return Training(tuple(run.history), ended, run.folder)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Samples,
    *,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
) -> Scores:
    """Score the velocity maps that a network gives, in evaluation mode and single precision.

    Args:
        model: The network; its mode is as before afterwards.
        data: The samples, such as an `OpenFWI`.
        batch_size: Samples a forward.
        workers: Processes that read samples.
        progress: Show a bar, on a terminal.

    Raises:
        DataError: There are no samples.

    >>> from stratascope.seismic import InversionNet
    >>> data = [(torch.randn(5, 1000, 70), torch.zeros(1, 70, 70)) for _ in range(3)]
    >>> evaluate(InversionNet((2, 2, 2, 2, 2)), data).mae.shape
    (3,)
    """
    if not len(data):
        raise DataError("data must have at least one sample to evaluate, got none")
    device = next(model.parameters()).device
    parts: list[Scores] = []
    done = 0
    with evaluating(model), ProgressBar("testing", len(data), enabled=progress) as bar:
        for seismic, velocity in _load(data, _cut(range(len(data)), batch_size), workers):
            predicted = model(_place(seismic, device))
            parts.append(score(predicted, velocity))
            done += len(velocity)
            bar.update(done, 0)
    return Scores.join(parts)


def take_evenly(data: Samples, samples: int) -> Subset[tuple[Tensor, Tensor]]:
    """Take so many samples of a data set, evenly spread, so that all its files have their share.

    Raises:
        DataError: There are not so many.

    >>> [int(value) for value in take_evenly(range(10), 4)]
    [0, 2, 5, 7]
    """
    if not 1 <= samples <= len(data):
        raise DataError(f"samples must be 1 to {len(data)}, as many as there are, got {samples}")
    places = [place * len(data) // samples for place in range(samples)]
    return Subset(cast("Dataset[tuple[Tensor, Tensor]]", data), places)


def hold_out(data: Samples, share: float) -> tuple[Samples, Samples]:
    """Part a data set into samples to learn from and a share, evenly spread, to validate with.

    Raises:
        DataError: The share leaves either without samples.

    >>> learn, validate = hold_out(range(10), 0.2)
    >>> list(validate), len(learn)
    ([4, 9], 8)
    """
    count = round(share * len(data))
    if not 0 < count < len(data):
        raise DataError(
            f"the share held out must leave samples on both sides, got {share} of {len(data)}"
        )
    held = {(place + 1) * len(data) // count - 1 for place in range(count)}
    whole = cast("Dataset[tuple[Tensor, Tensor]]", data)
    kept = [place for place in range(len(data)) if place not in held]
    return Subset(whole, kept), Subset(whole, sorted(held))


class _Run:
    """A network, its optimizer, and how far they have come."""

    def __init__(
        self,
        model: nn.Module,
        data: Samples,
        recipe: Recipe,
        folder: Path,
        device: torch.device | str | None,
        facts: Mapping[str, Any],
    ) -> None:
        if len(data) < 2:
            raise DataError(f"data must have at least two samples to train on, got {len(data)}")
        self.device = torch.device(device or next(model.parameters()).device)
        model.to(self.device)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.model = model
        self.data, self.recipe, self.folder, self.facts = data, recipe, folder, facts
        self.batch_size = min(recipe.batch_size, len(data))
        self.batches = len(data) // self.batch_size
        self.optimizer = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.epoch = self.batch = self.step = self.stale = 0
        self.loss = self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self._random: dict[str, Any] | None = None
        self._saved_at, self._saved_step = time.monotonic(), 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def start(self, resume: bool) -> None:
        if self.checkpoint.exists():
            if not resume:
                raise DataError(
                    f"{self.folder} already holds a training, which was left as it was: pass "
                    "resume=True (--resume) to go on with it, or train to another folder"
                )
            self._load()
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def own_random_numbers(self) -> Generator[None]:
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            torch.manual_seed(self.recipe.seed)
            if self._random is not None:
                torch.set_rng_state(self._random["cpu"])
                if cuda and self._random["cuda"] is not None:
                    torch.cuda.set_rng_state(self._random["cuda"], self.device)
            yield

    @contextlib.contextmanager
    def saying_how_to_go_on(self) -> Generator[None]:
        try:
            yield
        except KeyboardInterrupt as stop:
            if self.checkpoint.exists():
                stop.add_note(
                    f"{self.folder} holds the training after step {self._saved_step}: the same "
                    "call with resume=True (--resume) continues"
                )
            raise

    def ending(self) -> Ending | None:
        if self.epoch >= self.recipe.epochs:
            return "epochs"
        if self.recipe.patience is not None and self.stale >= self.recipe.patience:
            return "patience"
        return None

    def batches_left(self) -> list[list[int]]:
        """The samples of each batch that is left of this epoch, in an order of its own."""
        order = np.random.default_rng((self.recipe.seed, self.epoch)).permutation(len(self.data))
        whole = order[: self.batches * self.batch_size].tolist()
        return _cut(whole, self.batch_size)[self.batch :]

    def learn(self, seismic: Tensor, velocity: Tensor) -> float:
        """Take one step; give the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.epoch + self.batch / self.batches)
        self.model.train()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            predicted = self.model(_place(seismic, self.device))
        difference = predicted.float() - _place(velocity, self.device)
        loss = (
            self.recipe.l1 * difference.abs().mean() + self.recipe.l2 * difference.square().mean()
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.batch += 1
        self.step += 1
        value = loss.item()
        self.loss += value
        return value

    def finish_epoch(self, scores: Scores, *, whole: bool) -> dict[str, float]:
        """Write down what an epoch, or a part of one, has come to."""
        means = scores.means()
        known = [row["mae"] for row in self.history if not math.isnan(row["mae"])]
        better = not math.isnan(means["mae"]) and means["mae"] < min(known, default=math.inf)
        row = {
            "epoch": self.epoch + self.batch / self.batches,
            "step": self.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": self.loss / max(self.batch, 1),
            **means,
            "seconds": self.seconds,
        }
        self.history.append(row)
        if whole:
            self.stale = 0 if better else self.stale + 1
            self.epoch, self.batch, self.loss, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        facts = {**self.facts, **{name: row[name] for name in ("epoch", "step", "mae")}}
        for name in ("last", "best") if better or len(self.history) == 1 else ("last",):
            save_weights(self.model, self.folder / f"{name}.safetensors", facts)
        self._write_table()
        self.save()
        return row

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        cuda = self.device.type == "cuda"
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
            },
            "progress": {name: getattr(self, name) for name in _PROGRESS},
            "settings": self._settings(),
        }
        with replacing(self.checkpoint) as unfinished:
            torch.save(state, unfinished)
        self._saved_at, self._saved_step = time.monotonic(), self.step

    def _load(self) -> None:
        saved = read_checkpoint(self.checkpoint)
        check_state(self.model, saved["model"], self.checkpoint)
        before, now = saved["settings"], self._settings()
        changed = [
            f"{name} (was {before.get(name)}, is {value})"
            for name, value in now.items()
            if before.get(name) != value
        ]
        if changed:
            raise DataError(
                f"{self.folder} holds a training with other settings, which was left as it was: "
                f"{', '.join(changed)}. Restore these, or train to another folder"
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self._random = saved["random"]
        for name, value in saved["progress"].items():
            setattr(self, name, value)
        self._saved_step = self.step

    def _settings(self) -> dict[str, Any]:
        settings = asdict(self.recipe)
        return {
            **{name: value for name, value in settings.items() if name not in _FREE},
            "samples": len(self.data),
        }

    def _write_table(self) -> None:
        with (
            replacing(self.folder / "metrics.csv") as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)


def _run_epoch(
    run: _Run, rec: TrainingRecord | None, bar: ProgressBar, *, workers: int, deadline: float
) -> Ending | None:
    """Take the steps that are left of an epoch; say so if the training ends within it."""
    began, before = time.monotonic(), run.seconds
    for seismic, velocity in _load(run.data, run.batches_left(), workers):
        loss = run.learn(seismic, velocity)
        run.seconds = before + time.monotonic() - began
        if rec is not None:
            rec.step(run.step)
        bar.update(run.step * run.batch_size, 0)
        if not math.isfinite(loss):
            return "diverged"
        if time.monotonic() > deadline:
            return "minutes"
        run.save_now_and_then()
    return None


def _load(data: Samples, batches: list[list[int]], workers: int) -> Iterable[tuple[Tensor, Tensor]]:
    return DataLoader(
        cast("Dataset[tuple[Tensor, Tensor]]", data),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        # It draws a number for each epoch, which else would be the network's.
        generator=torch.Generator(),
    )


def _cut(places: Sequence[int], size: int) -> list[list[int]]:
    return [list(places[first : first + size]) for first in range(0, len(places), size)]


def _place(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, memory_format=torch.channels_last, non_blocking=True)


def _take_probe(validation: Samples, device: torch.device) -> Tensor:
    chosen = take_evenly(validation, min(_PROBE, len(validation)))
    return torch.stack([seismic for seismic, _ in chosen]).to(device)


class _NoBoard:
    """Stands for TensorBoard where it is not installed."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write nothing; the metrics are in the table."""


@contextlib.contextmanager
def _open_board(folder: Path, step: int) -> Generator[Any]:
    if not has_tensorboard():
        yield _NoBoard()
        return
    from torch.utils.tensorboard import SummaryWriter

    # What a run wrote after its last checkpoint comes again.
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
    try:
        yield board
    finally:
        board.close()


def has_tensorboard() -> bool:
    """Tell whether metrics go to TensorBoard too, as its package is installed."""
    return importlib.util.find_spec("tensorboard") is not None
