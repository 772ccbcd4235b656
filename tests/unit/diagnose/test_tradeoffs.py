import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stratascope.diagnose import Landscape, RangeTest, Tradeoffs, tradeoffs
from stratascope.errors import StoreError

CHECKPOINTS = {"mae": [4.0, 3.0, 1.0, 2.0], "ssim": [0.1, 0.5, 0.3, 0.4]}


def test_the_best_points_and_the_front_of_checkpoints():
    found = tradeoffs(CHECKPOINTS, maximize=["ssim"])

    assert found.best.tolist() == [2, 1]
    assert found.front.tolist() == [1, 2, 3]
    assert found.places.ravel().tolist() == [0, 1, 2, 3]


def test_more_of_a_metric_is_better_only_if_that_was_said():
    assert tradeoffs(CHECKPOINTS).best.tolist() == [2, 0]
    assert tradeoffs(CHECKPOINTS).agreement[0, 1] == pytest.approx(
        -tradeoffs(CHECKPOINTS, maximize=["ssim"]).agreement[0, 1]
    )


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=3, max_size=30))
def test_correlation_is_that_of_scipy_and_the_front_is_that_of_its_definition(rows):
    points = np.array(rows, dtype=float)
    found = tradeoffs(dict(zip("abc", points.T, strict=True)))
    front = [
        k
        for k, one in enumerate(rows)
        if not any(
            all(p <= q for p, q in zip(other, one, strict=True)) and other != one for other in rows
        )
    ]

    assert found.front.tolist() == front
    for i in range(3):
        for k in range(3):
            if len(set(points[:, i])) > 1 and len(set(points[:, k])) > 1:
                expected = stats.spearmanr(points[:, i], points[:, k]).statistic
                assert found.agreement[i, k] == pytest.approx(expected)
            else:
                assert np.isnan(found.agreement[i, k])


@pytest.fixture
def plane():
    across, up = np.linspace(-1, 1, 5), np.linspace(0, 2, 3)
    a, b = np.meshgrid(across, up, indexing="ij")
    values = {"mae": (a - 0.5) ** 2 + b, "mse": (a + 0.5) ** 2 + b}
    values["mae"][0, 0] = np.nan
    return Landscape(
        values=values,
        errors={name: np.full((5, 3), np.nan) for name in values},
        centre=dict.fromkeys(values, (1.0, np.nan)),
        axes=(across, up),
        labels=("a", "b"),
    )


def test_places_on_a_landscape_are_its_coordinates_and_holes_are_left_out(plane):
    found = tradeoffs(plane)

    assert found.places[found.best].tolist() == [[0.5, 0.0], [-0.5, 0.0]]
    assert found.places[found.front].tolist() == [[-0.5, 0.0], [0.0, 0.0], [0.5, 0.0]]
    assert len(found.points) == 14
    assert found.notes == ("1 points without a finite value of every metric are left out",)


def test_the_table_says_what_the_best_of_one_costs_the_other(plane):
    lines = tradeoffs(plane).table().splitlines()

    assert lines[1].split() == ["best", "mae", "0.5,", "0", "0", "1"]
    assert "Pareto front: 3 of 14 points (21.4%)" in lines


def test_it_is_drawn(plane, tmp_path):
    figure = tradeoffs(plane).plot(tmp_path / "a.png")

    titles = [panel.get_title() for panel in figure.axes]
    assert "where each is best" in titles
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert len(tradeoffs(CHECKPOINTS).plot().axes) == 3  # with the colour bar


@pytest.mark.parametrize("values", ["plane", CHECKPOINTS], ids=["plane", "checkpoints"])
def test_it_comes_back_as_it_was_saved(values, request, tmp_path):
    values = request.getfixturevalue(values) if values == "plane" else values
    found = tradeoffs(values, maximize=["mae"])
    found.save(tmp_path / "found.zarr")
    again = Tradeoffs.load(tmp_path / "found.zarr")

    for name, value in found.to_dict().items():
        np.testing.assert_array_equal(getattr(again, name), value)
        assert isinstance(getattr(again, name), type(value))
    assert again.table() == found.table()
    assert again.front.dtype == again.best.dtype == np.int64
    with pytest.raises(StoreError, match="the place of a trade-off must be free"):
        found.save(tmp_path / "found.zarr")
    with pytest.raises(StoreError, match="must be the folder of a range test, and holds strata"):
        RangeTest.load(tmp_path / "found.zarr")


@pytest.mark.parametrize(
    ("values", "maximize", "message"),
    [
        ({"mae": [1, 2]}, (), "values must be two metrics or more"),
        ({"mae": [1, 2], "mse": [1]}, (), "each with one value a point, got {'mae': 2, 'mse': 1}"),
        (CHECKPOINTS, ["sim"], "maximize must name metrics, got 'sim'. Did you mean 'ssim'"),
        ({"a": [1, np.nan], "b": [1, 2]}, (), "two points or more must have a finite value"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, maximize, message):
    with pytest.raises(ValueError, match=message):
        tradeoffs(values, maximize=maximize)
