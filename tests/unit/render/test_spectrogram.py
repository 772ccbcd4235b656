import warnings

import numpy as np
import pytest
import torch
from scipy import signal

from stratascope import render
from stratascope.render import _colours, _map
from stratascope.render._spectrogram import power_decibels


@pytest.fixture
def framed_axes(monkeypatch):
    """The notes and axes of each picture made."""
    texts = []
    drawn = _map.framed

    def listen(*arguments, **options):
        texts.append(arguments[1])
        return drawn(*arguments, **options)

    monkeypatch.setattr(_map, "framed", listen)
    return texts


@pytest.mark.parametrize(
    ("window", "step", "interval"), [(64, 16, 0.001), (51, 7, 2.0), (256, 300, 1.0), (2, 1, 1.0)]
)
def test_the_power_is_that_of_scipy(rng, window, step, interval):
    values = rng.normal(3, 2, 1000)
    if step <= window:
        _, _, expected = signal.spectrogram(
            values, 1 / interval, "hann", window, window - step, detrend="constant"
        )
    else:
        expected = np.stack(
            [
                signal.periodogram(values[k : k + window], 1 / interval, "hann")[1]
                for k in range(0, 1000 - window + 1, step)
            ],
            1,
        )
    power = 10 ** (power_decibels(values, window, step, interval) / 10)
    np.testing.assert_allclose(power, expected, rtol=1e-9, atol=1e-25 * expected.max())


def test_the_axes_are_time_in_the_middle_of_windows_and_frequency_to_the_highest(framed_axes):
    time = render.Axis("time", 0.01, 5.0, "s")
    render.spectrogram(np.sin(np.arange(400.0)), axis=time, window=32, step=8)
    frequency, along = framed_axes[0]
    assert frequency.label == "frequency (Hz)"
    assert (frequency.start, frequency.step) == pytest.approx((50, -100 / 32))
    assert (along.start, along.step) == pytest.approx((5.155, 0.08))
    assert along.unit == "s"


def test_frequencies_along_metres_are_a_metre():
    assert render.spectrogram(np.arange(99.0), axis=render.Axis("offset", 10, unit="m")).ndim == 3


def test_a_window_with_a_gap_is_missing_and_silence_is_not(rng, has):
    values = rng.normal(size=1000)
    values[100], values[500:800] = np.inf, 0
    power = power_decibels(values, 64, 16, 1.0)
    assert np.isnan(power).any(0).sum() == 4
    assert np.isneginf(power).all(0).sum() > 10
    picture = render.spectrogram(values, window=64)
    assert has(picture, _colours.NAN_DARK)
    assert not has(picture, _colours.MINUS_INFINITY)


def test_the_size_of_the_values_shifts_the_decibels_and_nothing_else(rng):
    values = rng.normal(size=300)
    base = power_decibels(values, 32, 8, 1.0)
    for size in (1e-300, 1e300):
        shift = power_decibels(values * size, 32, 8, 1.0) - base
        np.testing.assert_allclose(shift, 20 * np.log10(size), atol=1e-6)


def test_a_scale_makes_two_signals_comparable(rng):
    values = rng.normal(size=300)
    scale = render.Scale(-60, 20)
    strong, weak = (render.spectrogram(v, scale=scale) for v in (values, values / 100))
    assert strong.shape == weak.shape
    assert strong.astype(int).sum() > weak.astype(int).sum()


@pytest.mark.parametrize(
    "values",
    [
        [], [1.0], [1.0, 2.0], np.zeros(50), np.full(50, 7.0), np.full(50, np.nan), [np.inf, 0.0],
        np.ones(9, bool), np.arange(40, dtype=np.float16), np.arange(99) * 5e-324, [1e308, -1e308],
        torch.arange(30, dtype=torch.bfloat16), np.arange(20) * 1j, np.r_[np.nan, np.arange(99)],
    ],
)  # fmt: skip
def test_any_signal_gives_a_picture_without_a_warning(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (render.spectrogram(values, title="t", caption="c") for _ in range(2))
    assert first.dtype == np.uint8
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("given", [{"window": 0}, {"window": 101}, {"step": 0}])
def test_windows_must_fit(given):
    with pytest.raises(ValueError, match="window must be from 1 to the 100 values and step at lea"):
        render.spectrogram(np.arange(100.0), **given)


def test_several_channels_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \(L,\), got \(2, 9\); pick one channel"):
        render.spectrogram(np.zeros((2, 9)))
