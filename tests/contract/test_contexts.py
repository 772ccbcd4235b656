"""Captures around TorchScript and of one process among several."""

import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError

X = torch.linspace(-1, 1, 2 * 4).reshape(2, 4)


def build() -> nn.Module:
    torch.manual_seed(0)
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
def test_torchscript_within_is_refused_with_what_to_do(make):
    model = Around(make(build()))
    with pytest.raises(CaptureError, match=r"'inner' is TorchScript, .*: tap the network before"):
        ss.tap(model, ["before", "inner"])


@scripting
def test_what_is_around_torchscript_is_captured_and_traced():
    model = Around(torch.jit.script(build()))
    with torch.no_grad(), ss.tap(model, ["before", "after", "after:in"]) as acts:
        output = model(X)
    run = ss.trace(model, X, keep="all")

    assert torch.equal(acts["after"], output)
    assert torch.equal(acts["after:in"], build()(X.tanh()))
    assert {"before", "after"} <= {call.name for call in run.modules}


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
