import functools

import pytest
import torch
from torch import nn

from stratascope.pipeline._fingerprint import describe_model, describe_transform, differences


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_equal_models_are_described_alike():
    assert describe_model(net()) == describe_model(net())
    assert describe_model(net())["class"] == "torch.nn.modules.container.Sequential"


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_var", "1.num_batches_tracked"])
def test_a_change_of_any_state_changes_the_description(name):
    model = net()
    with torch.no_grad():
        model.state_dict()[name].view(-1)[-1].add_(1)

    assert describe_model(model) != describe_model(net())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_parameters_of_any_type_are_described(dtype):
    model = nn.Module()
    model.register_buffer("state", torch.ones(3, 2).to(dtype).mT)

    assert len(describe_model(model)["parameters"]) == 32


def test_a_transform_is_named():
    assert describe_transform(None) is None
    assert describe_transform(nn.functional.relu) == "relu"
    assert describe_transform(nn.ReLU()) == "ReLU"
    assert describe_transform(functools.partial(torch.sum, dim=1)) == "partial"


def test_differences_are_said_in_words():
    old = {"model": {"parameters": "a"}, "data": {"order": "x", "samples": 3}, "batch_size": 1}
    new = {"model": {"parameters": "b"}, "data": {"order": "y", "samples": 4}, "batch_size": 1}

    assert differences(old, new) == [
        "the order of the data (shuffle=False keeps one)",
        "the number of samples (was 3, is 4)",
        "the model's parameters",
    ]
    assert differences(old, old) == []
