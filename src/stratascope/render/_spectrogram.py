"""The power of one signal over time and frequency."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stratascope.render._arrays import as_values
from stratascope.render._axes import Axis, as_axis
from stratascope.render._map import Page, drawn
from stratascope.render._page import Picture, compose, placeholder
from stratascope.render._scale import Scale, fitted
from stratascope.render._text import count

_DECIBELS = 80.0
_COLUMNS = 1000


def spectrogram(
    array: Any,
    *,
    axis: Axis | str = "sample",
    window: int | None = None,
    step: int | None = None,
    scale: Scale | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw the power of one signal `(L,)` over time and frequency, in decibels.

    The power is the one-sided spectral density in windows of Hann, each less its mean: what
    `scipy.signal.spectrogram` gives with `window="hann"`. A window with a value that is not finite
    is missing.

    Args:
        array: Numbers of shape `(L,)`: an array, a tensor on any device, a sequence.
        axis: What the signal runs along, with its sampling interval.
        window: Values in a window; if None a power of two near twice the root of the length.
        step: Values from one window to the next; if None an eighth of the window, or more where
            there would be over 1,000 windows.
        scale: The range of the decibels; if None 80 below the greatest.
        title: A line above the picture.
        caption: Text below the picture, before what it says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`, with the highest frequency at the top.

    Raises:
        ValueError: The array does not have one dimension, or window or step are less than 1, or
            the window is longer than the array.
        TypeError: The array does not hold numbers, or `scale` is not a Scale.

    >>> spectrogram(np.sin(np.arange(500.0)), axis=Axis("time", step=0.01, unit="s")).ndim
    3
    """
    axis = as_axis(axis)
    values = as_values(array)
    signal = values.array
    if signal.ndim != 1:
        raise ValueError(f"the array must have shape (L,), got {signal.shape}; pick one channel")
    if not signal.size:
        body = placeholder("empty: 0")
        return compose(body, title=title, caption=caption, notes=[values.note])
    window, step = _checked(len(signal), window, step)
    power = power_decibels(signal, window, step, abs(axis.step))
    first = f"{count(len(signal), 'value')} in Hann windows of {window}, one each {step}"
    finite = power[np.isfinite(power)]
    if not finite.size:
        body = placeholder("no finite window" if np.isnan(power).any() else "no power anywhere")
        return compose(body, title=title, caption=caption, notes=[first, values.note])
    scale = fitted(power, scale or Scale(finite.max() - _DECIBELS, finite.max()), 100)
    # Silence has no logarithm; it is drawn as all else that is too weak.
    power[np.isneginf(power)] = scale.low
    scale = replace(scale, minus_infs=0)
    unit = {"": "", "s": "Hz"}.get(axis.unit, f"1/{axis.unit}")
    lowest = 1 / (window * abs(axis.step))
    high = Axis("frequency", -lowest, window // 2 * lowest, unit)
    middle = axis.start + axis.step * (window - 1) / 2
    along = Axis(axis.name, axis.step * step, middle, axis.unit)
    notes = [first, "spectral density in dB"]
    page = Page(title, caption, axes=(high, along), extra=[values.note])
    return drawn(power[::-1], scale, page, first=notes)


def power_decibels(
    signal: NDArray[np.float64], window: int, step: int, interval: float
) -> NDArray[np.float64]:
    """Give the spectral density `(window // 2 + 1, windows)` in decibels; -inf where it is zero."""
    size = float(np.abs(signal[np.isfinite(signal)]).max(initial=0.0)) or 1.0
    frames = sliding_window_view(signal, window)[::step]
    known = np.all(np.isfinite(frames), axis=1)
    # Relative to the largest value, whose square may be no float.
    frames = np.where(known[:, None], frames, 0.0) / size
    frames = frames - frames.mean(1, keepdims=True)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window) if window > 1 else np.ones(1)
    power: NDArray[np.float64] = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    power[:, 1 : (window + 1) // 2] *= 2
    # What rounding leaves of a constant is no power.
    power[power <= window * np.finfo(np.float64).eps ** 2] = 0.0
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(power) + 20 * np.log10(size)
    decibels += 10 * (np.log10(interval) - np.log10((hann**2).sum()))
    decibels[~known] = np.nan
    return decibels.T


def _checked(length: int, window: int | None, step: int | None) -> tuple[int, int]:
    if window is None:
        window = min(length, 2 ** max(4, round(np.log2(2 * length**0.5))))
    if step is None:
        step = max(1, window // 8, -(-(length - window) // _COLUMNS))
    if not 1 <= window <= length or step < 1:
        raise ValueError(
            f"window must be from 1 to the {length} values and step at least 1, got "
            f"window={window!r}, step={step!r}"
        )
    return window, step
