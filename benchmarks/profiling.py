"""What profiling costs: beside reading a store, and beside running InversionNet over its shots."""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleave, ratio, report
from torch import Tensor, nn

import stratascope as ss
from networks import InversionNet
from stratascope.store import Store

_SITES = ["encoder.*", "decoder.*", "head"]


def read(store: Store) -> None:
    """Read every value of a store once."""
    for site in store:
        for _ in store[site].blocks():
            pass


def measure_plainly(store: Store) -> None:
    """Do what somebody would write down in NumPy: reduce each block by channel, and merge."""
    for site in store:
        parts: list[Any] = []
        for _, values in store[site].blocks():
            axes = (0, *range(2, values.ndim))
            wide = values.astype(np.float64)
            parts.append(
                (
                    wide.mean(axes),
                    wide.var(axes),
                    values.min(axes),
                    values.max(axes),
                    (values == 0).sum(axes),
                )
            )
            np.histogram(values, 128)


def run_bare(model: nn.Module, batches: list[Tensor]) -> None:
    """Run a model over batches."""
    with torch.no_grad():
        for batch in batches:
            model(batch)


def run_with(
    model: nn.Module, batches: list[Tensor], measure: Callable[[str, Tensor], object]
) -> None:
    """Run a model over batches with a hook at each site."""
    named = {str(site): module for site, module in list_modules(model).items()}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: measure(name, out) and None)
        for name, module in named.items()
    ]
    run_bare(model, batches)
    for handle in handles:
        handle.remove()


def list_modules(model: nn.Module) -> dict[str, nn.Module]:
    """List the modules that are profiled."""
    modules = dict(model.named_modules())
    return {str(site): modules[str(site)] for site in ss.select(model, _SITES)}


def use_torchmetrics(model: nn.Module) -> Callable[[str, Tensor], object]:
    """Mean, least and greatest value of each site by torchmetrics, not of each channel."""
    import torchmetrics

    metrics = {
        name: [torchmetrics.MeanMetric(), torchmetrics.MinMetric(), torchmetrics.MaxMetric()]
        for name in list_modules(model)
    }
    return lambda name, out: [metric.update(out) for metric in metrics[name]]


def use_torch(name: str, out: Tensor) -> object:
    """Variance and mean, least and greatest value, and zeros of each channel, by plain torch."""
    axes = [0, *range(2, out.ndim)]
    return (
        torch.var_mean(out, axes), out.amin(axes), out.amax(axes), (out == 0).sum(axes),
    )  # fmt: skip


def profile_store(rounds: int, samples: int) -> dict[str, float]:
    """Time a store of three layers, one of them rectified, as float32."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU()
    )
    images = np.random.default_rng(0).standard_normal((samples, 3, 48, 48)).astype(np.float32)
    moments = {"top": 0, "covariance": False, "reservoir": 0, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        store = ss.extract(model, images, ["0", "1", "3"], to=f"{folder}/acts.zarr", progress=False)
        ways: dict[str, Callable[[], object]] = {
            "read": partial(read, store),
            "moments, histogram, extremes": partial(ss.profile, store, **moments),
            "all": partial(ss.profile, store, progress=False),
            "plain NumPy": partial(measure_plainly, store),
        }
        seconds = interleave(ways, rounds)
    rows = {"read, s": sorted(seconds["read"])[rounds // 2]}
    return rows | {f"{name} ÷ read": ratio(seconds, name, "read") for name in [*ways][1:]}


def profile_model(rounds: int, batches: int) -> dict[str, float]:
    """Time InversionNet with the outputs of all its blocks."""
    model = InversionNet().eval()
    shots = torch.randn(4 * batches, 5, 1000, 70)
    parts = list(shots.split(4))
    run = partial(ss.profile, model, shots, _SITES, batch_size=4, progress=False)
    ways: dict[str, Callable[[], object]] = {
        "bare": partial(run_bare, model, parts),
        "profile": run,
        "profile, share=1": partial(run, share=1),
        "profile, nothing but moments, extremes, counts": partial(
            run, top=0, bins=0, covariance=False, reservoir=0
        ),
        "plain torch in hooks, no histogram": partial(run_with, model, parts, use_torch),
        "torchmetrics: mean, min, max of the layer": partial(
            run_with, model, parts, use_torchmetrics(model)
        ),
    }
    seconds = interleave(ways, rounds)
    rows = {"bare, s": sorted(seconds["bare"])[rounds // 2]}
    return rows | {f"{name} ÷ bare": ratio(seconds, name, "bare") for name in [*ways][1:]}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=512, help="of the store")
    parser.add_argument("--batches", type=int, default=16, help="of four shots")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # First of all: or the forward pays for its memory anew each time, and hides what is measured.
    ss.tune_allocator()
    torch.manual_seed(0)
    rows = {f"store: {k}": v for k, v in profile_store(options.rounds, options.samples).items()}
    rows |= {f"model: {k}": v for k, v in profile_model(options.rounds, options.batches).items()}
    report("profile", rows, options.json)


if __name__ == "__main__":
    main()
