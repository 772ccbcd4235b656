"""Compare two stores, beside reading both of them; prints ratios.

Usage: python benchmarks/compare.py [--samples N] [--rounds N] [--json FILE]
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import interleave, ratio, report
from torch import nn

import stratascope as ss

_METHODS = ("minibatch_cka", "unbiased_cka", "svcca", "procrustes", "rsa")


def build() -> nn.Module:
    """Give a small network, with parameters of its own each time."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(64, 10),
    )


def read(*stores: ss.Store) -> None:
    """Read all that stores hold, once."""
    for store in stores:
        for array in store.values():
            for _ in array.blocks():
                pass


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = np.random.default_rng(0).standard_normal((options.samples, 1, 32, 32)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        a, b = (
            ss.extract(build(), data, "**", to=Path(folder, name), progress=False) for name in "ab"
        )
        ways = {"read both": partial(read, a, b), "read one": partial(read, a)}
        for method in _METHODS:
            ways[method] = partial(ss.compare, a, b, method=method, progress=False)
            ways[f"{method}, one store"] = partial(ss.compare, a, method=method, progress=False)
        seconds = interleave(ways, options.rounds)
    rows: dict[str, float] = {}
    for method in _METHODS:
        one = f"{method}, one store"
        rows[f"{method} ÷ read both"] = ratio(seconds, method, "read both")
        rows[f"{one} ÷ read one"] = ratio(seconds, one, "read one")
    report(f"compare, {options.samples:,} samples at {len(a)} sites", rows, options.json)


if __name__ == "__main__":
    main()
