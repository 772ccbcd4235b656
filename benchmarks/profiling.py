"""What profiling costs: beside reading a store, and beside running InversionNet over its shots.

On a machine that others use, ask for the CPU time of one thread: ``--clock cpu --threads 1``.
"""

import argparse
import re
import statistics
import tempfile
import time
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
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


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


def list_store_ways(samples: int, folder: str) -> dict[str, Callable[[], object]]:
    """List what is done with a store of three layers, one of them rectified, as float32."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU()
    )
    images = np.random.default_rng(0).standard_normal((samples, 3, 48, 48)).astype(np.float32)
    store = ss.extract(model, images, ["0", "1", "3"], to=f"{folder}/acts.zarr", progress=False)
    run = partial(ss.profile, store, progress=False)
    return {
        "store: read": partial(read, store),
        "store: profile of moments, histogram, extremes": partial(
            run, top=0, covariance=False, reservoir=0
        ),
        "store: profile": run,
        "store: plain NumPy": partial(measure_plainly, store),
    }


def list_model_ways(batches: int) -> dict[str, Callable[[], object]]:
    """List what is done with InversionNet and the outputs of all its blocks."""
    model = InversionNet().eval()
    shots = torch.randn(4 * batches, 5, 1000, 70)
    parts = list(shots.split(4))
    run = partial(ss.profile, model, shots, _SITES, batch_size=4, progress=False)
    return {
        "model: bare": partial(run_bare, model, parts),
        "model: profile": run,
        "model: profile, share=1": partial(run, share=1),
        "model: plain torch in hooks, no histogram": partial(run_with, model, parts, use_torch),
        "model: torchmetrics, mean, min, max of the layer": partial(
            run_with, model, parts, use_torchmetrics(model)
        ),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=256, help="of the store")
    parser.add_argument("--batches", type=int, default=24, help="of four shots")
    parser.add_argument("--clock", choices=_CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument(
        "--only", metavar="PATTERN", default="", help="rows to measure: 'model: (profile$|torchm)'"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # First of all: or the forward pays for its memory anew each time, and hides what is measured.
    ss.tune_allocator()
    torch.manual_seed(0)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for base, ways in (
            ("store: read", list_store_ways(options.samples, folder)),
            ("model: bare", list_model_ways(options.batches)),
        ):
            names = [name for name in ways if re.search(options.only, name) and name != base]
            if names:
                chosen = {name: ways[name] for name in (base, *names)}
                clock = _CLOCKS[options.clock]
                seconds = interleave(chosen, options.rounds, clock=clock, writing=False)
                rows[f"{base}, s"] = statistics.median(seconds[base])
                short = base.split(": ")[1]
                rows |= {f"{name} ÷ {short}": ratio(seconds, name, base) for name in names}
    report(f"profile, {options.clock} time", rows, options.json)


if __name__ == "__main__":
    main()
