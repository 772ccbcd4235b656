"""Seismic gathers and sections as geophysicists are used to see them."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _colours
from stratascope.render._arrays import as_values
from stratascope.render._axes import Axes, Axis, as_axis
from stratascope.render._map import Page, drawn
from stratascope.render._page import Picture, compose, placeholder, shape_text
from stratascope.render._scale import Scale, fitted
from stratascope.render._text import count, number
from stratascope.render._transform import Transform, checked
from stratascope.render._wiggle import wiggles

Style = Literal["grey", "red-blue", "wiggle"]

_MOST_SHOTS = 48
_POSITIVE = {"grey": "black", "red-blue": "red"}


def gather(
    array: Any,
    *,
    axes: Axes = ("sample", "trace"),
    style: Style = "grey",
    gain: float = 0.0,
    agc: float | None = None,
    flip: bool = False,
    scale: Scale | None = None,
    percentile: float = 98,
    transform: Transform = "linear",
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw seismic traces `(T, X)` side by side, time down, clipped at a percentile of `|x|`.

    The amplitude at time t may be multiplied by `t**gain`, relative to the last time; 2 undoes
    spherical divergence and absorption (Claerbout, Imaging the Earth's Interior, 1985, p. 233).
    Automatic gain control then divides it by the root mean square in a window about it, which is
    shorter at the ends of the trace, as in Seismic Unix' `sugain agc=1`. The caption says what was
    done, and which sign has which colour.

    Args:
        array: Numbers of shape `(T, X)`: an array, a tensor on any device, nested sequences. Or
            `(S, T, X)` for several shots beside each other, on one range.
        axes: What runs down and across: two names, or `Axis` with sampling interval and unit.
        style: `"grey"`, with positive values black; `"red-blue"`, with positive values red;
            `"wiggle"`, with positive values filled, for one shot.
        gain: The power of time, 0 or more.
        agc: The length of the window of automatic gain control, in the unit of time; None for
            none.
        flip: Whether to multiply by -1, where the polarity is the opposite one.
        scale: The range after gain, symmetric about zero; fitted to the values if None.
        percentile: Where a fitted range ends; see `fit_scale`.
        transform: How amplitudes spread over a fitted range; `"sqrt"` shows weak events, too.
        title: A line above the traces.
        caption: Text below the traces, before what the picture says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array has neither two nor three dimensions, or there are several shots of
            wiggles or more than 48, or the style is unknown, or `gain` or `agc` are negative or
            not finite, or `agc` spans less than 3 samples.
        TypeError: The array does not hold numbers, or `scale` is not a Scale, or an axis neither
            an Axis nor a name.

    >>> time = Axis("time", step=0.004, unit="s")
    >>> traces = np.sin(np.arange(400.0)).reshape(100, 4)
    >>> gather(traces, axes=(time, Axis("offset", step=25, unit="m")), agc=0.1).ndim
    3
    """
    checked("style", style, Style)
    values = as_values(array)
    numeric = values.array
    if numeric.ndim not in (2, 3) or (numeric.ndim == 3 and style == "wiggle"):
        wanted = "(T, X)" if style == "wiggle" else "(T, X) or (S, T, X)"
        remedy = "pick a shot: array[0]" if numeric.ndim > 2 else "use render.line for one trace"
        raise ValueError(f"the array must have shape {wanted}, got {numeric.shape}; {remedy}")
    if numeric.ndim == 3 and len(numeric) > _MOST_SHOTS:
        raise ValueError(
            f"at most {_MOST_SHOTS} shots stand beside each other, got {len(numeric)}; pick some: "
            f"array[:{_MOST_SHOTS}]"
        )
    page = Page(title, caption, axes, [values.note])
    if not numeric.size:
        body = placeholder(f"empty: {shape_text(numeric.shape)}")
        return compose(body, title=title, caption=caption, notes=page.extra)
    time = as_axis(axes[0])
    shown, gains = amplified(numeric, time, gain, agc)
    shown = -shown if flip else shown
    scale = fitted(shown, scale, percentile, "symmetric", transform)
    sign = "polarity reversed (times -1)" if flip else "polarity as given"
    said = [*gains, "range after gain" if gains else ""]
    if style == "wiggle":
        traces = f"{count(shown.shape[1], 'trace')} of {count(len(shown), 'value')}"
        first = [traces, *said, sign]
        return wiggles(shown.T, scale, page, excursion=1.0, every=None, first=first)
    colours = _colours.grey() if style == "grey" else _colours.red_blue()
    sign = f"{sign}, positive is {_POSITIVE[style]}"
    return drawn(shown, scale, page, first=[shape_text(shown.shape), *said, sign], colours=colours)


def amplified(
    values: NDArray[np.float64], time: Axis, gain: float, agc: float | None
) -> tuple[NDArray[np.float64], list[str]]:
    """Apply the gains to values `(..., T, X)`; say which."""
    if not (math.isfinite(gain) and gain >= 0) or (
        agc is not None and not (math.isfinite(agc) and agc > 0)
    ):
        raise ValueError(
            f"gain must be 0 or more and agc above 0, got gain={gain!r}, agc={agc!r}; leave out "
            "what is not wanted"
        )
    notes = []
    if gain:
        places = np.abs(time.start / time.step + np.arange(values.shape[-2]))
        # Relative to the last, so that no value grows beyond the largest float.
        factors = (places / (places.max() or 1.0))[:, None] ** gain
        values = np.multiply(values, factors, out=values.copy(), where=np.isfinite(values))
        notes.append(f"gain t^{number(gain)}, 1 at the last time")
    if agc:
        half = int(min(agc / abs(time.step) / 2, values.shape[-2]))
        if not half:
            raise ValueError(
                f"the window of agc must span 3 samples or more, got {agc!r} where one sample is "
                f"{time.step!r} {time.unit}".rstrip()
                + "; name the sampling interval, as "
                "axes=(render.Axis('time', step=0.004, unit='s'), 'trace'), or pass a longer window"
            )
        values = equalised(values, half)
        notes.append(f"AGC over {number(agc)} {time.unit}".strip())
    return values, notes


def equalised(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Divide values `(..., T, X)` by the root mean square of those up to `half` away.

    What is not finite counts for nothing in the mean; where all of a window is zero, it stays.
    """
    finite = np.isfinite(values)
    largest = np.abs(values, where=finite, out=np.zeros_like(values)).max(initial=0.0) or 1.0
    relative = np.where(finite, values, 0.0) / largest
    energy = moving_sum(relative**2, half)
    size = np.sqrt(energy / np.maximum(moving_sum(finite.astype(np.float64), half), 1))
    divided = np.divide(relative, size, out=np.zeros_like(values), where=size > 0)
    return np.where(finite, divided, values)


def moving_sum(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Sum values `(..., T, X)` over all times up to `half` away.

    Each window is the end of one block and the start of the next, of its own length (van Herk
    1992), so that nothing large is added and taken off again.

    >>> moving_sum(np.array([[1.0], [2.0], [3.0]]), 1).ravel().tolist()
    [3.0, 6.0, 5.0]
    """
    length, window = values.shape[-2], 2 * half + 1
    blocks = -(-(length + 2 * half) // window)
    padded = np.zeros((*values.shape[:-2], blocks * window, values.shape[-1]))
    padded[..., half : half + length, :] = values
    cut = padded.reshape(*values.shape[:-2], blocks, window, values.shape[-1])
    starts = np.cumsum(cut, -2).reshape(padded.shape)
    ends = np.cumsum(cut[..., ::-1, :], -2)[..., ::-1, :].reshape(padded.shape)
    sums = ends[..., :length, :].copy()
    inside = np.flatnonzero(np.arange(length) % window)
    sums[..., inside, :] += starts[..., inside + window - 1, :]
    return sums
