"""Peak memory of an extraction over 2,000 and over 20,000 samples, each in a process of its own."""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from common import report

_LENGTH = 64


def extract_samples(samples: int) -> float:
    """Extract so many samples and give the peak memory of this process in MB."""
    import torch

    import stratascope as ss
    from stratascope.cli._demo_models import FiveConvs

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    # An iterable, so that the data themselves take no memory.
    batches = (
        torch.randn(64, 1, _LENGTH, generator=generator) for _ in range(max(1, samples // 64))
    )
    with tempfile.TemporaryDirectory() as folder:
        ss.extract(FiveConvs(), batches, "Conv1d[*]", to=Path(folder) / "store", progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, help="measure this many, in this process")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.samples:
        print(extract_samples(options.samples))
        return
    peak = {}
    for samples in (2_000, 20_000):
        command = [sys.executable, __file__, "--samples", str(samples)]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        peak[samples] = float(found.stdout)
    rows = {f"{samples:,} samples, peak MB": size for samples, size in peak.items()}
    rows["20,000 ÷ 2,000"] = peak[20_000] / peak[2_000]
    report("memory of an extraction of five Conv1d", rows, options.json)


if __name__ == "__main__":
    main()
