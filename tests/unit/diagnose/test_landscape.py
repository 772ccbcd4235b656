"""Landscapes of networks small enough to be worked out by hand."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stratascope.diagnose import (
    Directions,
    Landscape,
    landscape,
    random_directions,
    tradeoffs,
)
from stratascope.diagnose._refine import fill
from stratascope.errors import DataError, StoreError


def mean_square(output, target):
    return nn.functional.mse_loss(output, target)


def mean_absolute(output, target):
    return nn.functional.l1_loss(output, target)


METRICS = {"mse": mean_square, "mae": mean_absolute}


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.ConvTranspose2d(4, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1),
    )  # fmt: skip


@pytest.fixture
def network():
    model = make_network()
    generator = torch.Generator().manual_seed(1)
    # Running statistics that are not those of the fresh layer.
    for _ in range(3):
        model(torch.randn(8, 1, 6, 6, generator=generator))
    return model


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(2)
    return [tuple(torch.randn(n, 1, 6, 6, generator=generator) for _ in "xy") for n in (4, 4, 2)]


@pytest.fixture
def stopping():
    """A metric that counts its calls, and raises at that of the number `limit`."""

    def metric(output, target):
        metric.calls += 1
        if metric.calls == metric.limit:
            raise RuntimeError("stopped")
        return mean_square(output, target)

    metric.calls = metric.limit = 0
    return metric


def measure(model, batches, **settings):
    settings = {"steps": 3, "progress": False, **settings}
    return landscape(model, settings.pop("metrics", METRICS), batches, **settings)


def quadratic():
    """A linear network whose mean square error is a known paraboloid of its two weights."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([[0.5], [1.0], [-1.0]], dtype=torch.float64)
    return model, x, y


def unit_directions():
    vectors = [
        {"weight": torch.tensor([row], dtype=torch.float64)} for row in ([1.0, 0.0], [0.0, 1.0])
    ]
    return Directions(tuple(vectors), ("w1", "w2"), ((-1.0, 1.0), (-2.0, 2.0)), method="by hand")


def test_the_surface_of_a_quadratic_network_is_exact():
    model, x, y = quadratic()
    found = measure(model, [(x, y)], directions=unit_directions(), steps=(5, 7))

    across, up = np.meshgrid(*found.axes, indexing="ij")
    residuals = [
        (1 + across) * a + (-2 + up) * b - t
        for (a, b), t in zip(x.tolist(), y.flatten().tolist(), strict=True)
    ]
    assert found["mse"].shape == (5, 7)
    np.testing.assert_allclose(found["mse"], np.mean(np.square(residuals), axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["mae"], np.mean(np.abs(residuals), axis=0), rtol=1e-12)
    assert found.axes[1].tolist() == np.linspace(-2, 2, 7).tolist()


def test_a_line_is_a_row_of_the_surface():
    model, x, y = quadratic()
    plane = unit_directions()
    line = Directions(plane.vectors[:1], plane.labels[:1], plane.ranges[:1], method="by hand")
    surface = measure(model, [(x, y)], directions=plane, steps=5)

    np.testing.assert_array_equal(
        measure(model, [(x, y)], directions=line, steps=5)["mse"], surface["mse"][:, 2]
    )


def evaluate_by_hand(model, batches, directions, point):
    moved = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, value in moved.named_parameters():
            for weight, vector in zip(point, directions.vectors, strict=True):
                value += weight * vector[name]
        outputs = [(moved(x), y) for x, y in batches]
    samples = sum(len(y) for _, y in outputs)
    return {
        name: sum(float(metric(output, y)) * len(y) for output, y in outputs) / samples
        for name, metric in METRICS.items()
    }


@pytest.mark.parametrize("fast", [True, False])
def test_every_point_is_what_a_forward_of_the_moved_network_gives(network, batches, fast):
    directions = random_directions(network, seed=3)
    found = measure(network, batches, directions=directions, fast=fast)

    assert found.settings["folded"] == 2 * fast
    assert not found.notes
    for i, a in enumerate(found.axes[0]):
        for k, b in enumerate(found.axes[1]):
            expected = evaluate_by_hand(network, batches, directions, (a, b))
            for name in METRICS:
                assert found[name][i, k] == pytest.approx(expected[name], rel=1e-5)


def test_the_centre_is_the_model_as_it_is(network, batches):
    found = measure(network, batches)

    assert found["mse"][1, 1] == pytest.approx(found.centre["mse"][0], rel=1e-5)
    assert found.errors["mse"][1, 1] == pytest.approx(found.centre["mse"][1], rel=1e-4)


def test_the_standard_error_is_that_of_the_mean_over_batches(network, batches):
    equal = [batches[0], batches[1]]
    found = measure(network, equal)
    network.eval()
    with torch.no_grad():
        each = [float(mean_square(network(x), y)) for x, y in equal]

    assert found.centre["mse"][1] == pytest.approx(np.std(each, ddof=1) / np.sqrt(2), rel=1e-5)


def test_one_batch_has_no_standard_error_and_that_is_said(network, batches):
    found = measure(network, batches[:1])

    assert np.isnan(found.errors["mse"]).all()
    assert found.notes == (
        "one batch: there is no standard error, and another batch may look different",
    )


def test_two_runs_with_one_seed_are_the_same_and_another_seed_is_not(network, batches):
    first, again, other = (measure(network, batches, seed=seed) for seed in (5, 5, 6))

    np.testing.assert_array_equal(first["mse"], again["mse"])
    assert not np.array_equal(first["mse"], other["mse"])


class Noisy(nn.Module):
    """A network that draws random numbers in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x + torch.randn_like(x))


def test_what_a_model_draws_by_itself_is_the_same_at_each_point():
    data = [(torch.ones(4, 3), torch.zeros(4, 1))]
    flat = Directions(
        ({"layer.weight": torch.zeros(1, 3), "layer.bias": torch.zeros(1)},), ("nowhere",),
        ((-1.0, 1.0),), method="by hand",
    )  # fmt: skip
    found = measure(Noisy(), data, directions=flat, steps=5)

    assert len(set(found["mse"])) == 1


def describe(model):
    """All that a diagnostic must leave alone."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "identities": [id(value) for value in (*model.parameters(), *model.buffers())],
        "versions": [value._version for value in (*model.parameters(), *model.buffers())],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "needs": [value.requires_grad for value in model.parameters()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "random": (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()),
    }


def assert_same(before, after):
    for key in ("identities", "versions", "training", "needs", "hooks"):
        assert before[key] == after[key], key
    for name, value in before["state"].items():
        assert torch.equal(value, after["state"][name]), name
    for one, other in zip(before["grads"], after["grads"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert torch.equal(before["random"][0], after["random"][0])
    assert np.array_equal(before["random"][1], after["random"][1])
    assert before["random"][2] == after["random"][2]


@pytest.mark.parametrize("batchnorm", ["frozen", "batch", "recalibrated"])
def test_the_model_is_left_as_it_was(network, batches, batchnorm):
    network.train()
    network[1].eval()
    mean_square(network(batches[0][0]), batches[0][1]).backward()
    network[2].register_forward_hook(lambda *_: None)
    before = describe(network)
    measure(network, batches, batchnorm=batchnorm)

    assert_same(before, describe(network))


def test_the_model_is_left_as_it_was_when_a_metric_fails(network, batches):
    calls = []

    def fails_later(output, target):
        calls.append(None)
        if len(calls) > 10:
            raise RuntimeError("broken metric")
        return mean_square(output, target)

    before = describe(network)
    with pytest.raises(RuntimeError, match="broken metric"):
        measure(network, batches, metrics={"mse": fails_later})

    assert_same(before, describe(network))


def test_statistics_are_the_models_own_at_every_point_when_frozen(network, batches):
    reverse = measure(network, batches, span=(1.0, 0.5))["mse"][::-1, ::-1]

    # A point has the same value wherever the grid comes from.
    np.testing.assert_allclose(
        measure(network, batches, span=(1.0, 0.5))["mse"], reverse[::-1, ::-1], rtol=0
    )
    twice = measure(network, [*batches, *batches])
    np.testing.assert_allclose(twice["mse"], measure(network, batches)["mse"], rtol=1e-6)


def test_recalibrated_statistics_are_those_of_the_batches_at_the_point(network, batches):
    batches = batches[:2]
    directions = random_directions(network, 1)
    found = measure(network, batches, directions=directions, batchnorm="recalibrated")
    moved = copy.deepcopy(network).eval()
    with torch.no_grad():
        for name, value in moved.named_parameters():
            value += directions.vectors[0][name]
        maps = [moved[0](x) for x, _ in batches]
        moved[1].running_mean.copy_(torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
        moved[1].running_var.copy_(torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
        # Its input while statistics are gathered is normalised by those of the batch.
        moved[1].train()
        moved[1].momentum = 0.0
        maps = [moved[:5](x) for x, _ in batches]
        moved[1].eval()
        moved[5].running_mean.copy_(torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
        moved[5].running_var.copy_(torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
        expected = np.mean([float(mean_square(moved(x), y)) for x, y in batches])

    assert found["mse"][2] == pytest.approx(expected, rel=1e-5)


def test_batch_statistics_are_those_of_each_batch(network, batches):
    directions = random_directions(network, 1)
    found = measure(network, batches, directions=directions, batchnorm="batch")
    moved = copy.deepcopy(network).eval()
    moved[1].train()
    moved[5].train()
    with torch.no_grad():
        for name, value in moved.named_parameters():
            value += directions.vectors[0][name]
        each = [float(mean_square(moved(x), y)) * len(x) for x, y in batches]

    assert found["mse"][2] == pytest.approx(sum(each) / 10, rel=1e-5)


def test_dropout_is_off(network, batches):
    network.train()

    assert np.array_equal(measure(network, batches)["mse"], measure(network.eval(), batches)["mse"])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def test_tied_weights_are_moved_once_and_stay_tied():
    model, x = Tied(), torch.randn(5, 3)
    directions = random_directions(model, 1)
    found = measure(model, [(x, torch.zeros(5, 3))], directions=directions)
    weight = (model.first.weight + directions.vectors[0]["first.weight"]).detach()

    assert list(directions.vectors[0]) == ["first.weight"]
    assert found["mse"][2] == pytest.approx(float((x @ weight.T @ weight.T).square().mean()))


def test_frozen_parameters_stay():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    directions = random_directions(model, 1)

    assert set(directions.vectors[0]) == {"1.weight", "1.bias"}
    assert measure(model, [(torch.ones(2, 2), torch.ones(2, 1))], directions=directions)[
        "mse"
    ].shape == (3,)


def test_parameters_in_half_precision_are_moved_in_float32_and_rounded_once():
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False).bfloat16()
    directions = random_directions(model, 1)
    x = torch.randn(3, 4).bfloat16()
    found = measure(model, [(x, torch.zeros(3, 1).bfloat16())], directions=directions, span=0.01)
    moved = model.weight.float() + 0.01 * directions.vectors[0]["weight"]

    assert directions.vectors[0]["weight"].dtype == torch.float32
    with torch.no_grad():
        expected = float(nn.functional.linear(x, moved.bfloat16()).square().mean())
    assert found["mse"][2] == pytest.approx(expected, rel=1e-2)
    assert (
        "parameters are bfloat16: each is rounded at every point, by up to 0.0039"
        in found.notes[-1]
    )


def logarithm(output, target):
    return output.mean().log()


def test_what_is_nan_stays_nan_and_is_said():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    found = measure(
        model, [(torch.ones(2, 1), torch.ones(2, 1))], metrics={"log": logarithm},
        directions=random_directions(model, 1), steps=5, span=4.0,
    )  # fmt: skip

    assert found["log"][2:].tolist() == pytest.approx([0.0, np.log(3), np.log(5)])
    assert found.notes[-1] == "log is not finite at 2 of 5 points"
    assert found.highest("log")[1] == pytest.approx(np.log(5))


class RootMeanSquare:
    """What torchmetrics' metrics are: it gathers over batches."""

    def reset(self):
        self.total, self.count = 0.0, 0

    def update(self, output, target):
        self.total += float((output - target).square().sum())
        self.count += target.numel()

    def compute(self):
        return (self.total / self.count) ** 0.5

    def __call__(self, output, target):
        self.update(output, target)
        return (output - target).square().mean().sqrt()


def test_a_metric_that_gathers_is_computed_over_all_batches(network, batches):
    metric = RootMeanSquare()
    found = measure(network, batches, metrics={"rmse": metric, **METRICS})

    np.testing.assert_allclose(found["rmse"], np.sqrt(found["mse"]), rtol=1e-5)
    assert not hasattr(metric, "total")


@pytest.mark.usefixtures("quick_workers")
def test_rows_in_other_processes_give_the_same(network, batches):
    metrics = {"mse": nn.functional.mse_loss, "mae": nn.functional.l1_loss}
    alone, shared = (measure(network, batches, metrics=metrics, workers=n) for n in (1, 2))

    for name in metrics:
        np.testing.assert_allclose(alone[name], shared[name], rtol=1e-6)


@pytest.mark.usefixtures("quick_workers")
def test_a_metric_that_another_process_cannot_import_is_refused(network, batches):
    with pytest.raises(DataError, match=r"must be importable in other .* No module named"):
        measure(network, batches, workers=2)


def test_what_cannot_go_to_another_process_is_refused(network, batches):
    metrics = {"mse": lambda output, target: mean_square(output, target)}

    with pytest.raises(DataError, match=r"must be picklable .* leave out workers"):
        measure(network, batches, metrics=metrics, workers=2)


def test_a_stopped_run_goes_on_where_it_was(network, batches, stopping, tmp_path):
    to = tmp_path / "found.zarr"
    # One look at the model and two rows of three points, with three batches each.
    stopping.limit = 3 + 18 + 1
    with pytest.raises(RuntimeError, match="stopped"):
        measure(network, batches, metrics={"mse": stopping}, to=to)
    with pytest.raises(StoreError, match="has 2 of 3 rows"):
        Landscape.load(to)
    stopping.calls = stopping.limit = 0
    found = measure(network, batches, metrics={"mse": stopping}, to=to, resume=True)

    assert stopping.calls == 3 + 9
    np.testing.assert_array_equal(found["mse"], measure(network, batches)["mse"])
    np.testing.assert_array_equal(Landscape.load(to)["mse"], found["mse"])


def test_a_run_goes_on_only_with_the_same_model_and_data(network, batches, tmp_path):
    to = tmp_path / "found.zarr"
    measure(network, batches, to=to)
    with pytest.raises(StoreError, match="a landscape can go on with the model, data and settings"):
        measure(network, [(x + 1, y) for x, y in batches], to=to, resume=True)
    with pytest.raises(StoreError, match="the place of a landscape must be free"):
        measure(network, batches, to=to)

    assert measure(network, batches, to=to, resume=True)["mse"].shape == (3, 3)


def test_a_refined_run_that_was_stopped_goes_on_with_the_same_points(
    network, batches, stopping, tmp_path
):
    metrics = {"mse": stopping}
    whole = measure(network, batches, metrics=metrics, refine=2)
    total, to = stopping.calls, tmp_path / "found.zarr"
    # The second time in the last round.
    for stopped in (50, total - 50):
        stopping.calls, stopping.limit = 0, stopped
        with pytest.raises(RuntimeError, match="stopped"):
            measure(network, batches, metrics=metrics, refine=2, to=to, resume=True)
        stopping.limit = 0
    with pytest.raises(StoreError, match=r"has \d+ points of one that is refined: run the same"):
        Landscape.load(to)
    with pytest.raises(StoreError, match="had others"):
        measure(network, batches, metrics=metrics, steps=9, to=to, resume=True)
    found = measure(network, batches, metrics=metrics, refine=2, to=to, resume=True)

    for one in (found, Landscape.load(to)):
        np.testing.assert_array_equal(one["mse"], whole["mse"])
        np.testing.assert_array_equal(one.errors["mse"], whole.errors["mse"])
        np.testing.assert_array_equal(one.rounds, whole.rounds)
    assert not np.isnan(found.errors["mse"][found.rounds >= 0]).any()
    found.save(tmp_path / "again.zarr")
    assert Landscape.load(tmp_path / "again.zarr").table() == whole.table()


@pytest.mark.usefixtures("quick_workers")
def test_a_refined_grid_in_other_processes_is_the_same(network, batches):
    metrics = {"mse": nn.functional.mse_loss}
    line = random_directions(network, 1)
    alone, shared = (
        measure(network, batches, metrics=metrics, directions=line, refine=3, workers=n)
        for n in (1, 2)
    )

    np.testing.assert_array_equal(alone.rounds, shared.rounds)
    np.testing.assert_allclose(alone["mse"], shared["mse"], rtol=1e-6)
    assert alone["mse"].shape == (17,)
    assert (alone.rounds == 0).nonzero()[0].tolist() == [0, 8, 16]


def test_points_between_those_of_a_refined_grid_are_interpolated_and_nan_stays():
    across, up = np.meshgrid(np.arange(9.0), np.arange(5.0), indexing="ij")
    plane = 3 * across - 2 * up + 1
    rounds = np.full(plane.shape, -1, dtype=np.int8)
    rounds[::4, ::4] = 0
    rounds[:5:2, ::2] = np.where(rounds[:5:2, ::2] < 0, 1, 0)
    measured = np.where(rounds >= 0, plane, np.nan)
    np.testing.assert_allclose(fill(measured, rounds), plane)
    measured[2, 2] = np.nan

    assert np.argwhere(np.isnan(fill(measured, rounds))).tolist() == [
        [a, b] for a in (1, 2, 3) for b in (1, 2, 3)
    ]


def test_what_was_not_measured_is_no_nan_of_a_metric(tmp_path):
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    data = [(torch.eye(2), torch.zeros(2, 1))]
    metrics = {"log": lambda output, _: output.sum().log(), "mse": mean_square}
    directions = Directions(
        tuple({"weight": row[None]} for row in torch.eye(2)), ("a", "b"), ((-2.0, 2.0),) * 2, "hand"
    )
    found = measure(model, data, metrics=metrics, directions=directions, steps=5, refine=1)
    holes = ~np.isfinite(found["log"]) & (found.rounds >= 0)
    missing = holes.sum()

    assert found.table().splitlines()[1].split()[-1] == str(np.isnan(found["log"][holes]).sum())
    assert found.notes[-2:] == (
        f"log is not finite at {missing} of {(found.rounds >= 0).sum()} points",
        f"refined: {(found.rounds >= 0).sum()} of 81 points are measured, the others NaN",
    )
    assert repr(found).startswith(f"Landscape({(found.rounds >= 0).sum()} of 9×9 points")
    related = tradeoffs(found)
    even = replace(
        found, values={name: grid[::2, ::2] for name, grid in found.values.items()},
        axes=tuple(axis[::2] for axis in found.axes), rounds=None,
    )  # fmt: skip
    assert len(related.points) == (found.rounds >= 0).sum() - missing
    assert related.points[related.best[1], 1] == found["mse"][(found.rounds >= 0) & ~holes].min()
    np.testing.assert_array_equal(related.agreement, tradeoffs(even).agreement)


def test_a_refined_surface_and_line_are_drawn(network, batches, tmp_path):
    surface = measure(network, batches, refine=2)
    line = measure(network, batches, directions=random_directions(network, 1), refine=2)
    panel = surface.plot(to=tmp_path / "found.png").axes[0]
    dots = next(one for one in panel.lines if len(one.get_xdata()) > 1)

    assert not np.ma.is_masked(panel.collections[0].get_array())
    assert len(dots.get_xdata()) == (surface.rounds > 0).sum()
    drawn = line.plot(log=True).axes[0].lines[0]
    np.testing.assert_array_equal(drawn.get_xdata(), line.axes[0][line.rounds >= 0])
    np.testing.assert_array_equal(drawn.get_ydata(), np.log10(line["mse"][line.rounds >= 0]))


def test_a_landscape_comes_back_as_it_was_saved(network, batches, tmp_path):
    found = measure(network, batches)
    found.save(tmp_path / "found.zarr")
    again = Landscape.load(tmp_path / "found.zarr")

    for name in METRICS:
        np.testing.assert_array_equal(again[name], found[name])
        np.testing.assert_array_equal(again.errors[name], found.errors[name])
    assert again.centre == found.centre
    assert again.labels == found.labels
    assert again.settings == found.settings


def test_it_is_drawn_and_its_table_has_each_metric(network, batches, tmp_path):
    found = measure(network, batches)
    figure = found.plot(to=tmp_path / "found.png")

    assert (tmp_path / "found.png").stat().st_size > 5000
    assert [panel.get_title() for panel in figure.axes[:2]] == ["mse", "mae"]
    assert found.table().splitlines()[1].startswith(f"mse     {found.centre['mse'][0]:.4g}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchnorm": "forzen"}, "batchnorm must be one of .*got 'forzen'. Did you mean 'frozen'"),
        ({"steps": 1}, "steps must be a number from 2 upwards, or one for each of 2 axes, got 1"),
        ({"steps": (3, 3, 3)}, "one for each of 2 axes"),
        ({"span": (1.0, -1.0)}, "span must be a positive number"),
        ({"span": -1.0}, "span must be a positive number"),
        ({"refine": 6}, "refine must be from 0 to 5 rounds, got 6: give a smaller span to look"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"metrics": {}}, "metrics must be functions by name"),
        ({"metrics": mean_square}, "metrics must be functions by name"),
    ],
)
def test_arguments_out_of_range_are_refused(network, batches, changes, message):
    with pytest.raises(ValueError, match=message):
        measure(network, batches, **changes)


def per_sample(output, target):
    return (output - target).square().mean((1, 2, 3))


def not_finite(output, target):
    return output.mean() * float("nan")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (per_sample, r"metric 'm' must give one number .* shape \(4,\): reduce it, as with .mean"),
        (not_finite, "metric 'm' must be finite at the model as it is, got nan"),
        (lambda output, target: None, "must give one number for a batch, got NoneType"),
    ],
)
def test_a_metric_that_gives_no_number_is_refused(network, batches, metric, message):
    with pytest.raises(DataError, match=message):
        measure(network, batches, metrics={"m": metric})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "batches must hold at least one pair of input and target, got none"),
        ([torch.zeros(2, 1, 6, 6)], r"two tensors .* got a tensor of shape \(2, 1, 6, 6\)"),
        ([(torch.zeros(2, 1, 6, 6),)], r"got a tuple of \(2, 1, 6, 6\)"),
        ([(torch.zeros(0, 1, 6, 6), torch.zeros(0, 1, 6, 6))], "that are not empty"),
        ([{"x": 1}], "got dict"),
    ],
)
def test_batches_that_are_no_pairs_are_refused(network, data, message):
    with pytest.raises(DataError, match=message):
        measure(network, data)


def test_a_model_with_nothing_to_move_is_refused(network, batches):
    with pytest.raises(ValueError, match="the model must have trainable parameters, got none"):
        measure(network.requires_grad_(False), batches)
