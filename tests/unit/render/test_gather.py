import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope import render
from stratascope.render import Axis, _colours
from stratascope.render._gather import amplified, equalised, moving_sum

TIME, OFFSET = Axis("time", step=0.001, unit="s"), Axis("offset", step=10, unit="m")


def make_shots(shots=5, times=1000, traces=70):
    """Shots over three layers: a direct wave and the reflections of three interfaces."""
    rng = np.random.default_rng(0)
    time = np.arange(times)[:, None] * 0.001
    out = []
    for source in np.linspace(0, 10 * (traces - 1), shots):
        x = np.abs(np.arange(traces) * 10 - source)[None]
        traveltimes = [x / 1500, *(np.hypot(t, x / v) for t, v in ((0.2, 1800), (0.5, 2500)))]
        phases = [(np.pi * 15 * (time - t - 0.05)) ** 2 for t in traveltimes]
        ricker = sum((1 - 2 * p) * np.exp(-p) / (k + 1) ** 2 for k, p in enumerate(phases))
        out.append(ricker + rng.normal(0, 1e-3, (times, traces)))
    return np.array(out, np.float32)


def slow_agc(values, half):
    out = np.zeros_like(values)
    for t in range(values.shape[0]):
        for x in range(values.shape[1]):
            window = values[max(0, t - half) : t + half + 1, x]
            rms = np.sqrt(np.mean(window[np.isfinite(window)] ** 2))
            out[t, x] = values[t, x] / rms if rms else 0.0
    return out


@pytest.mark.parametrize("half", [0, 1, 7, 39, 40, 1000])
def test_automatic_gain_is_that_of_the_slow_loop(half):
    values = np.random.default_rng(0).normal(size=(40, 3)) * np.logspace(0, -8, 40)[:, None]
    values[:, 2] *= 1e-5
    np.testing.assert_allclose(equalised(values, half), slow_agc(values, half), rtol=1e-12)


def test_automatic_gain_leaves_gaps_and_silence_as_they_are():
    values = np.random.default_rng(0).normal(size=(30, 2))
    values[3:5, 0], values[10, 0], values[10:25, 1] = np.nan, np.inf, 0
    shown = equalised(values, 3)
    np.testing.assert_array_equal(np.isfinite(shown), np.isfinite(values))
    assert (shown[10:25, 1] == 0).all()
    known = np.isfinite(values)
    np.testing.assert_allclose(shown[known], slow_agc(values, 3)[known], rtol=1e-12)


def test_automatic_gain_does_not_depend_on_the_size_of_the_values():
    values = np.random.default_rng(0).normal(size=(30, 2))
    for size in (1e-300, 1e300):
        np.testing.assert_allclose(equalised(values * size, 4), equalised(values, 4), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 70), st.integers(1, 3))
def test_a_moving_sum_is_the_sum_of_the_window(length, half, shots):
    values = np.random.default_rng(length).normal(size=(shots, length, 2))
    expected = [values[:, max(0, t - half) : t + half + 1].sum(1) for t in range(length)]
    np.testing.assert_allclose(moving_sum(values, half), np.stack(expected, 1), atol=1e-12)


def test_a_small_value_after_a_large_one_is_not_lost_in_a_moving_sum():
    values = np.r_[1e30, np.ones(50)][:, None]
    assert (moving_sum(values, 4)[5:-4] == 9).all()


def test_gain_is_a_power_of_the_time_and_one_at_the_last():
    values = np.ones((5, 2))
    shown, said = amplified(values, Axis("time", 0.5, 1.0), 2.0, None)
    np.testing.assert_allclose(shown[:, 0], (np.array([1, 1.5, 2, 2.5, 3]) / 3) ** 2)
    assert said == ["gain t^2, 1 at the last time"]
    assert amplified(values, TIME, 0, None)[1] == []


def test_the_caption_says_what_was_done_in_order(said):
    render.gather(make_shots(1)[0], axes=(TIME, OFFSET), gain=2, agc=0.2, flip=True)
    assert "1000 x 70 · gain t^2, 1 at the last time · AGC over 0.2 s · range after" in said[0]
    assert "polarity reversed (times -1), positive is black · colours: ±" in said[0]
    assert "(|x| p98, 2 % clipped)" in said[0]
    render.gather(make_shots(1)[0], style="red-blue", transform="sqrt")
    assert "polarity as given, positive is red" in said[1]
    assert "signed square root" in said[1]
    render.gather(make_shots(1)[0], style="wiggle", flip=True)
    assert "polarity reversed (times -1) · an excursion of 1 distance is ±" in said[2]
    assert "positive to the right, filled" in said[2]


def test_a_positive_value_is_black_or_red_and_turns_white_or_blue_when_flipped():
    spike = np.zeros((20, 20))
    spike[3:6, 3:6] = 1
    tables = {"grey": _colours.grey(), "red-blue": _colours.red_blue()}
    for style, table in tables.items():
        for flip, end in ((False, -1), (True, 0)):
            picture = render.gather(spike, style=style, flip=flip)
            assert (picture == table[end]).all(-1).sum() >= 9 * 18**2


def test_shots_stand_beside_each_other_on_one_range(said):
    shots = make_shots()
    picture = render.gather(shots, axes=(TIME, OFFSET))
    assert picture.shape[1] > 5 * 70
    assert "5 x 1000 x 70" in said[0]
    assert render.fit_scale(shots, percentile=98, estimator="symmetric").caption in said[0]


def test_one_scale_for_two_gathers_gives_equal_amplitudes_equal_colours():
    scale = render.Scale(-1, 1, diverging=True)
    one, two = (render.gather(np.array([[0.5, x], [x, 0.2]]), scale=scale) for x in (0.3, 9.0))
    np.testing.assert_array_equal(one[40, 40], two[40, 40])


def test_a_dead_shot_says_so_on_itself(said):
    shots = make_shots(3, 60, 40)
    shots[1] = 0
    picture = render.gather(shots)
    assert "constant 0" in said[0]
    grey = (picture == np.array(_colours.CONSTANT, np.uint8)).all(-1).any(0).nonzero()[0]
    assert picture.shape[1] / 4 < grey.min() < grey.max() < picture.shape[1] * 3 / 4


def test_too_many_shots_are_refused():
    with pytest.raises(ValueError, match=r"at most 48 shots stand beside each other, got 500"):
        render.gather(np.zeros((500, 2, 2)))


def test_wiggles_are_those_of_the_traces():
    shot = make_shots(1, 200, 12)[0]
    assert (render.gather(shot, style="wiggle") < 128).any()


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((0, 5)), np.zeros((5, 0)), [[1.0]], np.zeros((9, 4)), np.full((9, 4), -3.0),
        np.full((9, 4), np.nan), [[np.inf, -np.inf], [np.nan, 1]], np.eye(5, dtype=bool),
        np.eye(5, dtype=np.float16) * 6e4, np.eye(5) * 1e308, np.eye(5) * 5e-324, np.eye(3) * 1j,
        torch.eye(5, dtype=torch.bfloat16), np.ones((3, 2000)), np.arange(20_000.0)[:, None],
    ],
)  # fmt: skip
@pytest.mark.parametrize("style", ["grey", "red-blue", "wiggle"])
def test_any_traces_give_a_picture_without_a_warning(values, style):
    look = {"style": style, "gain": 2, "agc": 3, "flip": True, "transform": "sqrt"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (render.gather(values, title="t", **look) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.tobytes() == second.tobytes()


def test_marks_for_what_is_not_finite(has):
    shot = make_shots(1, 100, 20)[0]
    shot[5:9, 3], shot[20, 4], shot[30, 5] = np.nan, np.inf, -np.inf
    picture = render.gather(shot, axes=(TIME, OFFSET), agc=0.02)
    for mark in (_colours.NAN_DARK, _colours.PLUS_INFINITY, _colours.MINUS_INFINITY):
        assert has(picture, mark)


@pytest.mark.parametrize(
    "given", [{"gain": -1}, {"gain": np.nan}, {"agc": 0}, {"agc": np.inf}, {"gain": np.inf}]
)
def test_gains_have_limits(given):
    with pytest.raises(ValueError, match="gain must be 0 or more and agc above 0, got gain="):
        render.gather(np.eye(3), **given)


def test_a_window_of_less_than_three_samples_names_the_interval():
    with pytest.raises(ValueError, match=r"3 samples or more, got 0\.2 where one sample is 1\.0;"):
        render.gather(np.eye(5), agc=0.2)
    with pytest.raises(ValueError, match=r"got 0\.001 where one sample is 0\.001 s; name"):
        render.gather(np.eye(5), axes=(TIME, OFFSET), agc=0.001)


def test_an_unknown_style_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="style must be one of 'grey', 'red-blue', 'wiggle', got"):
        render.gather(np.eye(3), style="jet")


@pytest.mark.parametrize(
    ("shape", "style", "remedy"),
    [
        ((5,), "grey", r"\(T, X\) or \(S, T, X\), got \(5,\); use render.line for one trace"),
        ((1, 2, 3, 4), "grey", "pick a shot"),
        ((2, 3, 4), "wiggle", r"\(T, X\), got \(2, 3, 4\); pick a shot"),
    ],
)
def test_another_rank_is_an_error_with_a_remedy(shape, style, remedy):
    with pytest.raises(ValueError, match=rf"the array must have shape .*{remedy}"):
        render.gather(np.zeros(shape), style=style)
