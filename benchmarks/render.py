"""What drawing costs beside others: a map in colour, and a grid of all channels of a layer."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleave, ratio, report

from stratascope import render

_MAPS, _CHANNELS, _SIDE = 8, 256, 64
_TILES = 512


def make_maps() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Make rectified maps of a few patterns, `(N, C, H, W)`."""
    rng = np.random.default_rng(0)
    hidden = rng.gamma(0.8, size=(_MAPS, _SIDE, _SIDE, 6))
    maps = np.maximum(hidden @ rng.normal(size=(6, _CHANNELS)), 0)
    return np.ascontiguousarray(np.moveaxis(maps, -1, 1), np.float32)


def list_colour_ways(maps: np.ndarray[Any, Any]) -> dict[str, Callable[[], object]]:
    """Give what is measured on maps: fit and apply, or apply alone with what was fitted."""
    tensors = [torch.from_numpy(one).permute(1, 2, 0).contiguous() for one in maps]
    basis = render.fit_basis(maps)
    peer, fit_peer, apply_peer = find_peer()
    known = fit_peer(tensors[0])

    def apply_all() -> None:
        for one in maps:
            basis.paint(one, axis=0)

    def apply_all_peer() -> None:
        for one in tensors:
            apply_peer(one, known)

    return {
        "colours of 8 maps, known basis": apply_all,
        f"{peer}: colours of 8 maps, known basis": apply_all_peer,
        "fit to 1 map": partial(render.fit_basis, maps[:1]),
        f"{peer}: fit to 1 map": partial(fit_peer, tensors[0]),
        "page of 1 map, known basis": partial(render.rgb, maps[0], basis=basis),
    }


def find_peer() -> tuple[str, Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """Take FeatLens where it is installed, and else what most scripts do."""
    try:
        from featlens.pca import fit_pca_stats, get_pca_map
    except ImportError:
        return "pca_lowrank and min-max", _fit_plain, _apply_plain
    return "FeatLens", fit_pca_stats, get_pca_map


def _fit_plain(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = maps.flatten(0, 1)
    loadings = torch.pca_lowrank(rows, q=3, niter=20)[2]
    found = rows @ loadings
    return loadings, found.amin(0), found.amax(0)


def _apply_plain(maps: torch.Tensor, known: Any) -> np.ndarray[Any, Any]:
    loadings, low, high = known
    return ((maps @ loadings - low) / (high - low)).clamp(0, 1).numpy()


def list_grid_ways() -> dict[str, Callable[[], object]]:
    """Give what is measured on 512 channels, and the same as subplots on a fifth of them."""
    maps = np.random.default_rng(0).normal(size=(_TILES, _SIDE, _SIDE)).astype(np.float32)
    return {
        f"grid of {_TILES} channels": partial(render.grid, maps),
        f"Matplotlib: {_TILES // 8} subplots": partial(_draw_subplots, maps[: _TILES // 8]),
    }


def _draw_subplots(maps: np.ndarray[Any, Any]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9))
    canvas = FigureCanvasAgg(figure)
    side = int(np.ceil(len(maps) ** 0.5))
    for axes, (number, one) in zip(figure.subplots(side, side).flat, enumerate(maps), strict=False):
        axes.imshow(one)
        axes.set_title(str(number), fontsize=6)
        axes.axis("off")
    canvas.draw()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = list_colour_ways(make_maps()) | list_grid_ways()
    seconds = interleave(ways, options.rounds)
    rows = {f"{name}, ms": min(seconds[name]) * 1e3 for name in ways}
    own, peer, fit, fit_peer, _, grid, subplots = ways
    rows["maps a second, known basis"] = _MAPS / min(seconds[own])
    rows[f"{peer} ÷ ours"] = ratio(seconds, peer, own)
    rows[f"{fit_peer} ÷ ours"] = ratio(seconds, fit_peer, fit)
    rows[f"{subplots} × 8 ÷ our grid"] = 8 * ratio(seconds, subplots, grid)
    shape = f"{_CHANNELS} channels of {_SIDE} x {_SIDE}"
    report(f"drawing {shape}, {torch.get_num_threads()} threads", rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
