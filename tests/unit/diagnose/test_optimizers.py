import copy
import gc
import sys
import warnings
import weakref

import pytest
import torch
from torch import nn

from stratascope.diagnose import describe_optimizer, optimizer, take_step
from stratascope.errors import DataError, MissingExtraError

RATES = {
    "sgd": 0.05,
    "adamw": 0.03,
    "lamb": 0.05,
    "lion": 0.01,
    "prodigy": 1.0,
    "muon": 0.05,
    "shampoo": 0.05,
    "soap": 0.03,
    "kron": 0.01,
    "lbfgs": 1.0,
    "adahessian": 0.1,
    "sophiah": 1.0,
}


def make_problem():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 1, 3)
    )
    x = torch.randn(8, 2, 8, 8)
    return net, lambda: (net(x) - 2 * x[:, :1] - 0.5).square().mean()


@pytest.mark.parametrize("name", RATES)
def test_every_optimizer_trains_a_convolutional_network(name):
    net, compute_loss = make_problem()
    decay = {} if name == "lbfgs" else {"weight_decay": 1e-4}
    made = optimizer(name, net, RATES[name], **decay)

    losses = [take_step(made, compute_loss) for _ in range(4 if name == "lbfgs" else 25)]

    assert losses[-1] < 0.75 * losses[0]
    assert describe_optimizer(name).name == name


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon", "soap"])
def test_biases_and_normalisation_get_no_weight_decay(name):
    net, _ = make_problem()
    made = optimizer(name, net, 1e-3, weight_decay=0.1)

    decayed, others = made.param_groups

    assert decayed["param_names"] == ["0.weight", "3.weight"]
    assert others["param_names"] == ["0.bias", "1.weight", "1.bias", "3.bias"]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_lamb_adapts_weights_only():
    net, compute_loss = make_problem()
    lamb = optimizer("lamb", net, 0.01)
    take_step(lamb, compute_loss)

    ratios = lamb.trust_ratios()

    assert [name for name, ratio in ratios.items() if ratio != 1] == ["0.weight", "3.weight"]


def test_embeddings_and_wide_norms_are_not_decayed():
    net = nn.ModuleDict({"table": nn.Embedding(5, 3), "norm": nn.LayerNorm((3, 3))})
    net["out"] = nn.Linear(3, 2)

    made = optimizer("sgd", net, 0.1, weight_decay=0.1)

    assert made.param_groups[0]["param_names"] == ["out.weight"]


def test_frozen_parameters_are_left_out_and_shared_ones_come_once():
    net = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)])
    net[1].weight = net[0].weight
    net[2].requires_grad_(False)

    made = optimizer("adamw", net, 0.1)

    assert [group["param_names"] for group in made.param_groups] == [
        ["0.weight"],
        ["0.bias", "1.bias"],
    ]


def test_plain_tensors_are_parted_by_their_dimensions():
    layer = nn.Linear(3, 2)

    made = optimizer("sgd", layer.parameters(), 0.1, weight_decay=0.1)

    assert [group["params"] for group in made.param_groups] == [[layer.weight], [layer.bias]]


def test_names_are_taken_in_any_case():
    assert isinstance(optimizer("AdamW", nn.Linear(2, 2), 0.1), torch.optim.AdamW)


@pytest.mark.parametrize("name", ["adahessian", "sophiah"])
def test_a_step_with_hessians_leaves_no_cycle_behind(name):
    net, compute_loss = make_problem()
    made = optimizer(name, net, 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_step(made, compute_loss)
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(next(net.parameters()))
        take_step(made, compute_loss)
        del net, compute_loss, made
        assert gone() is None
    finally:
        gc.enable()


def test_sophia_differentiates_twice_only_when_it_estimates_curvature():
    net, compute_loss = make_problem()
    made = optimizer("sophiah", net, 0.01, update_period=3)
    kept = []

    for _ in range(4):
        take_step(made, compute_loss)
        # Gradients that hold a graph are dropped.
        kept.append(net[0].weight.grad is not None)

    assert kept == [False, True, True, False]


def test_lbfgs_may_compute_the_loss_often_and_gives_the_first_one():
    net, compute_loss = make_problem()
    losses = []

    def compute():
        losses.append(compute_loss())
        return losses[-1]

    given = take_step(optimizer("lbfgs", net, 1.0, max_iter=5), compute)

    assert len(losses) > 1
    assert given == losses[0].item()


def test_the_state_of_a_borrowed_optimizer_is_on_the_model_alone():
    net, _ = make_problem()
    before = copy.deepcopy(net.state_dict())

    optimizer("soap", net, 0.1)

    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_an_unknown_name_is_refused_with_near_ones():
    sentence = r"must be one of sgd, .* got 'adamv': .* Did you mean 'adamw'\?"

    with pytest.raises(DataError, match=sentence):
        optimizer("adamv", nn.Linear(2, 2), 0.1)
    with pytest.raises(DataError, match="got 'newton'"):
        describe_optimizer("newton")


@pytest.mark.parametrize("name", ["soap", "adamw"])
def test_an_unknown_setting_is_refused_with_near_ones(name):
    with pytest.raises(DataError, match=rf"{name} has no setting 'beta'. Did you mean 'betas'\?"):
        optimizer(name, nn.Linear(2, 2), 0.1, beta=0.9)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(DataError, match="got none of 2 that requires a gradient: unfreeze some"):
        optimizer("sgd", nn.Linear(2, 2).requires_grad_(False), 0.1)
    with pytest.raises(DataError, match="got none of 0 that requires a gradient"):
        optimizer("sgd", [], 0.1)


def test_groups_are_refused():
    with pytest.raises(DataError, match=r"must be a model or tensors, .* got dict: to choose"):
        optimizer("sgd", [{"params": []}], 0.1)


def test_lbfgs_takes_no_weight_decay():
    with pytest.raises(DataError, match=r"lbfgs must have weight_decay=0, got 0\.1"):
        optimizer("lbfgs", nn.Linear(2, 2), 0.1, weight_decay=0.1)


def test_soap_does_not_merge_dimensions():
    with pytest.raises(DataError, match="soap must have merge_dims=False, got True"):
        optimizer("soap", nn.Linear(2, 2), 0.1, merge_dims=True)


def test_what_is_refused_of_soap_does_fail():
    from pytorch_optimizer import SOAP

    layer = nn.Conv2d(2, 4, 3)
    layer(torch.randn(1, 2, 5, 5)).sum().backward()

    with pytest.raises(RuntimeError, match=r"shape '\[1\]' is invalid"):
        SOAP(layer.parameters(), merge_dims=True).step()


@pytest.mark.parametrize(
    ("name", "package"), [("soap", "pytorch_optimizer"), ("kron", "opt_einsum")]
)
def test_what_is_not_installed_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*'stratascope\[diagnose\]'"):
        optimizer(name, nn.Linear(2, 2), 0.1)


@pytest.mark.parametrize(
    ("loss", "got"), [(torch.ones(3, requires_grad=True), r"shape \(3,\)"), (1.0, "1.0")]
)
def test_a_loss_that_is_no_scalar_is_refused(loss, got):
    made = optimizer("sgd", nn.Linear(2, 2), 0.1)

    with pytest.raises(DataError, match=f"must be a tensor of one value, got {got}: take its mean"):
        take_step(made, lambda: loss)


def test_shampoo_preconditions_small_weights_too():
    net, compute_loss = make_problem()
    shampoo = optimizer("shampoo", net, 0.01)
    take_step(shampoo, compute_loss)

    parts = [len(shampoo.state[layer.weight]["pre_conditioner"].statistics) for layer in net[::3]]

    assert parts == [4, 4]
