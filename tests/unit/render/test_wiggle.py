import warnings

import numpy as np
import pytest
import torch

from stratascope import render
from stratascope.render import Axis, Scale, _colours, _wiggle
from stratascope.render._scale import fit_values
from stratascope.render._wiggle import _body


def ink_of(values, apart=40, excursion=1.0):
    """How dark each pixel is, and the column of the first signal's middle."""
    scale = fit_values(values, 100, "symmetric")
    body, margin = _body(values, scale, apart, excursion)
    return 255 - body[..., 0].astype(int), margin + apart // 2


def test_a_signal_runs_down_and_the_end_of_the_range_is_one_distance_away():
    ink, middle = ink_of(np.array([[0.0] * 50 + [1.0] * 50 + [-1.0] * 50]))
    for row, column in ((80, 0), (240, 40), (400, -40)):
        centre = ink[row] > 100
        assert centre[middle + column]
    assert ink[80].nonzero()[0].max() <= middle + 1


def test_only_positive_values_are_filled():
    ink, middle = ink_of(np.array([[1.0] * 50 + [-1.0] * 50]))
    assert (ink[100, middle + 1 : middle + 39] > 200).all()
    assert (ink[400, middle - 37 : middle - 1] == 0).all()


@pytest.mark.parametrize("length", [3, 480, 5000])
def test_the_outline_follows_the_values_at_every_length(rng, length):
    values = rng.uniform(0.2, 1, (1, length))
    values[0, 0] = 1
    ink, middle = ink_of(values, 48)
    reached = np.array([row.nonzero()[0].max() for row in ink]) - middle
    column = ((np.arange(length) + 0.5) * 480 / length).astype(int)
    # Between two values an outline is straight: a quarter of a row away it is an eighth lower.
    assert (reached[column] >= values[0] * 48 * 7 / 8 - 2).all()


def test_the_caption_says_excursion_clip_polarity_and_what_was_left_out(said, rng):
    render.wiggle(rng.normal(size=(500, 1000)), excursion=1.5)
    assert "500 signals of 1000 values · 1 in 4 is drawn · an excursion of 1.5 dist" in said[0]
    assert "(|x| p99, 1 % clipped) · positive to the right, filled" in said[0]
    assert "each row of pixels spans the least to the greatest of 2.08 values" in said[0]
    render.wiggle(rng.normal(size=(5, 10)), every=2)
    assert "1 in 2 is drawn" in said[1]


def test_numbers_of_decimated_signals_stay_true(monkeypatch):
    seen = []
    framed = _wiggle.framed

    def listen(body, axes, places, **options):
        seen.append((axes[1], places))
        return framed(body, axes, places, **options)

    monkeypatch.setattr(_wiggle, "framed", listen)
    render.wiggle(np.eye(6), every=3, axes=("time", Axis("offset", 10, 100, "m")))
    assert seen == [(Axis("offset", 30, 100, "m"), (6, 2))]


def test_marks_for_what_is_not_finite(rng, has):
    values = rng.normal(size=(6, 30))
    assert not has(render.wiggle(values), _colours.PLUS_INFINITY)
    values[1, 3:6], values[2, 8], values[3, 9] = np.nan, np.inf, -np.inf
    picture = render.wiggle(values)
    for mark in (_colours.NAN_DARK, _colours.PLUS_INFINITY, _colours.MINUS_INFINITY):
        assert has(picture, mark)


def test_a_transform_makes_weak_signals_wider():
    values = np.array([[1.0, 0.04, 0.04, 0.04]])
    plain, widened = (
        render.wiggle(values, transform=t, percentile=100) for t in ("linear", "sqrt")
    )
    assert (widened < 128).sum() > (plain < 128).sum()


@pytest.mark.parametrize(
    "values",
    [
        [], np.zeros((0, 5)), np.zeros((3, 0)), [[1.0]], [3.0, 3.0], np.zeros((2, 9)),
        np.full((2, 9), np.nan), [[np.inf, -np.inf, np.nan]], np.eye(5, dtype=bool),
        np.eye(5, dtype=np.float16) * 60000, [[1e308, -1e308]], [[5e-324, 0.0]], [[1j, 0]],
        torch.eye(4, dtype=torch.bfloat16), np.ones((5000, 2)), np.arange(40_000.0)[None],
    ],
)  # fmt: skip
def test_any_signals_give_a_picture_without_a_warning(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (render.wiggle(values, title="t", caption="c") for _ in range(2))
    assert first.dtype == np.uint8
    assert first.tobytes() == second.tobytes()


def test_a_scale_that_is_not_symmetric_is_refused():
    with pytest.raises(ValueError, match=r"must be symmetric about 0, got 0 to 1; pass Scale\(-m"):
        render.wiggle([[0.0, 1.0]], scale=Scale(0, 1))


@pytest.mark.parametrize("given", [{"excursion": 0}, {"excursion": np.nan}, {"every": 0}])
def test_excursion_and_decimation_have_limits(given):
    with pytest.raises(ValueError, match="excursion must be above 0 and at most 10, and"):
        render.wiggle([[0.0, 1.0]], **given)


@pytest.mark.parametrize(("shape", "remedy"), [((2, 3, 4), "pick a sample"), ((), "pick the sig")])
def test_another_rank_is_an_error_with_a_remedy(shape, remedy):
    with pytest.raises(ValueError, match=rf"must have shape \(C, L\), got .*; {remedy}"):
        render.wiggle(np.zeros(shape))
