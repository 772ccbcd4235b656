"""What several hold on one model at once, in whatever order they leave it."""

import copy
import functools

import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.capture._hooks import ReplacedForward


class Doubling(nn.Module):
    def forward(self, x):
        return x + x


X = torch.ones(2)


def adding(number):
    return lambda forward: lambda x: forward(x) + number


@pytest.fixture
def model():
    return Doubling()


def test_the_first_of_two_taps_may_be_removed_first(model):
    first, second = ss.tap(model, "add"), ss.tap(model, "add")
    first.remove()
    model(X)
    seen = second.activations["add"]
    second.remove()

    assert torch.equal(seen, X + X)
    assert "forward" not in vars(model)


def test_the_first_of_two_debugs_may_end_first(model):
    first, second = ss.debug(model), ss.debug(model)
    first.__enter__()
    runs = second.__enter__()
    model(X)
    first.__exit__(None, None, None)
    model(X)
    second.__exit__(None, None, None)
    model(X)

    assert len(runs) == 2
    assert "forward" not in vars(model)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_replaced_forwards_leave_in_any_order(model, order):
    numbers = [1, 10, 100]
    replaced = [ReplacedForward(model, adding(number)) for number in numbers]
    for index in order:
        assert torch.equal(model(X), X + X + sum(numbers))
        replaced[index].remove()
        replaced[index].remove()
        numbers[index] = 0

    assert torch.equal(model(X), X + X)
    assert "forward" not in vars(model)


def test_the_last_replacement_runs_first(model):
    ReplacedForward(model, adding(1))
    ReplacedForward(model, lambda forward: lambda x: forward(x) * 3)

    assert torch.equal(model(X), (X + X + 1) * 3)


def test_a_forward_that_the_model_had_of_its_own_comes_back(model):
    own = model.forward = functools.partial(torch.mul, X)
    replaced = ReplacedForward(model, adding(1))
    during = model(X)
    replaced.remove()

    assert torch.equal(during, X + 1)
    assert model.forward is own


def test_a_wrapper_that_came_meanwhile_stays(model):
    replaced = ReplacedForward(model, adding(1))
    model.forward = adding(10)(model.forward)
    replaced.remove()

    assert torch.equal(model(X), X + X + 10)


def test_a_copy_has_the_forward_that_the_model_had_of_its_own(model):
    model.forward = functools.partial(torch.mul, X + 2)
    with ss.tap(model, "mul"):
        copied = copy.deepcopy(model)

    assert torch.equal(copied(X), X + 2)
    assert isinstance(copied.forward, functools.partial)


def test_a_shallow_copy_is_replaced_by_itself(model):
    outer = ReplacedForward(model, adding(1))
    copied = copy.copy(model)
    inner = ReplacedForward(copied, adding(10))
    expected = model(X), copied(X)
    outer.remove()
    inner.remove()

    assert torch.equal(expected[0], X + X + 1)
    assert torch.equal(expected[1], X + X + 11)
    assert "forward" not in vars(model)
