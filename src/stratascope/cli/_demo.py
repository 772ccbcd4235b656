"""``stratascope demo``: the whole way from real seismograms to pictures of every layer."""

import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stratascope import render as pictures
from stratascope.capture import submodel, tap, tune_allocator
from stratascope.cli._demo_data import (
    Seismogram,
    cut_windows,
    load_seismograms,
    time_frequency_images,
)
from stratascope.cli._demo_models import FiveConvs, TrainingResult, train
from stratascope.cli._output import FractionBar, name_program, name_size, print_line
from stratascope.cli._views import draw_sample, list_arrays
from stratascope.errors import StoreError, StratascopeError, UsageError
from stratascope.pipeline._extract import extract
from stratascope.seismic import ConvBlock, DeconvBlock, ReconstructionNet
from stratascope.store import Store

_MARK = "demo.json"
_SIGNALS, _IMAGES = "1-d", "2-d"
_BATCH = 64
_ROUNDS = 5
_TIMED = 256
_SEED = 0
_WINDOW = 256


def demo(*, to: Path = Path("demo"), signal_seconds: float = 10, image_seconds: float = 20) -> None:
    """Train two small networks on real seismograms, capture, store and draw every layer.

    Args:
        to: Folder for the results; what an earlier demo left in it is replaced.
        signal_seconds: How long to train the 1-D network.
        image_seconds: How long to train the 2-D network.
    """
    if signal_seconds <= 0 or image_seconds <= 0:
        raise UsageError("training must last more than 0 seconds")
    _make_room(to)
    # This process is ours alone.
    tune_allocator()
    seismograms, missing = load_seismograms()
    if missing:
        print_line(f"note: this ObsPy lacks {', '.join(missing)}")
    report = {
        "signals": _show_signals(seismograms, to / _SIGNALS, signal_seconds),
        "images": _show_images(seismograms, to / _IMAGES, image_seconds),
    }
    (to / _MARK).write_text(json.dumps(report, indent=2) + "\n")
    store = to / _SIGNALS / "activations.zarr"
    print_line("Next, look at what the third convolution makes of another window:")
    print_line(
        f"  {name_program()} render {store} --site encoder.4 --sample 100 --to {to / 'layer.png'}"
    )


def _make_room(to: Path) -> None:
    if to.exists() and not to.is_dir():
        raise StoreError(f"{to} is a file: choose a folder with --to")
    if to.exists() and any(to.iterdir()) and not (to / _MARK).exists():
        raise StoreError(
            f"{to} holds something that no earlier demo made, and is left alone: choose another "
            "folder with --to"
        )
    to.mkdir(parents=True, exist_ok=True)
    # First of all, so that a demo that was stopped can be run again.
    (to / _MARK).write_text("{}\n")
    for name in (_SIGNALS, _IMAGES):
        shutil.rmtree(to / name, ignore_errors=True)


def _show_signals(seismograms: list[Seismogram], to: Path, seconds: float) -> dict[str, Any]:
    windows, labels = cut_windows(seismograms, length=_WINDOW, step=_WINDOW)
    print_line("1-D: five Conv1d layers that reconstruct windows of seismograms")
    print_line(
        f"  data      {len(windows)} windows of {windows.shape[2]} samples from "
        f"{len(seismograms)} seismograms, packaged with ObsPy"
    )
    model = FiveConvs()
    inputs = torch.from_numpy(windows)
    result = _train(model, inputs, seconds)

    began = time.perf_counter()
    store = extract(model, windows, "Conv1d[*]", to=to / "activations.zarr", batch_size=_BATCH)
    took = time.perf_counter() - began
    compared = _compare_routes(model, inputs, store)
    ratio = _measure_overhead(model, inputs[:_TIMED])
    sample = _pick_arrival(windows, labels)
    files = _draw_all(store, to, sample)
    files.append(_draw_signal(model, inputs[sample], labels[sample], to / "reconstruction.png"))

    print_line(
        f"  capture   Conv1d[5] of every window: hooks, submodel and store agree bit for bit "
        f"({compared:,} values)"
    )
    print_line(f"            {ratio:.2f} × the bare forward loop for all five layers")
    return _tell(store, files, to, took, result, sample, overhead=round(ratio, 3))


def _show_images(seismograms: list[Seismogram], to: Path, seconds: float) -> dict[str, Any]:
    images, labels = time_frequency_images(seismograms)
    print_line("2-D: ReconstructionNet on time-frequency images of the same seismograms")
    print_line(
        f"  data      {len(images)} images of {images.shape[2]} frequencies × "
        f"{images.shape[3]} times"
    )
    model = ReconstructionNet(base_channels=8)
    inputs = torch.from_numpy(images)
    result = _train(model, inputs, seconds)

    began = time.perf_counter()
    blocks = [ConvBlock, DeconvBlock]
    store = extract(model, images, blocks, to=to / "activations.zarr", batch_size=len(images))
    took = time.perf_counter() - began
    files = _draw_all(store, to, 0)
    with torch.no_grad():
        rebuilt = model(inputs[:1])[0, 0].numpy()
    pair = np.stack([images[0, 0], rebuilt])
    picture = pictures.grid(pair, title=f"input (0) and reconstruction (1): {labels[0]}")
    files.append(pictures.save(picture, to / "reconstruction.png", sample=0, label=labels[0]))
    return _tell(store, files, to, took, result, 0)


def _train(model: nn.Module, inputs: Tensor, seconds: float) -> TrainingResult:
    with FractionBar(f"  training for {seconds:.0f} s") as bar:
        result = train(
            model,
            inputs,
            seconds=seconds,
            seed=_SEED,
            progress=lambda fraction, loss: bar.update(fraction, f"loss {loss:.4f}"),
        )
    print_line(
        f"  training  {result.steps} steps in {result.seconds:.0f} s: reproduces "
        f"{result.explained:.1%} of the variance"
    )
    return result


def _compare_routes(model: nn.Module, inputs: Tensor, store: Store) -> int:
    """Compare what comes out after the fifth Conv1d by hooks, by a submodel and from the store."""
    part = submodel(model, "Conv1d[5]", example=(inputs[:1],))
    (site,) = part.sites
    compared = 0
    with torch.no_grad():
        for start in range(0, len(inputs), _BATCH):
            batch = inputs[start : start + _BATCH]
            # Only for the model's own forward: the submodel calls the same modules.
            with tap(model, "Conv1d[5]") as acts:
                model(batch)
            by_hooks = acts[site]
            stored = torch.from_numpy(store[site][start : start + len(batch)])
            if not (torch.equal(by_hooks, part(batch)[site]) and torch.equal(by_hooks, stored)):
                raise StratascopeError(
                    f"hooks, submodel and store must agree at '{site}', but differ in samples "
                    f"{start} to {start + len(batch) - 1}: please report this"
                )
            compared += by_hooks.numel()
    return compared


def _measure_overhead(model: nn.Module, inputs: Tensor) -> float:
    """Time the forward loop with and without a tap in turns, and give the ratio of the medians."""

    def run_bare() -> None:
        for batch in inputs.split(_BATCH):
            model(batch)

    def run_tapped() -> None:
        with tap(model, "Conv1d[*]"):
            run_bare()

    bare: list[float] = []
    tapped: list[float] = []
    with torch.no_grad():
        run_bare()
        run_tapped()
        for _ in range(_ROUNDS):
            bare.append(_time(run_bare))
            tapped.append(_time(run_tapped))
    return statistics.median(tapped) / statistics.median(bare)


def _time(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _pick_arrival(windows: np.ndarray[Any, Any], labels: list[str]) -> int:
    """Pick the window of the first record in which the ground moves most suddenly."""
    record = labels[0].rpartition(" ")[0].rpartition(" ")[0]
    own = [index for index, label in enumerate(labels) if label.startswith(record)]
    return max(own, key=lambda index: float(np.abs(windows[index]).max()))


def _draw_all(store: Store, to: Path, sample: int) -> list[Path]:
    arrays = list_arrays(store).items()
    return [
        draw_sample(store, site, array, sample=sample, to=to / f"{name}.png")
        for name, (site, array) in arrays
    ]


def _draw_signal(model: nn.Module, signal: Tensor, label: str, path: Path) -> Path:
    with torch.no_grad():
        rebuilt = model(signal[None])[0]
    pair = torch.cat([signal, rebuilt])
    picture = pictures.line(pair, title=f"input (0) and reconstruction (1): {label}")
    return pictures.save(picture, path, label=label)


def _tell(
    store: Store,
    files: list[Path],
    to: Path,
    seconds: float,
    result: TrainingResult,
    sample: int,
    **more: float,
) -> dict[str, Any]:
    rate = store.samples / seconds
    print_line(
        f"  store     {store.path}: {len(store)} sites × {store.samples} samples, "
        f"{name_size(store.nbytes)} in {seconds:.1f} s ({rate:,.0f} inputs/s)"
    )
    print_line(f"  pictures  {len(files)} in {to}, every channel of sample {sample}")
    print_line()
    return {
        "store": str(store.path),
        "samples": store.samples,
        "sites": list(store),
        "bytes": store.nbytes,
        "inputs_per_second": round(rate, 1),
        "training_steps": result.steps,
        "explained_variance": round(result.explained, 4),
        "pictures": [str(path) for path in files],
        **more,
    }
