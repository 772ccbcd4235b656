"""What the benchmarks share: interleaved runs, printed ratios."""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def interleave(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time the variants in turns, after one untimed run of each.

    Before each run the disk is settled, so that none pays for what another left unwritten.

    Returns:
        Seconds of each run, by variant.
    """
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            os.sync()
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Divide the medians of two variants."""
    return statistics.median(seconds[name]) / statistics.median(seconds[base])


def report(title: str, rows: dict[str, float], path: Path | None = None) -> None:
    """Print figures under a title, and write them as JSON where a path is given."""
    print(title)
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value:,.3f}")
    if path is not None:
        path.write_text(json.dumps({"title": title, **rows}, indent=2) + "\n")
