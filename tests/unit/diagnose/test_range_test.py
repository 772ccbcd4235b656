import copy

import numpy as np
import pytest
import torch
from torch import nn

from stratascope.diagnose import RangeTest, lr_range_test
from stratascope.errors import DataError, StoreError


def make_problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))
    x = torch.randn(64, 4)
    return net.eval(), [(part, part.sum(1, keepdim=True)) for part in x.split(16)]


def mean_square(output, target):
    return (output - target).square().mean()


def test_the_rate_rises_until_the_loss_does():
    net, batches = make_problem()

    found = lr_range_test(net, mean_square, batches, optimizer="sgd", highest=100.0)

    assert found.ended == "diverged"
    assert found.rates[0] == 1e-6
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 100
    np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e8) / 99)
    assert found.rates[0] < found.halfway <= found.lowest < found.rates[-1]


def test_it_is_the_training_that_it_says_it_is():
    net, batches = make_problem()
    net[2].p = 0.0
    mine = copy.deepcopy(net).train()
    sgd = torch.optim.SGD(mine.parameters(), 0.1, momentum=0.9)
    losses = []
    for number, rate in enumerate(np.geomspace(1e-3, 1e-1, 6)):
        x, y = batches[number % 4]
        loss = mean_square(mine(x), y)
        sgd.param_groups[0]["lr"] = rate
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())

    settings = {"optimizer": "sgd", "lowest": 1e-3, "highest": 1e-1, "steps": 6}
    found = lr_range_test(net, mean_square, batches, **settings)

    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    weights = 0.9 ** np.arange(6)[::-1]
    assert found.smoothed[-1] == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    net, batches = make_problem()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before, random = copy.deepcopy(net), torch.random.get_rng_state()

    def loss(output, target):
        if fails and output.mean().item() != 0 and len(calls) > 3:
            raise RuntimeError("no")
        calls.append(1)
        return mean_square(output, target)

    calls = []
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            lr_range_test(net, loss, batches)
    else:
        lr_range_test(net, loss, batches)

    assert torch.equal(torch.random.get_rng_state(), random)
    torch.testing.assert_close(net.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert net[0].bias.grad is None
    assert not net.training


def test_batches_that_end_end_the_test():
    net, batches = make_problem()

    found = lr_range_test(net, mean_square, iter(batches), steps=20)

    assert (found.ended, len(found.rates)) == ("no more batches", 4)


def test_an_optimizer_of_ones_own_is_built():
    net, batches = make_problem()

    found = lr_range_test(
        net,
        mean_square,
        batches,
        optimizer=lambda model, lr: torch.optim.RMSprop(model.parameters(), lr),
        highest=1e-4,
        steps=5,
    )

    assert (found.ended, len(found.losses)) == ("highest rate", 5)


def test_a_jump_between_the_first_batches_is_no_suggestion():
    losses = np.array([1, 9, 5, 5, 5, 5, 5, 4.9, 4.5, 3.4, 2.2, 1.0, 0.9, 8.0])
    rates = np.geomspace(1e-6, 1e-1, len(losses))

    found = RangeTest(rates, losses, losses, "diverged")

    assert found.halfway == rates[10]
    assert found.lowest == rates[12]


def test_a_loss_that_only_rises_suggests_the_first_rate():
    losses = np.array([1.0, 2.0, 3.0])

    found = RangeTest(np.array([0.1, 0.2, 0.3]), losses, losses, "diverged")

    assert found.halfway == found.lowest == 0.1


def test_the_picture_marks_both_rates(tmp_path):
    net, batches = make_problem()
    found = lr_range_test(net, mean_square, batches, optimizer="sgd", highest=100.0)

    figure = found.plot(to=tmp_path / "range.png")

    labels = [line.get_label() for line in figure.axes[0].lines]
    assert f"halfway: {found.halfway:.2g}" in labels
    assert (tmp_path / "range.png").exists()


def test_it_comes_back_as_it_was_saved(tmp_path):
    net, batches = make_problem()
    found = lr_range_test(net, mean_square, batches, optimizer="sgd", highest=100.0)
    found.save(tmp_path / "found.zarr")
    again = RangeTest.load(tmp_path / "found.zarr")

    for name in ("rates", "losses", "smoothed"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert again.ended == found.ended == "diverged"
    assert again.halfway == found.halfway
    with pytest.raises(StoreError, match="the place of a range test must be free"):
        found.save(tmp_path / "found.zarr")
    with pytest.raises(StoreError, match="must be the folder of a range test, and is none"):
        RangeTest.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lowest": 0.0}, "rates must rise from above 0 in 2 steps or more, got 100, 0.0 to 1.0"),
        ({"lowest": 2.0}, "got 100, 2.0 to 1.0"),
        ({"steps": 1}, "in 2 steps or more, got 1"),
        ({"optimizer": "sgdd"}, r"got 'sgdd': .* Did you mean 'sgd'\?"),
    ],
)
def test_settings_that_make_no_test_are_refused(settings, sentence):
    net, batches = make_problem()

    with pytest.raises(DataError, match=sentence):
        lr_range_test(net, mean_square, batches, **settings)


def test_no_batches_and_no_loss_are_refused():
    net, batches = make_problem()

    with pytest.raises(DataError, match=r"batches must hold at least one pair .* got none"):
        lr_range_test(net, mean_square, [])
    with pytest.raises(DataError, match="must be a number before the first step, got nan"):
        lr_range_test(net, lambda output, target: output.mean() * float("nan"), batches)
