"""Captures against ways of torch that know nothing of hooks, and against arithmetic by hand."""

import pytest
import torch
from torch import fx, nn

import stratascope as ss
from networks import CASES, Residual, conv1d_stack

TRACEABLE = ["conv1d", "conv2d-batchnorm-inplace", "conv3d", "reused", "two-names", "nested"]


class Interpreter(fx.Interpreter):
    """Runs a network operation by operation and copies what each module puts out."""

    def __init__(self, model):
        super().__init__(fx.symbolic_trace(model))
        self.outputs = []

    def call_module(self, target, args, kwargs):
        output = super().call_module(target, args, kwargs)
        self.outputs.append((target, output.detach().clone()))
        return output


@pytest.mark.parametrize("name", TRACEABLE)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_graph_of_a_network_gives_the_same_values(name, training):
    (case,) = (case for case in CASES if case.name == name)
    traced, tapped = case.build().train(training), case.build().train(training)
    interpreter = Interpreter(traced)
    case.run(interpreter.run)
    with ss.tap(tapped, lambda path, module: path and not list(module.children())) as acts:
        case.run(tapped)

    assert len(acts) == len(interpreter.outputs)
    for (site, value), (target, expected) in zip(acts.items(), interpreter.outputs, strict=True):
        assert tapped.get_submodule(target) is tapped.get_submodule(site.path)
        assert torch.equal(value, expected)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients:UserWarning")
@pytest.mark.parametrize("name", ["conv1d", "conv3d", "lstm", "attention", "tokens"])
def test_full_backward_hooks_of_torch_see_the_same_gradients(name):
    (case,) = (case for case in CASES if case.name == name)
    model = case.build().eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    expected = {}
    for path, module in model.named_modules():

        def keep(module, of_input, of_output, path=path):
            expected[path] = of_output[0].clone()

        module.register_full_backward_hook(keep)
    with ss.tap(model, [":grad", "**:grad"]) as acts:
        case.run(model).square().sum().backward()
    first = {
        site.path: value if isinstance(value, torch.Tensor) else value[0]
        for site, value in acts.items()
    }

    assert set(expected) <= set(first)
    assert all(torch.equal(first[path], gradient) for path, gradient in expected.items())


def test_the_gradient_of_a_linear_network_is_its_weights():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False)
    model = nn.Sequential(first, second)
    x = torch.eye(3)
    with ss.tap(model, ["**", "**:grad", ":in"]) as acts:
        model(x).sum().backward()

    assert torch.equal(acts[":in"], x)
    assert torch.allclose(acts["0"], first.weight.T)
    assert torch.equal(acts["0:grad"], second.weight.expand(3, 3))
    assert torch.equal(acts["1:grad"], torch.ones(3, 1))


def test_a_residual_block_is_its_formula():
    torch.manual_seed(0)
    block = Residual().eval()
    x = torch.randn(2, 3, 8)
    with ss.tap(block, ["", "**"]) as acts:
        block(x)
    first = block.first(x)
    norm = (first - block.norm.running_mean[:, None]) / (
        block.norm.running_var[:, None] + block.norm.eps
    ).sqrt()
    second = block.second(norm.clamp(min=0))

    assert torch.equal(acts["first"], first)
    assert torch.allclose(acts["norm"], norm, atol=1e-6)
    assert torch.allclose(acts["relu@1"], norm.clamp(min=0), atol=1e-6)
    assert torch.allclose(acts["second"], second, atol=1e-6)
    assert torch.allclose(acts["relu@2"], (second + x).clamp(min=0), atol=1e-6)
    assert torch.equal(acts[""], acts["relu@-1"])


@pytest.mark.parametrize("layer", range(5))
def test_a_submodel_of_a_stack_is_its_first_layers(layer):
    model = conv1d_stack()
    x = torch.randn(2, 1, 12)
    part = ss.submodel(model, str(layer), example=(x,))

    assert torch.equal(part(x)[str(layer)], model[: layer + 1](x))
