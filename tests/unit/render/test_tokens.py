import warnings

import numpy as np
import pytest
import torch

from stratascope import render


def test_a_matrix_is_a_map_of_tokens_by_channels(rng):
    values = rng.normal(size=(17, 30))
    expected = render.map(values, axes=("token", "channel"), title="t", caption="c")
    np.testing.assert_array_equal(render.tokens(values, title="t", caption="c"), expected)


def test_tokens_stand_where_they_come_from_row_by_row(rng):
    maps = rng.normal(size=(8, 4, 5))
    values = np.moveaxis(maps, 0, -1).reshape(20, 8)
    expected = render.grid(maps, transform="sqrt", estimator="mad")
    picture = render.tokens(values, shape=(4, 5), transform="sqrt", estimator="mad")
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(("leading", "words"), [(1, "1 token"), (5, "5 tokens")])
def test_a_class_token_is_left_out_and_the_caption_says_so(rng, leading, words):
    values = rng.normal(size=(leading + 20, 8))
    values[:leading] = 1e6
    picture = render.tokens(values, shape=(4, 5), caption="c")
    left_out = f"c\n{words} before the 4 x 5 drawn left out"
    maps = values[leading:].T.reshape(8, 4, 5)
    np.testing.assert_array_equal(picture, render.grid(maps, caption=left_out))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 0)), [[1.0]] * 4, np.zeros((5, 3)), np.full((4, 3), np.nan),
        np.eye(5, dtype=bool),
        [[np.inf], [-np.inf], [np.nan], [1]], np.eye(4, dtype=np.float16) * 6e4,
        np.eye(4) * 1e308,
        np.eye(4) * 5e-324, np.eye(4) * 1j, torch.eye(6, dtype=torch.bfloat16), np.ones((4, 5000)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_any_tokens_give_a_picture_without_a_warning(values, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (render.tokens(values, shape=shape, title="t") for _ in range(2))
    assert first.dtype == np.uint8
    assert first.tobytes() == second.tobytes()


def test_no_tokens_give_an_empty_picture():
    assert render.tokens(np.zeros((0, 3))).ndim == 3


@pytest.mark.parametrize("shape", [(14, 14), (0, 3), (-2, -2)])
def test_the_shape_must_hold_no_more_than_there_are(shape):
    with pytest.raises(ValueError, match=r"must be of at most the 17 tokens, got .*; leave"):
        render.tokens(np.zeros((17, 3)), shape=shape)


@pytest.mark.parametrize(("shape", "remedy"), [((2, 3, 4), "pick a sample"), ((5,), "pick the to")])
def test_another_rank_is_an_error_with_a_remedy(shape, remedy):
    with pytest.raises(ValueError, match=rf"must have shape \(T, C\), got .*; {remedy}"):
        render.tokens(np.zeros(shape))
