"""What it costs to write and read activations, ours beside other formats, and to extract them.

Three layers of a random network, rectified, are kept: 392 kB a sample. Each format writes the same
batches in a process of its own, everything synced, and reads them back; what it reads is compared
once. The peak of memory is what comes on top of that of the raw append, which holds two batches.

Then extraction is put beside the bare loop of forwards on one core, which stands for a device that
computes while the processor writes, and the peak of its memory beside that of ten times as many
samples. Linux only: it asks the system for the peak of the memory, and to forget what it holds of
files. With all packages, in an environment of their own:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/python -m pip install --upgrade pip==26.1
    /tmp/peers/bin/python -m pip install -c constraints.txt --group store-peers --editable .
    /tmp/peers/bin/python benchmarks/store.py
"""

import argparse
import ctypes
import gc
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleave
from extractions import EXTRACTIONS, LOOP, make_batches, make_images, make_layers
from extractions import OURS as OUR_EXTRACTION
from formats import BATCH, FORMATS, SHAPES, UNIT, Format
from memory import extract_samples

Figures = dict[str, float]

_SAMPLE_BYTES = sum(4 * int(np.prod(shape)) for shape in SHAPES.values())
_PICKED = 200
_RAW, _OURS = FORMATS[0].name, FORMATS[1].name
# The columns: how they are printed, and what ours must reach, or where negative, stay below.
_COLUMNS = {
    "write ÷ raw": (".2f", 0.55),
    "CPU s/GB": (".2f", -2.2),
    "peak MB": (".0f", -32),
    "bytes ÷ raw": (".2f", None),
    "files": (".0f", None),
    "read ÷ raw": (".2f", 0.5),
    "cold ÷ raw": (".2f", 0.5),
    "slice ms": (".2f", -0.6),
    "cold ms": (".2f", -1.0),
}
# At which pace in GB/s the forwards give what is kept, and how much longer extraction may take.
_PACES = {0.1: -1.10, 0.5: -1.25}
# How much more memory ten times as many samples may take.
_GROWTH = -1.05


def spend(run: Callable[[], object]) -> Figures:
    """Run something: its seconds, CPU seconds of all threads, MB by which memory rose."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    memory, cpu, began = _read_memory("VmRSS"), _read_cpu(), time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    return {"s": seconds, "CPU s": _read_cpu() - cpu, "MB": _read_memory("VmHWM") - memory}


def _read_memory(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _read_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _handle(paths: list[Path], do: Callable[[int], object]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        do(descriptor)
        os.close(descriptor)


def _forget(files: list[Path]) -> None:
    """Have the system drop what it holds of files in memory."""
    _handle(files, lambda file: os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED))


def measure_format(name: str, samples: int, place: str | None, first: bool) -> Figures:
    """Write and read in one format; the first time memory is measured and values are compared."""
    way = next(one for one in FORMATS if one.name == name)
    batches = make_batches()

    def give(samples: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for start in range(0, samples, BATCH):
            values = batches[start % UNIT // BATCH]
            part = {key: rows[: samples - start] for key, rows in values.items()}
            # New memory each time, as from a network: who holds on to a batch pays for it.
            yield start, {key: rows.copy() for key, rows in part.items()} if first else part

    with tempfile.TemporaryDirectory(dir=place) as folder:
        few, whole = Path(folder, "few"), Path(folder, "whole")
        few.mkdir()
        whole.mkdir()
        way.write(few, give(BATCH), BATCH)
        deque(way.read(few, BATCH), maxlen=0)

        def write() -> None:
            way.write(whole, give(samples), samples)
            _handle([*whole.rglob("*"), whole], os.fsync)

        wrote = spend(write)
        if first:
            _compare(way, whole, samples, batches)
        files = [path for path in whole.rglob("*") if path.is_file()]
        _forget(files)
        cold, warm = (spend(lambda: deque(way.read(whole, samples), maxlen=0)) for _ in "12")
        figures = {
            "write": wrote["s"],
            "CPU s/GB": wrote["CPU s"] / samples / _SAMPLE_BYTES * 1e9,
            "peak MB": wrote["MB"],
            "bytes ÷ raw": sum(path.stat().st_size for path in files) / samples / _SAMPLE_BYTES,
            "files": len(files),
            "read": warm["s"],
            "cold": cold["s"],
        }
        return figures | _measure_slices(way, whole, samples, files)


def _compare(way: Format, folder: Path, samples: int, batches: list[dict[str, np.ndarray]]) -> None:
    numbers: dict[str, list[int]] = {key: [] for key in SHAPES}
    for key, start, values in way.read(folder, samples):
        for number, row in enumerate(values, start):
            wanted = batches[number % UNIT // BATCH][key][number % BATCH]
            assert np.array_equal(row, wanted), (way.name, key, number)
            numbers[key].append(number)
    assert all(found == list(range(samples)) for found in numbers.values()), way.name


def _measure_slices(way: Format, folder: Path, samples: int, files: list[Path]) -> Figures:
    """Time one channel of one sample here and there, with all files out of memory and in it."""
    pick = way.open(folder, samples)
    chance = random.Random(0)
    keys = chance.choices([key for key, shape in SHAPES.items() if len(shape) > 1], k=_PICKED)
    places = [(key, chance.randrange(samples), chance.randrange(SHAPES[key][0])) for key in keys]

    def time_picks(before: Callable[[], None]) -> float:
        seconds: list[float] = []
        for where in places:
            before()
            began = time.perf_counter()
            pick(*where)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds) * 1e3

    # They were just read whole.
    warm = time_picks(lambda: None)
    return {"slice ms": warm, "cold ms": time_picks(lambda: _forget(files))}


def measure_extraction(name: str, ballast: int, samples: int, place: str | None) -> Figures:
    """Extract in one way, the forwards on one core."""
    torch.set_num_threads(1)
    run, _ = EXTRACTIONS[name]
    with torch.no_grad(), tempfile.TemporaryDirectory(dir=place) as folder:
        few, whole = Path(folder, "few"), Path(folder, "whole")
        few.mkdir()
        whole.mkdir()
        run(make_layers(ballast), make_images(BATCH), few)
        return spend(partial(run, make_layers(ballast), make_images(samples), whole))


def measure_peak(samples: int) -> float:
    """Extract from five Conv1d, and give the peak of this process's memory in MB."""
    return extract_samples(samples)


def find_ballast(pace: float) -> int:
    """Find how much work beside brings the forwards on one core to a pace in GB/s."""

    def time_sample(ballast: int) -> float:
        found = (measure_extraction(LOOP, ballast, 10 * BATCH, None) for _ in range(3))
        # Not the seconds, in which others may have had the core.
        return min(figures["CPU s"] for figures in found) / (10 * BATCH)

    least, more = time_sample(0), time_sample(1000)
    return max(0, round(1000 * (_SAMPLE_BYTES / pace / 1e9 - least) / (more - least)))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this file in a process of its own."""
    # Not one of `multiprocessing`: there TorchLens refuses to run.
    call = json.dumps([function.__name__, *arguments])
    command = [sys.executable, __file__, "--call", call]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def is_installed(package: str) -> bool:
    """Tell whether a package is there, as none always is."""
    try:
        return not package or bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def take_turns(runs: dict[str, Callable[[bool], Figures]], rounds: int) -> dict[str, Figures]:
    """Run in turns, each told whether it is its first; give medians, the memory from the first."""
    found: dict[str, list[Figures]] = {name: [] for name in runs}

    def run(name: str) -> None:
        found[name].append(runs[name](not found[name]))

    interleave({name: partial(run, name) for name in runs}, rounds)
    return {
        name: {key: statistics.median(one[key] for one in others) for key in first}
        | ({"peak MB": first["peak MB"]} if "peak MB" in first else {})
        for name, (first, *others) in found.items()
    }


def compare_formats(samples: int, rounds: int, place: str | None) -> dict[str, Figures]:
    """Measure all formats that are installed; the others have no figures."""
    runs = {
        form.name: partial(alone, measure_format, form.name, samples, place)
        for form in FORMATS
        if is_installed(form.package)
    }
    found = take_turns(runs, rounds)
    raw = found[_RAW].copy()
    for figures in found.values():
        figures["peak MB"] -= raw["peak MB"]
        for what in ("write", "read", "cold"):
            figures[f"{what} GB/s"] = samples * _SAMPLE_BYTES / figures[what] / 1e9
            figures[f"{what} ÷ raw"] = raw[what] / figures[what]
    return {form.name: found.get(form.name, {}) for form in FORMATS}


def compare_extractions(
    pace: float, samples: int, rounds: int, place: str | None
) -> dict[str, Figures]:
    """Measure all extractions that are installed, at a pace; the others have no figures."""
    ballast = alone(find_ballast, pace)
    runs = {
        name: lambda first, name=name: alone(measure_extraction, name, ballast, samples, place)
        for name, (_, package) in EXTRACTIONS.items()
        if is_installed(package)
    }
    found = take_turns(runs, rounds)
    for figures in found.values():
        figures["÷ forwards"] = figures["s"] / found[LOOP]["s"]
        figures["CPU ÷ forwards"] = figures["CPU s"] / found[LOOP]["CPU s"]
        figures["GB/s"] = samples * _SAMPLE_BYTES / figures["s"] / 1e9
    return {name: found.get(name, {}) for name in EXTRACTIONS}


def print_table(title: str, rows: dict[str, Figures], columns: dict[str, str]) -> None:
    """Print figures, one row for each way."""
    print(f"\n{title:<46}" + "".join(f"{column:>15}" for column in columns))
    for name, figures in rows.items():
        told = [format(figures[key], spec) for key, spec in columns.items() if figures]
        print(f"  {name:<44}" + "".join(f"{text:>15}" for text in told or ["not installed"]))


def print_limit(what: str, found: float, limit: float) -> None:
    """Print whether a figure is within a limit: at least so much, or where negative, at most."""
    met = found >= limit if limit > 0 else found <= -limit
    sign = "≥" if limit > 0 else "≤"
    print(f"  {what}: {found:.2f} {sign} {abs(limit)}: {'yes' if met else 'NO'}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["formats", "extraction"])
    parser.add_argument("--folder", help="where to write, for a disk of one's choice")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--call", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call is not None:
        name, *arguments = options.call
        print(json.dumps(globals()[name](*arguments)))
        return
    document: dict[str, Any] = {"samples": options.samples, "rounds": options.rounds}
    arguments = (options.samples, options.rounds, options.folder)
    if options.only != "extraction":
        rows = document["formats"] = compare_formats(*arguments)
        size = options.samples * _SAMPLE_BYTES / 1e6
        columns = {column: spec for column, (spec, _) in _COLUMNS.items()}
        print_table(f"{options.samples} samples, {size:.0f} MB", rows, columns)
        print(f"  raw append: {rows[_RAW]['write GB/s']:.2f} GB/s; ours:")
        for what, (_, limit) in _COLUMNS.items():
            if limit is not None:
                print_limit(what, rows[_OURS][what], limit)
    if options.only != "formats":
        for pace, limit in _PACES.items():
            rows = document[f"extraction at {pace} GB/s"] = compare_extractions(pace, *arguments)
            columns = {"÷ forwards": ".3f", "CPU ÷ forwards": ".3f", "GB/s": ".2f"}
            print_table(f"{pace} GB/s are to be kept", rows, columns)
            print_limit("ours ÷ forwards", rows[OUR_EXTRACTION]["÷ forwards"], limit)
        print("\nPeak memory of stratascope extract, the process itself included")
        peaks = {n: alone(measure_peak, n) for n in (options.samples, 10 * options.samples)}
        for number, peak in peaks.items():
            document[f"peak MB of {number} samples"] = peak
            print(f"  {number:>7,} samples: {peak:.0f} MB")
        few, many = peaks.values()
        print_limit("ten times as many ÷ these", many / few, _GROWTH)
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
