from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import median_abs_deviation

from stratascope.render import Scale, fit_scale
from stratascope.render._page import scale_key
from stratascope.render._scale import observed, positions, value_at
from stratascope.stats import HalfHistogram, Histogram

floats = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=8),
    elements={"allow_nan": True, "allow_infinity": True},
)


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


def test_the_range_may_be_all_values_as_they_are():
    scale = fit_scale([-1.0, 0.0, 5.0], estimator="range")
    assert (scale.low, scale.high, scale.diverging) == (-1, 5, False)
    assert scale.caption == "-1 to 5 (least to greatest, nothing clipped)"


def test_a_symmetric_range_ends_at_the_magnitude_whatever_the_signs(rng):
    values = rng.uniform(1, 2, 10_000)
    scale = fit_scale(values, estimator="symmetric", percentile=98)
    assert scale.high == pytest.approx(np.percentile(values, 98), rel=1e-6)
    assert scale.low == -scale.high
    assert "(|x| p98, 2 % clipped)" in scale.caption


def test_three_deviations_of_normal_values_are_three_sigma_by_both_estimators(rng):
    values = rng.normal(0, 2, 200_000)
    for estimator, words in (("sigma", "3 sigma about 0"), ("mad", "3 scaled MAD about 0")):
        scale = fit_scale(values, estimator=estimator)
        assert scale.high == pytest.approx(6, rel=0.02)
        assert scale.diverging
        assert f"({words}, 0.2" in scale.caption


@pytest.mark.parametrize(
    ("estimator", "centre", "deviation"),
    [("sigma", np.mean, np.std), ("mad", np.median, partial(median_abs_deviation, scale="normal"))],
    ids=["sigma", "mad"],
)
def test_deviations_of_velocities_are_taken_about_their_middle(rng, estimator, centre, deviation):
    values = rng.normal(3000, 100, 5000)
    spread = deviation(values)
    scale = fit_scale(values, estimator=estimator)
    assert scale.low == pytest.approx(centre(values) - 3 * spread)
    assert scale.high == pytest.approx(centre(values) + 3 * spread)
    assert "about the me" in scale.caption


def test_deviations_reach_no_further_than_values_that_are_not_signed(rng):
    scale = fit_scale(np.maximum(rng.normal(size=10_000), 0), estimator="sigma")
    assert scale.low == 0


@pytest.mark.parametrize("estimator", ["mad", "sigma"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_deviation_of_zero_gives_way_to_the_maximum_and_says_so(estimator, sign):
    values = np.zeros(10_000)
    values[7] = 3 * sign
    scale = fit_scale(values, estimator=estimator)
    assert scale.high > 0
    assert (estimator == "sigma") or "(maximum, as the MAD is 0, nothing clipped)" in scale.caption


@pytest.mark.parametrize(
    ("transform", "formula"),
    [
        ("linear", lambda x: x),
        ("sqrt", lambda x: np.sign(x) * np.abs(x) ** 0.5),
        ("asinh", lambda x: np.arcsinh(x / 0.1) / np.arcsinh(10)),
        ("log", lambda x: np.sign(x) * np.log(1000 * np.abs(x) + 1) / np.log(1001)),
    ],
)
def test_a_transform_follows_its_formula_and_labels_are_original_values(rng, transform, formula):
    values = rng.uniform(-7, 7, 100)
    scale = Scale(-7, 7, diverging=True, transform=transform)
    placed = positions(values, scale)
    np.testing.assert_allclose(placed, 0.5 + formula(values / 7) / 2, atol=1e-12)
    for value, place in zip(values, placed, strict=True):
        assert value_at(scale, place) == pytest.approx(value, rel=1e-9)


def test_a_bar_that_is_not_linear_labels_its_quarters():
    key = scale_key(Scale(0, 16, transform="sqrt"), None)
    assert (key.high, key.middle, key.low, key.quarters) == ("16", "4", "0", ("9", "1"))
    assert Scale(0, 16, transform="sqrt").caption == "0 to 16 (fixed, signed square root)"


@pytest.mark.parametrize("estimator", ["percentile", "symmetric", "range", "mad", "sigma"])
@pytest.mark.parametrize("relu", [False, True])
def test_a_stored_histogram_gives_the_range_of_its_values(rng, estimator, relu):
    values = rng.normal(size=(4, 3, 5000)).astype(np.float32)
    values = np.maximum(values, 0) if relu else values
    histogram = Histogram(bins_per_octave=64)
    histogram.update(values)
    known = fit_scale(histogram.compute(), estimator=estimator)
    direct = fit_scale(values, estimator=estimator)
    assert (known.low, known.high) == pytest.approx((direct.low, direct.high), rel=0.02, abs=1e-9)
    assert (known.diverging, known.finite) == (direct.diverging, direct.finite)
    assert known.clipped == pytest.approx(direct.clipped, abs=5e-4)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 100, 300])
def test_a_histogram_of_few_values_gives_what_they_give(rng, size):
    values = rng.normal(size=(size, 1)).astype(np.float16)
    values[0] = 1e4
    histogram = HalfHistogram("float16")
    histogram.update(values)
    assert fit_scale(histogram.compute()) == fit_scale(values)


def test_a_histogram_without_values_has_no_range():
    histogram = HalfHistogram("float16")
    histogram.update(np.full((2, 1), np.nan, np.float16))
    assert fit_scale(histogram.compute()).caption == "no finite values"


def test_quantiles_of_several_channels_are_refused():
    class Channels:
        def quantile(self, q):
            return np.zeros((len(q), 3))

    with pytest.raises(ValueError, match=r"of one distribution, got shape \(10001, 3\) .* pick a"):
        fit_scale(Channels())


@pytest.mark.parametrize("given", [{"estimator": "median"}, {"transform": "sqr"}])
def test_an_unknown_estimator_or_transform_is_refused_with_the_choices(given):
    with pytest.raises(ValueError, match=r"must be one of '(percentile|linear)', .*, got '(me|sq)"):
        fit_scale([1.0, 2.0], **given)


@settings(max_examples=150, deadline=None)
@given(
    floats,
    st.sampled_from(["symmetric", "range", "mad", "sigma"]),
    st.sampled_from(["linear", "sqrt", "asinh", "log"]),
)
def test_every_estimator_and_transform_places_any_values(values, estimator, transform):
    scale = fit_scale(values, estimator=estimator, transform=transform)
    placed = positions(values.astype(np.float64), scale)
    numbers = ~np.isnan(values)
    assert ((placed[numbers] >= 0) & (placed[numbers] <= 1)).all()
    assert scale_key(scale, None).room > 0
    assert scale.caption
