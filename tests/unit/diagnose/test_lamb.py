import copy

import pytest
import torch
from torch import nn

from stratascope.diagnose import Lamb


def make_step(lamb, net, x=None):
    lamb.zero_grad()
    net(torch.ones(2, 4) if x is None else x).square().mean().backward()
    lamb.step()


def test_the_trust_ratio_is_one_where_a_norm_is_zero():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.bias)
    lamb = Lamb(layer.named_parameters(), 0.1)

    make_step(lamb, layer)

    assert lamb.trust_ratios()["bias"] == 1.0
    assert lamb.trust_ratios()["weight"] != 1.0


def test_parameters_without_names_are_called_by_their_place():
    layer = nn.Linear(4, 3)
    lamb = Lamb([{"params": [layer.weight]}, {"params": [layer.bias], "adapt": False}], 0.1)

    assert lamb.trust_ratios() == {}

    make_step(lamb, layer)

    assert list(lamb.trust_ratios()) == ["0.0", "1.0"]
    assert lamb.trust_ratios()["1.0"] == 1.0


def test_a_parameter_without_a_gradient_stays_as_it_is():
    layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    before = layers[1].weight.detach().clone()
    lamb = Lamb(layers.named_parameters(), 0.1, weight_decay=0.1)

    make_step(lamb, layers[0])

    assert torch.equal(layers[1].weight, before)
    assert list(lamb.trust_ratios()) == ["0.weight", "0.bias"]


def test_a_closure_is_called_once_and_its_loss_returned():
    layer = nn.Linear(4, 3)
    lamb = Lamb(layer.parameters(), 0.1)
    calls = []

    def compute():
        calls.append(torch.is_grad_enabled())
        loss = layer(torch.ones(2, 4)).square().mean()
        loss.backward()
        return loss

    assert lamb.step(compute) > 0
    assert calls == [True]


def test_half_precision_trains_although_its_norms_would_overflow():
    layer = nn.Linear(4, 3).half()
    nn.init.constant_(layer.weight, 3e4)
    lamb = Lamb(layer.named_parameters(), 1e-5, eps=1e-3)
    layer.weight.grad = torch.full_like(layer.weight, 2.0)

    lamb.step()

    assert lamb.trust_ratios()["weight"] == pytest.approx(3e4, rel=0.01)
    assert layer.weight.isfinite().all()


def test_a_saved_state_goes_on_as_if_never_interrupted():
    torch.manual_seed(0)
    first = nn.Linear(4, 3)
    lamb = Lamb(first.parameters(), 0.1, weight_decay=0.1)
    make_step(lamb, first)
    second = nn.Linear(4, 3)
    second.load_state_dict(first.state_dict())
    other = Lamb(second.parameters(), 0.5)
    other.load_state_dict(copy.deepcopy(lamb.state_dict()))

    make_step(lamb, first)
    make_step(other, second)

    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"eps": float("nan")}, "eps must be at least 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"betas": (0.9, 1.0)}, r"must be at least 0 and below 1, got \(0.9, 1.0\)"),
        ({"clip": (2.0, 1.0)}, r"clip must be \(lower, upper\) .* got \(2.0, 1.0\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Lamb(nn.Linear(2, 2).parameters(), **settings)


def test_a_sparse_gradient_is_refused():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()

    with pytest.raises(ValueError, match="gradients of Lamb must be dense, got a sparse one"):
        Lamb(table.parameters()).step()
