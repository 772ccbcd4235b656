"""Three metrics over a grid through ReconstructionNet, beside loss-landscapes and landscaper.

All take the same points: those of the peers' own grids, rebuilt here as directions. A peer takes
one pass for each metric; loss-landscapes may also return several of one forward, which is measured
too. landscaper needs numpy<2, so the peers run in an interpreter of their own:

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install loss-landscapes==3.0.6 landscaper==1.3.1 torch==2.13.0
    python benchmarks/landscape.py --peers /tmp/peers/bin/python

The defaults take about an hour of one core; `--steps 7 --samples 16 --rounds 1` a minute. Each
contender runs in a process of its own, in turns, and tells the CPU time of its passes, or with
`--clock wall` the wall time, where `--workers` counts too.
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DISTANCE = 0.5  # of the norm of the model, as landscaper counts


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return (output - target).abs().mean()


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean square error."""
    return (output - target).square().mean()


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """Structural similarity with a Gaussian of 11 pixels, of values from -1 to 1."""
    weights = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    weights = (weights / weights.sum()).to(output)

    def blur(x: Tensor) -> Tensor:
        return functional.conv2d(
            functional.conv2d(x, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1)
        )

    means = blur(output), blur(target)
    spreads = [blur(x * x) - m * m for x, m in zip((output, target), means, strict=True)]
    both = blur(output * target) - means[0] * means[1]
    small, large = 0.02**2, 0.06**2
    above = (2 * means[0] * means[1] + small) * (2 * both + large)
    below = (means[0] ** 2 + means[1] ** 2 + small) * (spreads[0] + spreads[1] + large)
    return (above / below).mean()


METRICS = {"mae": mae, "mse": mse, "ssim": ssim}


def load_network() -> Any:
    """Load ReconstructionNet without its package, which needs more than the peers have."""
    path = Path(__file__).parents[1] / "src/stratascope/seismic/_networks.py"
    spec = importlib.util.spec_from_file_location("reconstruction", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ReconstructionNet


def make_problem(samples: int, base: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Make a network with running statistics of its own, and batches of eight."""
    torch.manual_seed(0)
    model = load_network()(5, base, out_channels=1, out_size=(70, 70))
    shots, maps = torch.randn(samples, 5, 1000, 70), torch.rand(samples, 1, 70, 70) * 2 - 1
    with torch.no_grad():
        for _ in range(3):
            model(shots[:8])
    return model.eval(), list(zip(shots.split(8), maps.split(8), strict=True))


def make_steps(model: nn.Module, steps: int) -> list[list[Tensor]]:
    """Make two directions, as long as one step of the grid of landscaper."""
    generator = torch.Generator().manual_seed(1)
    values = [value.detach() for value in model.parameters()]
    size = float(torch.sqrt(sum((value**2).sum() for value in values)))
    found: list[list[Tensor]] = []
    for _ in range(2):
        drawn = [torch.randn(value.shape, generator=generator) for value in values]
        drawn = [d * (d.numel() ** 0.5 / (d.norm() + 1e-10)) for d in drawn]
        length = float(torch.sqrt(sum((d**2).sum() for d in drawn)))
        found.append([d * (size * DISTANCE / (steps / 2) / length) for d in drawn])
    return found


def evaluate(model: Any, batches: list[tuple[Tensor, Tensor]], names: list[str]) -> list[float]:
    """Average metrics over batches, as a user of the peers writes it."""
    totals = [0.0] * len(names)
    with torch.no_grad():
        for x, y in batches:
            output = model(x)
            for k, name in enumerate(names):
                totals[k] += float(METRICS[name](output, y)) * len(x)
    return [total / sum(len(x) for x, _ in batches) for total in totals]


def run_stratascope(options: argparse.Namespace) -> Callable[[], Any]:
    """All metrics on one pass."""
    from stratascope.diagnose import Directions, landscape

    model, batches = make_problem(options.samples, options.base)
    names = [name for name, _ in model.named_parameters()]
    half = options.steps // 2
    directions = Directions(
        vectors=tuple(
            dict(zip(names, one, strict=True)) for one in make_steps(model, options.steps)
        ),
        labels=("first", "second"),
        ranges=((-half, half),) * 2,
        method="as landscaper steps",
    )

    def run() -> Any:
        found = landscape(
            model, METRICS, batches, directions=directions, steps=options.steps,
            workers=options.workers, progress=False,
        )  # fmt: skip
        return {name: values.tolist() for name, values in found.values.items()}

    return run


def run_landscaper(options: argparse.Namespace) -> Callable[[], Any]:
    """One pass for each metric."""
    from landscaper.compute import compute_loss_landscape

    model, batches = make_problem(options.samples, options.base)
    directions = make_steps(model, options.steps)

    def run() -> Any:
        return {
            name: compute_loss_landscape(
                model, batches, directions, lambda m, d, name=name: evaluate(m, d, [name])[0],
                steps=options.steps, distance=DISTANCE, dim=2, device="cpu",
            )[0].tolist()
            for name in METRICS
        }  # fmt: skip

    return run


def run_loss_landscapes(options: argparse.Namespace, *, one_pass: bool) -> Callable[[], Any]:
    """One pass for each metric, or one for all."""
    from loss_landscapes import planar_interpolation
    from loss_landscapes.metrics import Metric

    class Measure(Metric):
        def __init__(self, names: list[str]) -> None:
            super().__init__()
            self.names = names

        def __call__(self, wrapper: Any) -> Any:
            found = evaluate(wrapper.forward, batches, self.names)
            return found if one_pass else found[0]

    model, batches = make_problem(options.samples, options.base)
    first, second = make_steps(model, options.steps)
    half = options.steps // 2

    def move(across: float, up: float) -> nn.Module:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for value, a, b in zip(moved.parameters(), first, second, strict=True):
                value += across * a + up * b
        return moved

    def run() -> Any:
        groups = [list(METRICS)] if one_pass else [[name] for name in METRICS]
        found = {}
        for names in groups:
            # It steps before it evaluates, so it begins one step ahead of the grid.
            corner = (-half, -half - 1)
            ends = ((corner[0] + options.steps, corner[1]), (corner[0], corner[1] + options.steps))
            values = planar_interpolation(
                move(*corner), move(*ends[0]), move(*ends[1]), Measure(names), steps=options.steps
            )
            grids = [values[..., k] for k in range(len(names))] if one_pass else [values]
            found |= {name: grid.tolist() for name, grid in zip(names, grids, strict=True)}
        return found

    return run


CONTENDERS: dict[str, Callable[[argparse.Namespace], Callable[[], Any]]] = {
    "stratascope": run_stratascope,
    "loss-landscapes, three passes": lambda options: run_loss_landscapes(options, one_pass=False),
    "loss-landscapes, one pass": lambda options: run_loss_landscapes(options, one_pass=True),
    "landscaper, three passes": run_landscaper,
}
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def run_one(name: str, options: argparse.Namespace) -> None:
    """Run a contender in this process, and print its time and what it found."""
    torch.set_num_threads(options.threads)
    run = CONTENDERS[name](options)
    clock = CLOCKS[options.clock]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        began = clock()
        found = run()
        seconds = clock() - began
    print(json.dumps({"seconds": seconds, "found": found}))


def ask(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a contender in a process of its own."""
    python = sys.executable if name == "stratascope" else options.peers
    words = [
        python, __file__, "--only", name, "--clock", options.clock,
        *(f"--{key}={getattr(options, key)}" for key in ("steps", "samples", "base", "threads")),
        f"--workers={options.workers}",
    ]  # fmt: skip
    paths = [str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ended = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def compare_values(own: Any, other: Any) -> float:
    """Tell the largest difference at points whose rows are not misplaced, relative to the range."""
    largest = 0.0
    for name in METRICS:
        ours, theirs = torch.tensor(own[name])[::2], torch.tensor(other[name])[::2]
        # landscaper adds noise to its maximum.
        apart = (ours - theirs).abs().flatten()
        kept = theirs.flatten() < theirs.max()
        largest = max(largest, float(apart[kept].max() / (ours.max() - ours.min())))
    return largest


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--base", type=int, default=8, help="channels of the first layer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, in each process")
    parser.add_argument("--workers", type=int, default=1, help="of stratascope")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--only", choices=CONTENDERS, help="run this one here, and print JSON")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.only:
        run_one(options.only, options)
        return
    if options.clock == "cpu" and options.workers > 1:
        parser.error("CPU time is of one process: give --clock wall with --workers")
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    found: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            answer = ask(name, options)
            seconds[name].append(answer["seconds"])
            found[name] = answer["found"]
    from common import report

    base = "stratascope"
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    rows = {f"{name}, s": value for name, value in middle.items()}
    rows |= {
        f"stratascope ÷ {name}": middle[base] / middle[name] for name in middle if name != base
    }
    rows |= {
        f"largest difference to {name}, of the range": compare_values(found[base], found[name])
        for name in middle
        if name != base
    }
    title = (
        f"{options.steps}×{options.steps} points, {options.samples} samples, {options.clock} time"
    )
    report(title, rows, options.json)


if __name__ == "__main__":
    main()
