"""Pictures of sweeps."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stratascope._optional import require

if TYPE_CHECKING:
    from stratascope.diagnose._sweep import Sweep

_DOTS, _LINE, _BAD = "#9db4c8", "#1f4e79", "#e4572e"


def draw_sweep(sweep: "Sweep", *, log: bool, to: str | Path | None) -> Any:
    """Draw each metric over the rates above, and the curves of all runs below."""
    # Without pyplot, which keeps every figure and may open a window.
    figure_module = require("matplotlib.figure", extra="plot")
    colours = require("matplotlib", extra="plot").colormaps["viridis"]
    count = len(sweep.metrics)
    figure = figure_module.Figure(figsize=(4.4 * count, 7.2), layout="constrained", dpi=120)
    panels = figure.subplots(2, count, squeeze=False)
    for metric, above, below in zip(sweep.metrics, *panels, strict=True):
        _draw_ends(above, sweep, metric)
        _draw_curves(below, sweep, metric, colours)
        for panel in (above, below):
            _frame(panel, sweep, metric, log)
    scale = require("matplotlib.colors", extra="plot").LogNorm(sweep.rates[0], sweep.rates[-1])
    if len(sweep.rates) > 1:
        mappable = require("matplotlib.cm", extra="plot").ScalarMappable(scale, colours)
        figure.colorbar(mappable, ax=list(panels[1]), label="learning rate", pad=0.01)
    figure.suptitle(repr(sweep).removeprefix("Sweep(").removesuffix(")"), fontsize=9)
    if to is not None:
        figure.savefig(to)
    return figure


def _draw_ends(panel: Any, sweep: "Sweep", metric: str) -> None:
    found = sweep.final(metric)
    places = np.repeat(sweep.rates, len(sweep.seeds))
    finished = np.isfinite(found.ravel())
    panel.plot(places[finished], found.ravel()[finished], ".", color=_DOTS, label="a run")
    medians = sweep.median(metric)
    medians[~np.isfinite(medians)] = np.nan
    panel.plot(sweep.rates, medians, ".-", color=_LINE, label="median")
    panel.axhline(
        np.nanmedian(sweep.start(metric)), color="#888888", linestyle=":", label="untrained"
    )
    best = sweep.best_rate(metric)
    if np.isfinite(best):
        panel.axvline(best, color=_LINE, linewidth=0.8, linestyle="--", label=f"best: {best:.2g}")
    lost = ~finished
    if lost.any():
        # At the edge that is bad, for there is no value.
        edge = 0.03 if metric in sweep.maximize else 0.97
        panel.plot(
            places[lost],
            np.full(lost.sum(), edge),
            "x",
            color=_BAD,
            transform=panel.get_xaxis_transform(),
            label="diverged or crashed",
        )
    panel.set(xscale="log", xlabel="learning rate", ylabel=f"{metric} at the end", title=metric)
    panel.legend(fontsize=7)


def _draw_curves(panel: Any, sweep: "Sweep", metric: str, colours: Any) -> None:
    values = sweep.values[..., sweep.metrics.index(metric)]
    for number in range(len(sweep.rates)):
        share = number / max(1, len(sweep.rates) - 1)
        for run in values[number]:
            panel.plot(run, color=colours(share), linewidth=0.9)
    panel.set(xlabel="epoch", ylabel=metric)
    panel.xaxis.get_major_locator().set_params(integer=True)


def _frame(panel: Any, sweep: "Sweep", metric: str, log: bool) -> None:
    """Show the values from which runs begin and at which they end; excursions go off the page."""
    values = sweep.values[..., sweep.metrics.index(metric)]
    ends = sweep.final(metric)
    shown = np.concatenate([ends[np.isfinite(ends)], sweep.start(metric)])
    shown = shown[np.isfinite(shown)]
    if log and np.nanmin(values) > 0:
        panel.set_yscale("log")
    elif np.ptp(shown):
        margin = 0.08 * np.ptp(shown)
        panel.set_ylim(shown.min() - margin, shown.max() + margin)
