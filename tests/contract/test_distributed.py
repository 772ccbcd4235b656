"""Captures from networks that are wrapped, or trained by several processes."""

import pytest
import torch
from torch import nn

import stratascope as ss
from naming import name_case
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import ModuleTable, match_sites
from together import CHECKS, build, run_together

X = torch.linspace(-1, 1, 2 * 16).reshape(2, 1, 16)


def compile_plainly(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


class Outer(nn.Module):
    """A network with a wrapper in its midst, and a child that has a wrapper's name for it."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.net, self.module = wrap(build()), nn.Tanh()

    def forward(self, x):
        return self.module(self.net(x))


WRAPS = {
    "parallel": nn.DataParallel,
    "compiled": compile_plainly,
    "compiled-parallel": lambda model: compile_plainly(nn.DataParallel(model)),
    "parallel-compiled": lambda model: nn.DataParallel(compile_plainly(model)),
}
wrapping = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
quietly = pytest.mark.filterwarnings("ignore:the model is compiled")


def capture(model: nn.Module, sites) -> ss.Activations:
    with ss.tap(model, sites) as acts:
        model(X).sum().backward()
    return acts


def are_same(first: ss.Activations, second: ss.Activations) -> bool:
    return list(first) == list(second) and all(
        torch.equal(value, second[site]) for site, value in first.items()
    )


SITES = [
    "**", "*", "enc.*", "**.conv", "enc.*.relu@2", "enc.1:in", "enc.1:grad", "", "model:in",
    "enc.1.add", "enc.*.mean", "cat", "Conv1d[*]", "Block[2]:in", nn.Conv1d,
    lambda name, module: name.endswith("conv"),
]  # fmt: skip


@quietly
@wrapping
def test_values_are_the_same_inside_a_wrapper(wrap):
    assert are_same(capture(wrap(build()), SITES), capture(build(), SITES))


@pytest.mark.parametrize("sites", SITES, ids=name_case)
def test_a_selector_means_the_same_inside_a_wrapper(sites):
    def match(model: nn.Module):
        return match_sites(ModuleTable(model, lambda name: True), sites)

    assert match(nn.DataParallel(build())) == match(build())


@quietly
@wrapping
def test_a_wrapper_in_the_midst_is_left_out_of_the_names(wrap):
    model, plain = Outer(wrap), Outer(lambda inner: inner)

    assert are_same(capture(model, "**"), capture(plain, "**"))
    assert capture(model, "module").sites == (ss.Site("module"),)


@pytest.mark.parametrize(
    ("written", "site"),
    [
        ("module.enc.2", "enc.2"), ("module.enc.1:in", "enc.1:in"), ("module", "model"),
        ("module.enc.0.relu@2", "enc.0.relu@2"), ("module.enc.0.add", "enc.0.add"),
        ("module.cat", "cat"),
    ],
)  # fmt: skip
def test_the_names_that_torch_gives_are_understood_too(written, site):
    acts = capture(nn.DataParallel(build()), [written, "**"])

    assert torch.equal(acts[written], acts[site])
    assert site in map(str, acts)


def test_a_glob_may_go_through_a_wrapper():
    model = nn.DataParallel(build())

    assert (
        ss.select(model, "module.enc.*") == ss.select(model, "enc.*") == ss.select(build(), "enc.*")
    )


def test_a_module_and_its_wrapper_are_both_selectors():
    network = build()
    model = nn.DataParallel(network)

    assert ss.select(model, network.enc) == (ss.Site("enc"),)
    assert ss.select(model, model) == ss.select(model, network) == (ss.Site(""),)


def test_near_names_are_those_of_the_network():
    model = nn.DataParallel(build())
    with pytest.raises(SiteNotFoundError, match=r"'enk.1'. Did you mean 'enc.1'.* all 15"):
        ss.select(model, "enk.1")
    with pytest.raises(SiteNotFoundError, match=r"'module.enk.1'. Did you mean 'module.enc.1'"):
        ss.select(model, "module.enk.1")


def test_data_parallel_on_several_devices_is_refused():
    model = nn.DataParallel(build())
    model.device_ids = [0, 1]
    with pytest.raises(CaptureError, match=r"DataParallel over 2 devices, .*: use Distributed"):
        ss.tap(model, "enc.1")


def test_a_submodel_is_cut_from_the_network_inside():
    part = ss.submodel(nn.DataParallel(build()), "module.enc.1", example=(X,))

    assert part.method == "graph"
    assert torch.equal(part(X)["enc.1"], build().enc[:2](X))


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return run_together(tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("check", CHECKS)
def test_in_two_processes(check, problems):
    for number, problem in enumerate(problems[check]):
        assert problem == "", f"in process {number}: {problem}"
