"""What it costs to write and read activations, ours beside other formats, and to extract them.

Three layers of a random network, rectified, are kept: 392 kB a sample. Each format writes the same
batches in a process of its own, everything synced, and reads them back; what it reads is compared
once. Then extraction is put beside the bare loop of forwards on one core, which stands for a device
that computes while the processor writes. Linux only: it asks the system for the peak of the memory,
and to forget what it holds of files. With all packages, in an environment of their own:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/python -m pip install --upgrade pip==26.1
    /tmp/peers/bin/python -m pip install --constraint constraints.txt --group store-peers --editable .
    /tmp/peers/bin/python benchmarks/store.py
"""

import argparse
import gc
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleave
from formats import BATCH, FORMATS, SHAPES, UNIT, Format
from torch import Tensor, nn
from torch.nn import functional

import stratascope as ss

Figures = dict[str, float]

_SAMPLE_BYTES = sum(4 * int(np.prod(shape)) for shape in SHAPES.values())
_PICKED = 200
_RAW, _OURS = FORMATS[0].name, FORMATS[1].name
_LOOP, _EXTRACT = "the forwards alone", "stratascope extract"
# What ours must not exceed, or where the sign says so, not fall below.
_LIMITS = {
    "write ÷ raw": (">", 0.55),
    "CPU s/GB": ("<", 2.2),
    "peak MB": ("<", 32.0),
    "read ÷ raw": (">", 0.5),
    "cold read ÷ raw": (">", 0.5),
    "slice ms": ("<", 0.6),
    "cold slice ms": ("<", 1.0),
}
# How fast the forwards give what is kept, GB/s, and what extraction may take of their time.
_PACES = {"most of the time is the forwards'": (0.1, 1.10), "0.5 GB/s are kept": (0.5, 1.25)}


class Layers(nn.Module):
    """Three random layers, each of which is kept, and as much work beside them as is wanted."""

    def __init__(self, ballast: int = 0) -> None:
        super().__init__()
        self.conv2d = _rectify(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d)
        self.conv1d = _rectify(nn.Conv1d(12, 128, 5, padding=2), nn.BatchNorm1d)
        self.fc = _rectify(nn.Linear(64, 512), nn.BatchNorm1d)
        self.work = nn.Conv2d(32, 32, 3)
        self._ballast = torch.randn(ballast, 32, 32, 32)

    def forward(self, images: Tensor) -> Tensor:
        """Run images ``(N, 3, 32, 32)``; the second layer takes them as signals."""
        if len(self._ballast):
            self.work(self._ballast)
        maps = self.conv2d(images)
        self.conv1d(images.reshape(-1, 12, 256)[..., :250])
        return self.fc(maps.mean((2, 3)))


def _rectify(layer: Any, norm: Callable[..., nn.Module]) -> nn.Sequential:
    # Without momentum the mean over all that it has seen is kept.
    return nn.Sequential(layer, norm(len(layer.weight), momentum=None), nn.ReLU())


def make_layers(ballast: int = 0) -> Layers:
    """Make the layers so that about half of what they give is zero."""
    torch.manual_seed(0)
    layers = Layers()
    layers(make_images(UNIT))
    layers._ballast = torch.randn(ballast, 32, 32, 32)
    return layers.eval()


def make_images(samples: int) -> Tensor:
    """Make smooth noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(samples, 3, 8, 8, generator=generator)
    return functional.interpolate(coarse, (32, 32), mode="bilinear")


def make_batches() -> list[dict[str, np.ndarray]]:
    """Make the activations of a unit of samples; longer data go round in them."""
    with torch.no_grad(), ss.tap(layers := make_layers(), list(SHAPES)) as acts:
        layers(make_images(UNIT))
    values = {str(site): value.numpy() for site, value in acts.items()}
    return [
        {key: rows[start : start + BATCH] for key, rows in values.items()}
        for start in range(0, UNIT, BATCH)
    ]


def spend(run: Callable[[], object]) -> Figures:
    """Run something: seconds, CPU seconds of all its threads, MB by which its memory rose."""
    gc.collect()
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


def _list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _sync(folder: Path) -> None:
    for path in (*_list_files(folder), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _forget(paths: list[Path]) -> None:
    """Have the system drop what it holds of files in memory."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure_format(form: str, samples: int, place: Path | None, first: bool) -> Figures:
    """Write and read in one format; the first time memory is measured and values are compared."""
    way = next(one for one in FORMATS if one.name == form)
    batches = make_batches()

    def give(samples: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for start in range(0, samples, BATCH):
            values = batches[start % UNIT // BATCH]
            part = {key: rows[: samples - start] for key, rows in values.items()}
            # New memory each time, as from a network: who holds on to a batch pays for it.
            yield start, {k: rows.copy() for k, rows in part.items()} if first else part

    with tempfile.TemporaryDirectory(dir=place) as folder:
        few, whole = Path(folder, "few"), Path(folder, "whole")
        few.mkdir()
        whole.mkdir()
        way.write(few, give(BATCH), BATCH)
        deque(way.read(few, BATCH), maxlen=0)

        def write() -> None:
            way.write(whole, give(samples), samples)
            _sync(whole)

        wrote = spend(write)
        if first:
            _compare(way, whole, samples, batches)
        files = _list_files(whole)
        _forget(files)
        cold, warm = (spend(lambda: deque(way.read(whole, samples), maxlen=0)) for _ in range(2))
        figures = {
            "write s": wrote["s"],
            "CPU s/GB": wrote["CPU s"] / samples / _SAMPLE_BYTES * 1e9,
            "peak MB": wrote["MB"] - BATCH * _SAMPLE_BYTES / 2**20,
            "bytes ÷ raw": sum(path.stat().st_size for path in files) / samples / _SAMPLE_BYTES,
            "files": len(files),
            "read s": warm["s"],
            "cold read s": cold["s"],
        }
        return figures | measure_slices(way, whole, samples, files)


def _compare(
    way: Format, folder: Path, samples: int, batches: list[dict[str, np.ndarray]]
) -> None:
    read = dict.fromkeys(SHAPES, 0)
    for key, start, values in way.read(folder, samples):
        for number, row in enumerate(values, start):
            wanted = batches[number % UNIT // BATCH][key][number % BATCH]
            assert np.array_equal(row, wanted), (way.name, key, number)
        read[key] += len(values)
    assert set(read.values()) == {samples}, (way.name, read)


def measure_slices(way: Format, folder: Path, samples: int, files: list[Path]) -> Figures:
    """Time one channel of one sample here and there, with all files out of memory and in it."""
    pick = way.open(folder, samples)
    chance = random.Random(0)
    keys = [key for key, shape in SHAPES.items() if len(shape) > 1]
    places = [
        (key, chance.randrange(samples), chance.randrange(SHAPES[key][0]))
        for key in chance.choices(keys, k=_PICKED)
    ]

    def time_picks(before: Callable[[], None]) -> float:
        seconds: list[float] = []
        for place in places:
            before()
            began = time.perf_counter()
            pick(*place)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds) * 1e3

    cold = time_picks(lambda: _forget(files))
    return {"slice ms": time_picks(lambda: None), "cold slice ms": cold}


def _loop(layers: Layers, images: Tensor, folder: Path) -> None:
    for batch in images.split(BATCH):
        layers(batch)


def _extract(layers: Layers, images: Tensor, folder: Path) -> None:
    to = folder / "store"
    ss.extract(layers, images, list(SHAPES), to=to, batch_size=BATCH, progress=False)


def _append(layers: Layers, images: Tensor, folder: Path) -> None:
    files = {key: (folder / key).open("wb", buffering=0) for key in SHAPES}
    for key, file in files.items():
        hook = lambda m, a, y, file=file: file.write(y.numpy().data)  # noqa: E731
        layers.get_submodule(key).register_forward_hook(hook)
    _loop(layers, images, folder)
    for file in files.values():
        file.close()


def _keep(layers: Layers, images: Tensor, folder: Path) -> None:
    kept: dict[str, list[Tensor]] = {key: [] for key in SHAPES}
    for key, values in kept.items():
        hook = lambda m, a, y, values=values: values.append(y.clone().cpu())  # noqa: E731
        layers.get_submodule(key).register_forward_hook(hook)
    _loop(layers, images, folder)
    for key, values in kept.items():
        np.save(folder / key, torch.cat(values).numpy())


def _extract_by_torchlens(layers: Layers, images: Tensor, folder: Path) -> None:
    import torchlens

    torchlens.extract_dataset(
        layers, images, list(SHAPES), BATCH, output_dir=folder / "shards", progress=False
    )


_EXTRACTIONS: dict[str, tuple[Callable[[Layers, Tensor, Path], None], str]] = {
    _LOOP: (_loop, ""),
    _EXTRACT: (_extract, ""),
    "append in hooks, no checksum, no sync": (_append, ""),
    "keep, concatenate, np.save, as thingsvision": (_keep, ""),
    "TorchLens extract_dataset": (_extract_by_torchlens, "torchlens"),
}


def measure_extraction(name: str, ballast: int, samples: int, place: Path | None) -> Figures:
    """Extract in one way, the forwards on one core."""
    torch.set_num_threads(1)
    run, _ = _EXTRACTIONS[name]
    images = make_images(samples)
    with torch.no_grad(), tempfile.TemporaryDirectory(dir=place) as folder:
        for part in ("few", "whole"):
            Path(folder, part).mkdir()
            some = images if part == "whole" else images[:BATCH]
            found = spend(partial(run, make_layers(ballast), some, Path(folder, part)))
    return {"s": found["s"], "CPU s": found["CPU s"], "peak MB": found["MB"]}


def find_ballast(pace: float) -> int:
    """Find how much other work slows the forwards down to a pace in GB/s, on one core."""
    torch.set_num_threads(1)
    images = make_images(BATCH)

    def time_forward(ballast: int) -> float:
        layers = make_layers(ballast)
        with torch.no_grad():
            return min(spend(partial(layers, images))["s"] for _ in range(20))

    least, more = time_forward(0), time_forward(64)
    wanted = BATCH * _SAMPLE_BYTES / pace / 1e9
    return max(0, round(64 * (wanted - least) / (more - least)))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def is_installed(package: str) -> bool:
    """Tell whether a package is there; none always is."""
    try:
        return not package or bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def take_turns(runs: dict[str, Callable[[bool], Figures]], rounds: int) -> dict[str, Figures]:
    """Run in turns; give the medians of all figures but those of the first turn, and its memory."""
    found: dict[str, list[Figures]] = {name: [] for name in runs}

    def run(name: str) -> None:
        found[name].append(runs[name](not found[name]))

    interleave({name: partial(run, name) for name in runs}, rounds)
    medians = {}
    for name, (first, *others) in found.items():
        medians[name] = {key: statistics.median(one[key] for one in others) for key in first}
        medians[name]["peak MB"] = first["peak MB"]
    return medians


def compare_formats(samples: int, rounds: int, place: Path | None) -> dict[str, Figures]:
    """Compare all formats that are installed; the others have no figures."""
    runs = {
        form.name: partial(alone, measure_format, form.name, samples, place)
        for form in FORMATS
        if is_installed(form.package)
    }
    found = take_turns(runs, rounds)
    raw = found[_RAW]
    for figures in found.values():
        figures["GB/s"] = samples * _SAMPLE_BYTES / figures["write s"] / 1e9
        for what in ("write", "read", "cold read"):
            figures[f"{what} ÷ raw"] = raw[f"{what} s"] / figures[f"{what} s"]
    return {form.name: found.get(form.name, {}) for form in FORMATS}
