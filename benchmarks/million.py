"""A million small samples: extracted, killed midway, resumed, read whole, profiled, verified.

Each part runs in a process of its own: its seconds, and the peak of its memory. Of what is read
back, the first samples of each block and all targets are compared with what they should be.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import stratascope as ss

_BATCH, _UNIT = 1024, 8192
_CLASSES = 997


class Signals(Dataset):
    """Signals ``(1, 16)``, each with a class, made when they are asked for."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.shapes = torch.randn(_CLASSES, 1, 16, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.shapes[number % _CLASSES] * (1 + number / self.samples), number % _CLASSES


def make_network() -> nn.Module:
    """Make two convolutions, 512 bytes of activations a sample."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 8, 5), nn.ReLU(), nn.Conv1d(8, 8, 5, stride=2), nn.ReLU(), nn.Flatten()
    )


def extract(samples: int, to: str) -> None:
    """Extract, or do the rest."""
    ss.extract(
        make_network(),
        DataLoader(Signals(samples), batch_size=_BATCH),
        "ReLU[*]",
        to=to,
        unit_size=_UNIT,
        resume=Path(to).exists(),
        progress=False,
    )


def read(samples: int, to: str) -> None:
    """Read all, and compare."""
    store, signals = ss.open_store(to), Signals(samples)
    network = make_network().eval()
    assert store.samples == samples
    assert np.array_equal(store.targets[:], np.arange(samples) % _CLASSES)
    for site in store:
        came = 0
        for start, values in store[site].blocks():
            assert start == came
            came += len(values)
            part = values[:_BATCH]
            inputs = torch.stack([signals[start + place][0] for place in range(len(part))])
            with torch.no_grad(), ss.tap(network, site) as acts:
                network(inputs)
            np.testing.assert_allclose(part, acts[site].numpy(), rtol=1e-5, atol=1e-6)
        assert came == samples


def verify(samples: int, to: str) -> None:
    """Read every byte."""
    assert ss.open_store(to).verify(deep=True) == []


def profile(samples: int, to: str) -> None:
    """Profile with the defaults, and compare the figures that are known."""
    found = ss.profile(ss.open_store(to), progress=False)
    assert found.samples == samples
    for site in found.values():
        assert (site.count == samples * np.prod(site.map_shape)).all()
        assert (site.min == 0).all()
        assert site.effective_rank > 1


PARTS = {part.__name__: part for part in (extract, read, profile, verify)}


def spend(part: str, samples: int, to: Path, *, until: int | None = None) -> dict[str, float]:
    """Run a part in a process of its own, killed when so many units are committed."""
    command = [sys.executable, __file__, "--part", part, "--samples", str(samples), "--to", str(to)]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    if until is not None:
        commits = to / "commits" / "0"
        while process.poll() is None and len([*commits.glob("u*.json")]) < until:
            time.sleep(0.05)
        process.kill()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    assert code == (0 if until is None else -signal.SIGKILL), (part, code)
    return {"s": seconds, "CPU s": used.ru_utime + used.ru_stime, "MB": used.ru_maxrss / 1024}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where to write, for a disk of one's choice")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        PARTS[options.part](options.samples, options.to)
        return
    samples = options.samples
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        to = Path(folder, "store")
        rows = {
            "extract, killed": spend("extract", samples, to, until=samples // _UNIT // 2),
            "extract, resumed": spend("extract", samples, to),
            "read whole": spend("read", samples, to),
            "profile": spend("profile", samples, to),
            "verify --deep": spend("verify", samples, to),
        }
        files = [path for path in to.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
    print(f"{samples:,} samples, {len(files)} files, {size:.0f} MB")
    print(f"  {'':<20}" + "".join(f"{name:>10}" for name in ("s", "CPU s", "peak MB")))
    for name, figures in rows.items():
        print(f"  {name:<20}" + "".join(f"{figure:>10.1f}" for figure in figures.values()))
    if options.json is not None:
        document = {"samples": samples, "files": len(files), "MB": size, **rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
