"""What a sweep says of its runs, checked on values that are given."""

import numpy as np
import pytest

import trainings
from stratascope.diagnose import Sweep, lr_sweep
from stratascope.diagnose._sweep import gather
from stratascope.diagnose._trial import Result
from stratascope.errors import DataError, StoreError


def make_sweep(runs, rates, seeds=(0,), *, maximize=(), outcomes=None):
    """Make a sweep of lists of values of one metric, or of dicts, run by run."""
    results = []
    for number, rows in enumerate(runs):
        rows = [row if isinstance(row, dict) else {"loss": row} for row in rows]
        outcome = (outcomes or {}).get(number, "finished")
        message = "" if outcome == "finished" else "why"
        results.append(Result(outcome, message, rows, list(range(len(rows))), [0.5] * len(rows)))
    return gather(results, list(rates), list(seeds), maximize=tuple(maximize), settings={})


def test_runs_of_several_lengths_are_padded():
    sweep = make_sweep([[4, 3, 2], [4, 9]], [0.1, 1.0], outcomes={1: "diverged"})

    np.testing.assert_array_equal(sweep.values[:, 0, :, 0], [[4, 3, 2], [4, 9, np.nan]])
    np.testing.assert_array_equal(sweep.steps[:, 0], [[0, 1, 2], [0, 1, np.nan]])


def test_final_and_best_values_know_the_direction_and_how_runs_ended():
    ends = {2: "diverged", 3: "crashed"}
    runs = [[4, 1, 2], [4, 3, 2], [4, 3, 99], [4, 3]]
    lower = make_sweep(runs, [1, 2, 3, 4], outcomes=ends)
    higher = make_sweep(runs, [1, 2, 3, 4], maximize=["loss"], outcomes=ends)

    np.testing.assert_array_equal(lower.final("loss")[:, 0], [2, 2, np.inf, np.nan])
    np.testing.assert_array_equal(lower.best("loss")[:, 0], [1, 2, 3, np.nan])
    np.testing.assert_array_equal(higher.final("loss")[:, 0], [2, 2, -np.inf, np.nan])
    np.testing.assert_array_equal(higher.best("loss")[:, 0], [4, 4, 99, np.nan])


def test_the_best_rate_may_be_another_by_the_best_epoch():
    sweep = make_sweep([[4, 3, 2], [4, 1, 3]], [0.1, 1.0])

    assert sweep.best_rate("loss") == 0.1
    assert sweep.best_rate("loss", "best") == 1.0


def test_medians_leave_out_what_crashed_and_count_what_diverged_as_worst():
    runs = [[9, 1], [9, 2], [9, 5]]
    one = make_sweep(runs, [0.1], [0, 1, 2], outcomes={2: "diverged"})
    two = make_sweep(runs, [0.1], [0, 1, 2], outcomes={1: "diverged", 2: "diverged"})
    crashed = make_sweep(runs, [0.1], [0, 1, 2], outcomes={2: "crashed"})

    assert one.median("loss").tolist() == [2.0]
    assert two.median("loss").tolist() == [np.inf]
    assert crashed.median("loss").tolist() == [1.5]


def test_sensitivity_is_the_mean_excess_over_the_best_capped_at_the_start():
    # Wortsman et al. (2023): E[min(L, L0) - L*] over the rates.
    runs = [[10, 8], [10, 4], [10, 2], [10, 30]]
    sweep = make_sweep(runs, [1e-3, 1e-2, 1e-1, 1], outcomes={3: "diverged"})

    assert sweep.sensitivity("loss").tolist() == [(6 + 2 + 0 + 8) / 4]
    assert sweep.sensitivity("loss", relative=True).tolist() == [(6 + 2 + 0 + 8) / 4 / 8]


def test_sensitivity_of_what_is_better_when_larger_is_the_same_turned_round():
    runs = [[-10, -8], [-10, -4], [-10, -2], [-10, -30]]
    sweep = make_sweep(runs, [1e-3, 1e-2, 1e-1, 1], maximize=["loss"])

    assert sweep.sensitivity("loss").tolist() == [4.0]


def test_sensitivity_is_of_each_seed_from_its_own_start():
    sweep = make_sweep([[10, 2], [20, 2], [10, 6], [20, 12]], [0.1, 1.0], [0, 1])

    assert sweep.start("loss").tolist() == [10.0, 20.0]
    assert sweep.sensitivity("loss").tolist() == [2.0, 5.0]


def test_nothing_gained_has_no_relative_sensitivity():
    sweep = make_sweep([[1, 2], [1, 3]], [0.1, 1.0])

    assert sweep.sensitivity("loss").tolist() == [0.0]
    assert np.isnan(sweep.sensitivity("loss", relative=True)).all()


def test_metrics_agree_where_they_put_the_rates_in_one_order():
    names = ("mae", "ssim", "x")
    rows = [(3, 1, 5), (2, 2, 4), (1, 3, 9)]
    runs = [[{"mae": 9, "ssim": 0, "x": 9}, dict(zip(names, row, strict=True))] for row in rows]
    sweep = make_sweep(runs, [0.1, 0.2, 0.3], maximize=["ssim"])

    np.testing.assert_allclose(sweep.agreement()[0], [1.0, 1.0, -0.5])


def test_tables_name_every_rate_metric_and_trouble():
    found = lr_sweep(trainings.fall, [0.01, 0.3, 3.0], seeds=[0, 1], maximize=["accuracy"])

    text = found.table()

    assert "4 finished, 2 diverged, 0 crashed" in text
    assert "2 diverged of 2" in text
    assert "lr=3, seed=1: diverged: loss went from 1.02 to 25.5 in 0 steps" in text
    assert "sensitivity over 2.5 decades" in text
    assert [line for line in text.splitlines() if line.startswith("accuracy  0.3 ")]


def test_a_sweep_comes_back_from_its_folder_as_it_was(tmp_path):
    found = lr_sweep(trainings.fall, [0.01, 3.0], seeds=[0, 1], maximize=["accuracy"])

    found.save(tmp_path / "a.zarr")
    again = Sweep.load(tmp_path / "a.zarr")

    for name in Sweep.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        assert type(getattr(again, name)) is type(getattr(found, name))


def test_a_sweep_names_its_axes_for_other_programs(tmp_path):
    import xarray

    lr_sweep(trainings.fall, [0.01, 3.0], to=tmp_path)

    opened = xarray.open_zarr(tmp_path / "sweep.zarr", consolidated=False)

    assert opened["values"].dims == ("rates", "seeds", "rows", "metrics")


def test_nothing_is_written_over_and_nothing_else_is_read(tmp_path):
    found = make_sweep([[1, 2]], [0.1])
    found.save(tmp_path / "a.zarr")

    with pytest.raises(StoreError, match="the place of a sweep must be free, and"):
        found.save(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="must be the folder of a sweep, and is none"):
        Sweep.load(tmp_path / "b.zarr")


@pytest.mark.parametrize("log", [False, True])
def test_the_picture_has_two_panels_for_each_metric(tmp_path, log):
    found = lr_sweep(trainings.fall, [0.01, 0.3, 3.0], seeds=[0, 1], maximize=["accuracy"])

    figure = found.plot(log=log, to=tmp_path / "sweep.png")

    titles = [panel.get_title() for panel in figure.axes]
    assert titles[:2] == ["loss", "accuracy"]
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    lost = [line for line in figure.axes[0].lines if line.get_label() == "diverged or crashed"]
    assert lost[0].get_xdata().tolist() == [3.0, 3.0]


def test_one_rate_and_one_seed_are_drawn_too():
    make_sweep([[3, 2]], [0.1]).plot()


def test_an_unknown_metric_is_refused_with_near_ones():
    found = make_sweep([[1, 2]], [0.1])

    with pytest.raises(DataError, match=r"must be one of loss, got 'los'. Did you mean 'loss'\?"):
        found.final("los")
    with pytest.raises(DataError, match="when must be 'final' or 'best', got 'last'"):
        found.median("loss", "last")


def test_runs_that_all_crash_at_once_are_no_sweep():
    with pytest.raises(
        DataError, match=r"at least one of 1 runs must come to .*: KeyError: 'data'"
    ):
        lr_sweep(lambda lr, seed: {}["data"], [0.1])


def test_runs_must_have_the_same_metrics():
    with pytest.raises(DataError, match="all runs must yield the same metrics, got b and a"):
        make_sweep([[{"a": 1}], [{"b": 1}]], [0.1, 1.0])


@pytest.mark.parametrize(
    ("rates", "seeds", "sentence"),
    [
        ([], [0], "rates must hold at least one learning rate, got none: give a grid"),
        ([0.1, 0.0], [0], "rates must be finite and above 0, got 0.0"),
        ([np.inf], [0], "rates must be finite and above 0, got inf"),
        ([0.1], [], "seeds must hold at least one seed, got none"),
    ],
)
def test_empty_grids_are_refused(rates, seeds, sentence):
    with pytest.raises(DataError, match=sentence):
        lr_sweep(trainings.fall, rates, seeds)


def test_an_explosion_must_be_some():
    with pytest.raises(DataError, match="explosion must be above 0, got 0"):
        lr_sweep(trainings.fall, [0.1], explosion=0)


def test_rates_come_in_rising_order_and_once():
    assert lr_sweep(trainings.fall, [0.1, 0.01, 0.1]).rates.tolist() == [0.01, 0.1]
