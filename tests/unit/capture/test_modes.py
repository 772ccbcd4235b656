import random

import numpy as np
import pytest
import torch
from torch import nn

from stratascope.capture import evaluating
from stratascope.capture._modes import keeping_buffers, probing


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(0.5)))
    model.train()
    model[1].eval()
    model[2].training = False
    return model


def flags(model):
    return [module.training for module in model.modules()]


def test_every_module_gets_its_own_flag_back(model):
    found = flags(model)
    with evaluating(model):
        inside = flags(model)

    assert not any(inside)
    assert flags(model) == found == [True, True, False, False, True]


def test_the_flags_come_back_after_an_error(model):
    found = flags(model)
    with pytest.raises(ValueError, match="broken"), evaluating(model):
        raise ValueError("broken")

    assert flags(model) == found


def test_the_flags_come_back_where_a_network_refuses_to_be_evaluated(model):
    class Stubborn(nn.Linear):
        def train(self, mode=True):
            raise RuntimeError("always training")

    model.append(Stubborn(2, 2))
    found = flags(model)
    with pytest.raises(RuntimeError, match="always training"), evaluating(model):
        pass

    assert flags(model) == found


def test_a_look_takes_no_gradients_and_no_random_numbers(model):
    expected = torch.get_rng_state()
    with probing(model):
        output = model(torch.rand(3, 2))
        torch.rand(5)

    assert not output.requires_grad
    assert torch.equal(torch.get_rng_state(), expected)
    assert model[1].num_batches_tracked == 0


def test_modes_may_be_nested(model):
    found = flags(model)
    with evaluating(model), probing(model), evaluating(model):
        pass

    assert flags(model) == found


class Counting(nn.Module):
    """Writes into its buffers in every way there is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("absent", None)
        self.register_buffer("spent", torch.ones(1))

    def forward(self, x):
        self.count += 1
        self.mean = x.mean()
        self.absent = x.clone()
        self.spent = None
        self.register_buffer("late", x.clone())
        return x * self.count


class Draws(nn.Module):
    def forward(self, x):
        return x * random.random() + np.random.rand() + torch.rand(())


def test_probing_leaves_the_random_numbers_of_all_three_kinds():
    def show():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = show()
    with probing(Draws()):
        Draws()(torch.ones(1))

    assert show() == before


@pytest.mark.parametrize("keeping", [keeping_buffers, probing])
def test_buffers_are_what_they_were_however_they_were_written(keeping):
    model = Counting()
    before = dict(model._buffers)
    with keeping(model):
        model(torch.ones(2))

    assert model._buffers.keys() == before.keys()
    assert all(model._buffers[name] is buffer for name, buffer in before.items())
    assert (model.count, model.mean, model.spent) == (0, 0, 1)


def test_buffers_that_were_not_written_may_be_awaited_by_a_backward():
    model = nn.BatchNorm1d(2).eval()
    version = model.running_mean._version
    with keeping_buffers(model):
        model(torch.ones(3, 2))

    assert model.running_mean._version == version


class Tally(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_buffers_of_torchscript_are_kept():
    model = torch.jit.script(Tally())
    with keeping_buffers(model):
        model(torch.rand(3, 2))
        within = model.count.clone()

    assert (within, model.count) == (1, 0)
