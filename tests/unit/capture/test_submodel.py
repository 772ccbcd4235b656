import copy

import pytest
import torch
from torch import nn

import stratascope as ss
from networks import Loop, Reused, TwoNames, conv1d_stack
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import Site

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_a_submodel_shares_the_parameters_and_trains_them():
    model = conv1d_stack()
    x = torch.ones(1, 1, 12)
    part = ss.submodel(model, "2", example=(x,))
    part(x)["2"].sum().backward()

    assert model[2].weight.grad is not None
    assert model[4].weight.grad is None
    assert {id(parameter) for parameter in part.parameters()} == {
        id(parameter) for parameter in model[:3].parameters()
    }


def test_a_submodel_keeps_to_the_mode_of_its_model():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    part = ss.submodel(model, "0", example=(X,))
    part(X)
    part.eval()
    part(X)

    assert model[0].num_batches_tracked == 1
    assert not model[0].training


def test_the_last_site_by_execution_decides_where_it_stops():
    part = ss.submodel(Reused(), ["relu@2", "layers.1:in", "layers.0"], example=(X,))

    assert part.sites == (Site("layers.0"), Site("layers.1", "in"), Site("relu", call=2))
    assert list(part(X)) == list(part.sites)


def test_calls_keep_their_numbers_although_the_others_did_not_run():
    model = Reused()
    acts = ss.submodel(model, "relu@1", example=(X,))(X)

    assert list(acts) == [Site("relu", call=1)]
    assert torch.equal(acts["relu@1"], model.layers[0](X).relu())
    with pytest.raises(SiteNotFoundError, match="ask for one call"):
        acts["relu"]


def test_an_input_can_be_the_last_site():
    model = TwoNames()
    part = ss.submodel(model, "act:in", example=(X,))

    assert torch.equal(part(X)["act:in"], model.encode(X))


def test_no_handler_of_the_network_stops_the_stop():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.closed = 0

        def forward(self, x):
            if x.sum() > 1e9:
                return x
            try:
                x = self.first(x)
            except Exception:  # noqa: BLE001 - as careless as some networks are
                x = x * 0
            finally:
                self.closed += 1
            return self.second(x)

    model = Careful()
    part = ss.submodel(model, "first", example=(X,))
    acts = part(X)

    assert torch.equal(acts["first"], model.first(X))
    assert model.closed == 2


def test_a_site_that_an_input_does_not_reach_is_an_error():
    model = Loop()
    with torch.no_grad():
        model.cell.weight.copy_(torch.eye(4))
        model.cell.bias.zero_()
    positive, negative = torch.full((1, 4), 0.1), torch.full((1, 4), -0.1)
    part = ss.submodel(model, "large", example=(positive,))
    with pytest.raises(CaptureError, match="nothing was captured at 'large'"):
        part(negative)

    assert list(part(positive)) == [Site("large")]


def test_an_error_of_the_forward_comes_through_and_leaves_no_hook():
    model = conv1d_stack()
    part = ss.submodel(model, "2", example=(torch.ones(1, 1, 12),))
    with pytest.raises(RuntimeError, match="Calculated padded input size per channel"):
        part(torch.ones(1, 1, 2))

    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_no_value_of_a_forward_is_refused():
    with pytest.raises(CaptureError, match="values of a forward here, got 'relu:grad'"):
        ss.submodel(Reused(), "relu:grad", example=(X,))
    with pytest.raises(SiteNotFoundError, match="no site of the model matches 'rellu'"):
        ss.submodel(Reused(), "rellu", example=(X,))


def test_a_submodel_can_be_tapped_copied_and_printed():
    part = ss.submodel(Reused(), "relu@2", example=(X,))
    with ss.tap(part, ["", "graph.relu@1"]) as acts:
        expected = part(X)
    again = copy.deepcopy(part)(X)

    assert torch.equal(acts[""][Site("relu", call=2)], expected["relu@2"])
    assert torch.equal(again["relu@2"], expected["relu@2"])
    assert "sites=['relu@2'], method='graph'" in repr(part)


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.first(x)
        return y.tanh() + self.second(y) * x


def test_the_sites_value_is_the_last_that_the_head_of_a_split_gives():
    model, x = Skips(), torch.ones(2, 4)
    for site in ("first", "second"):
        head, _ = ss.split(model, site, example=(x,))
        with ss.tap(model, site) as acts:
            model(x)
        assert torch.equal(head(x)[-1], acts[site])
