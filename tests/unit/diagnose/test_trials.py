"""Runs under watch: what is counted, how they end, what is refused, and what is kept."""

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import trainings
from stratascope.diagnose import lr_sweep, optimizer, take_step
from stratascope.diagnose._trial import Rules, Trial, run_trial
from stratascope.errors import DataError, StoreError


def run(make_run, lr=0.1, maximize=(), explosion=10.0, **settings):
    return run_trial(make_run, Trial(lr, 0, settings), Rules(explosion, tuple(maximize)))


def test_steps_are_counted_and_evaluation_takes_no_time(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))

    result = run(trainings.fit)

    assert result.steps == [0, 3, 6, 9]
    # From one look at the clock when training goes on, to the third step after it.
    assert result.seconds == [0.0, 3.0, 6.0, 9.0]


def test_what_the_optimizer_keeps_is_counted():
    sgd, adam = run(trainings.fit, name="sgd"), run(trainings.fit, name="adamw")
    floats = 4 * (4 * 9 + 4 + 4 + 4 + 64 + 1)

    assert sgd.parameter_bytes == adam.parameter_bytes == floats
    assert sgd.state_bytes == floats
    assert 2 * floats <= adam.state_bytes < 2.2 * floats


def test_state_in_lists_and_objects_is_counted():
    floats = 4 * (4 * 9 + 4 + 4 + 4 + 64 + 1)

    assert run(trainings.fit, name="soap").state_bytes > 2 * floats + 2 * 4 * 64 * 64
    assert run(trainings.fit, name="shampoo").state_bytes > floats + 2 * 4 * 64 * 64
    assert run(trainings.fit, name="lbfgs", max_iter=2).state_bytes > 2 * floats


def test_values_of_tensors_and_arrays_become_numbers():
    def make_run(lr, seed):
        yield {"a": torch.tensor([0.5]), "b": np.float32(2), "c": 3}

    assert run(make_run).rows == [{"a": 0.5, "b": 2.0, "c": 3.0}]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_whose_metric_is_no_number_has_diverged_and_is_stopped(bad):
    def make_run(lr, seed):
        yield {"loss": 1.0, "mae": 1.0}
        yield {"loss": 1.0, "mae": bad}
        raise AssertionError

    result = run(make_run)

    assert (result.outcome, result.message) == ("diverged", f"mae was {bad} after 0 steps")
    assert len(result.rows) == 2


@pytest.mark.parametrize(
    ("start", "later", "maximize", "outcome"),
    [
        (2.0, 21.9, (), "finished"),
        (2.0, 22.1, (), "diverged"),
        (-2.0, 18.1, (), "diverged"),
        (2.0, -18.1, ("score",), "diverged"),
        (2.0, 99.0, ("score",), "finished"),
    ],
)
def test_a_run_diverges_where_its_first_metric_explodes(start, later, maximize, outcome):
    def make_run(lr, seed):
        yield {"score": start, "other": 1.0}
        yield {"score": later, "other": 1e9}

    assert run(make_run, maximize=maximize).outcome == outcome


def test_a_run_that_raises_has_crashed_and_keeps_its_rows():
    def make_run(lr, seed):
        yield {"loss": 1.0}
        raise MemoryError("no room\nat all")

    result = run(make_run)

    assert (result.outcome, result.message) == ("crashed", "MemoryError: no room")
    assert result.rows == [{"loss": 1.0}]


def test_a_run_that_exits_has_crashed():
    def make_run(lr, seed):
        raise SystemExit(3)
        yield

    assert run(make_run).message == "SystemExit: 3"


def yields(*rows):
    def make_run(lr, seed):
        yield from rows

    return make_run


def trains_first(lr, seed):
    net = nn.Linear(2, 1)
    take_step(optimizer("sgd", net, lr), lambda: net(torch.ones(1, 2)).square().sum())
    yield {"loss": 1.0}


@pytest.mark.parametrize(
    ("make_run", "sentence"),
    [
        (yields(), "must yield its metrics, once before the first step .* and yielded nothing"),
        (lambda lr, seed: {"loss": 1.0}, r"lr=0.1, seed=0\) must yield .*, got dict: use yield"),
        (lambda lr, seed: None, "must yield the metrics of each epoch, got NoneType"),
        (yields(0.5), r"must yield metrics by name, such as {'loss': 0.5}, got 0.5"),
        (yields({}), "must yield metrics by name"),
        (yields({"a": torch.ones(2)}), r"the metric 'a' must be one number, got shape \(2,\)"),
        (yields({"a": "low"}), "the metric 'a' must be one number, got 'low'"),
        (yields({"a": 1}, {"b": 1}), "the same metrics each time, got b after a"),
        (yields({"a": math.nan}), r"'a' of make_run\(.*\) must be a number before .*, got nan"),
        (trains_first, "must yield its metrics once before its first step, got the first after 1"),
    ],
)
def test_a_run_that_does_not_keep_to_the_contract_is_refused(make_run, sentence):
    with pytest.raises(DataError, match=sentence):
        run(make_run)


def test_a_metric_to_maximize_must_be_one():
    with pytest.raises(DataError, match=r"which are ssim, mae, got 'sim'. Did you mean 'ssim'\?"):
        run(yields({"ssim": 1, "mae": 1}), maximize=["sim"])


def test_an_unknown_optimizer_ends_the_sweep_at_once():
    with pytest.raises(DataError, match=r"got 'adamv': .* Did you mean 'adamw'\?"):
        lr_sweep(trainings.fit, [0.1], settings={"name": "adamv"})


def test_random_numbers_of_the_program_go_on_as_if_nothing_had_run():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)

    lr_sweep(trainings.fit, [0.1])

    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def count(path):
    return len((path / "runs.jsonl").read_text().splitlines()) - 1


def test_a_folder_goes_on_where_it_was_left(tmp_path):
    first = lr_sweep(trainings.fall, [0.01, 0.1], seeds=[0, 1], to=tmp_path)
    text = (tmp_path / "runs.jsonl").read_text()
    # As if killed while the third run was being written.
    (tmp_path / "runs.jsonl").write_text("".join(text.splitlines(True)[:3]) + '{"trial": {"l')

    again = lr_sweep(trainings.fall, [0.01, 0.1], seeds=[0, 1], to=tmp_path, resume=True)

    np.testing.assert_array_equal(again.values, first.values)
    assert count(tmp_path) == 4
    assert all(json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines())


def test_a_wider_grid_runs_only_what_is_new(tmp_path):
    lr_sweep(trainings.fall, [0.01, 0.1], to=tmp_path)

    sweep = lr_sweep(trainings.fall, [0.001, 0.01, 0.1, 1.0], to=tmp_path, resume=True)

    assert sweep.rates.tolist() == [0.001, 0.01, 0.1, 1.0]
    assert count(tmp_path) == 4


def test_what_crashed_is_run_again(tmp_path):
    calls = []

    def make_run(lr, seed):
        yield {"loss": 1.0}
        calls.append(lr)
        if len(calls) == 1:
            raise OSError("the disk is full")

    assert lr_sweep(make_run, [0.1], to=tmp_path).outcomes.tolist() == [["crashed"]]
    again = lr_sweep(make_run, [0.1], to=tmp_path, resume=True)
    assert again.outcomes.tolist() == [["finished"]]


def test_a_folder_with_runs_is_not_written_over(tmp_path):
    lr_sweep(trainings.fall, [0.1], to=tmp_path)

    with pytest.raises(StoreError, match="holds runs already: go on with them with resume=True"):
        lr_sweep(trainings.fall, [0.1], to=tmp_path)


@pytest.mark.parametrize("change", [{"make_run": trainings.fit}, {"explosion": 3.0}])
def test_a_folder_takes_no_runs_of_another_kind(tmp_path, change):
    lr_sweep(trainings.fall, [0.1], to=tmp_path)
    given = {"make_run": trainings.fall, **change}

    with pytest.raises(StoreError, match="of another make_run, or judged by other rules"):
        lr_sweep(given.pop("make_run"), [0.1], to=tmp_path, resume=True, **given)


def test_settings_that_json_cannot_hold_are_refused_in_a_folder(tmp_path):
    with pytest.raises(DataError, match="must be numbers and text, to be kept in a folder"):
        lr_sweep(trainings.fit, [0.1], settings={"name": nn.ReLU()}, to=tmp_path)


@pytest.mark.usefixtures("quick_workers")
def test_other_processes_do_the_same_and_outlive_what_one_does():
    here = lr_sweep(trainings.stumble, [0.01, 0.1])

    there = lr_sweep(trainings.stumble, [0.01, 0.1, 1.0], workers=3)

    np.testing.assert_array_equal(there.values[:2], here.values)
    assert there.outcomes.ravel().tolist() == ["finished", "crashed", "crashed"]
    assert there.messages[1, 0] == "RuntimeError: the disk is full"
    assert (
        "its process ended with exit code -9, perhaps because memory ran out"
        in there.messages[2, 0]
    )


def test_memory_is_measured_where_a_run_has_its_own_process():
    here = lr_sweep(trainings.fill, [0.1])
    there = lr_sweep(trainings.fill, [0.1], workers=1)

    assert np.isnan(here.peak_bytes).all()
    assert there.peak_bytes[0, 0] == pytest.approx(64e6, rel=0.5)


def test_what_cannot_go_to_another_process_is_refused():
    with pytest.raises(DataError, match=r"must be a function of a module, .*<lambda>.* move it"):
        lr_sweep(lambda lr, seed: iter([{"a": 1}]), [0.1], workers=2)


def test_workers_must_be_some():
    with pytest.raises(DataError, match="workers must be at least 1, or None, got 0"):
        lr_sweep(trainings.fall, [0.1], workers=0)


def test_a_loss_with_its_graph_is_a_metric_too():
    def make_run(lr, seed):
        yield {"loss": torch.ones(1, requires_grad=True).sum()}

    assert run(make_run).rows == [{"loss": 1.0}]
