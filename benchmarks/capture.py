"""What capture costs us and other packages, side by side, as ratios to the plain forward.

Three networks are asked for the outputs of all their convolutions, for everything in a forward, and
for what stands in their middle. Each way to do it is checked before it is timed: are these the
tensors that were asked for, equal to clones taken in hooks? Where its package is not installed, it
is listed so. All packages, in an environment of their own:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/python -m pip install --upgrade pip==26.1
    /tmp/peers/bin/python -m pip install --constraint constraints.txt --group peers --editable .
    /tmp/peers/bin/python benchmarks/capture.py
"""

import argparse
import json
import re
import statistics
import timeit
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import interleave
from peers import BY_HAND, PEERS, Run, Way, hook
from torch import Tensor, nn

import stratascope as ss
from networks import CONVOLUTIONS, EVERYTHING, MIDDLE, Case, make_cases

_FORWARD = "the forward alone"
_LAYERS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """What was found of one way to do a task.

    Attributes:
        network: The network.
        task: The task.
        way: The way, with the version of its package.
        ratio: Its time over that of the forward alone; None where nothing was measured.
        by_hand: Its time over that of the first way by hand.
        milliseconds: Its median time.
        tensors: How many tensors came out.
        right: Whether they are those that were asked for: yes, wrong, the error, not installed, or
            nothing where none can come out.
    """

    network: str
    task: str
    way: str
    ratio: float | None = None
    by_hand: float | None = None
    milliseconds: float | None = None
    tensors: int | None = None
    right: str = ""

    def __str__(self) -> str:
        figures = (
            _format(self.ratio, ".3f"),
            _format(self.by_hand, ".3f"),
            _format(self.milliseconds, ".1f"),
            _format(self.tensors, "d"),
        )
        return _lay_out("  " + self.way, *figures, self.right)


def _format(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _lay_out(name: str, ratio: str, by_hand: str, time: str, tensors: str, right: str) -> str:
    return f"{name:<54}{ratio:>10}{by_hand:>11}{time:>9}{tensors:>9}  {right}".rstrip()


def _tap(case: Case, copy: bool | None) -> Run:
    tap = ss.tap(case.model, list(case.find_modules(CONVOLUTIONS)), copy=copy)

    def run() -> ss.Activations:
        case.model(case.x)
        return tap.pop()

    return run


def _trace(case: Case, **options: Any) -> Run:
    return lambda: ss.trace(case.model, case.x, keep="all", **options)


def _debug(case: Case, **options: Any) -> Run:
    def run() -> ss.Trace:
        with ss.debug(case.model, operations=False, **options) as runs:
            case.model(case.x)
        return runs[-1]

    return run


def _submodel(case: Case) -> Run:
    part = ss.submodel(case.model, case.middle, example=(case.x,))
    return lambda: part(case.x)


def _by_name(acts: ss.Activations) -> dict[str, Tensor]:
    return {str(site): value for site, value in acts.items()}


def _values(run: ss.Trace) -> list[Any]:
    return list(run.activations.values())


OURS = (
    Way(CONVOLUTIONS, "tap(copy=False)", partial(_tap, copy=False), _by_name),
    Way(CONVOLUTIONS, "tap()", partial(_tap, copy=None), _by_name),
    Way(CONVOLUTIONS, "tap(copy=True)", partial(_tap, copy=True), _by_name),
    Way(EVERYTHING, "trace(keep='all')", _trace, _values),
    Way(
        EVERYTHING,
        "trace(keep='all', nonfinite=False)",
        partial(_trace, nonfinite=False),
        _values,
    ),
    Way(EVERYTHING, "debug(operations=False)", _debug, None),
    Way(
        EVERYTHING,
        "debug(operations=False, keep='modules')",
        partial(_debug, keep="modules"),
        _values,
    ),
    Way(MIDDLE, "submodel()", _submodel, _by_name),
)


def measure_per_layer(number: int) -> dict[str, float]:
    """Time tiny layers, where the size of the data plays no part: µs for each of them."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(_LAYERS))).eval()
    x = torch.randn(1, 4)
    kept: dict[int, Tensor] = {}

    def time_forward() -> float:
        seconds = min(timeit.repeat(lambda: model(x), number=number, repeat=9))
        return seconds / number / _LAYERS * 1e6

    plain = time_forward()
    handles = [
        layer.register_forward_hook(lambda m, a, y, n=place: kept.__setitem__(n, y))
        for place, layer in enumerate(model)
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


def measure_task(case: Case, task: str, only: re.Pattern[str], rounds: int) -> list[Row]:
    """Check and time the chosen ways to do a task, beside the forward alone and one by hand."""
    forward = Way(task, _FORWARD, lambda case: lambda: case.model(case.x), None)
    ways = {_FORWARD: forward}
    ways |= {_label(way): way for way in (*BY_HAND, *OURS, *PEERS) if way.task == task}
    base = list(ways)[1]
    chosen = {label for label in ways if only.search(f"{case.name}: {task}: {label}")}
    if not chosen:
        return []
    wanted = hook(case.copy(), torch.clone, task)()
    rows: dict[str, Row] = {}
    runs: dict[str, Run] = {}
    for label, way in ways.items():
        if label in chosen | {_FORWARD, base}:
            rows[label], run = check(way, label, case.copy(), wanted)
            runs |= {} if run is None else {label: run}
    seconds = {label: statistics.median(s) for label, s in interleave(runs, rounds).items()}
    for label, median in seconds.items():
        ratio, by_hand = median / seconds[_FORWARD], median / seconds[base]
        rows[label] = replace(rows[label], ratio=ratio, by_hand=by_hand, milliseconds=median * 1e3)
    return list(rows.values())


def _label(way: Way) -> str:
    if way in OURS:
        return f"stratascope {way.name}"
    return " ".join(part for part in (way.package, way.find_version(), way.name) if part)


def check(way: Way, label: str, case: Case, wanted: Mapping[str, Tensor]) -> tuple[Row, Run | None]:
    """Run a way once; give what came out, and the run to be timed where there is one."""
    row = Row(case.name, way.task, label)
    if way.find_version() is None:
        return replace(row, right="not installed"), None
    try:
        run = way.prepare(case)
        found = run()
        values = None if way.read is None else way.read(found)
    except Exception as error:
        if not way.package:
            raise
        text = f"error: {type(error).__name__}: {error}"
        return replace(row, right=text.splitlines()[0]), None
    if values is None:
        return row, run
    if not isinstance(values, dict):
        values = [value for value in values if isinstance(value, Tensor)]
    right = "yes" if are_right(values, wanted) else "wrong"
    return replace(row, tensors=len(values), right=right), run


def are_right(found: dict[str, Tensor] | list[Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors with names are just the wanted, or those without include them all."""
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(
            torch.equal(value, found[name]) for name, value in wanted.items()
        )
    return all(any(torch.equal(value, one) for one in found) for value in wanted.values())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", metavar="PATTERN", default="", help="rows to measure: 'ResNet.*(tap|timm)'"
    )
    parser.add_argument("--quick", action="store_true", help="one round of the smallest inputs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    only = re.compile(options.only, re.IGNORECASE)
    # Two threads wait for each other, and long where others want the cores.
    torch.set_num_threads(1 if options.quick else 2)
    torch.manual_seed(0)
    rounds = 1 if options.quick else options.rounds
    settings = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "allocator settled": ss.tune_allocator(),
    }
    with torch.no_grad():
        settings |= measure_per_layer(5 if options.quick else 500)
        for name, value in settings.items():
            print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
        rows: list[Row] = []
        for case in make_cases(small=options.quick):
            shape = " × ".join(map(str, case.x.shape))
            for task in (CONVOLUTIONS, EVERYTHING, MIDDLE):
                found = measure_task(case, task, only, rounds)
                if found:
                    title = f"\n{case.name}, {shape}: {task}"
                    print(_lay_out(title, "÷ forward", "÷ by hand", "ms", "tensors", "right"))
                    print(*found, sep="\n", flush=True)
                rows += found
    if options.json is not None:
        document = {**settings, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
