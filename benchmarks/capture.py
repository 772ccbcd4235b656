"""What capture costs: per layer on tiny modules, and on three networks as ratios to the forward."""

import argparse
import statistics
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from common import interleave, ratio, report
from torch import nn

import stratascope as ss
from networks import ResNet18
from stratascope.cli._demo_models import FiveConvs
from stratascope.seismic import ReconstructionNet

_LAYERS = 20


def measure_per_layer() -> dict[str, float]:
    """Time 20 tiny layers, where the size of the data plays no part: µs for each layer."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(_LAYERS))).eval()
    x = torch.randn(1, 4)
    kept: dict[int, torch.Tensor] = {}

    def time_forward() -> float:
        return min(timeit.repeat(lambda: model(x), number=500, repeat=9)) / 500 / _LAYERS * 1e6

    with torch.no_grad():
        plain = time_forward()
        handles = [
            layer.register_forward_hook(lambda m, a, y, n=number: kept.__setitem__(n, y))
            for number, layer in enumerate(model)
        ]
        hooked = time_forward()
        for handle in handles:
            handle.remove()
        with ss.tap(model, "**"):
            tapped = time_forward()
    return {
        "reference hook over plain, µs a layer": hooked - plain,
        "tap over reference hook, µs a layer": tapped - hooked,
    }


def measure_network(model: nn.Module, x: torch.Tensor, kind: str, rounds: int) -> dict[str, float]:
    """Time a forward plain, with hooks, with a tap and recorded, in turns."""
    layers = [module for module in model.modules() if isinstance(module, getattr(nn, kind))]

    def run_plain() -> None:
        model(x)

    def run_hooks(keep: Callable[[torch.Tensor], torch.Tensor]) -> None:
        kept: list[torch.Tensor] = []
        handles = [m.register_forward_hook(lambda _, a, y: kept.append(keep(y))) for m in layers]
        model(x)
        for handle in handles:
            handle.remove()

    def run_tap() -> None:
        with ss.tap(model, f"{kind}[*]"):
            model(x)

    variants: dict[str, Callable[[], object]] = {
        "plain": run_plain,
        "hooks, references": lambda: run_hooks(lambda y: y),
        "hooks, clones": lambda: run_hooks(torch.clone),
        "tap of all convolutions": run_tap,
        "trace, modules kept": lambda: ss.trace(model, x),
        "trace, everything kept": lambda: ss.trace(model, x, keep="all"),
    }
    if isinstance(model, ResNet18):
        part = ss.submodel(model, "layer2", example=(x,))
        variants |= {"cut by hand": lambda: model.run_half(x), "submodel": lambda: part(x)}
    with torch.no_grad():
        seconds = interleave(variants, rounds)
    rows = {f"{name} ÷ plain": ratio(seconds, name, "plain") for name in list(variants)[1:]}
    if "submodel" in seconds:
        rows["submodel ÷ cut by hand"] = ratio(seconds, "submodel", "cut by hand")
    return rows | {"plain, ms": statistics.median(seconds["plain"]) * 1e3}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settled = ss.tune_allocator()
    torch.manual_seed(0)
    rows = {"allocator settled": float(settled), **measure_per_layer()}
    shots = ReconstructionNet(5, base_channels=16, out_channels=1, out_size=(70, 70))
    cases = {
        "1-D": (FiveConvs(), torch.randn(32, 1, 1000), "Conv1d"),
        "shots": (shots, torch.randn(4, 5, 1000, 70), "Conv2d"),
        "ResNet-18": (ResNet18(), torch.randn(8, 3, 224, 224), "Conv2d"),
    }
    for name, (model, x, kind) in cases.items():
        found = measure_network(model.eval(), x, kind, options.rounds)
        rows |= {f"{name}: {key}": value for key, value in found.items()}
    report("capture", rows, options.json)


if __name__ == "__main__":
    main()
