"""Pictures of optimizers side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stratascope._optional import require

if TYPE_CHECKING:
    from stratascope.diagnose._compare_optimizers import OptimizerComparison


def draw_comparison(found: "OptimizerComparison", *, to: str | Path | None) -> Any:
    """Draw the searches, the first metric over the epochs and over time, and all final values."""
    figure_module = require("matplotlib.figure", extra="plot")
    colours = require("matplotlib", extra="plot").colormaps["tab10"]
    figure = figure_module.Figure(figsize=(13, 7.6), layout="constrained", dpi=110)
    above, below = figure.subfigures(2, 1)
    search, epochs, seconds = above.subplots(1, 3)
    metric, target = found.metrics[0], found.target
    for number, (name, runs) in enumerate(found.runs.items()):
        style: dict[str, Any] = {"color": colours(number % 10), "label": name}
        sweep = found.searches[name]
        medians = sweep.median(metric)
        shown = np.isfinite(medians)
        search.plot(sweep.rates[shown], medians[shown], ".-", **style)
        for values, times in zip(runs.values[0, :, :, 0], runs.seconds[0], strict=True):
            epochs.plot(values, linewidth=0.9, **style)
            seconds.plot(times, values, linewidth=0.9, **style)
            style["label"] = None
    search.set(xscale="log", xlabel="learning rate", ylabel=f"{metric} at the end", title="search")
    epochs.set(xlabel="epoch", ylabel=metric, title="runs at the best rate")
    seconds.set(xlabel="seconds of training", ylabel=metric, title="the same over time")
    epochs.xaxis.get_major_locator().set_params(integer=True)
    start = max(float(np.nanmax(sweep.start(metric))) for sweep in found.runs.values())
    for panel in (search, epochs, seconds):
        panel.axhline(target, color="#888888", linestyle=":", linewidth=0.8)
        low, high = panel.get_ylim()
        # What diverged goes off the page.
        panel.set_ylim(low, min(high, 1.5 * start) if start > 0 else high)
    search.legend(fontsize=8)
    panels = below.subplots(1, len(found.metrics), squeeze=False)[0]
    for name, panel in zip(found.metrics, panels, strict=True):
        _draw_finals(panel, found, name, colours)
    if to is not None:
        figure.savefig(to)
    return figure


def _draw_finals(panel: Any, found: "OptimizerComparison", metric: str, colours: Any) -> None:
    for number, sweep in enumerate(found.runs.values()):
        values = sweep.final(metric)[0]
        values = values[np.isfinite(values)]
        panel.plot(np.full(len(values), number), values, "o", color=colours(number % 10), alpha=0.5)
        if len(values):
            panel.plot([number - 0.3, number + 0.3], [np.median(values)] * 2, color="black")
    panel.set(xlim=(-0.5, len(found.runs) - 0.5), title=f"{metric} at the end, and its median")
    panel.set_xticks(range(len(found.runs)), list(found.runs), rotation=20)
