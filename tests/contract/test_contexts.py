"""Captures where a network is not run as plainly as usual."""

import asyncio
import threading

import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError

X = torch.linspace(-1, 1, 2 * 4).reshape(2, 4)


def build(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()


class Around(nn.Module):
    """Plain modules before and after one of another kind."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.before, self.inner, self.after = nn.Tanh(), inner, nn.Sigmoid()

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


scripting = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@scripting
@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
def test_torchscript_is_refused_with_what_to_do(make):
    model = make(build())
    with pytest.raises(CaptureError, match=r"is TorchScript, .*: tap the network before"):
        ss.tap(model, "**")
    with pytest.raises(CaptureError, match="'inner' is TorchScript"):
        ss.tap(Around(model), ["before", "inner"])


@scripting
def test_what_is_around_torchscript_is_captured_and_traced():
    model = Around(torch.jit.script(build()))
    with torch.no_grad(), ss.tap(model, ["before", "after", "after:in"]) as acts:
        output = model(X)
    run = ss.trace(model, X, keep="all")

    assert torch.equal(acts["after"], output)
    assert torch.equal(acts["after:in"], build()(X.tanh()))
    assert {"before", "after"} <= {call.name for call in run.modules}


def test_a_graph_module_is_captured():
    graph = torch.fx.symbolic_trace(build())
    with torch.no_grad(), ss.tap(graph, "**") as acts:
        graph(X)
        expected = build()[0](X)

    assert torch.equal(acts["0@1"] if len(acts.calls("0")) > 1 else acts["0"], expected)


def test_an_exported_program_has_its_operations_as_sites():
    program = torch.export.export(build(), (X,)).module()
    with torch.no_grad(), ss.tap(program, ["linear", "linear_1"]) as acts:
        output = program(X)

    assert torch.equal(acts["linear"], build()[0](X))
    assert torch.equal(acts["linear_1"], output)
    assert [op.name for op in ss.trace(program, X)][-1] == "linear_1"


def test_data_parallel_on_the_cpu_is_the_module_inside():
    model = nn.DataParallel(build())
    with torch.no_grad(), ss.tap(model, "module.0") as acts:
        model(X)

    assert torch.equal(acts["module.0"], build()[0](X))


def test_distributed_data_parallel_is_the_module_inside(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(build().train())
        with ss.tap(model, ["module.0", "module.2:grad"]) as acts:
            model(X).sum().backward()
        del model
    finally:
        torch.distributed.destroy_process_group()

    assert torch.equal(acts["module.0"], build()[0](X).detach())
    assert torch.equal(acts["module.2:grad"], torch.ones(2, 2))


def test_threads_do_not_see_each_others_networks():
    found: dict[int, bool] = {}
    # Built here, as all threads share one random state.
    pairs = [(build(seed), build(seed)) for seed in range(4)]

    def run(seed: int) -> None:
        model, plain = pairs[seed]
        same = []
        for _ in range(20):
            with torch.no_grad(), ss.tap(model, ["0", "0.linear"]) as acts:
                output = model(X)
            same.append(torch.equal(acts["0"], plain[0](X)) and torch.equal(output, plain(X)))
            same.append(torch.equal(acts["0.linear"], acts["0"]))
        found[seed] = all(same)

    models = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in models:
        thread.start()
    for thread in models:
        thread.join()

    assert found == dict.fromkeys(range(4), True)
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_coroutines_capture_one_after_the_other():
    async def run(seed: int) -> bool:
        model = build(seed)
        # Gradient modes belong to the thread, so no coroutine may leave one on while it waits.
        with ss.tap(model, "0") as acts:
            await asyncio.sleep(0)
            model(X)
            await asyncio.sleep(0)
        return torch.equal(acts["0"], model[0](X))

    async def run_all() -> list[bool]:
        return await asyncio.gather(*(run(seed) for seed in range(4)))

    assert all(asyncio.run(run_all()))


def test_autocast_is_captured_in_the_type_that_flowed():
    model = build()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), ss.tap(model, "**") as acts:
        model(X)

    assert acts["0"].dtype == torch.bfloat16


def test_double_backward_goes_through_a_captured_value():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    with ss.tap(model, "1", detach=False) as acts:
        model(X)
    (first,) = torch.autograd.grad(acts["1"].square().sum(), model[0].weight, create_graph=True)
    first.square().sum().backward()

    assert model[0].weight.grad is not None
    assert model[0].weight.grad.abs().sum() > 0
