"""What a simulated sample costs, beside a NumPy finite-difference loop of the same order.

A sample is five shots of 1000 steps over 70 x 70 cells. The loop is that of the tests, which has
120 absorbing cells on each side as OpenFWI has; a part of its ratio is those. Then whole folders
are simulated in several processes, of two sizes, so that what the processes take to start is not
in the seconds a sample.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import interleave, ratio, report

from stratascope.pipeline import Processes
from stratascope.seismic import draw_velocity_map, simulate, simulate_shots

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from slow_waves import slow_shot

_SHOTS, _STEPS = 5, 1000


def time_folder(samples: int, workers: int) -> float:
    """Simulate a folder, and give the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        simulate(
            Path(folder) / "CurveFault_A",
            samples=samples,
            test_samples=0,
            executor=Processes(workers),
            progress=False,
        )
        return time.perf_counter() - began


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=100, help="of the larger folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="CPU time of one thread, no folders")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    velocity = draw_velocity_map(np.random.default_rng([0, 0]))
    found: dict[str, np.ndarray] = {}

    def run_deepwave() -> None:
        found["deepwave"] = simulate_shots(velocity)

    def run_numpy() -> None:
        found["numpy"] = slow_shot(velocity, 0, _STEPS)

    seconds = interleave(
        {"deepwave": run_deepwave, "numpy": run_numpy},
        options.rounds,
        clock=time.process_time if options.cpu else time.perf_counter,
        writing=False,
    )
    one, other = found["deepwave"][0], found["numpy"]
    rows = {
        "s a sample, one thread": statistics.median(seconds["deepwave"]),
        "s a sample, NumPy loop": _SHOTS * statistics.median(seconds["numpy"]),
        "NumPy ÷ deepwave": _SHOTS * ratio(seconds, "numpy", "deepwave"),
        "relative difference, %": 100 * float(np.linalg.norm(one - other) / np.linalg.norm(other)),
    }
    if not options.cpu:
        few = max(options.workers, options.samples // 10)
        small, large = (time_folder(samples, options.workers) for samples in (few, options.samples))
        rows[f"s a sample, {options.workers} processes"] = (large - small) / (options.samples - few)
        rows[f"s for {options.samples} samples, start included"] = large
        rows["peak MB, this process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows["peak MB, the largest worker"] = children.ru_maxrss / 1024
    report("simulation of OpenFWI-like samples", rows, options.json)


if __name__ == "__main__":
    main()
