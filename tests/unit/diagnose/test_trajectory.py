import numpy as np
import pytest
import torch
from torch import nn

from stratascope.diagnose import landscape, trajectory_directions
from stratascope.diagnose._directions import dot
from stratascope.errors import DataError


def copy_state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def training():
    """A small network, what it was at each step, and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(64, 3)
    y = x.prod(1, keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    states = [copy_state(model)]
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        states.append(copy_state(model))
    return model, states, [(x, y)]


def flatten(state):
    return torch.cat([value.flatten() for value in state.values()]).double().numpy()


def test_the_components_are_those_of_a_singular_value_decomposition(training):
    model, states, _ = training
    found = trajectory_directions(model, states)
    moves = np.stack([flatten(state) - flatten(states[-1]) for state in states[:-1]])
    _, strengths, rows = np.linalg.svd(moves, full_matrices=False)

    assert found.explained == pytest.approx((strengths**2 / (strengths**2).sum())[:2], rel=1e-5)
    for k, vector in enumerate(found.vectors):
        assert abs(flatten(vector) @ rows[k]) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(
        np.abs(found.path[:-1]), np.abs(moves @ rows[:2].T), rtol=1e-3, atol=1e-5
    )


def test_the_vectors_are_orthogonal_units_and_the_path_ends_at_zero(training):
    model, states, _ = training
    found = trajectory_directions(model, states)

    assert [dot(vector, vector) for vector in found.vectors] == pytest.approx([1, 1], rel=1e-5)
    assert found.cosine() == pytest.approx(0, abs=1e-5)
    assert found.path[-1].tolist() == [0, 0]


def test_the_landscape_has_the_loss_of_a_state_that_lies_in_the_plane(training):
    model, states, data = training
    plane = trajectory_directions(model, [states[0], states[5], states[-1]])
    a, b = plane.path[0]
    metrics = {"mse": nn.functional.mse_loss}
    span = ((a, a + 1), (b, b + 1))
    found = landscape(model, metrics, data, directions=plane, steps=2, span=span, progress=False)
    model.load_state_dict(states[0])
    with torch.no_grad():
        expected = float(nn.functional.mse_loss(model(data[0][0]), data[0][1]))

    assert found["mse"][0, 0] == pytest.approx(expected, rel=1e-4)
    assert sum(plane.explained) == pytest.approx(1)


def test_the_path_is_drawn(training):
    model, states, data = training
    plane = trajectory_directions(model, states)
    metrics = {"mse": nn.functional.mse_loss}
    found = landscape(model, metrics, data, directions=plane, steps=3, progress=False)
    panel = found.plot().axes[0]

    np.testing.assert_array_equal(panel.lines[0].get_xydata(), plane.path)
    assert panel.get_xlabel().endswith("% of variance)")


def test_states_that_share_the_tensors_of_their_model_are_refused(training):
    model, *_ = training

    with pytest.raises(DataError, match=r"must differ in 2 directions, and do not: give copies"):
        trajectory_directions(model, [model.state_dict() for _ in range(4)])


def test_too_few_states_are_refused(training):
    model, states, _ = training

    with pytest.raises(DataError, match=r"states must be more than the 2 directions .* got 2"):
        trajectory_directions(model, states[:2])
    with pytest.raises(ValueError, match="count must be 1 for a line or 2 for a plane, got 0"):
        trajectory_directions(model, states, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.bias"), "state 1 must hold every parameter .* lacks '0.bias'"),
        (
            lambda state: state.update({"0.bias": torch.zeros(3)}),
            r"state 1 must be of this architecture, got \(3,\) for '0.bias', which is \(8,\)",
        ),
    ],
)
def test_states_of_another_architecture_are_refused(training, change, message):
    model, states, _ = training
    wrong = dict(states[1])
    change(wrong)

    with pytest.raises(DataError, match=message):
        trajectory_directions(model, [states[0], wrong, states[2]])
