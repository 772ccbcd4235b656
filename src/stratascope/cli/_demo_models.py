"""The networks of the demonstration and how they are trained in seconds."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional

_FILTERS = (16, 32, 64, 128, 256)
_BATCH = 32
_RATE = 2e-3
_MOST_SCORED = 256


class FiveConvs(nn.Module):
    """Five convolutions of 16 to 256 filters over a signal, ``(N, 1, L)``, and back to the signal.

    The head is a transposed convolution, so the last of the ``Conv1d`` is the fifth layer.

    >>> FiveConvs()(torch.zeros(2, 1, 256)).shape
    torch.Size([2, 1, 256])
    """

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *_FILTERS), _FILTERS, strict=False):
            layers += [nn.Conv1d(before, after, 3, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.ConvTranspose1d(_FILTERS[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode the signal and rebuild it."""
        return self.head(self.encoder(x))


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        losses: Mean squared error of each step's batch.
        steps: How many steps were made.
        seconds: How long they took.
        explained: The part of the variance of its inputs that the trained model reproduces, from a
            sample of at most 256: 1 for a perfect reconstruction, 0 for the mean value.
    """

    losses: tuple[float, ...]
    steps: int
    seconds: float
    explained: float


def train(
    model: nn.Module,
    inputs: Tensor,
    *,
    seconds: float,
    seed: int,
    progress: Callable[[float, float], None] | None = None,
) -> TrainingResult:
    """Train a model on the CPU, from new weights, to reconstruct its inputs, and leave it in eval.

    The weights, the order of the batches and so each step follow from the seed alone; how many
    steps fit in the time does not. The random state of the caller is left as it was.

    Args:
        model: Maps a batch to one of the same shape; its parameters are drawn anew.
        inputs: All samples, ``(N, ...)``.
        seconds: About how long to train; at least one step is made.
        seed: Determines the weights and the order of the batches.
        progress: Called after each step with the part of the time spent, 0 to 1, and the loss.

    Raises:
        ValueError: There is no time, there are no inputs, or the model changes their shape.

    >>> result = train(FiveConvs(), torch.randn(8, 1, 32), seconds=0.1, seed=0)
    >>> result.steps == len(result.losses)
    True
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be more than 0, got {seconds}; give the training some time")
    if len(inputs) == 0:
        raise ValueError(f"inputs must hold a sample, got shape {tuple(inputs.shape)}; add some")
    _draw_parameters(model, seed)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    losses: list[float] = []
    start = perf_counter()
    spent = 0.0
    for batch in _batches(inputs, seed):
        # From the full rate down to none, along a cosine, as the time is spent.
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 + math.cos(math.pi * spent / seconds)) / 2
        losses.append(_step(model, batch, optimizer))
        spent = perf_counter() - start
        if progress is not None:
            progress(min(spent / seconds, 1.0), losses[-1])
        if spent >= seconds:
            break
    model.eval()
    return TrainingResult(tuple(losses), len(losses), spent, _explained(model, inputs))


def _draw_parameters(model: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def _batches(inputs: Tensor, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for batch in torch.randperm(len(inputs), generator=generator).split(_BATCH):
            yield inputs[batch]


def _step(model: nn.Module, batch: Tensor, optimizer: torch.optim.Optimizer) -> float:
    output = model(batch)
    if output.shape != batch.shape:
        raise ValueError(
            f"the model must return the shape of its input, {tuple(batch.shape)}, "
            f"got {tuple(output.shape)}; use one that reconstructs"
        )
    loss = functional.mse_loss(output, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _explained(model: nn.Module, inputs: Tensor) -> float:
    inputs = inputs[:: math.ceil(len(inputs) / _MOST_SCORED)]
    errors = [functional.mse_loss(model(x), x, reduction="sum") for x in inputs.split(_BATCH)]
    spread = (inputs - inputs.mean()).square().sum()
    return 1.0 - float(sum(errors) / spread) if spread > 0 else math.nan
