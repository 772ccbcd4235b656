"""Random networks: what tap, submodel and trace see is what a plain interpreter with clones sees.

100 networks in an ordinary run; ``HYPOTHESIS_PROFILE=nightly`` draws 2,000.
"""

import os

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import stratascope as ss

CHANNELS, LENGTH = 4, 8
settings.register_profile(
    "ordinary", max_examples=100, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "nightly", max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck)
)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ordinary"))


class Pair(nn.Module):
    def forward(self, x):
        return x * 2, {"half": x / 2}


class Writes(nn.Module):
    """Changes its own output afterwards, through a view."""

    def forward(self, x):
        y = x + 1
        y.flatten(1)[:, :3] = 0
        return y


KINDS = (
    lambda: nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1),
    lambda: nn.BatchNorm1d(CHANNELS),
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    lambda: nn.Sequential(nn.Linear(LENGTH, LENGTH), nn.Tanh()),
    nn.Identity,
    Pair,
    Writes,
)


class Program(nn.Module):
    """Runs a list of steps, each on one or two of the values that are there."""

    def __init__(self, kinds: list[int], steps: list[tuple[str, int, int]]):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(KINDS[kind]() for kind in kinds)
        self.steps = steps

    def call(self, number: int, x: Tensor) -> Tensor:
        output = self.layers[number](x)
        return output[0] + output[1]["half"] if isinstance(output, tuple) else output

    def forward(self, x: Tensor) -> Tensor:
        values = [x.clone()]
        for kind, first, second in self.steps:
            a, b = values[first % len(values)], values[second % len(values)]
            if kind == "layer":
                values.append(self.call(first % len(self.layers), b))
            elif kind == "loop":
                for _ in range(int(b.abs().sum()) % 3):
                    b = self.call(first % len(self.layers), b)
                values.append(b)
            elif kind == "add":
                values.append(a + b)
            elif kind == "iadd":
                a += b
            elif kind == "relu_":
                F.relu_(a)
            elif kind == "view":
                a.view(a.shape[0], -1)[:, second % LENGTH] = 0
            else:
                values.append(torch.cat([a, b], 1)[:, second % CHANNELS :][:, :CHANNELS])
                values[-1] = F.pad(values[-1], (0, 0, 0, CHANNELS - values[-1].shape[1]))
        return sum(values)


class Noted(Program):
    """The same program, with every output of a layer cloned when it comes."""

    def call(self, number: int, x: Tensor) -> Tensor:
        layer = self.layers[number]
        if isinstance(layer, nn.Sequential):
            inner = layer[0](x)
            self.note(f"layers.{number}.0", inner)
            output = layer[1](inner)
            self.note(f"layers.{number}.1", output)
        else:
            output = layer(x)
        self.note(f"layers.{number}", output)
        return output[0] + output[1]["half"] if isinstance(output, tuple) else output

    def note(self, name: str, output) -> None:
        if isinstance(output, tuple):
            output = (output[0].clone(), {"half": output[1]["half"].clone()})
        else:
            output = output.clone()
        self.noted.setdefault(name, []).append(output)


def is_same(one, other) -> bool:
    if isinstance(one, tuple):
        return is_same(one[0], other[0]) and is_same(one[1]["half"], other[1]["half"])
    return torch.equal(one, other)


def compare(acts, noted: dict[str, list]) -> None:
    seen = {site.path: acts.calls(site.path) for site in acts if site.path.startswith("layers.")}

    assert seen.keys() == noted.keys()
    for name, outputs in noted.items():
        assert len(seen[name]) == len(outputs)
        assert all(is_same(*pair) for pair in zip(seen[name], outputs, strict=True)), name


steps = st.tuples(
    st.sampled_from(["layer", "layer", "layer", "loop", "add", "iadd", "relu_", "view", "cat"]),
    st.integers(0, 7),
    st.integers(0, 7),
)
programs = st.tuples(
    st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=5),
    st.lists(steps, min_size=1, max_size=8),
    st.integers(0, 3),
)


@PROFILE
@given(programs)
def test_every_route_sees_what_flowed(program):
    kinds, listed, seed = program
    x = torch.randn(2, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(seed))
    model, reference = Program(kinds, listed).eval(), Noted(kinds, listed).eval()
    reference.noted = {}
    with torch.no_grad():
        output = reference(x)
        # Where no layer runs, '**' is an error and there is nothing to compare.
        assume(reference.noted)
        with ss.tap(model, ["**", "model"]) as acts:
            tapped = model(x)
        modules = ss.trace(model, x).activations
        run = ss.trace(model, x, keep="all")

    assert torch.equal(tapped, output)
    assert torch.equal(run.activations["model"], output)
    compare(acts, reference.noted)
    compare(modules, reference.noted)
    own = [op.name for op in run if "." not in op.name]
    with torch.no_grad(), ss.tap(model, [*own, "model"]) as operations:
        model(x)
    assert all(torch.equal(operations[name], run.activations[name]) for name in own)


@PROFILE
@given(programs)
def test_a_submodel_gives_what_flowed(program):
    kinds, listed, seed = program
    x = torch.randn(2, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(seed))
    model, reference = Program(kinds, listed).eval(), Noted(kinds, listed).eval()
    reference.noted = {}
    with torch.no_grad():
        reference(x)
        for name in reference.noted:
            part = ss.submodel(model, name, example=(x,))

            compare(part(x), {name: reference.noted[name]})
