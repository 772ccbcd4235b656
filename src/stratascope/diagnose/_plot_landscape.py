"""Pictures of landscapes."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stratascope._optional import require
from stratascope.diagnose._refine import fill

_PANEL_INCHES = 4.6
_LEVELS = 14


def draw_landscape(
    found: Mapping[str, Any], names: Sequence[str], *, log: bool, to: str | Path | None
) -> Any:
    """Draw metrics side by side, and write the picture where a path is given."""
    # Without pyplot, which keeps every figure and may open a window.
    figure_module = require("matplotlib.figure", extra="plot")
    figure = figure_module.Figure(
        figsize=(_PANEL_INCHES * len(names), 4.2), layout="constrained", dpi=120
    )
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    draw = _draw_line if len(found["axes"]) == 1 else _draw_surface
    for name, panel in zip(names, panels, strict=True):
        draw(figure, panel, found, name, log)
        panel.set_title(f"log10 {name}" if log else name)
        panel.set_xlabel(_name_axis(found, 0))
    settings = found["settings"] or {}
    told = [f"{settings[key]} {key}" for key in ("samples", "batches") if key in settings]
    if "batchnorm" in settings:
        told.append(f"batchnorm: {settings['batchnorm']}")
    title = " · ".join([str(settings.get("directions", "")), *told]).strip(" ·")
    figure.suptitle(textwrap.fill(title, 60 * len(names)), fontsize=9)
    if to is not None:
        figure.savefig(to)
    return figure


def _draw_line(_: Any, panel: Any, found: Mapping[str, Any], name: str, log: bool) -> None:
    (axis,), values, errors = found["axes"], found["values"][name], found["errors"][name]
    if found["rounds"] is not None:
        measured = found["rounds"] >= 0
        axis, values, errors = axis[measured], values[measured], errors[measured]
    shown = _scale(values, log)
    panel.plot(axis, shown, color="#1f4e79", marker=".", markersize=4)
    if not np.isnan(errors).all():
        low, high = (_scale(values + sign * errors, log) for sign in (-1, 1))
        panel.fill_between(axis, low, high, color="#1f4e79", alpha=0.2, linewidth=0)
    for place in _list_path(found):
        panel.axvline(place[0], color="#888888", linewidth=0.8, linestyle=":")
    panel.set_ylabel(name)


def _draw_surface(figure: Any, panel: Any, found: Mapping[str, Any], name: str, log: bool) -> None:
    across, up = found["axes"]
    shown = _scale(found["values"][name], log)
    if found["rounds"] is not None:
        shown = fill(shown, found["rounds"])
    shown = np.ma.masked_invalid(shown).T
    # What is NaN stays grey.
    panel.set_facecolor("#bbbbbb")
    if shown.count():
        mesh = panel.pcolormesh(across, up, shown, cmap="viridis", shading="nearest")
        figure.colorbar(mesh, ax=panel)
        if shown.max() > shown.min() and min(shown.shape) > 1:
            panel.contour(
                across,
                up,
                shown,
                levels=_LEVELS,
                colors="white",
                linewidths=0.5,
                linestyles="solid",
            )
    if found["rounds"] is not None:
        added = np.argwhere(found["rounds"] > 0)
        panel.plot(across[added[:, 0]], up[added[:, 1]], ".", color="#ffffff", markersize=1)
    path = _list_path(found)
    if len(path):
        panel.plot(path[:, 0], path[:, 1], color="#e4572e", marker=".", linewidth=1.2)
        panel.plot(*path[-1], color="#e4572e", marker="*", markersize=10)
    elif across[0] <= 0 <= across[-1] and up[0] <= 0 <= up[-1]:
        panel.plot(0, 0, color="#e4572e", marker="*", markersize=10)
    panel.set_ylabel(_name_axis(found, 1))


def _list_path(found: Mapping[str, Any]) -> Any:
    return np.empty((0, len(found["axes"]))) if found["path"] is None else found["path"]


def _name_axis(found: Mapping[str, Any], axis: int) -> str:
    label = found["labels"][axis]
    if found["explained"]:
        label += f"\n({found['explained'][axis]:.1%} of variance)"
    return label


def _scale(values: Any, log: bool) -> Any:
    if not log:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)
