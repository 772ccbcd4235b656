"""Small networks of every shape that a capture meets, for the tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """A network and an input for it.

    Attributes:
        name: How the tests call it.
        build: Makes the network; the same parameters each time.
        args: Makes the positional arguments of a forward.
        differentiable: Whether a loss can be drawn from its output.
    """

    name: str
    make: Callable[[], nn.Module]
    args: Callable[[], tuple[Any, ...]]
    kwargs: Callable[[], dict[str, Any]] = field(default=dict)

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make()

    def run(self, model: nn.Module) -> Any:
        torch.manual_seed(1)
        return model(*self.args(), **self.kwargs())

    def __repr__(self) -> str:
        return self.name


def _noise(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(*shape, generator=torch.Generator().manual_seed(2)),)


class Residual(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm1d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.relu(self.norm(self.first(x))))
        y += x
        return self.relu(y)


class Reused(nn.Module):
    """Calls one ReLU three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.relu(layer(x))
        return x


class TwoNames(nn.Module):
    """Holds one layer under two names and calls it by both."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.act = nn.Tanh()
        self.decode = self.encode

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.act(self.encode(x)))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, None]]:
        return self.left(x), (self.right(x), None)


class Tuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.join = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, (right, _) = self.pair(x)
        left.mul_(2)
        return self.join(torch.cat([left, right], 1))


class Best(nn.Module):
    """Puts out what ``torch.max`` returns, a tuple with names."""

    def forward(self, x: Tensor) -> Any:
        return torch.max(x, 1)


class Winner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.best = nn.Linear(4, 3), Best()

    def forward(self, x: Tensor) -> Tensor:
        return self.best(self.layer(x)).values


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"mean": self.mean(x), "more": {"scale": self.scale(x)}, "name": "heads"}


class Dicts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = Heads()

    def forward(self, x: Tensor) -> Tensor:
        heads = self.heads(x)
        return heads["mean"] + heads.pop("more")["scale"].exp_()


@dataclass(frozen=True)
class Decoded:
    image: Tensor
    hidden: list[Tensor]
    steps: int = field(default=0, init=False)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Decoded:
        hidden = self.up(x)
        return Decoded(hidden.relu(), [hidden, x])


class Dataclasses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.out = Decoder(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        decoded = self.decoder(x)
        decoded.hidden[0].zero_()
        return self.out(decoded.image)


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for level in self.levels:
            x = level(x)
            outputs.append(x)
        return outputs


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pyramid = Pyramid()

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.pyramid(x)
        outputs.append(outputs[0] * 2)
        return torch.cat(outputs, 1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(x)
        return self.head(output[:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, value=x, need_weights=True)
        return self.norm(x + attended)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


class Loop(nn.Module):
    """Runs its cell as often as the input says, and one of two branches after it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1 + int(x.abs().sum().item()) % 3):
            x = self.cell(x).tanh()
        return self.large(x) if x.sum() > 0 else self.small(x)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, *, shift: Tensor, factor: float = 1.0) -> Tensor:
        return x * self.weight * factor + shift


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.out = Scale(), nn.Linear(4, 2)

    def forward(self, x: Tensor, *, shift: Tensor) -> Tensor:
        y = self.scale(x, shift=shift, factor=2.0)
        shift.add_(1)
        return self.out(y)


class ViewWriter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 2, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        view = y.flatten(1)
        view[:, :5] = 0
        return self.head(y.flatten(1))


class InPlaceFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y += 1
        return self.second(F.relu_(y))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(10, 4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.embed(tokens)).mean(1))


class Wrapper(nn.Module):
    """Has a child called ``model``, the name that otherwise means the root."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * 2


class Recursive(nn.Module):
    """Calls itself, through all its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        y = self.layer(x).tanh()
        return y if depth == 0 else self(y, depth - 1)


class Prompt(nn.Module):
    """Puts out a parameter as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self) -> Tensor:
        return self.weight


class Prompted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.head = Prompt(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.prompt())


class Failing(nn.Module):
    """Raises an error, while it has one."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return x


def conv1d_stack() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3)
    )


CASES = [
    Case("conv1d", conv1d_stack, _noise(2, 1, 12)),
    Case(
        "conv2d-batchnorm-inplace",
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True)),
        _noise(2, 1, 6, 6),
    ),
    Case(
        "conv3d",
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.LeakyReLU(inplace=True), nn.MaxPool3d(2)),
        _noise(2, 1, 4, 4, 4),
    ),
    Case("residual", lambda: nn.Sequential(Residual(), Residual()), _noise(2, 3, 8)),
    Case("reused", Reused, _noise(2, 4)),
    Case("two-names", TwoNames, _noise(2, 4)),
    Case("tuples", Tuples, _noise(2, 4)),
    Case("named-tuple", Winner, _noise(2, 4)),
    Case("dicts", Dicts, _noise(2, 4)),
    Case("dataclasses", Dataclasses, _noise(2, 4)),
    Case("lists", Lists, _noise(2, 4)),
    Case("lstm", lambda: Recurrent(nn.LSTM), _noise(2, 5, 3)),
    Case("gru", lambda: Recurrent(nn.GRU), _noise(2, 5, 3)),
    Case("transformer", Transformer, _noise(2, 5, 8)),
    Case("attention", Attention, _noise(2, 5, 8)),
    Case("loop", Loop, _noise(2, 4)),
    Case("keywords", Keywords, _noise(2, 4), lambda: {"shift": torch.ones(4)}),
    Case("view-writer", ViewWriter, _noise(2, 1, 10)),
    Case("inplace-function", InPlaceFunction, _noise(2, 4)),
    Case("tokens", Tokens, lambda: (torch.arange(8).reshape(2, 4),)),
    Case(
        "nested",
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5))),
            nn.Sequential(nn.Identity(), nn.Linear(4, 2)),
        ),
        _noise(2, 4),
    ),
    Case("child-called-model", Wrapper, _noise(2, 4)),
    Case("recursive", Recursive, _noise(2, 4)),
    Case("prompted", Prompted, _noise(2, 4)),
]
