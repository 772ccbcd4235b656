import numpy as np
import pytest

import trainings
from stratascope.diagnose import OptimizerComparison, Sweep, compare_optimizers
from stratascope.errors import DataError

POWERS = {"two": {"power": 2.0}, "three": {"power": 3.0}}
RATES = [0.01, 0.05, 0.1]


def make_runs(values, steps=None, maximize=()):
    """Make a sweep at one rate of the given values of a metric, ``(S, E)``."""
    values = np.array(values, float)[None, :, :, None]
    seeds, rows = values.shape[1:3]
    counts = np.broadcast_to(np.arange(rows, dtype=float), (1, seeds, rows)).copy()
    ones = np.ones((1, seeds))
    return Sweep(
        metrics=("mae",),
        rates=np.array([0.1]),
        seeds=np.arange(seeds),
        values=values,
        steps=10 * counts,
        seconds=2 * counts,
        state_bytes=2 * ones,
        parameter_bytes=ones,
        peak_bytes=np.nan * ones,
        outcomes=np.full((1, seeds), "finished"),
        messages=np.full((1, seeds), ""),
        maximize=tuple(maximize),
    )


def make_comparison(target=0.5, maximize=(), **values):
    runs = {name: make_runs(rows, maximize=maximize) for name, rows in values.items()}
    return OptimizerComparison(runs, runs, target)


def test_each_is_run_at_the_rate_that_its_own_search_found():
    found = compare_optimizers(trainings.fall, POWERS, range(2), rates=RATES)

    for name, given in POWERS.items():
        search, runs = found.searches[name], found.runs[name]
        assert search.seeds.tolist() == [1000, 1001, 1002]
        assert runs.seeds.tolist() == [0, 1]
        assert runs.rates.tolist() == [search.best_rate("loss")] == [found.best_rates()[name]]
        assert search.settings["settings"] == {"power": repr(given["power"])}


def test_rates_may_differ_but_not_their_number():
    rates = {"two": [0.01, 0.1], "three": [0.05, 0.2]}
    found = compare_optimizers(trainings.fall, POWERS, range(2), rates=rates)

    assert found.searches["three"].rates.tolist() == [0.05, 0.2]
    with pytest.raises(DataError, match="as many rates to search, got 2 for two, 1 for three"):
        compare_optimizers(trainings.fall, POWERS, rates={"two": [0.01, 0.1], "three": [0.1]})
    with pytest.raises(DataError, match="rates by name must be those of two, three, got two"):
        compare_optimizers(trainings.fall, POWERS, rates={"two": [0.1]})


def test_clear_differences_are_told_from_noise():
    found = make_comparison(
        good=[[1, 0.10], [1, 0.11], [1, 0.12], [1, 0.13], [1, 0.14]],
        same=[[1, 0.11], [1, 0.10], [1, 0.13], [1, 0.12], [1, 0.15]],
        poor=[[1, 0.5], [1, 0.6], [1, 0.7], [1, 0.8], [1, 0.9]],
    )

    same, poor = found.verdicts("mae")

    assert (same.name, same.best, same.differs) == ("same", "good", False)
    # The least p of five against five, 2 / 252, times two comparisons.
    assert (poor.name, poor.differs, poor.p) == ("poor", True, pytest.approx(4 / 252))
    text = found.table()
    assert (
        "mae: good has the best median; worse: poor (p = 0.016); within noise of it: same" in text
    )


def test_p_values_are_corrected_for_their_number_and_never_fall():
    rng = np.random.default_rng(0)
    values = {f"n{k}": [[1, v] for v in rng.normal(k / 3, 1, 6)] for k in range(4)}
    found = make_comparison(**values)

    verdicts = found.verdicts("mae")

    ps = sorted(verdict.p for verdict in verdicts)
    assert len(ps) == 3
    assert all(p <= 1 for p in ps)
    single = {
        v.name: make_comparison(**{k: values[k] for k in (v.best, v.name)}).verdicts("mae")[0].p
        for v in verdicts
    }
    raw = sorted(single.values())
    expected = np.maximum.accumulate([min(1, p * (3 - place)) for place, p in enumerate(raw)])
    assert ps == pytest.approx(expected.tolist())


def test_too_few_seeds_are_said_to_show_nothing():
    found = make_comparison(a=[[1, 0.1]] * 3, b=[[1, 0.9]] * 3)

    assert not found.verdicts("mae")[0].differs
    assert "3 seeds cannot show a difference at 5 %, whatever they give: 4 are" in found.table()


def test_a_rate_at_the_end_of_its_grid_is_pointed_out():
    found = compare_optimizers(trainings.fall, POWERS, range(4), rates=[0.001, 0.002])

    assert "the rate of two, 0.002, lies at an end of its grid: widen the grid" in found.table()


def test_steps_are_counted_to_the_target():
    rows = [[1, 0.7, 0.4, 0.6], [1, 0.9, 0.8, 0.5], [1, 0.9, 0.9, 0.9]]
    found = make_comparison(a=rows)
    turned = make_comparison(target=-0.5, maximize=["mae"], a=-np.array(rows))

    assert found.steps_to_target("a").tolist() == [20, 30, np.inf]
    assert turned.steps_to_target("a").tolist() == [20, 30, np.inf]
    assert found.steps_to_target("a", seconds=True).tolist() == [4, 6, np.inf]


def test_the_target_is_what_all_reach_in_half_of_their_runs():
    found = compare_optimizers(trainings.fall, POWERS, range(5), rates=RATES)

    assert all(np.median(found.steps_to_target(name)) < np.inf for name in POWERS)
    bests = [sweep.median("loss", "best")[0] for sweep in found.runs.values()]
    assert found.target == max(bests)


def test_real_optimizers_are_compared_with_their_costs(tmp_path):
    optimizers = {"sgd": {"name": "sgd"}, "lamb": {"name": "lamb", "weight_decay": 0.01}}
    found = compare_optimizers(
        trainings.fit, optimizers, range(4), rates=[0.01, 0.1], to=tmp_path / "out"
    )

    text = found.table()

    assert "4 finished" in text
    sgd, lamb = (line.split() for line in text.splitlines()[8:10])
    assert (sgd[0], sgd[2]) == ("sgd", "1")
    assert (lamb[0], float(lamb[2])) == ("lamb", pytest.approx(2.0, abs=0.2))
    again = OptimizerComparison.load(tmp_path / "out" / "comparison.zarr")
    assert again.table() == text


def test_a_comparison_goes_on_where_it_was_left(tmp_path):
    settings = {"rates": RATES, "to": tmp_path, "resume": True}
    first = compare_optimizers(trainings.fall, {"two": POWERS["two"]}, range(2), **settings)

    both = compare_optimizers(trainings.fall, POWERS, range(2), **settings)

    assert list(both.runs) == ["two", "three"]
    np.testing.assert_array_equal(both.runs["two"].values, first.runs["two"].values)
    # The same runs, and not others like them.
    np.testing.assert_array_equal(both.runs["two"].seconds, first.runs["two"].seconds)


def test_the_picture_has_search_runs_time_and_every_metric(tmp_path):
    found = compare_optimizers(trainings.fall, POWERS, range(2), rates=RATES)

    figure = found.plot(to=tmp_path / "comparison.png")

    panels = [panel.get_title() for part in figure.subfigs for panel in part.axes]
    assert panels[:3] == ["search", "runs at the best rate", "the same over time"]
    assert len(panels) == 5
    assert (tmp_path / "comparison.png").exists()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="optimizers must hold at least one, got none"):
        compare_optimizers(trainings.fall, {}, rates=RATES)
    with pytest.raises(DataError, match="none in common, got 1 in both"):
        compare_optimizers(trainings.fall, POWERS, range(3), rates=RATES, search_seeds=[1])


def test_an_optimizer_whose_runs_all_crash_is_named():
    def make_run(lr, seed):
        yield {"loss": 1.0}
        raise MemoryError("full")

    with pytest.raises(DataError, match=r"a must finish .* and all crashed: MemoryError: full"):
        compare_optimizers(make_run, {"a": {}}, rates=RATES)
