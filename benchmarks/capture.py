"""What a tap costs: per layer on tiny modules, and for all convolutions of two networks."""

import argparse
import statistics
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from common import interleave, ratio, report, settle_allocator
from torch import nn

import stratascope as ss
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


def measure_network(model: nn.Module, x: torch.Tensor, sites: str, rounds: int) -> dict[str, float]:
    """Time a forward with a tap, with hand-written hooks and without, in turns."""
    kind = getattr(nn, sites.partition("[")[0])
    layers = [module for module in model.modules() if isinstance(module, kind)]
    model.eval()

    def plain() -> None:
        model(x)

    def hooks(keep: Callable[[torch.Tensor], torch.Tensor]) -> None:
        kept: list[torch.Tensor] = []
        handles = [m.register_forward_hook(lambda _, a, y: kept.append(keep(y))) for m in layers]
        model(x)
        for handle in handles:
            handle.remove()

    def tapped() -> None:
        with ss.tap(model, sites):
            model(x)

    variants: dict[str, Callable[[], object]] = {
        "plain": plain,
        "hooks, references": lambda: hooks(lambda y: y),
        "hooks, clones": lambda: hooks(torch.clone),
        "tap": tapped,
    }
    with torch.no_grad():
        seconds = interleave(variants, rounds)
    return {
        f"{name} ÷ plain": ratio(seconds, name, "plain") for name in variants if name != "plain"
    } | {"plain, ms": statistics.median(seconds["plain"]) * 1e3}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settle_allocator()
    torch.manual_seed(0)
    rows = measure_per_layer()
    cases = {
        "1-D": (FiveConvs(), torch.randn(32, 1, 1000), "Conv1d[*]"),
        "2-D": (ReconstructionNet(5, base_channels=16), torch.randn(4, 5, 1000, 70), "Conv2d[*]"),
    }
    for name, (model, x, sites) in cases.items():
        found = measure_network(model, x, sites, options.rounds)
        rows |= {f"{name}: {key}": value for key, value in found.items()}
    report("capture", rows, options.json)


if __name__ == "__main__":
    main()
