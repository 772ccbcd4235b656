"""A folder of simulated samples, in the files and with the split of OpenFWI."""

import contextlib
import json
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from stratascope._optional import require
from stratascope._progress import ProgressBar
from stratascope.errors import DataError
from stratascope.pipeline import Executor, Inline, Job
from stratascope.pipeline._executor import Run
from stratascope.seismic._velocity import SIZE, draw_velocity_map
from stratascope.seismic._waves import SHOTS, SOLVER, STEPS, simulate_shots
from stratascope.seismic._whole import replacing

RECORD = "simulation.json"

_FIRST_TEST_FILE, _FIRST_TEST_SAMPLE = 97, 48_000
_SHAPES = {"data": (SHOTS, STEPS, SIZE), "model": (1, SIZE, SIZE)}
_KEPT_BACK = 8  # samples, until they are written


def simulate(
    folder: str | Path,
    *,
    samples: int,
    test_samples: int | None = None,
    seed: int = 0,
    samples_per_file: int = 500,
    resume: bool = False,
    executor: Executor | None = None,
    progress: bool = True,
) -> None:
    """Simulate velocity maps and their shot gathers into a folder, in OpenFWI's file format.

    The maps are those of `draw_velocity_map`, the gathers those of `simulate_shots`. Training
    samples go to ``data1.npy`` with ``model1.npy`` and on, test samples to ``data97.npy`` and on,
    which is where the published split of CurveFault-A looks for them. Sample number n, of which the
    test samples begin at 48,000, depends on the seed and on n alone: the generator is
    ``numpy.random.default_rng([seed, n])``. So the same bytes come again, for any number of
    processes and of samples, with the same versions of the packages and on the same kind of
    processor; ``simulation.json`` keeps seed and versions.

    Each process computes with one thread. A file appears under its name when it is whole. At most a
    few samples for each file that is being written are in memory. A sample takes 1.4 MB.

    Args:
        folder: Where to; name it ``CurveFault_A``, so that `OpenFWI` knows the family.
        samples: How many to train on, at most 96 files.
        test_samples: How many to test on; None for an eighth of ``samples``, as in OpenFWI.
        seed: Which samples to draw.
        samples_per_file: How many go to one file; OpenFWI has 500.
        resume: Continue an interrupted run, of which at most the last samples are lost.
        executor: Where to run; None for this process, ``Processes(4)`` for four others.
        progress: Whether to show a bar, on a terminal.

    Raises:
        DataError: The folder holds another simulation, or one and ``resume`` is not set.
        MissingExtraError: deepwave is not installed.

    >>> simulate("CurveFault_A", samples=2, test_samples=0)
    >>> np.load("CurveFault_A/data1.npy").shape, np.load("CurveFault_A/model1.npy").shape
    ((2, 5, 1000, 70), (2, 1, 70, 70))
    """
    require("deepwave", extra="seismic")
    if test_samples is None:
        test_samples = -(-samples // 8)
    _check_counts(samples, test_samples, samples_per_file)
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    folder = Path(folder)
    settings = {
        "kind": "curved layers and a fault, as in CurveFault-A",
        "seed": seed,
        "samples": samples,
        "test_samples": test_samples,
        "samples_per_file": samples_per_file,
        "solver": SOLVER,
        "versions": {name: version(name) for name in ("stratascope", "deepwave", "numpy", "torch")},
    }
    _claim(folder, settings, resume=resume)
    files = [
        *_part(folder, range(samples), samples_per_file, first_file=1),
        *_part(
            folder,
            range(_FIRST_TEST_SAMPLE, _FIRST_TEST_SAMPLE + test_samples),
            samples_per_file,
            first_file=_FIRST_TEST_FILE,
        ),
    ]
    owner = {number: file for file in files for number in file.find_missing(seed)}
    units = [range(number, number + 1) for number in owner]
    done = samples + test_samples - len(units)
    with (
        ProgressBar("simulate", samples + test_samples, enabled=progress) as bar,
        contextlib.closing((executor or Inline()).map_units(_Simulation(seed), units)) as results,
        _all_flushed(files),
    ):
        for sample in results:
            owner[sample.number].add(sample)
            done += 1
            bar.update(done, 0)


@dataclass(frozen=True, slots=True)
class _Sample:
    number: int
    data: NDArray[np.float32]
    model: NDArray[np.float32]


@final
class _Simulation(Job):
    """Simulates samples by their number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @contextlib.contextmanager
    def begin(self) -> Generator[Run]:
        """Compute with one thread, as several of them gain less than as many processes do."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield self._run
        finally:
            torch.set_num_threads(before)

    def _run(self, units: Sequence[range]) -> Generator[_Sample]:
        for number in (number for unit in units for number in unit):
            model = _draw_model(self._seed, number)
            yield _Sample(number, simulate_shots(model), model)


def _draw_model(seed: int, number: int) -> NDArray[np.float32]:
    return draw_velocity_map(np.random.default_rng([seed, number]))[None]


class _FilePair:
    """A file of shot gathers and one of velocity maps, under other names until they are whole.

    A map is written when its gathers are on the disk, so that a sample whose map is there is whole.
    """

    def __init__(self, folder: Path, file: int, numbers: range) -> None:
        self._numbers = numbers
        self._paths = {name: folder / f"{name}{file}.npy" for name in _SHAPES}
        self._unfinished = {
            name: path.with_name(f"{path.name}.unfinished") for name, path in self._paths.items()
        }
        self._left = len(numbers)
        self._waiting: list[_Sample] = []

    def find_missing(self, seed: int) -> list[int]:
        """List the numbers of the samples that are still to be made."""
        if all(path.exists() for path in self._paths.values()):
            return []
        for name, path in self._paths.items():
            # A run was killed between the two, or somebody took the other away.
            if path.exists():
                path.replace(self._unfinished[name])
        if not all(self._is_begun(name) for name in _SHAPES):
            return [*self._numbers]
        models = np.load(self._unfinished["model"], mmap_mode="r")
        missing = [
            number
            for number, model in zip(self._numbers, models, strict=True)
            if not (model.any() and np.array_equal(model, _draw_model(seed, number)))
        ]
        self._left = len(missing)
        if not missing:
            self._finish()
        return missing

    def add(self, sample: _Sample) -> None:
        """Take a sample, and write it with others, at the latest when it is the last."""
        self._waiting.append(sample)
        if len(self._waiting) in (_KEPT_BACK, self._left):
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        if not all(self._is_begun(name) for name in _SHAPES):
            for name in _SHAPES:
                np.lib.format.open_memmap(
                    self._unfinished[name], "w+", np.float32, self._shape(name)
                )
        for name in _SHAPES:
            self._write(name, {each.number: getattr(each, name) for each in self._waiting})
        self._left -= len(self._waiting)
        self._waiting.clear()
        if not self._left:
            self._finish()

    def _is_begun(self, name: str) -> bool:
        try:
            return np.load(self._unfinished[name], mmap_mode="r").shape == self._shape(name)
        except (OSError, ValueError):  # it is not there, or has been cut off
            return False

    def _shape(self, name: str) -> tuple[int, ...]:
        return (len(self._numbers), *_SHAPES[name])

    def _write(self, name: str, values: dict[int, NDArray[np.float32]]) -> None:
        # Not by mapping the file, of which what is written would count as this process's memory.
        with self._unfinished[name].open("r+b") as file:
            header = file.seek(0, os.SEEK_END) - 4 * int(np.prod(self._shape(name)))
            for number, value in values.items():
                file.seek(header + value.nbytes * (number - self._numbers.start))
                file.write(value.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _finish(self) -> None:
        for name, path in self._paths.items():
            self._unfinished[name].replace(path)


def _part(folder: Path, numbers: range, size: int, *, first_file: int) -> list[_FilePair]:
    return [
        _FilePair(folder, first_file + count, numbers[start : start + size])
        for count, start in enumerate(range(0, len(numbers), size))
    ]


@contextlib.contextmanager
def _all_flushed(files: Sequence[_FilePair]) -> Generator[None]:
    try:
        yield
    finally:
        for file in files:
            file.flush()


def _check_counts(samples: int, test_samples: int, samples_per_file: int) -> None:
    for name, count, least in (
        ("samples", samples, 0),
        ("test_samples", test_samples, 0),
        ("samples_per_file", samples_per_file, 1),
    ):
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")
    if not samples + test_samples:
        raise ValueError("samples must be at least 1, got 0 and no test_samples")
    most = (_FIRST_TEST_FILE - 1) * samples_per_file
    if samples > min(most, _FIRST_TEST_SAMPLE):
        raise ValueError(
            f"samples must be at most {min(most, _FIRST_TEST_SAMPLE):,}, as the files from "
            f"{_FIRST_TEST_FILE} on are for testing, got {samples:,}: set samples_per_file higher, "
            "or write to a second folder with another seed"
        )


def _claim(folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Write down what is simulated in a folder, or make sure that it is the same."""
    record = folder / RECORD
    if not record.exists():
        if folder.is_dir() and any(folder.glob("*.npy")):
            raise DataError(
                f"{folder} must be an empty or a new folder, got one with .npy files that no "
                "simulation has described: name another"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(record) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return
    if not resume:
        raise DataError(
            f"{folder} must be an empty or a new folder, got a simulation: name another, or "
            "continue it with resume=True (--resume)"
        )
    found = json.loads(record.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if found.get(name) != value:
            raise DataError(
                f"{name} must be {found.get(name)!r}, as in the simulation that {folder} holds, "
                f"got {value!r}: name another folder, or go on as it was begun"
            )
