import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stratascope.errors import DataError, StoreError
from stratascope.store import (
    ArraySpec,
    StepClaim,
    StepSpec,
    StepWriter,
    _claim,
    _writer,
    open_store,
)

ROWS = np.arange(200 * 3, dtype="float32").reshape(200, 3)
PATIENCE_S = 20


def make_spec(samples=200, unit=64):
    array = ArraySpec("a/activation", "a", "", (3,), "float32", "float32", ("channel",))
    return StepSpec(0, samples, unit, (array,))


@pytest.fixture
def writer(tmp_path):
    made = StepWriter(tmp_path / "s", make_spec())
    yield made
    made.abort()


def put(writer, start, stop):
    writer.write(start, {"a/activation": ROWS[start:stop]})


def in_time(action):
    """Do something that must not wait for ever; give what it raised."""
    raised = []

    def act():
        try:
            action()
        except Exception as error:  # noqa: BLE001 - handed to the test
            raised.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "dead-locked"
    return raised[0] if raised else None


def break_disk(monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_writer.ShardWriter, "append", fail)


def test_an_error_of_the_thread_is_raised_by_a_later_write(writer, monkeypatch):
    break_disk(monkeypatch)
    error = in_time(lambda: [put(writer, k, k + 1) for k in range(100)])

    assert isinstance(error, StoreError)
    assert "is full" in str(error)
    assert isinstance(error.__cause__, OSError)


def test_an_error_of_the_thread_is_raised_by_finish(writer, monkeypatch):
    break_disk(monkeypatch)
    put(writer, 0, 200)

    with pytest.raises(StoreError, match="is full"):
        writer.finish()
    with pytest.raises(StoreError, match="is full"):
        writer.finish()


def test_after_an_error_nothing_waits_for_ever(writer, monkeypatch, tmp_path):
    break_disk(monkeypatch)
    put(writer, 0, 200)
    errors = [in_time(writer.finish) for _ in range(4)]
    errors += [in_time(lambda: put(writer, 0, 1)) for _ in range(4)]

    assert [type(error) for error in errors] == [StoreError] * 8
    assert [in_time(writer.abort) for _ in range(4)] == [None] * 4
    assert list(tmp_path.rglob("*.tmp-*")) == []


def test_an_aborted_step_keeps_its_whole_units(writer, tmp_path):
    put(writer, 0, 150)
    assert [in_time(writer.abort) for _ in range(4)] == [None] * 4

    assert open_store(tmp_path / "s").committed_ranges() == [range(128)]
    assert list(tmp_path.rglob("*.tmp-*")) == []
    with pytest.raises(StoreError, match=r"step 0 of .* is closed already"):
        put(writer, 150, 160)


def test_a_finished_step_takes_no_more(writer, tmp_path):
    put(writer, 0, 200)
    writer.finish()

    assert open_store(tmp_path / "s").committed_ranges() == [range(200)]
    with pytest.raises(StoreError, match="is closed already"):
        put(writer, 200, 201)


def test_data_that_ends_too_early_are_an_error(writer):
    put(writer, 0, 150)

    with pytest.raises(DataError, match="must have 200 samples, as it said, but ended after 150"):
        writer.finish()


def test_data_that_end_at_a_unit_too_early_are_an_error(writer):
    put(writer, 0, 128)

    with pytest.raises(DataError, match="must have 200 samples, as it said, but ended after 128"):
        writer.finish()


@pytest.mark.parametrize(("start", "words"), [(20, "got 20 after 10"), (5, "got 5 after 10")])
def test_a_gap_or_a_repetition_is_an_error(writer, start, words):
    put(writer, 0, 10)
    put(writer, start, start + 10)

    with pytest.raises(StoreError, match=rf"samples must come in order: {words} \(unit 0\)"):
        writer.finish()


def test_samples_of_another_shape_are_an_error(writer):
    writer.write(0, {"a/activation": np.zeros((10, 4), "float32")})

    with pytest.raises(
        DataError, match=r"samples of 'a' must all have shape \(3,\), got \(4,\): make the inputs"
    ):
        writer.finish()


@pytest.mark.parametrize("dtype", ["int64", "float16", "float64", "complex64", "bool"])
def test_samples_of_another_type_are_an_error(writer, dtype):
    writer.write(0, {"a/activation": np.ones((10, 3), dtype)})

    with pytest.raises(
        DataError, match=f"samples of 'a' must all be float32, as the first were, got {dtype}: give"
    ):
        writer.finish()


def test_samples_of_the_other_byte_order_are_the_same(writer, tmp_path):
    writer.write(0, {"a/activation": ROWS.astype(">f4")})
    writer.finish()

    np.testing.assert_array_equal(open_store(tmp_path / "s")["a"][:], ROWS)


def test_samples_that_are_committed_may_come_again(tmp_path):
    first = StepWriter(tmp_path / "s", make_spec())
    put(first, 0, 100)
    first.abort()
    held = open_store(tmp_path / "s").committed_ranges()
    second = StepWriter(tmp_path / "s", make_spec())
    put(second, 0, 200)
    second.finish()

    assert held == [range(64)]
    np.testing.assert_array_equal(open_store(tmp_path / "s")["a"][:], ROWS)


def test_the_queue_holds_no_more_than_a_few_batches(tmp_path):
    gate = threading.Event()
    alive = []

    class Batch:
        def __init__(self):
            alive.append(self)

    def convert(batch):
        assert gate.wait(PATIENCE_S)
        alive.remove(batch)
        return ROWS[:1]

    writer = StepWriter(tmp_path / "s", make_spec(), convert=convert)

    def feed():
        for start in range(200):
            writer.write(start, {"a/activation": Batch()})

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    deadline = time.monotonic() + PATIENCE_S
    # One at work, one in the queue, one at the door: it comes to that, and then no further.
    while len(alive) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    stuck = [len(alive) for _ in range(50) if time.sleep(0.001) is None]
    gate.set()
    feeder.join(PATIENCE_S)
    writer.finish()

    assert set(stuck) == {3}
    assert alive == []


def test_a_batch_is_let_go_when_it_is_written(tmp_path):
    import weakref

    class Batch:
        pass

    writer = StepWriter(tmp_path / "s", make_spec(), convert=lambda batch: ROWS)
    batch = Batch()
    known = weakref.ref(batch)
    writer.write(0, {"a/activation": batch})
    del batch
    writer.finish()

    assert known() is None


def test_a_step_of_unknown_length_grows_unit_by_unit(tmp_path):
    writer = StepWriter(tmp_path / "s", make_spec(None))
    for start in range(0, 200, 10):
        put(writer, start, start + 10)
    writer.abort()
    with pytest.warns(UserWarning, match="192 samples are there, and how many are to come"):
        growing = open_store(tmp_path / "s")["a"]
    again = StepWriter(tmp_path / "s", make_spec(None))
    put(again, 192, 200)
    again.finish()

    assert growing.shape == (192, 3)
    for index in (slice(None), -1, slice(-5, None), [-1, 0], np.ones(192, bool)):
        np.testing.assert_array_equal(growing[index], ROWS[:192][index])
    np.testing.assert_array_equal(open_store(tmp_path / "s")["a"][:], ROWS)


def test_a_short_last_unit_without_an_end_is_done_again(tmp_path):
    writer = StepWriter(tmp_path / "s", make_spec(None))
    put(writer, 0, 100)
    writer.finish()
    (tmp_path / "s" / "commits" / "0" / "complete.json").unlink()
    again = StepWriter(tmp_path / "s", make_spec(None))
    put(again, 64, 200)
    again.finish()

    assert open_store(tmp_path / "s").samples == 200
    np.testing.assert_array_equal(open_store(tmp_path / "s")["a"][:], ROWS)


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_gap_in_a_step_of_unknown_length_is_done_again_with_all_behind_it(tmp_path, lost):
    writer = StepWriter(tmp_path / "s", make_spec(None))
    put(writer, 0, 200)
    writer.finish()
    commits = tmp_path / "s" / "commits" / "0"
    (commits / "complete.json").unlink()
    (commits / f"u{lost:08d}.json").unlink()
    claim = StepClaim(tmp_path / "s", make_spec(None))
    claim.release()
    again = StepWriter(tmp_path / "s", make_spec(None))
    put(again, lost * 64, 200)
    again.finish()

    assert claim.committed == set(range(lost))
    np.testing.assert_array_equal(open_store(tmp_path / "s")["a"][:], ROWS)


@pytest.mark.parametrize("samples", [200, None], ids=["known", "unknown length"])
@pytest.mark.parametrize("text", ["", "{", "[1]", '{"stop": 1}', "\udcff"])
def test_a_damaged_manifest_is_a_unit_to_do_again(tmp_path, samples, text):
    writer = StepWriter(tmp_path / "s", make_spec(samples))
    put(writer, 0, 150)
    writer.abort()
    manifest = tmp_path / "s" / "commits" / "0" / "u00000001.json"
    manifest.write_text(text, errors="surrogateescape")
    claim = StepClaim(tmp_path / "s", make_spec(samples))
    claim.release()
    again = StepWriter(tmp_path / "s", make_spec(samples))
    put(again, 64, 200)
    again.finish()

    assert claim.committed == {0}
    np.testing.assert_array_equal(open_store(tmp_path / "s")["a"][:], ROWS)


def test_the_coordinate_of_a_long_step_goes_over_its_chunks(tmp_path):
    rows = np.zeros((70_000, 3), "float32")
    index = np.arange(70_000)[::-1].copy()
    for name, known, samples in (("a", index, 70_000), ("b", None, None)):
        writer = StepWriter(tmp_path / name, make_spec(samples, 192 * 64), sample_index=known)
        writer.write(0, {"a/activation": rows})
        writer.finish()
    given, counted = (
        open_store(tmp_path / name).to_xarray()["sample"].values for name in ("a", "b")
    )

    np.testing.assert_array_equal(given, index)
    np.testing.assert_array_equal(counted, np.arange(70_000))


def test_what_a_killed_run_left_is_swept_away(tmp_path):
    root = tmp_path / "s"
    StepWriter(root, make_spec()).abort()
    stale = [
        root / "data.zarr" / "0" / "a" / "activation" / "0.tmp-1",
        root / "commits" / "0" / "u00000000.json.tmp-1",
    ]
    # These may be a running one's: of another step, or of one that is being born.
    others = [
        root / "run.json.tmp-1",
        root / "data.zarr" / "zarr.json.tmp-1",
        root / "data.zarr" / "1" / "a.tmp-1",
        root / "commits" / "1" / "u00000000.json.tmp-1",
    ]
    for path in (*stale, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    StepWriter(root, make_spec()).abort()

    assert [path for path in stale if path.exists()] == []
    assert [path for path in others if not path.exists()] == []


def test_what_a_run_left_that_was_killed_at_its_birth_is_swept_away(tmp_path):
    root = tmp_path / "s"
    stale = [root / "run.json.tmp-1", root / "data.zarr" / "zarr.json.tmp-1"]
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    StepWriter(root, make_spec()).abort()

    assert [path for path in stale if path.exists()] == []


def test_one_step_has_one_writer_at_a_time(writer, tmp_path):
    put(writer, 0, 100)
    other = StepWriter(tmp_path / "s", StepSpec(1, 200, 64, make_spec().arrays))
    with pytest.raises(
        StoreError, match=r"another run is writing step 0 of .*/s: wait for its end"
    ):
        StepWriter(tmp_path / "s", make_spec())
    other.abort()
    put(writer, 100, 200)
    writer.finish()
    StepWriter(tmp_path / "s", make_spec()).abort()

    assert not (tmp_path / "s" / "commits" / "0" / "lock").exists()
    np.testing.assert_array_equal(open_store(tmp_path / "s", step=0)["a"][:], ROWS)


def test_a_writer_that_cannot_begin_holds_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_claim, "write_metadata", fail)
        with pytest.raises(StoreError, match="is full"):
            StepWriter(tmp_path / "s", make_spec())
    StepWriter(tmp_path / "s", make_spec()).abort()


def test_a_step_that_another_run_did_meanwhile_is_left_alone(writer, tmp_path):
    put(writer, 0, 200)
    writer.finish()

    with pytest.raises(StoreError, match=r"step 0 of .*/s is another run's, begun in the meantime"):
        StepWriter(tmp_path / "s", make_spec(199))
    assert open_store(tmp_path / "s").complete


def test_steps_that_are_written_at_once_do_not_disturb_each_other(tmp_path):
    def write(step):
        writer = StepWriter(tmp_path / "s", StepSpec(step, 200, 64, make_spec().arrays))
        for start in range(0, 200, 20):
            put(writer, start, start + 20)
        writer.finish()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))

    for step in range(16):
        np.testing.assert_array_equal(open_store(tmp_path / "s", step=step)["a"][:], ROWS)
    assert list(tmp_path.rglob("*.tmp-*")) == []


class Disk:
    """Notes what is made durable, what gets its name, and what is there when a manifest does."""

    def __init__(self, monkeypatch, root):
        self.events = []
        self.grown = {}
        self._root = root
        self._sync, self._replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", self.sync)
        monkeypatch.setattr(Path, "replace", lambda path, to: self.rename(path, to))

    def sync(self, descriptor):
        found = os.fstat(descriptor)
        self.events.append(("sync", found.st_ino, None if self.is_folder(found) else found.st_size))
        self._sync(descriptor)

    def rename(self, path, to):
        found = path.stat()
        name = str(to.relative_to(self._root))
        if to.name.startswith("u0"):
            metadata = json.loads((self._root / "data.zarr/0/a/activation/zarr.json").read_text())
            self.grown[name] = metadata["shape"][0]
        self.events.append(("rename", found.st_ino, found.st_size, name, to.parent.stat().st_ino))
        self._replace(path, to)

    @staticmethod
    def is_folder(found):
        return found.st_mode & 0o170000 == 0o040000


@pytest.mark.parametrize("samples", [200, None], ids=["known", "unknown length"])
def test_a_unit_is_durable_before_its_manifest_says_that_it_is_there(
    tmp_path, monkeypatch, samples
):
    disk = Disk(monkeypatch, tmp_path / "s")
    writer = StepWriter(tmp_path / "s", make_spec(samples))
    put(writer, 0, 200)
    writer.finish()
    renames = [(place, e) for place, e in enumerate(disk.events) if e[0] == "rename"]
    names = [event[3] for _, event in renames]
    commits = [place for place, event in renames if event[3].startswith("commits")]

    for place, (_, file, size, name, folder) in renames:
        # The whole file, and then, before the next file commits what it holds, its name.
        assert ("sync", file, size) in disk.events[:place], name
        end = next((later for later in commits if later > place), None)
        assert ("sync", folder, None) in disk.events[place:end], name
    for unit in range(4):
        manifest = f"commits/0/u{unit:08d}.json"
        assert names.index(f"data.zarr/0/a/activation/c/{unit}/0") < names.index(manifest)
        assert disk.grown[manifest] >= min(200, (unit + 1) * 64)
    assert names[-1] == "commits/0/complete.json"
    assert names.index("commits/0/spec.json") < names.index("commits/0/u00000000.json")
