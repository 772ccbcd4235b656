"""Curvature of networks; its figures are checked against dense ones in tests/reference."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from stratascope.diagnose import Curvature, curvature, hessian_directions, landscape
from stratascope.errors import DataError, StoreError

mse = nn.functional.mse_loss


def bowl():
    """The loss (4 a² + b²) / 2 at a = b = 1: Hessian diag(4, 1)."""
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.ones_(model.weight)
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return model, lambda output, _: output.square().mean(), [(x, torch.zeros(2, 1))]


@pytest.mark.parametrize("trace", ["xtrace", "hutchinson"])
@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_the_figures_of_a_bowl_are_exact(matrix, trace):
    model, loss, data = bowl()
    settings = {"matrix": matrix, "top": 2, "trace": trace, "radius": 0.1, "progress": False}
    found = curvature(model, loss, data, **settings)

    assert found.eigenvalues.tolist() == pytest.approx([4, 1])
    assert found.lowest == pytest.approx(1)
    assert found.trace == pytest.approx(5)
    assert found.trace_error == pytest.approx(0, abs=1e-9)
    assert found.loss == pytest.approx(2.5)
    assert found.gradient_norm == pytest.approx(math.hypot(4, 1))
    # The highest loss at distance 0.1 of (1, 1), by a search over the circle.
    angles = np.linspace(0, 2 * np.pi, 100_000)
    around = 2 * (1 + 0.1 * np.cos(angles)) ** 2 + 0.5 * (1 + 0.1 * np.sin(angles)) ** 2
    assert found.sharpness == pytest.approx(around.max() - 2.5, rel=1e-4)


def test_a_saddle_has_a_negative_eigenvalue():
    model = nn.Linear(2, 1, bias=False)
    x = torch.eye(2)
    weights = torch.tensor([[3.0], [-1.0]])
    found = curvature(
        model, lambda output, y: (output.square() * y).mean(), [(x, weights)], top=1, progress=False
    )

    assert [found.eigenvalues[0], found.lowest] == pytest.approx([3, -1])


def test_batches_of_different_sizes_weigh_by_their_samples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x, y = torch.randn(10, 3), torch.randn(10, 1)
    whole, parts = (
        curvature(model, mse, data, top=2, probes=2, progress=False)
        for data in ([(x, y)], [(x[:7], y[:7]), (x[7:], y[7:])])
    )

    np.testing.assert_allclose(whole.eigenvalues, parts.eigenvalues, rtol=1e-4)
    assert whole.trace == pytest.approx(parts.trace, rel=1e-4)


def test_the_density_has_the_weight_of_one_and_the_mean_of_the_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    data = [(torch.randn(10, 3), torch.randn(10, 1))]
    found = curvature(model, mse, data, probes=4, trace="hutchinson", progress=False)
    places, heights = found.density(4000)

    assert np.trapezoid(heights, places) == pytest.approx(1, rel=1e-3)
    hutchinson = np.trapezoid(heights * places, places) * 21
    assert hutchinson == pytest.approx(found.trace, rel=1e-2)
    assert np.nansum(found.weights, axis=1) == pytest.approx(np.ones(4))


def test_parameters_in_half_precision_are_seen_in_float32():
    torch.manual_seed(0)
    model = nn.Linear(3, 1).bfloat16()
    x = torch.randn(8, 3).bfloat16()
    y = torch.zeros(8, 1).bfloat16()
    half = curvature(model, mse, [(x, y)], top=1, progress=False)
    full = curvature(model.float(), mse, [(x.float(), y.float())], top=1, progress=False)

    assert half.eigenvalues[0] == pytest.approx(full.eigenvalues[0], rel=1e-5)


def test_the_model_and_random_numbers_are_left_as_they_were():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    data = [(torch.randn(10, 3), torch.randn(10, 1))]
    model(data[0][0]).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [value.grad.clone() for value in model.parameters()]
    random = torch.get_rng_state()
    for batchnorm in ("frozen", "batch"):
        curvature(model, mse, data, radius=0.1, batchnorm=batchnorm, progress=False)
    hessian_directions(model, mse, data)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for value, grad in zip(model.parameters(), grads, strict=True):
        assert torch.equal(value.grad, grad)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())


def test_the_axes_of_hessian_directions_are_those_of_the_bowl():
    model, loss, data = bowl()
    nn.init.zeros_(model.weight)
    model.weight.data[0, 0] = 0.1
    found = landscape(
        model, {"loss": loss}, data, directions=hessian_directions(model, loss, data),
        steps=3, span=1.0, progress=False,
    )  # fmt: skip

    assert sorted(found["loss"][:, 1]) == pytest.approx([0.02, 2 * 0.9**2, 2 * 1.1**2])
    assert found["loss"][1].tolist() == pytest.approx([0.52, 0.02, 0.52])
    assert found.labels[0] == "eigenvector 1 of the Hessian (4), L2 distance"


def test_an_axis_goes_to_where_the_quadratic_model_has_five_times_the_loss():
    model, loss, data = bowl()
    low, high = hessian_directions(model, loss, data, count=1).ranges[0]

    assert low == -high
    assert 2.5 + 4 * high**2 / 2 == pytest.approx(5 * 2.5)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_trace_is_exact_where_as_many_probes_as_parameters_fill_the_space(depth):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(9, 3).double(), torch.randn(9, 2).double()
    found = curvature(model, mse, [(x, y)], probes=12, depth=depth, progress=False)

    # Of mean (Wx + b - y)² over 2 outputs: for each, that of x and of 1.
    assert found.trace == pytest.approx(2 * (1 + x.square().sum(1).mean().item()))
    assert found.trace_error < 1e-12
    assert len(found.nodes) == 12
    assert found.settings["trace"] == "xtrace"


def test_too_few_iterations_are_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    data = [(torch.randn(50, 20), torch.randn(50, 1))]
    found = curvature(model, mse, data, top=3, iterations=4, probes=0, progress=False)

    assert "not within the tolerance after 4 products: eigenvalue" in found.notes[0]
    assert math.isnan(found.trace)
    with pytest.raises(ValueError, match="a density needs probes, got none: measure with probes"):
        found.plot()


def test_it_comes_back_as_it_was_saved_and_is_drawn(tmp_path):
    model, loss, data = bowl()
    found = curvature(model, loss, data, top=2, progress=False)
    found.save(tmp_path / "found.zarr")
    again = Curvature.load(tmp_path / "found.zarr")
    figure = found.plot(tmp_path / "found.png")

    assert again.table() == found.table()
    assert math.isnan(again.sharpness)
    np.testing.assert_array_equal(again.nodes, found.nodes)
    assert (tmp_path / "found.png").stat().st_size > 5000
    assert figure.axes[0].get_xlabel() == "eigenvalue of the Hessian"
    with pytest.raises(StoreError, match="the place of a curvature must be free"):
        found.save(tmp_path / "found.zarr")
    with pytest.raises(StoreError, match="must be the folder of a curvature, and is none"):
        Curvature.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": "hesian"}, "matrix must be one of .* got 'hesian'. Did you mean 'hessian'"),
        ({"batchnorm": "recalibrated"}, "batchnorm must be one of 'frozen', 'batch', got 'recal"),
        ({"trace": "xtrac"}, "trace must be one of .* got 'xtrac'. Did you mean 'xtrace'"),
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"probes": -1}, "probes must be 0 or more and radius above 0, got -1"),
        ({"radius": 0.0}, "probes must be 0 or more and radius above 0"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    model, loss, data = bowl()

    with pytest.raises(ValueError, match=message):
        curvature(model, loss, data, **changes)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, y: output, "metric 'loss' must give one number for a batch"),
        (lambda output, y: output.sum().item(), "the loss must be a tensor that can be derived"),
        (lambda output, y: output.detach().sum(), "must depend on the parameters by operations"),
        (lambda output, y: output.sum() * math.nan, "the loss and its gradient must be finite"),
    ],
)
def test_a_loss_that_cannot_be_derived_is_refused(loss, message):
    model, _, data = bowl()

    with pytest.raises(DataError, match=message):
        curvature(model, loss, data, progress=False)


def test_a_loss_without_curvature_has_none():
    model, _, data = bowl()
    for matrix in ("hessian", "gauss_newton"):
        found = curvature(
            model, lambda output, y: output.mean(), data, matrix=matrix, top=1, progress=False
        )

        assert found.eigenvalues.tolist() == [0]
