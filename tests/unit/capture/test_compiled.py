"""Capturing from compiled models, where other tools see nothing."""

import warnings

import pytest
import torch
from torch import nn

import stratascope as ss

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Chain(nn.Sequential):
    """With a forward of its own: Dynamo passes by what is torch's altogether."""

    def forward(self, x):
        for layer in self:
            x = layer(x)
        return x


def build() -> nn.Module:
    torch.manual_seed(0)
    return Chain(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


@pytest.fixture(autouse=True)
def forget_compilations():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compile_whole() -> nn.Module:
    return torch.compile(build(), backend="eager")


def compile_itself() -> nn.Module:
    model = build()
    model.compile(backend="eager")
    return model


def compile_a_layer() -> nn.Module:
    model = build()
    model[0] = torch.compile(model[0], backend="eager")
    return model


@pytest.mark.parametrize("compiled", [compile_whole, compile_itself, compile_a_layer])
def test_a_model_compiled_and_run_before_is_captured_all_the_same(compiled):
    model, plain = compiled(), build()
    model(X)
    with (
        pytest.warns(UserWarning, match="the model is compiled: while it is tapped it runs as"),
        ss.tap(model, ["**", "model", "0:in"]) as acts,
    ):
        model(X)
    with ss.tap(plain, ["**", "model", "0:in"]) as expected:
        plain(X)

    assert list(acts) == list(expected)
    assert all(torch.equal(acts[site], expected[site]) for site in expected)


@pytest.mark.parametrize("where", ["whole", "itself", "a layer"])
def test_afterwards_it_runs_compiled_again(where):
    ran = []

    def count(graph, example):
        def run(*args):
            ran.append(1)
            return graph.forward(*args)

        return run

    model = build()
    if where == "whole":
        model = torch.compile(model, backend=count)
    elif where == "itself":
        model.compile(backend=count)
    else:
        model[0] = torch.compile(model[0], backend=count)
    expected = model(X)
    before = {name: sorted(vars(module)) for name, module in model.named_modules()}
    compiled_runs = len(ran)
    with pytest.warns(UserWarning, match="is compiled"), ss.tap(model, "1"):
        model(X)
    plain_runs = len(ran) - compiled_runs
    output = model(X)
    after = {name: sorted(vars(module)) for name, module in model.named_modules()}

    assert (compiled_runs, plain_runs, len(ran)) == (1, 0, 2)
    assert torch.equal(output, expected)
    assert before == after


def test_a_compiled_model_is_traced():
    model = compile_whole()
    model(X)
    run = ss.trace(model, X)

    assert [operation.name for operation in run] == ["0.linear", "1.relu", "2.linear"]
    assert torch.equal(run.activations["0"], build()[0](X))


def test_a_compiled_model_is_extracted(tmp_path):
    model = compile_whole()
    model(X)
    with pytest.warns(UserWarning, match="is compiled"):
        store = ss.extract(model, X, "0", to=tmp_path / "store", progress=False)

    assert torch.equal(torch.from_numpy(store["0"][:]), build()[0](X).detach())


def test_a_submodel_of_a_compiled_model_is_cut():
    model = compile_whole()
    model(X)
    with pytest.warns(UserWarning, match="is compiled"):
        part = ss.submodel(model, "1", example=(X,))

    assert part.method == "graph"
    assert torch.equal(part(X)["1"], build()[:2](X))


def test_a_model_compiled_after_the_tap_is_captured():
    model = build()
    handle = ss.tap(model, "0")
    compiled = torch.compile(model, backend="eager")
    with warnings.catch_warnings():
        # Dynamo says that it leaves the hooks out of its graph.
        warnings.simplefilter("ignore")
        compiled(X)
    value = handle.activations["0"]
    handle.remove()

    assert torch.equal(value, build()[0](X).detach())


@pytest.mark.parametrize("compiled", [compile_whole, compile_itself, compile_a_layer])
def test_the_first_of_two_taps_of_a_compiled_model_may_be_removed_first(compiled):
    model = compiled()
    model(X)
    before = {name: sorted(vars(module)) for name, module in model.named_modules()}
    with pytest.warns(UserWarning, match="is compiled"):
        first, second = ss.tap(model, "0"), ss.tap(model, "0")
    first.remove()
    model(X)
    seen = second.activations["0"]
    second.remove()
    after = {name: sorted(vars(module)) for name, module in model.named_modules()}

    assert torch.equal(seen, build()[0](X).detach())
    assert before == after


def test_a_model_compiled_anew_while_it_is_tapped_stays_so():
    model = compile_itself()
    with pytest.warns(UserWarning, match="is compiled"):
        handle = ss.tap(model, "0")
    model.compile(backend="eager")
    anew = vars(model)["_compiled_call_impl"]
    with warnings.catch_warnings():
        # It never ran.
        warnings.simplefilter("ignore")
        handle.remove()

    assert vars(model)["_compiled_call_impl"] is anew
