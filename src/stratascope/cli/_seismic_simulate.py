"""``stratascope seismic simulate``."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stratascope.cli._output import name_program, print_line
from stratascope.errors import UsageError
from stratascope.pipeline import Processes
from stratascope.seismic import simulate as simulate_folder


def simulate(
    folder: Path,
    *,
    samples: int,
    test_samples: int | None = None,
    seed: int = 0,
    per_file: int = 500,
    workers: int | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Simulate seismic data and velocity maps like those of CurveFault-A, in OpenFWI's files.

    Args:
        folder: Where to; call it CurveFault_A, so that the family is known.
        samples: How many to train on; each takes 1.4 MB.
        test_samples: How many to test on; without it an eighth as many.
        seed: Which samples to draw; the same seed gives the same bytes.
        per_file: Samples in one file.
        workers: How many processes to run in, each with one thread; without it this one.
        resume: Continue an interrupted run.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    began = time.perf_counter()
    simulate_folder(
        folder,
        samples=samples,
        test_samples=test_samples,
        seed=seed,
        samples_per_file=per_file,
        resume=resume,
        executor=None if workers is None else Processes(workers),
    )
    seconds = time.perf_counter() - began
    print_line(f"{folder} is there, after {seconds:.1f} s. See what it holds:")
    print_line(f"  {name_program()} seismic info {folder}")
