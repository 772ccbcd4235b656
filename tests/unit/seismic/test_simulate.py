import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from stratascope.errors import DataError
from stratascope.pipeline import Executor, Inline, Processes
from stratascope.seismic import draw_velocity_map, simulate, simulate_shots
from stratascope.seismic._simulate import RECORD

SIZES = {"samples": 3, "test_samples": 1, "seed": 5, "samples_per_file": 2}
FILES = ["data1.npy", "data2.npy", "data97.npy", "model1.npy", "model2.npy", "model97.npy"]


class Stop(Exception):
    """What ends a run in a test."""


class Noted(Executor):
    """Notes what it runs, and stops after so many samples."""

    def __init__(self, stop_after=None):
        self.units, self.stop_after = [], stop_after

    def map_units(self, job, units):
        self.units = [*units]
        for done, result in enumerate(Inline().map_units(job, units)):
            if done == self.stop_after:
                raise Stop
            yield result


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "CurveFault_A"
    simulate(folder, **SIZES)
    return folder


def test_samples_come_in_the_files_and_the_split_of_openfwi(whole):
    assert sorted(read(whole)) == [*FILES, RECORD]
    for file, samples in ((1, 2), (2, 1), (97, 1)):
        data, model = (np.load(whole / f"{name}{file}.npy") for name in ("data", "model"))
        assert (data.shape, data.dtype) == ((samples, 5, 1000, 70), np.float32)
        assert (model.shape, model.dtype) == ((samples, 1, 70, 70), np.float32)
        np.testing.assert_array_equal(data[0], simulate_shots(model[0]))


def test_a_sample_can_be_made_again_from_the_seed_and_its_number(whole):
    settings = json.loads((whole / RECORD).read_text())

    for file, place, number in (("model2", 0, 2), ("model97", 0, 48_000)):
        drawn = draw_velocity_map(np.random.default_rng([settings["seed"], number]))
        np.testing.assert_array_equal(np.load(whole / f"{file}.npy")[place, 0], drawn)
    assert settings["versions"].keys() == {"stratascope", "deepwave", "numpy", "torch"}


@pytest.mark.usefixtures("quick_workers")
def test_any_number_of_processes_writes_the_same_bytes(whole, tmp_path):
    simulate(tmp_path / "again", **SIZES, executor=Processes(2))

    assert read(tmp_path / "again") == read(whole)


def test_a_stopped_run_goes_on_where_it_was(whole, tmp_path):
    with pytest.raises(Stop):
        simulate(tmp_path, **SIZES, executor=Noted(stop_after=1))
    assert "data1.npy" not in read(tmp_path)

    executor = Noted()
    simulate(tmp_path, **SIZES, executor=executor, resume=True)

    assert executor.units == [range(1, 2), range(2, 3), range(48_000, 48_001)]
    assert read(tmp_path) == read(whole)


def test_a_killed_run_leaves_whole_samples_and_goes_on(whole, tmp_path):
    code = (
        "import stratascope.seismic._simulate as module\n"
        "module._KEPT_BACK = 1\n"
        f"module.simulate({str(tmp_path)!r}, **{SIZES!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as run:
        half = tmp_path / "model1.npy.unfinished"
        while not (half.exists() and np.load(half, mmap_mode="r").any()):
            assert run.poll() is None
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
    assert "data97.npy" not in read(tmp_path)

    executor = Noted()
    simulate(tmp_path, **SIZES, executor=executor, resume=True)

    assert range(1) not in executor.units
    assert read(tmp_path) == read(whole)


@pytest.mark.parametrize("lost", ["data1.npy", "model1.npy"])
def test_half_a_pair_is_made_again_whole(whole, tmp_path, lost):
    for name, content in read(whole).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / lost).unlink()

    executor = Noted()
    simulate(tmp_path, **SIZES, executor=executor, resume=True)

    assert executor.units == [range(1), range(1, 2)]
    assert read(tmp_path) == read(whole)


def test_a_run_killed_between_the_two_files_computes_nothing_again(whole, tmp_path):
    for name, content in read(whole).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model1.npy").rename(tmp_path / "model1.npy.unfinished")

    executor = Noted()
    simulate(tmp_path, **SIZES, executor=executor, resume=True)

    assert executor.units == []
    assert read(tmp_path) == read(whole)


def test_what_was_cut_off_is_made_again(whole, tmp_path):
    for name, content in read(whole).items():
        (tmp_path / name).write_bytes(content)
    for name in ("data97.npy", "model97.npy"):
        (tmp_path / name).rename(tmp_path / f"{name}.unfinished")
    os.truncate(tmp_path / "data97.npy.unfinished", 1000)

    simulate(tmp_path, **SIZES, resume=True)

    assert read(tmp_path) == read(whole)


def test_another_simulation_is_not_written_over(whole):
    before = read(whole)

    with pytest.raises(DataError, match="got a simulation: name another, or continue it with"):
        simulate(whole, **SIZES)
    with pytest.raises(
        DataError, match=r"seed must be 5, as in the simulation that .* got 6: name"
    ):
        simulate(whole, **{**SIZES, "seed": 6}, resume=True)
    assert read(whole) == before


def test_a_folder_with_files_of_others_is_left_alone(tmp_path):
    np.save(tmp_path / "data1.npy", np.zeros(1))

    with pytest.raises(DataError, match="no simulation has described: name another"):
        simulate(tmp_path, **SIZES)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"samples": -1}, "samples must be at least 0, got -1"),
        ({"samples": 0}, "samples must be at least 1, got 0 and no test_samples"),
        ({"samples": 1, "samples_per_file": 0}, "samples_per_file must be at least 1, got 0"),
        ({"samples": 1, "seed": -1}, "seed must be at least 0, got -1"),
        ({"samples": 50_000}, "at most 48,000, as the files from 97 on are for testing, got 50,0"),
        ({"samples": 1000, "samples_per_file": 10}, "at most 960, as the files from 97 on"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        simulate(tmp_path, **sizes)
    assert not [*tmp_path.iterdir()]
