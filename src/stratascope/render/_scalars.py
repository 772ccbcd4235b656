"""The methods with a table of their own: strength, likeness, the strongest channel."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _colours
from stratascope.render._components import leading
from stratascope.render._fitted import Fitted, Floats, Parameters, Settings
from stratascope.render._oklab import oklab_to_srgb, srgb_to_oklab

_ENERGY = 0.995
_MOST_HUES, _HUES = 12, 6
_CHROMA, _DARK, _LIGHT = 0.12, 0.3, 0.8


def fit_energy(rows: Floats, settings: Settings) -> Fitted:
    """Fit `energy`: the norm of each row on a sequential scale that ends at p99.5."""
    norms = np.sqrt(np.square(rows).sum(1))
    high = np.quantile(norms, _ENERGY) or norms.max()
    table = _colours.sequential() / 255
    legend = [("0", table[0]), ("p99.5 of |x|", table[-1])]
    return Fitted({"high": np.array(high)}, legend=legend)


def energy_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab."""
    norms = np.sqrt(np.square(columns).sum(0))
    high = float(parameters["high"])
    return _from_table(norms / high if high > 0 else norms * 0, _colours.sequential())


def fit_cosine(rows: Floats, settings: Settings) -> Fitted:
    """Fit `cosine`: likeness to one row, on a scale from -1 to 1 that never changes."""
    target = settings.target
    if target is None or np.shape(target) != rows.shape[1:] or not np.isfinite(target).all():
        got = None if target is None else np.shape(target)
        raise ValueError(
            f"target must be {rows.shape[1]} finite numbers for method='cosine', got {got}; pass "
            "the channels at a pixel: values[:, y, x]"
        )
    if not np.any(target):
        raise ValueError("target must not be all zeros, which has no direction; pick another pixel")
    largest = np.abs(target).max()
    names = ("-1 opposite", "0", "1 alike")
    table = _colours.diverging() / 255
    legend = [(name, table[k]) for name, k in zip(names, (0, len(table) // 2, -1), strict=True)]
    return Fitted({"target": np.asarray(target) / largest}, legend=legend)


def cosine_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab; a row of zeros has no direction and gets NaN."""
    target = parameters["target"]
    norms = np.sqrt(np.square(columns).sum(0)) * np.sqrt(np.square(target).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        likeness = target @ columns / norms
    return _from_table(likeness / 2 + 0.5, _colours.diverging())


def _from_table(places: Floats, table: NDArray[np.uint8]) -> Floats:
    known = ~np.isnan(places)
    entries = np.where(known, places, 0).clip(0, 1) * (len(table) - 1) + 0.5
    return np.where(known, srgb_to_oklab(table / 255).T[:, entries.astype(np.intp)], np.nan)


def fit_argmax(rows: Floats, settings: Settings) -> Fitted:
    """Fit `argmax-hue`: a hue for each of the channels that vary most, like ones side by side."""
    amount = min(_HUES if settings.parts is None else settings.parts, _MOST_HUES, rows.shape[1])
    chosen = np.sort(np.argsort(-rows.var(0), kind="stable")[:amount])
    part = rows[:, chosen] - rows[:, chosen].mean(0)
    spread = np.sqrt(np.square(part).mean(0))
    part /= np.where(spread > 0, spread, 1)
    # Along the angle of the two strongest directions of their correlation, like follows like.
    plane = leading(part.T @ part / len(rows), amount, 2)
    angle = np.arctan2(plane[:, -1], plane[:, 0])
    chosen = chosen[np.argsort(np.round(angle, 9), kind="stable")]
    sizes = np.abs(rows[:, chosen])
    # Each by its own end, or the channel with the largest numbers would win everywhere.
    high = np.quantile(sizes, _ENERGY, axis=0)
    high = np.where(high > 0, high, sizes.max(0))
    legend = hue_legend([f"channel {c}" for c in chosen])
    notes = ["hue: the channel nearest to its own p99.5 · lightness: how near · chroma: its lead"]
    return Fitted({"channels": chosen, "high": high}, notes, legend=legend)


def argmax_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab."""
    high = parameters["high"].reshape(-1, 1)
    sizes = np.abs(columns[parameters["channels"]])
    sizes = np.divide(sizes, high, where=high > 0, out=np.zeros_like(sizes))
    order = np.sort(sizes, axis=0)
    first = order[-1]
    second = order[-2] if len(order) > 1 else np.zeros_like(first)
    lead = np.divide(first - second, first, where=first > 0, out=np.zeros_like(first))
    # The root, since leads are small where many channels answer.
    hues = fixed_hues(len(sizes))[sizes.argmax(0)] * np.sqrt(lead)[:, None]
    return np.stack([_DARK + (_LIGHT - _DARK) * first.clip(0, 1), *hues.T])


def hue_legend(names: Sequence[str]) -> list[tuple[str, Floats]]:
    """Give each name its hue."""
    hues = fixed_hues(len(names))
    return [(name, oklab_to_srgb([0.7, *hue])) for name, hue in zip(names, hues, strict=True)]


def fixed_hues(amount: int) -> Floats:
    """Give so many colours of equal chroma around the circle, as OKLab's a and b, `(n, 2)`."""
    angle = 2 * np.pi * (np.arange(amount) / max(1, amount) + 1 / 12)
    return _CHROMA * np.stack([np.cos(angle), np.sin(angle)], 1)
