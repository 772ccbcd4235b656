"""Wherever the units of a job run: each is run once, and what goes wrong is told and left clean."""

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from torch import nn
from torch.utils.data import DataLoader

import jobs
import stratascope as ss
from stratascope._progress import ProgressBar
from stratascope.errors import CaptureError, DataError, StoreError
from stratascope.pipeline import Inline, Processes

UNITS = [range(start, min(start + 64, 1000)) for start in range(0, 1000, 64)]
PATIENCE_S = 60

# All but those that check what a worker begun from nothing does.
quickly = pytest.mark.usefixtures("quick_workers")


@pytest.fixture(params=[Inline(), Processes(2)], ids=["Inline", "Processes"])
def executor(request):
    return request.param


def noted(folder, what):
    return sorted(path.name for path in folder.glob(f"{what} *"))


def assert_ended(folder):
    """All that began came to its end, in order."""
    begun, ended = noted(folder, "begun"), noted(folder, "ended")
    assert [name.split()[1] for name in begun] == [name.split()[1] for name in ended]
    assert multiprocessing.active_children() == []


@quickly
def test_every_unit_is_run_once_and_what_it_gives_comes_back(tmp_path, executor):
    results = list(executor.map_units(jobs.Noted(tmp_path), UNITS))

    assert sorted((unit for unit, _ in results), key=lambda unit: unit.start) == UNITS
    assert len(noted(tmp_path, "ran")) == len(UNITS)
    assert len(noted(tmp_path, "begun")) <= getattr(executor, "workers", 1)
    assert_ended(tmp_path)


@quickly
def test_what_a_unit_raises_is_raised_as_it_is(tmp_path, executor):
    stop = functools.partial(jobs.Stop, "of the user")
    job = jobs.Noted(tmp_path, stop_at=UNITS[3].start, make_error=stop)
    with pytest.raises(jobs.Stop, match="of the user"):
        list(executor.map_units(job, UNITS))

    assert f"ran {UNITS[3].start}" not in noted(tmp_path, "ran")
    assert_ended(tmp_path)


@quickly
def test_a_consumer_that_stops_stops_the_work(tmp_path, executor):
    with contextlib.closing(executor.map_units(jobs.Noted(tmp_path), UNITS)) as results:
        next(results)

    assert_ended(tmp_path)


@quickly
def test_there_need_not_be_as_many_units_as_workers(tmp_path):
    results = list(Processes(9).map_units(jobs.Noted(tmp_path), UNITS[:1]))

    assert [unit for unit, _ in results] == UNITS[:1]
    assert len(noted(tmp_path, "begun")) == 1


@quickly
def test_a_killed_worker_is_an_error_that_names_its_samples(tmp_path):
    (tmp_path / "die at 0").touch()
    with pytest.raises(
        CaptureError,
        match=r"must do the samples 0 to \d+ .* was killed by SIGKILL, perhaps because memory ran",
    ):
        list(Processes(2).map_units(jobs.Noted(tmp_path), UNITS))

    assert len(noted(tmp_path, "begun")) - len(noted(tmp_path, "ended")) == 1
    assert multiprocessing.active_children() == []


@quickly
def test_a_worker_that_never_came_to_its_work_is_an_error():
    with pytest.raises(
        CaptureError, match="ended with exit code 3 before it: in a script, do all that it does be"
    ):
        list(Processes(1).map_units(jobs.Stillborn(), UNITS))


@quickly
def test_an_error_that_cannot_be_sent_is_told_by_its_words(tmp_path):
    fail = functools.partial(jobs.Unsendable, "one thing", "another")
    job = jobs.Noted(tmp_path, stop_at=0, make_error=fail)
    with pytest.raises(
        CaptureError, match="failed with Unsendable: one thing and another"
    ) as caught:
        list(Processes(1).map_units(job, UNITS))

    assert "make_error()" in str(caught.value.__cause__)


PARENT = """
import sys, time
from pathlib import Path
import jobs
from stratascope.pipeline import Processes

units = [range(n, n + 1) for n in range(100_000)]
for unit, pid in Processes(1).map_units(jobs.Noted(Path(sys.argv[1])), units):
    print(pid, flush=True)
"""


def test_neither_workers_nor_their_file_outlive_the_one_that_began_them(tmp_path):
    (tmp_path / "temporary").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        end = time.monotonic() + PATIENCE_S
        while is_running(worker) and time.monotonic() < end:
            time.sleep(0.02)

    assert not is_running(worker)
    assert list((tmp_path / "temporary").glob("*.pt")) == []


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            # Nobody may be there to bury it.
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("workers", [0, -1])
def test_there_is_at_least_one_worker(workers):
    with pytest.raises(ValueError, match=f"workers must be at least 1, got {workers}"):
        Processes(workers)


SIGNALS = np.random.default_rng(0).normal(size=(1000, 1, 9)).astype("f4")
# No border of a batch but the first is one of a unit.
SETTINGS = {"batch_size": 41, "unit_size": 64, "progress": False}


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def run(to, data=None, model=None, sites="**", **settings):
    data = jobs.Pairs(SIGNALS) if data is None else data
    return ss.extract(model or jobs.Convnet(), data, sites, to=to, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a run that nothing disturbed."""
    return tree(run(tmp_path_factory.mktemp("whole") / "s").path)


@pytest.fixture
def failing(tmp_path):
    """The same data, of which a sample fails until a file is gone."""
    fatal = tmp_path / "fatal"
    fatal.touch()
    return jobs.Pairs(SIGNALS, fatal, fails_at=600)


@pytest.fixture
def shown(monkeypatch):
    """What a progress bar is told."""
    updates = []
    monkeypatch.setattr(ProgressBar, "update", lambda bar, *update: updates.append(update))
    return updates


def test_other_processes_write_the_same_bytes_and_tell_of_them(tmp_path, shown):
    order = np.random.default_rng(1).permutation(1000)
    data = DataLoader(jobs.Pairs(SIGNALS), batch_sampler=np.array_split(order, 30))
    model = jobs.Convnet()
    sites = [model.relu, nn.Conv1d, "conv:in"]
    expected = run(tmp_path / "inline", data, model, sites)
    told = [shown[-1]]
    store = run(tmp_path / "s", data, model, sites, executor=Processes(2))
    told.append(shown[-1])

    assert store.complete
    assert tree(store.path) == tree(expected.path)
    previews = sum(array.nbytes_previews for array in store.values())
    assert previews > 0
    assert told == [(1000, store.nbytes + previews + store.targets.nbytes_stored)] * 2


@quickly
def test_what_dies_in_other_processes_is_continued_in_this_one(tmp_path, failing, whole):
    with pytest.raises(CaptureError, match=r"samples .* was killed by SIGKILL"):
        run(tmp_path / "s", failing, executor=Processes(2))
    held = ss.open_store(tmp_path / "s")
    assert not held.complete
    # The half without the fatal sample: whatever the other process had done, one unit is left.
    store = run(tmp_path / "s", shard=(0, 2))
    assert not store.complete
    store = run(tmp_path / "s", resume=True)

    assert tree(store.path) == whole


@quickly
def test_what_stopped_here_is_continued_in_other_processes(tmp_path, failing, whole):
    with pytest.raises(jobs.Stop, match="sample 600"):
        run(tmp_path / "s", failing)
    failing.fatal.unlink()
    held = ss.open_store(tmp_path / "s").committed_ranges()
    store = run(tmp_path / "s", failing, resume=True, executor=Processes(2))

    assert held == [range(512)]
    assert tree(store.path) == whole


@quickly
def test_an_interrupt_ends_other_processes_cleanly(tmp_path, monkeypatch, whole):
    original = ProgressBar.update

    def interrupt(bar, done, nbytes):
        original(bar, done, nbytes)
        if done > 300:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "update", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            run(tmp_path / "s", executor=Processes(2))
    held = ss.open_store(tmp_path / "s").committed_ranges()

    assert list((tmp_path / "s").rglob("*.tmp-*")) == []
    assert multiprocessing.active_children() == []
    committed = sum(map(len, held))
    assert caught.value.__notes__ == [
        f"{committed} samples of step 0 are committed in {tmp_path / 's'}: the same call with "
        "resume=True (--resume) continues"
    ]
    assert tree(run(tmp_path / "s", resume=True).path) == whole


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_shards_in_any_order_write_the_same_bytes(tmp_path, whole, order):
    for place, number in enumerate(order):
        store = run(tmp_path / "s", shard=(number, 3))
        assert store.complete == (place == 2)
        assert sum(map(len, store.committed_ranges())) >= 320 * (place + 1)

    assert tree(tmp_path / "s") == whole


def test_a_shard_that_stopped_goes_on_beside_the_others(tmp_path, failing, whole):
    run(tmp_path / "s", failing, shard=(2, 3))
    with pytest.raises(jobs.Stop, match="sample 600"):
        run(tmp_path / "s", failing, shard=(1, 3))
    failing.fatal.unlink()
    run(tmp_path / "s", failing, shard=(0, 3))
    assert not ss.open_store(tmp_path / "s").complete
    store = run(tmp_path / "s", failing, shard=(1, 3))

    assert store.complete
    assert tree(store.path) == whole


def test_the_shards_of_a_finished_step_have_nothing_to_do(tmp_path):
    store = run(tmp_path / "s")
    before = tree(store.path)

    assert run(tmp_path / "s", shard=(0, 3)).complete
    assert tree(store.path) == before


def test_shards_may_be_more_than_units(tmp_path, whole):
    for number in range(20):
        store = run(tmp_path / "s", shard=(number, 20))

    assert store.complete
    assert tree(store.path) == whole


@pytest.mark.parametrize("attempt", range(3))
def test_shards_that_run_at_once_do_not_disturb_each_other(tmp_path, whole, attempt):
    models = [jobs.Convnet() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        parts = [
            pool.submit(run, tmp_path / "s", model=model, shard=(number, 8))
            for number, model in enumerate(models)
        ]
        for part in parts:
            part.result()

    assert ss.open_store(tmp_path / "s").complete
    assert tree(tmp_path / "s") == whole


@quickly
def test_shards_may_run_in_other_processes_each(tmp_path, whole):
    run(tmp_path / "s", shard=(0, 2), executor=Processes(2))
    store = run(tmp_path / "s", shard=(1, 2))

    assert store.complete
    assert tree(store.path) == whole


def test_shards_of_another_model_are_refused(tmp_path):
    run(tmp_path / "s", shard=(0, 3))
    before = tree(tmp_path / "s")

    with pytest.raises(StoreError, match=r"cannot be continued: .* batch_size \(was 41, is 42\)"):
        run(tmp_path / "s", shard=(1, 3), batch_size=42)
    assert tree(tmp_path / "s") == before


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0), (4, 3)])
def test_a_shard_is_one_of_so_many(tmp_path, shard):
    with pytest.raises(ValueError, match=r"a number from 0 and how many there are, as \(0, 4\)"):
        run(tmp_path / "s", shard=shard)


@pytest.mark.parametrize("settings", [{"shard": (0, 2)}, {"executor": Processes(2)}])
def test_data_without_a_length_cannot_be_cut(tmp_path, settings):
    with pytest.raises(DataError, match=r"must have a length to be done in parts .* give a Data"):
        run(tmp_path / "s", iter([SIGNALS]), **settings)
    assert not (tmp_path / "s").exists()


def test_an_executor_is_one(tmp_path):
    with pytest.raises(TypeError, match=r"executor must be one such as Processes\(4\), got 4"):
        run(tmp_path / "s", executor=4)


class Local(jobs.Pairs):
    """Data whose class is found under no name."""


Local.__qualname__ = "test.<locals>.Local"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": Local(SIGNALS)}, "the data must be picklable .*Can't .* 'test.<locals>.Local'"),
        ({"transform": lambda x: x}, "the transform must be picklable .*lambda"),
        ({"sites": lambda name, module: True}, "the sites must be picklable .*lambda"),
    ],
)
def test_what_cannot_be_handed_over_is_named_before_anything_is_written(tmp_path, settings, words):
    with pytest.raises(DataError, match=words):
        run(tmp_path / "s", **settings, executor=Processes(2))
    assert not (tmp_path / "s").exists()
