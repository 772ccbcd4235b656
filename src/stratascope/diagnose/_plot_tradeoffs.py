"""Pictures of what one metric costs another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stratascope._optional import require

_COLOURS = ("#e4572e", "#1f4e79", "#3a7d44", "#a05195", "#b8860b", "#444444")


def draw_tradeoffs(found: Mapping[str, Any], *, to: str | Path | None) -> Any:
    """Draw correlations, places and a front, and write the picture where a path is given."""
    figure_module = require("matplotlib.figure", extra="plot")
    is_plane = found["places"].shape[1] == 2
    count = 3 if is_plane else 2
    figure = figure_module.Figure(figsize=(4.8 * count, 4.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, count)
    _draw_agreement(figure, panels[0], found)
    _draw_front(panels[1], found)
    if is_plane:
        _draw_places(panels[2], found)
    if to is not None:
        figure.savefig(to)
    return figure


def _draw_agreement(figure: Any, panel: Any, found: Mapping[str, Any]) -> None:
    names, agreement = found["metrics"], found["agreement"]
    image = panel.imshow(agreement, cmap="RdBu", vmin=-1, vmax=1)
    figure.colorbar(image, ax=panel)
    panel.set_xticks(range(len(names)), names, rotation=30, ha="right")
    panel.set_yticks(range(len(names)), names)
    for row in range(len(names)):
        for column in range(len(names)):
            value = agreement[row, column]
            ink = "white" if abs(value) > 0.6 else "black"
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink)
    panel.set_title("rank correlation, 1: they agree")


def _draw_front(panel: Any, found: Mapping[str, Any]) -> None:
    """Draw the pair of metrics that agrees least."""
    agreement = np.where(np.isnan(found["agreement"]), 2.0, found["agreement"])
    agreement = agreement + 9 * np.tri(len(agreement))
    across, up = np.unravel_index(int(agreement.argmin()), agreement.shape)
    points, front = found["points"], found["front"]
    panel.scatter(points[:, across], points[:, up], s=8, color="#bbbbbb", label="points")
    # Above the stars, which would hide it.
    panel.scatter(
        points[front, across], points[front, up], s=12, color="#222222", label="Pareto front",
        zorder=4,
    )  # fmt: skip
    for k, size in ((across, 260), (up, 150)):
        index = found["best"][k]
        panel.scatter(
            points[index, across], points[index, up], s=size, marker="*", zorder=3,
            color=_COLOURS[k % len(_COLOURS)], label=f"best {found['metrics'][k]}",
        )  # fmt: skip
    for k, name in ((across, panel.set_xlabel), (up, panel.set_ylabel)):
        metric = found["metrics"][k]
        name(f"{metric} ({'more' if metric in found['maximize'] else 'less'} is better)")
    panel.set_title("the pair that agrees least")
    panel.legend(fontsize=8)


def _draw_places(panel: Any, found: Mapping[str, Any]) -> None:
    places, front = found["places"], found["front"]
    panel.scatter(places[:, 0], places[:, 1], s=6, color="#dddddd")
    panel.scatter(
        places[front, 0], places[front, 1], s=12, color="#222222", label="Pareto front", zorder=4
    )
    for k, (name, index) in enumerate(zip(found["metrics"], found["best"], strict=True)):
        # One inside the other where they fall together.
        panel.scatter(
            *places[index], s=260 - 60 * min(k, 3), marker="*", zorder=3,
            color=_COLOURS[k % len(_COLOURS)], label=f"best {name}",
        )  # fmt: skip
    panel.set_xlabel("axis 1")
    panel.set_ylabel("axis 2")
    panel.set_title("where each is best")
    panel.legend(fontsize=8)
