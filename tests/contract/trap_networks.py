"""Networks with one trap each, beside those that other tests know."""

import gc
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import stratascope as ss
from contract.trap import noise, note


class Chain(nn.Sequential):
    """With a forward of its own: Dynamo passes by what is torch's altogether."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def chain(*between: nn.Module) -> nn.Module:
    return Chain(nn.Linear(4, 4), *(between or (nn.Tanh(),)), nn.Linear(4, 2))


def chain_in_place() -> nn.Module:
    return chain(nn.ReLU(inplace=True))


class Does(nn.Module):
    """Runs a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.large(x) if x.sum() > 100 else self.small(x)


class Backwards(nn.Module):
    """Runs its layers in another order than it holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.second = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x)).tanh())


class Block(nn.Module):
    """Calls one function twice."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = note(f"{self.name}.relu", F.relu(self.first(x)))
        y = note(f"{self.name}.add", self.second(y) + x)
        return note(f"{self.name}.relu_1", F.relu(y))


class Unrolled(nn.Module):
    """Adds as often as its input says, and joins what it got on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for number in range(2 + int(x.abs().sum().item()) % 2):
            x = note(f"add_{number}" if number else "add", self.cell(x).tanh() + x)
            parts.append(x)
        return note("cat", torch.cat(parts, 1))


@dataclass
class Encoded(OrderedDict):
    """Fields that are keys too, as in the outputs of transformers."""

    hidden: Any = None
    more: Any = None

    def __post_init__(self) -> None:
        given = self.hidden if isinstance(self.hidden, Mapping) else vars(self).copy()
        for name, value in dict(given).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        setattr(self, name, value)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, part.name) for part in fields(self))


class Encodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Encoded:
        hidden = self.up(x)
        return Encoded(hidden, (hidden * 2, x))


class Counted(nn.Module):
    def forward(self, x: Tensor) -> Any:
        found: defaultdict[str, list[Tensor]] = defaultdict(list)
        found["odd"].append(x[:, 1::2] * 1)
        found["even"].append(x[:, ::2] * 1)
        return found


class Spectrum(nn.Module):
    """Puts out complex numbers whose conjugation is only noted."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, x.flip(1)).conj()


class Quantizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.1, 2, torch.quint8)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.body = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, self.first(x), use_reentrant=self.reentrant)


class Meets(nn.Module):
    """Waits until the network of the other thread is here too."""

    meeting: threading.Barrier | None = None
    tracing = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        if Meets.meeting is None:
            return x
        if isinstance(x, torch.fx.Proxy):
            look_round()
        else:
            Meets.meeting.wait(timeout=20)
        return x


def look_round() -> None:
    """See, while a network is traced, that no other one is, and that others run as ever.

    Tracing changes how every module of the process is called.
    """
    assert Meets.tracing.acquire(blocking=False)
    try:
        # Long enough for the other thread to come here as well.
        time.sleep(0.01)
        beside, x = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), torch.ones(1, 2)
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(beside, x).result()
        assert torch.equal(found, F.linear(x, beside[0].weight, beside[0].bias).tanh())
    finally:
        Meets.tracing.release()


class Introspective(nn.Module):
    """Taps a part of itself in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = chain(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with ss.tap(self.part, "0", detach=False) as acts:
            y = self.part(x)
        return self.head(torch.cat([acts["0"], y], 1))


class Collects(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        gc.collect()
        return x


def pick_hidden(encoded: Encoded) -> Tensor:
    return encoded.hidden.relu_() + encoded["more"][0]


def join_counted(found: dict[str, list[Tensor]]) -> Tensor:
    return torch.cat([*found["odd"], *found["even"]], 1)


def take_none(x: Tensor) -> Tensor:
    return x[:, :0]


@cache
def compiled_by_inductor() -> nn.Module:
    """Compile once for all routes, and without a kernel of its own, which would take seconds."""
    model = torch.compile(chain(nn.Identity()).eval())
    with torch.no_grad():
        model(*noise(2, 4)())
    return model


def compiled_and_run() -> nn.Module:
    torch.compiler.reset()
    model = torch.compile(chain_in_place().eval(), backend="eager")
    model(*noise(2, 4)())
    return model


def mixed() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(0.5)))
    model[1].eval()
    model.register_forward_hook(pass_by)
    model[0].weight.requires_grad_(False)
    model[0].weight.note = "ours"
    model[2].note = {"ours": 1}
    return model


def pass_by(module: nn.Module, args: Any, output: Any) -> None:
    """A hook of the user's own."""
