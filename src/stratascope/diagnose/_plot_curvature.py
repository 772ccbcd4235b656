"""Pictures of spectra."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stratascope._optional import require

_NAMES = {"hessian": "Hessian", "gauss_newton": "Gauss–Newton matrix"}
_LEAST = 1e-7  # of the highest: below it a density is not drawn


def draw_curvature(
    found: Mapping[str, Any], density: tuple[Any, Any], *, to: str | Path | None
) -> Any:
    """Draw a density on a logarithmic scale, and write the picture where a path is given."""
    figure_module = require("matplotlib.figure", extra="plot")
    figure = figure_module.Figure(figsize=(7.5, 4.2), layout="constrained", dpi=120)
    panel = figure.subplots()
    places, heights = density
    panel.semilogy(places, heights, color="#1f4e79")
    bottom = float(heights.max()) * _LEAST
    panel.set_ylim(bottom, float(heights.max()) * 3)
    panel.fill_between(places, bottom, heights, color="#1f4e79", alpha=0.15, linewidth=0)
    for value in (*found["eigenvalues"], found["lowest"]):
        panel.axvline(value, ymax=0.06, color="#e4572e", linewidth=1.2)
    settings = found["settings"] or {}
    panel.set_xlabel(f"eigenvalue of the {_NAMES.get(settings.get('matrix', ''), 'matrix')}")
    panel.set_ylabel("density, smoothed")
    title = f"trace {found['trace']:.3g} ± {found['trace_error']:.2g}"
    if "samples" in settings:
        title += f" · {settings['parameters']:,} parameters · {settings['samples']} samples"
    panel.set_title(f"{title} · red: single eigenvalues", fontsize=9)
    if to is not None:
        figure.savefig(to)
    return figure
