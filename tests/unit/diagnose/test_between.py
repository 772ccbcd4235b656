import copy

import pytest
import torch
from torch import nn

from stratascope.diagnose import connect, landscape, line_between
from stratascope.errors import DataError

METRICS = {"mse": nn.functional.mse_loss}


def train(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    x, y = DATA[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model


def make_data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=generator)
    return [(x, (x[:, :1] * x[:, 1:]).sin())]


DATA = make_data()


@pytest.fixture(scope="module")
def ends():
    return train(1), train(2)


def test_the_ends_of_the_line_are_the_checkpoints(ends):
    first, second = ends
    line = line_between(first, first.state_dict(), second.state_dict())
    found = landscape(first, METRICS, DATA, directions=line, steps=11, progress=False)
    with torch.no_grad():
        losses = [float(nn.functional.mse_loss(model(DATA[0][0]), DATA[0][1])) for model in ends]

    assert [found["mse"][0], found["mse"][-1]] == pytest.approx(losses, rel=1e-4)
    assert found.axes[0].tolist() == pytest.approx([k / 10 for k in range(11)])
    # Two networks trained from different beginnings are parted by a wall.
    assert found["mse"].max() > 5 * max(losses)


def test_a_trained_curve_goes_around_the_wall_and_has_the_same_ends(ends):
    first, second = ends
    states = {"first": first.state_dict(), "second": second.state_dict()}
    before = copy.deepcopy(first.state_dict())
    random = torch.get_rng_state()
    curve = connect(first, nn.functional.mse_loss, DATA, updates=150, rate=0.05, **states)
    line = line_between(first, *states.values())
    bent, straight = (
        landscape(first, METRICS, DATA, directions=way, steps=11, progress=False)["mse"]
        for way in (curve, line)
    )

    assert bent.max() < 0.5 * straight.max()
    assert [bent[0], bent[-1]] == pytest.approx([straight[0], straight[-1]], rel=1e-4)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())


def test_running_statistics_of_one_end_are_not_used_in_between():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    other = copy.deepcopy(model)
    nn.init.ones_(other[0].weight)
    line = line_between(model, model.state_dict(), other.state_dict())

    with pytest.raises(ValueError, match="batchnorm must be 'recalibrated' or 'batch' between"):
        landscape(model, METRICS, DATA, directions=line, progress=False)
    found = landscape(
        model, METRICS, DATA, directions=line, steps=3, batchnorm="recalibrated", progress=False
    )
    assert found.settings["batchnorm"] == "recalibrated"


def test_two_references_to_one_model_are_refused():
    model = nn.Linear(2, 1)

    with pytest.raises(DataError, match="the checkpoints must differ, and are the same: give"):
        line_between(model, model.state_dict(), model.state_dict())


def test_a_curve_whose_loss_explodes_is_refused(ends):
    first, second = ends
    states = {"first": first.state_dict(), "second": second.state_dict()}

    def explode(output, target):
        return (output - target).square().mean() * float("inf")

    with pytest.raises(DataError, match="the loss must be finite along the curve, got inf at upd"):
        connect(first, explode, DATA, **states)
    with pytest.raises(ValueError, match="updates must be at least 1 and rate above 0, got 0"):
        connect(first, nn.functional.mse_loss, DATA, updates=0, **states)
