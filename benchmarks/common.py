"""What the benchmarks share: interleaved runs, printed ratios."""

import gc
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def interleave(
    variants: dict[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    writing: bool = True,
) -> dict[str, list[float]]:
    """Time the variants in turns, after one untimed run of each, in another order every round.

    Before each run the disk is settled and garbage collected, so that none pays for what another
    left.

    Args:
        variants: What to run, by name.
        rounds: How often.
        clock: What tells seconds: `time.process_time` where others load the machine.
        writing: Whether any writes to the disk, so that it must settle.

    Returns:
        Seconds of each run, by variant.
    """
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            gc.collect()
            if writing:
                os.sync()
            began = clock()
            variants[name]()
            seconds[name].append(clock() - began)
    gc.unfreeze()
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
