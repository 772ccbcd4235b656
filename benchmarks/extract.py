"""Extraction of five 1-D convolutions against a bare forward loop and `np.save` of the same bytes.

Both write to the same disk; only extraction compresses, checksums and syncs. Prints the ratio.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import interleave, ratio, report

import stratascope as ss
from stratascope.cli._demo_models import FiveConvs


def make_variants(
    model: FiveConvs, inputs: np.ndarray, folder: Path
) -> dict[str, Callable[[], None]]:
    """Give the same work in four ways: the forward alone, two ways to save, and extraction."""
    batches = torch.from_numpy(inputs).split(64)
    convs = [module for module in model.modules() if isinstance(module, torch.nn.Conv1d)]

    def forward_only() -> None:
        with torch.no_grad():
            for batch in batches:
                model(batch)

    def forward_and_save() -> None:
        shutil.rmtree(folder / "raw", ignore_errors=True)
        (folder / "raw").mkdir()
        kept: list[torch.Tensor] = []
        handles = [conv.register_forward_hook(lambda m, a, o: kept.append(o)) for conv in convs]
        with torch.no_grad():
            for number, batch in enumerate(batches):
                kept.clear()
                model(batch)
                for place, value in enumerate(kept):
                    np.save(folder / "raw" / f"{number}-{place}.npy", value.numpy())
        for handle in handles:
            handle.remove()

    def forward_save_and_sync() -> None:
        forward_and_save()
        for path in (folder / "raw").iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def extract() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        ss.extract(model, inputs, "Conv1d[*]", to=folder / "store", progress=False)

    return {
        "forward": forward_only,
        "save": forward_and_save,
        "save and sync": forward_save_and_sync,
        "extract": extract,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settled = ss.tune_allocator()
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).normal(size=(options.samples, 1, options.length))
    folder = Path(tempfile.mkdtemp())
    variants = make_variants(FiveConvs().eval(), inputs.astype(np.float32), folder)
    seconds = interleave(variants, options.rounds)
    store = ss.open_store(folder / "store")
    raw = sum(path.stat().st_size for path in (folder / "raw").iterdir())
    rows = {
        "extract ÷ (forward + np.save)": ratio(seconds, "extract", "save"),
        "extract ÷ (forward + np.save + fsync)": ratio(seconds, "extract", "save and sync"),
        "extract ÷ forward": ratio(seconds, "extract", "forward"),
        "(forward + np.save) ÷ forward": ratio(seconds, "save", "forward"),
        "samples/s": options.samples / sorted(seconds["extract"])[options.rounds // 2],
        "MB raw": raw / 1e6,
        "MB in the store": store.nbytes / 1e6,
        "allocator settled": float(settled),
    }
    report(f"extract, {options.samples} × 1 × {options.length}, five Conv1d", rows, options.json)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
