import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stratascope.render import Scale, fit_scale
from stratascope.render._scale import observed, positions

floats = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=8),
    elements={"allow_nan": True, "allow_infinity": True},
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_signed_values_get_a_range_symmetric_about_zero(rng):
    values = rng.normal(size=10_000)
    scale = fit_scale(values)
    assert scale.diverging
    assert scale.low == -scale.high
    assert scale.high == pytest.approx(np.percentile(np.abs(values), 99.5), rel=0.01)
    assert scale.caption.startswith("±2.8")
    assert scale.caption.endswith("(|x| p99.5, 0.5 % clipped)")


def test_values_from_zero_up_get_a_range_from_zero(rng):
    scale = fit_scale(np.maximum(rng.normal(size=10_000), 0))
    assert not scale.diverging
    assert scale.low == 0
    assert "(p99.5, 0.5 % clipped)" in scale.caption


def test_a_hundredth_of_negative_values_makes_the_data_signed():
    values = np.ones(1000)
    values[500:] = 2
    values[:9] = -1
    assert not fit_scale(values).diverging
    values[:10] = -1
    assert fit_scale(values).diverging


def test_velocities_start_at_their_own_lower_end(rng):
    scale = fit_scale(rng.uniform(1500, 4500, 10_000))
    assert scale.low == pytest.approx(1515, abs=5)
    assert scale.high == pytest.approx(4485, abs=5)
    assert "p0.5 to p99.5, 1 % clipped" in scale.caption


def test_sparse_data_fall_back_to_their_maximum_and_say_so():
    values = np.zeros(10_000)
    values[7] = 3
    scale = fit_scale(values)
    assert (scale.low, scale.high, scale.at_maximum) == (0, 3, True)
    assert scale.caption == "0 to 3 (maximum, as p99.5 is 0, nothing clipped)"


def test_values_equal_but_for_a_few_are_shown_on_their_whole_range():
    values = np.full(10_000, 1500.0)
    values[:3] = 1501
    scale = fit_scale(values)
    assert (scale.low, scale.high) == (1500, 1501)
    assert "whole range, as p0.5 = p99.5" in scale.caption


def test_negative_values_without_positive_ones_are_signed_however_rare():
    values = np.zeros(10_000)
    values[3] = -2
    scale = fit_scale(values)
    assert (scale.low, scale.high, scale.diverging) == (-2, 2, True)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.25, -3.0, 1e300])
def test_equal_values_are_called_constant(value):
    scale = fit_scale(np.full((3, 4), value))
    assert scale.constant
    assert scale.caption.startswith("constant ")
    assert "-0" not in scale.caption


@pytest.mark.parametrize("values", [[], np.full(5, np.nan), [np.inf, -np.inf]])
def test_no_finite_values_are_named_as_that(values):
    assert fit_scale(values).caption == "no finite values"


def test_values_that_are_not_finite_are_counted_and_left_out():
    scale = fit_scale([1.0, 2.0, np.nan, np.inf, np.inf, -np.inf, 0.0])
    assert (scale.finite, scale.nans, scale.plus_infs, scale.minus_infs) == (3, 1, 2, 1)
    assert (scale.low, scale.high) == (0, 2)


def test_half_precision_does_not_overflow():
    assert fit_scale(np.array([60000, -60000], np.float16)).high == 60000


def test_one_outlier_leaves_the_positions_of_the_other_values_as_they_were(rng):
    values = rng.normal(size=(64, 64, 16))
    before = positions(values, fit_scale(values))
    values[3, 5, 7] = 1e9
    after = positions(values, fit_scale(values))
    after[3, 5, 7] = before[3, 5, 7]
    assert np.abs(after - before).max() <= 1 / 255


@pytest.mark.parametrize("size", [16, 50, 100, 201, 300])
def test_one_outlier_does_not_set_the_range_of_a_small_array(rng, size):
    values = rng.uniform(0, 1, size)
    values[3] = 1e9
    assert fit_scale(values).high <= 1


def test_a_fixed_scale_is_made_by_hand():
    assert Scale(0, 1).caption == "0 to 1 (fixed)"
    assert observed(Scale(0, 1), np.array([0.5, 2])).caption == "0 to 1 (fixed, 50 % clipped)"


@pytest.mark.parametrize("ends", [(1, 0), (0, np.inf), (np.nan, 1)])
def test_a_range_must_be_finite_and_in_order(ends):
    with pytest.raises(ValueError, match="must be finite with low <= high, got low="):
        Scale(*ends)


def test_a_diverging_range_must_be_symmetric():
    with pytest.raises(ValueError, match=r"symmetric about 0, got low=-1, high=2; pass Scale\(-m"):
        Scale(-1, 2, diverging=True)


@pytest.mark.parametrize("percentile", [0, 49, 101, np.nan])
def test_a_percentile_must_be_an_upper_one(percentile):
    with pytest.raises(ValueError, match="percentile must be from 50 to 100, got"):
        fit_scale([1.0], percentile=percentile)


def test_words_are_refused_as_values():
    with pytest.raises(TypeError, match="array must be numbers, got dtype <U3"):
        fit_scale(["abc"])


def test_a_range_without_width_tells_below_from_above():
    placed = positions(np.array([-1e308, 1.0, 1e308, np.nan]), Scale(1, 1))
    np.testing.assert_array_equal(placed, [0, 0.5, 1, np.nan])


@settings(max_examples=150, deadline=None)
@given(floats, st.sampled_from([50, 90, 99.5, 100]))
def test_any_values_have_a_scale_that_places_them_between_0_and_1(values, percentile):
    scale = fit_scale(values, percentile=percentile)
    placed = positions(values.astype(np.float64), scale)
    numbers = ~np.isnan(values)
    assert ((placed[numbers] >= 0) & (placed[numbers] <= 1)).all()
    assert np.isnan(placed[~numbers]).all()
    assert scale.finite + scale.nans + scale.plus_infs + scale.minus_infs == values.size
    assert 0 <= scale.clipped <= 1
    assert scale.caption


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.float64, 40, elements=st.floats(-1e6, 1e6)))
def test_positions_keep_the_order_of_values(values):
    placed = positions(np.sort(values), fit_scale(values))
    assert (np.diff(placed) >= 0).all()


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, 30, elements=st.floats(-1e6, 1e6)))
def test_the_scale_does_not_depend_on_the_order_of_values(values):
    assert fit_scale(values) == fit_scale(values[::-1])
