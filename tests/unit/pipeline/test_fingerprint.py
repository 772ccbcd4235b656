import functools
import warnings

import pytest
import torch
from torch import nn

from stratascope.errors import CaptureError
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


def test_what_is_conjugated_or_negated_is_described_by_its_values():
    values = torch.tensor([1 + 2j, 3 - 4j])
    for view, plain in (
        (values.conj(), torch.tensor([1 - 2j, 3 + 4j])),
        (values.conj().imag, torch.tensor([-2.0, 4.0])),
    ):
        models = [nn.Module(), nn.Module(), nn.Module()]
        for model, state in zip(models, (view, plain, -plain), strict=True):
            model.register_buffer("state", state)
        described = [describe_model(model) for model in models]

        assert described[0] == described[1] != described[2]


def test_a_model_that_never_ran_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that lazy modules are new
        model = nn.Sequential(nn.LazyLinear(2))

    with pytest.raises(
        CaptureError, match=r"'0\.weight' has no values yet, .*run the model once f"
    ):
        describe_model(model)
    model(torch.zeros(1, 3))
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
