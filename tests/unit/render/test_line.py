import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stratascope import render
from stratascope.render import _colours
from stratascope.render._curves import coverage, envelope, interpolated, spans


def test_one_curve_is_drawn_as_one_channel(rng):
    values = rng.normal(size=50)
    np.testing.assert_array_equal(render.line(values), render.line(values[None]))


def test_a_column_of_pixels_spans_all_values_that_fall_on_it(rng):
    values = rng.normal(size=(3, 1000))
    low, high = envelope(values, 90)
    column = np.arange(1000) * 90 // 1000
    assert (values >= low[:, column] - 1e-12).all()
    assert (values <= high[:, column] + 1e-12).all()


def test_neighbouring_columns_of_an_envelope_touch(rng):
    low, high = envelope(rng.normal(size=(3, 1000)).cumsum(1), 90)
    assert (low[:, 1:] <= high[:, :-1]).all()
    assert (high[:, 1:] >= low[:, :-1]).all()


def test_one_peak_among_many_values_stays_visible(said):
    values = np.zeros((1, 100_000))
    values[0, 54_321] = 1
    _, high = envelope(values, 700)
    assert high.max() == 1
    render.line(values)
    assert "spans the least to the greatest of 139 values" in said[0]


def test_a_curve_passes_through_its_values(rng):
    values = rng.normal(size=(2, 10))
    low, high = interpolated(values, 100)
    middles = (np.arange(10) * 40) + 20
    assert (low[:, middles] <= values + 0.2).all()
    assert (high[:, middles] >= values - 0.2).all()


def test_a_value_between_gaps_is_held():
    low, _ = interpolated(np.array([[np.nan, 2.0, np.nan]]), 30)
    assert np.isfinite(low[0]).sum() == 40
    assert set(low[0][np.isfinite(low[0])]) == {2.0}


def test_the_ink_of_a_level_pen_is_its_width():
    at = np.full((1, 5), 7.3)
    np.testing.assert_allclose(coverage(at, at, 20).sum(1), 1.3, rtol=1e-5)


def test_gaps_are_hatched_and_infinities_marked(rng, has):
    values = rng.normal(size=(2, 60))
    for mark in (_colours.PLUS_INFINITY, _colours.MINUS_INFINITY, _colours.NAN_DARK):
        assert not has(render.line(values), mark)
    values[0, 5:9], values[0, 20], values[1, 30] = np.nan, np.inf, -np.inf
    picture = render.line(values)
    for mark in (_colours.PLUS_INFINITY, _colours.MINUS_INFINITY, _colours.NAN_DARK):
        assert has(picture, mark)


def test_a_flag_covers_the_columns_of_its_value():
    flags = np.zeros((1, 10), bool)
    flags[0, 3] = True
    assert np.flatnonzero(spans(flags, 20)[0]).tolist() == [6, 7]
    assert np.flatnonzero(spans(flags, 5)[0]).tolist() == [1]


def test_clipped_peaks_are_told(said, rng):
    values = rng.normal(size=(4, 300))
    render.line(values, percentile=99.5)
    render.line(values)
    assert "clipped peaks are orange" in said[0]
    assert "clipped peaks" not in said[1]


def test_the_caption_states_the_amplitudes(said):
    render.line(np.array([[0.0, 2.0, -1.0]]))
    assert said == ["1 channel of 3 values · amplitudes: ±2 (largest |x|, nothing clipped)"]


def test_a_constant_channel_is_told_beside_its_number(said, rng):
    values = rng.normal(size=(3, 40))
    values[1] = 0.5
    render.line(values)
    assert "1 channel constant" in said[0]


def test_the_same_curves_are_the_same_picture_every_time(rng):
    values = rng.normal(size=(5, 77))
    assert render.line(values).tobytes() == render.line(values).tobytes()


def test_the_input_is_left_as_it_was(rng):
    values = rng.normal(size=(3, 40))
    values[0, 0] = np.inf
    before = values.copy()
    render.line(values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [((2, 3, 4), r"pick a sample: array\[0\], or use render\.grid"), ((1, 2, 3, 4), "pick the")],
)
def test_another_rank_is_an_error_with_a_remedy(shape, remedy):
    with pytest.raises(ValueError, match=rf"must have shape \(C, L\), got .*; {remedy}"):
        render.line(np.zeros(shape))


def test_columns_must_be_positive():
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        render.line([[1.0, 2.0]], columns=0)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.bool_, np.complex128]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
    ),
    st.sampled_from(["layer", "channel"]),
    st.sampled_from([1, 300]),
)
def test_any_curves_give_a_picture_without_a_warning(values, scope, repeats):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = render.line(np.repeat(values, repeats, axis=1), scope=scope)
    assert picture.dtype == np.uint8
    assert (picture != 255).any()
