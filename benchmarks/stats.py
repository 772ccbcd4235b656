"""What each statistic costs beside one read of the data, for a batch of 32 maps of 64 x 32 x 32."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleave, ratio, report

from stratascope import stats

_SHAPE = (32, 64, 32, 32)


def list_ways(batch: Any) -> dict[str, Callable[[], object]]:
    """Give what is measured: plain passes of the library, each statistic, and several at once."""
    alone = [
        stats.Counts(),
        stats.Extremes(),
        stats.Moments(order=2),
        stats.Moments(),
        stats.Histogram(),
        stats.TopSamples(),
        stats.Covariance(),
        stats.Reservoir(),
    ]
    several = [stats.Counts(), stats.Extremes(), stats.Moments(), stats.Histogram()]
    numbers = range(_SHAPE[0])
    ways: dict[str, Callable[[], object]] = {"read: sum": batch.sum}
    ways["variance by channel, of the library"] = partial(batch.var, (0, 2, 3))
    for statistic in alone:
        ways[repr(statistic)] = partial(statistic.update, batch, samples=numbers)
    ways["counts, extremes, moments, histogram"] = partial(stats.update_all, several, batch)
    half = batch.astype(np.float16) if isinstance(batch, np.ndarray) else batch.half()
    ways["HalfHistogram"] = partial(stats.HalfHistogram("float16").update, half)
    sites = [batch, batch[:, ::2]]
    ways["Similarity, two sites"] = partial(stats.Similarity().update, sites)
    minibatch = stats.MinibatchCKA()
    ways["MinibatchCKA, two sites"] = partial(minibatch.update, sites, samples=numbers)
    return ways


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", choices=["numpy", "torch"], default="numpy")
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    values = np.random.default_rng(0).standard_normal(_SHAPE).clip(0).astype(np.float32)
    batch = values if options.library == "numpy" else torch.from_numpy(values).to(options.device)

    def settle(run: Callable[[], object]) -> None:
        run()
        if options.device != "cpu":
            torch.cuda.synchronize()

    ways = {name: partial(settle, run) for name, run in list_ways(batch).items()}
    seconds = interleave(ways, options.rounds)
    rows: dict[str, float] = {}
    for name in ways:
        rows[f"{name}, ns a value"] = sorted(seconds[name])[options.rounds // 2] / values.size * 1e9
        rows[f"{name} ÷ read"] = ratio(seconds, name, "read: sum")
    report(f"statistics of {values.size:,} float32 ({options.library})", rows, options.json)


if __name__ == "__main__":
    main()
