"""One trap for captures, and what flows in its network, seen by hand."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flows import frozen, watch
from stratascope.sites import Site

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Refusal:
    """An error that a route gives where it has no answer.

    Attributes:
        error: Its class.
        message: What it says, as a pattern.
        why: The reason, as the documentation gives it.
    """

    error: type[BaseException]
    message: str
    why: str


def noise(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(*shape, generator=torch.Generator().manual_seed(2)),)


def simply(session: Any, *args: Any) -> Any:
    return session.forward(*args)


def nothing(model: nn.Module, output: Any, look: Callable[[str], Any]) -> Any:
    return None


def unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True, eq=False)
class Trap:
    """One thing that makes captures wrong.

    Attributes:
        name: How the tests and the documentation call it.
        what: What it is, in one line.
        elsewhere: How a capture that does not think of it fails.
        make: Makes the network; under a fixed seed.
        sites: What is captured.
        args: Makes the arguments of a forward.
        plain: Makes the network that is looked at by hand; by default that one.
        renamed: What sites are called there.
        training: Whether it runs in training mode; None leaves each module its own.
        around: What the forward runs in.
        use: Runs a forward in a session.
        finish: What is done after a forward, with its output and its values; gives what must be
            the same with and without a capture.
        take: Takes a captured value for comparison.
        through: Where the captured pass through before they are read.
        expect: What is to be captured of a tensor that flowed.
        options: Arguments of `tap`, and of `record` where it has them.
        scene: How such networks are played with: alone, or several in threads or in turns.
        method: How a submodel is made.
        quiet: Warnings that others give.
        fused: Whether torch computes it another way where its operations are watched, so that the
            last bits differ.
        cut: Where it is split; by default at the first site.
        broken: The routes that do not do yet what they should, and what they do.
        refused: The routes that give an error.
        left_out: The routes for which there is no such thing, and why.
    """

    name: str
    what: str
    elsewhere: str
    make: Callable[[], nn.Module]
    sites: tuple[str, ...]
    args: Callable[[], tuple[Any, ...]] = field(default=noise(2, 4))
    plain: Callable[[], nn.Module] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    training: bool | None = False
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    use: Callable[..., Any] = simply
    finish: Callable[[nn.Module, Any, Callable[[str], Any]], Any] = nothing
    take: Callable[[Any], Any] = frozen
    through: Callable[[Any], Any] = unchanged
    expect: Callable[[Tensor], Tensor] = unchanged
    options: Mapping[str, Any] = field(default_factory=dict)
    scene: str = "alone"
    method: str = "graph"
    quiet: str = ""
    fused: bool = False
    cut: str = ""
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    def build(self, *, plain: bool = False) -> nn.Module:
        torch.manual_seed(0)
        make = (self.plain or self.make) if plain else self.make
        model = make()
        if self.training is not None:
            with contextlib.suppress(NotImplementedError):
                model.train(self.training)
        return model


@dataclass(frozen=True)
class Flow:
    """What flowed, and what the forward left behind.

    Attributes:
        values: The values at the trap's sites.
        names: Under which name each of them is looked up.
        output: What the network put out.
        drawn: What the trap's `finish` gave.
        numbers: The network's parameters and buffers afterwards.
        random: The state of the random numbers afterwards.
    """

    values: dict[Key, Any]
    names: dict[str, Key]
    output: Any
    drawn: Any
    numbers: list[Any]
    random: Tensor


# Where networks leave what they compute without a module, while they are looked at by hand.
notes: list[dict[Key, Any]] = []


def note(name: str, value: Tensor) -> Tensor:
    for flowed in notes:
        flowed[name, "out", 1] = frozen(value)
    return value


@cache
def flow_of(trap: Trap, *, probed: bool = False, watched: bool = False) -> Flow:
    """Run a trap's network with hand-written forwards, in which everything is cloned.

    Args:
        trap: The trap.
        probed: Whether what flows in a second forward is wanted, in evaluation mode.
        watched: Whether its operations are watched, where they are others then.
    """
    model, args = trap.build(plain=True), trap.args()
    paths = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths[path] = next(name for name, one in model.named_modules() if one is module)
    live: dict[Key, Tensor] = {}
    flowed = {} if probed else watch(model, live)
    notes.append(flowed)
    torch.manual_seed(1)
    with trap.around(), Watching() if watched else nullcontext():
        output = model(*args)
        values = dict(flowed)
        drawn = trap.finish(model, output, lambda name: live[name, "out", 1])
    notes.clear()
    values |= {key: value for key, value in flowed.items() if key[1] == "grad"}
    numbers, random = [frozen(t) for t in model.state_dict().values()], torch.get_rng_state()
    if probed:
        values = watch(model.eval())
        notes.append(values)
        with torch.no_grad():
            model(*trap.args())
        notes.clear()
    paths |= count_classes(model, values)
    names = {
        name: key for site in trap.sites for name, key in name_calls(trap, site, paths, values)
    }
    return Flow(
        {key: map_frozen(trap.expect, values[as_plain(trap, key)]) for key in names.values()},
        names,
        frozen(output),
        drawn,
        numbers,
        random,
    )


def count_classes(model: nn.Module, values: dict[Key, Any]) -> dict[str, str]:
    """Name modules as the k-th of their class to run."""
    names: dict[str, str] = {}
    modules = dict(model.named_modules())
    for path in dict.fromkeys(key[0] for key in values if key[1] == "in"):
        kind = type(modules[path]).__name__
        count = sum(name.startswith(f"{kind}[") for name in names) + 1
        names[f"{kind}[{count}]"] = path
    return names


class Watching(TorchFunctionMode):
    """Watches every operation and does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs or {})


def as_plain(trap: Trap, key: Key) -> Key:
    return trap.renamed.get(key[0], key[0]), key[1], key[2]


def name_calls(
    trap: Trap, text: str, paths: dict[str, str], values: dict[Key, Any]
) -> list[tuple[str, Key]]:
    """List the names under which the values of a site are looked up."""
    site = Site.parse(text)
    path = "" if site.path == "model" else paths.get(site.path, site.path)
    plain = trap.renamed.get(path, path)
    count = max(key[2] for key in values if key[:2] == (plain, site.port))
    calls = range(1, count + 1) if site.call is None else [site.call]
    return [
        (str(Site(site.path, site.port, call if count > 1 else None)), (path, site.port, call))
        for call in calls
    ]


def map_frozen(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value).clone()
    return [map_frozen(function, part) for part in value] if isinstance(value, list) else value
