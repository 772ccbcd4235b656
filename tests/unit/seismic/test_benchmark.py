import json

import numpy as np
import pytest
from scipy import stats

from shots import write_pair
from stratascope.errors import DataError
from stratascope.seismic import OpenFWI, Recipe, benchmark
from stratascope.seismic._benchmark import find_interval
from stratascope.seismic._metrics import METRICS
from stratascope.seismic._report import write_report
from stratascope.seismic._weights import NETWORKS

BUDGET = {"recipe": Recipe(epochs=2, batch_size=4, seed=3), "seeds": 2, "base_channels": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A few samples to train and to test on."""
    folder = tmp_path_factory.mktemp("data") / "CurveFault_A"
    write_pair(folder, "2_1_0", samples=10)
    write_pair(folder, "2_1_32", samples=3, seed=1)
    return folder


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    return benchmark(folder, to=tmp_path_factory.mktemp("out"), **BUDGET)


@pytest.mark.parametrize("count", [2, 3, 10, 11, 40])
def test_the_interval_is_that_of_students_t(count):
    values = np.random.default_rng(count).normal(5, 2, count)

    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    interval = find_interval(values.tolist())

    assert interval.mean == pytest.approx(values.mean())
    assert interval.half_width == pytest.approx((high - low) / 2, rel=2e-3)


def test_both_networks_are_trained_alike_with_each_seed(found):
    assert [(run.network, run.seed) for run in found.runs] == [
        (network, seed) for seed in (3, 4) for network in NETWORKS
    ]
    # A tenth of ten samples is for validation, and eight of the others make two batches.
    assert {(run.steps, run.ended, len(run.history)) for run in found.runs} == {(4, "epochs", 2)}
    assert found.settings["training_samples"] == 9
    assert len({run.metrics["mae"] for run in found.runs}) == 4


def test_a_seed_gives_the_same_again(found, folder, tmp_path):
    again = benchmark(folder, to=tmp_path, **BUDGET)

    assert [run.metrics for run in again.runs] == [run.metrics for run in found.runs]


def test_the_means_are_of_the_maps_that_are_learnt_from(found, folder):
    learn = np.load(folder / "vel2_1_0.npy")[:9]  # the tenth is held out
    true = np.load(folder / "vel2_1_32.npy")
    mean = learn.mean(0)

    for name, guess in (
        ("mean map", mean),
        ("mean by depth", np.broadcast_to(mean.mean(-1, keepdims=True), mean.shape)),
    ):
        assert found.baselines[name]["mae_m_s"] == pytest.approx(np.abs(guess - true).mean())


def test_the_difference_is_taken_seed_by_seed(found):
    by_seed = [
        next(r for r in found.of("ReconstructionNet") if r.seed == seed).metrics["ssim"]
        - next(r for r in found.of("InversionNet") if r.seed == seed).metrics["ssim"]
        for seed in (3, 4)
    ]

    assert found.difference("ssim") == find_interval(by_seed)


def test_what_is_done_is_not_done_again(found, folder):
    before = {path: path.stat().st_mtime_ns for path in found.folder.glob("runs/*/*")}

    again = benchmark(folder, to=found.folder, **BUDGET)

    assert again == found
    assert {path: path.stat().st_mtime_ns for path in found.folder.glob("runs/*/*")} == before


def test_another_budget_does_not_go_into_the_same_folder(found, folder):
    with pytest.raises(DataError, match=r"holds a benchmark with base_channels 1, and .* got 2"):
        benchmark(folder, to=found.folder, **{**BUDGET, "base_channels": 2})
    with pytest.raises(ValueError, match="seeds must be at least 2, for an interval, got 1"):
        benchmark(folder, to=found.folder, seeds=1)


def test_the_report_says_what_it_shows_and_keeps_the_published_apart(found, folder):
    page = write_report(found, OpenFWI(folder, split="test"))
    text, kept = page.read_text(), json.loads(page.with_suffix(".json").read_text())

    first = text.split("\n\n")[1]
    assert first.startswith("9 samples of CurveFault_A, 2 epochs, 2 seeds")
    assert "cannot show" in first
    assert "batches of 4, a weight decay of 0.0001 and a learning rate of 0.0001" in text
    assert "The loss is 1 x MAE + 0 x MSE. Validation samples: 1." in text
    ours, published = text.index("## Test samples"), text.index("## Published figures")
    for network in NETWORKS:
        interval = found.interval(network, "mae")
        assert f"| {network} | {interval} |" in text[ours:published]
        assert kept["intervals"][network]["mae"]["mean"] == interval.mean
    assert "0.0260" not in text[ours:published]
    assert "| InversionNet, L1 loss, OpenFWI | 0.0260 | 0.0650 | 0.9566 | 39.0 |" in text
    assert "Not measured here" in text[published:]
    assert all((page.parent / name).exists() and f"({name})" in text for name in kept["pictures"])
    assert set(kept["differences"]) == set(METRICS)


def test_hours_are_projected_from_the_seconds_of_a_step(found):
    runs = found.of("InversionNet")

    seconds = found.seconds_per_sample("InversionNet")

    assert seconds == pytest.approx(sum(run.seconds for run in runs) / (4 * 4 * len(runs)))
