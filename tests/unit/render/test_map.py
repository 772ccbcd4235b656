import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stratascope import render
from stratascope.render import _colours

numbers = st.sampled_from(
    [np.float16, np.float32, np.float64, np.complex64, np.int8, np.int64, np.uint16, np.bool_]
)


def test_every_value_is_a_block_of_equal_pixels(rng):
    picture = render.map(rng.normal(size=(10, 12)))
    body = picture[21 : 21 + 300, 21 : 21 + 360].reshape(10, 30, 12, 30, 3)
    assert (body == body[:, :1, :, :1]).all()


def test_a_constant_map_is_grey_and_says_so(said, has):
    picture = render.map(np.full((20, 30), 0.25))
    assert has(picture, _colours.CONSTANT)
    assert "constant 0.25" in said[0]


def test_a_constant_map_says_so_on_a_fixed_scale_too(said, has):
    picture = render.map(np.ones((5, 5)), scale=render.Scale(0, 2))
    assert has(picture, _colours.CONSTANT)
    assert said == ["5 x 5 · colours: 0 to 2 (fixed, nothing clipped) · constant 1"]


def test_nan_is_hatched_and_infinities_have_colours_of_their_own(rng, has):
    values = rng.normal(size=(30, 40))
    plain = render.map(values)
    for mark in (_colours.NAN_DARK, _colours.PLUS_INFINITY, _colours.MINUS_INFINITY):
        assert not has(plain, mark)
    values[0, 0], values[5, 5], values[9, 9] = np.nan, np.inf, -np.inf
    marked = render.map(values)
    for mark in (_colours.NAN_DARK, _colours.PLUS_INFINITY, _colours.MINUS_INFINITY):
        assert has(marked, mark)
    assert len(marked) > len(plain)


def test_an_outlier_changes_no_other_pixel_once_it_is_clipped(rng):
    values = rng.normal(size=(60, 60))
    place = np.unravel_index(values.argmax(), values.shape)
    before = render.map(values)
    values[place] = 1e9
    np.testing.assert_array_equal(render.map(values), before)


def test_the_same_map_is_the_same_picture_every_time(rng):
    values = rng.normal(size=(17, 23))
    first = render.map(values, title="t", caption="c")
    assert all(
        render.map(values, title="t", caption="c").tobytes() == first.tobytes() for _ in range(3)
    )


def test_the_input_is_left_as_it_was(rng):
    values = rng.normal(size=(8, 8))
    values[0, 0] = np.nan
    before = values.copy()
    render.map(values)
    np.testing.assert_array_equal(values, before)


def test_a_fixed_scale_gives_equal_values_equal_colours():
    scale = render.Scale(0, 10)
    one = render.map([[1.0, 2.0]], scale=scale)
    two = render.map([[1.0, 9.0]], scale=scale)
    np.testing.assert_array_equal(one[25, 25], two[25, 25])
    assert (one[25, 370] != two[25, 370]).any()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]
)
def test_a_tensor_is_drawn_like_its_array(dtype):
    tensor = torch.linspace(-1, 1, 20).reshape(4, 5).to(dtype)
    np.testing.assert_array_equal(render.map(tensor), render.map(tensor.float().numpy()))


def test_a_tensor_may_require_grad_or_be_a_lazy_conjugate():
    tensor = torch.linspace(-1, 1, 20).reshape(4, 5).requires_grad_()
    assert render.map(tensor * 2).ndim == 3
    assert render.map(torch.view_as_complex(torch.ones(2, 3, 2)).conj()).ndim == 3


def test_masked_values_are_drawn_as_missing(has):
    values = np.ma.masked_greater(np.arange(12).reshape(3, 4), 9)
    assert has(render.map(values), _colours.NAN_DARK)


def test_complex_values_are_drawn_by_magnitude_and_the_caption_says_so(said, rng):
    render.map(rng.normal(size=(4, 5)) * (1 + 1j))
    assert "magnitude of complex values" in said[0]


def test_a_map_too_large_to_draw_whole_says_what_it_left_out(said):
    picture = render.map(np.arange(40_000.0)[None])
    assert picture.shape[1] < 16_100
    assert "too large to draw whole: 1 in 1 rows, 1 in 3 columns" in said[0]


@pytest.mark.parametrize(("shape", "size"), [((1000, 70), (1002, 282)), ((4, 500), (130, 502))])
def test_an_elongated_map_is_stretched_and_says_so(said, rng, shape, size):
    picture = render.map(rng.normal(size=shape))
    assert picture.shape[0] > size[0]
    assert picture.shape[1] > size[1]
    assert "each value is drawn" in said[0]


def test_long_texts_wrap_instead_of_being_cut():
    short = render.map([[0.0, 1.0]], title="t")
    long = render.map([[0.0, 1.0]], title="long " * 60, caption="w" * 300)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 80
    margin = long[:, -20:]
    assert (margin == 255).all()


def test_axes_stand_beside_the_map_and_leave_its_pixels_as_they_are(rng):
    values = rng.normal(size=(12, 90))
    plain = render.map(values)
    named = render.map(values, axes=("channel", render.Axis("time", 0.004, unit="s")))
    assert named.shape[0] > plain.shape[0]
    assert named.shape[1] > plain.shape[1]
    body = plain[21:80, 21:300]
    starts = [
        (y, x)
        for y in range(20, 60)
        for x in range(20, 80)
        if (named[y : y + len(body), x : x + body.shape[1]] == body).all()
    ]
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((64, 32, 32), r"got \(64, 32, 32\); use render\.grid .* or pick one"),
        ((5,), r"got \(5,\); use render\.line"),
        ((1, 2, 3, 4), "pick a sample and use render.grid"),
        ((1, 2, 3, 4, 5), "pick one map of it"),
        ((), r"got \(\)"),
    ],
)
def test_another_rank_is_an_error_with_a_remedy(shape, remedy):
    with pytest.raises(ValueError, match=remedy):
        render.map(np.zeros(shape))


def test_a_scale_must_be_a_scale():
    with pytest.raises(TypeError, match=r"scale must be a Scale, got \(0, 1\); make one"):
        render.map([[0.0]], scale=(0, 1))


@settings(max_examples=120, deadline=None)
@given(
    numbers.flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0))
    )
)
def test_any_map_gives_a_picture_without_a_warning(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = render.map(values)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert min(picture.shape[:2]) > 40
    assert (picture != 255).any()


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, np.longdouble("1e4000")])
def test_the_largest_and_smallest_numbers_are_drawn(value):
    assert render.map(np.array([[value, 0, 1], [-value, value, 2]])).ndim == 3
