"""Whatever stops an extraction, what is committed stays and the same call does the rest."""

import copy
import errno
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import kills
import stratascope as ss
from stratascope.errors import DataError, StoreError, StratascopeError
from stratascope.store import Paths, open_folder

DRIVER = """
import itertools, os, signal, sys, time, traceback
from pathlib import Path
import numpy as np, torch
from torch.utils.data import Dataset, IterableDataset
import stratascope as ss
from stratascope.store._shards import ShardWriter

torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv1d(1, 3, 3), torch.nn.ReLU())
signals = np.random.default_rng(0).normal(size=(150, 1, 9)).astype("f4")
root = Path(sys.argv[1])


class Mapped(Dataset):
    def __len__(self):
        return 150

    def __getitem__(self, index):
        moment("read")
        return signals[index], 0


class Streamed(IterableDataset):
    def __iter__(self):
        for row in signals:
            moment("read")
            yield row


def batches():
    for first in range(0, 150, 20):
        moment("read")
        yield torch.from_numpy(signals[first : first + 20])


SOURCES = {"dataset": Mapped, "stream": Streamed, "generator": batches}
STEPS = {"before a rename": 2, "after a rename": 7, "rows": 4, "read": 9}
REPLACE, APPEND = Path.replace, ShardWriter.append
fatal, counts = (None, 0), {}


def moment(name):
    counts[name] = counts.get(name, 0) + 1
    if fatal == (name, counts[name]):
        os.kill(os.getpid(), signal.SIGKILL)


def replace(path, target):
    moment("before a rename")
    REPLACE(path, target)
    moment("after a rename")


def append(shard, rows):
    APPEND(shard, rows)
    moment("rows")


Path.replace, ShardWriter.append = replace, append
os.fsync = lambda descriptor: None  # a killed process, unlike a cut cable, loses nothing written


def extract(kind, to, resume=False, shard=None):
    ss.extract(model, SOURCES[kind](), "1", to=to, batch_size=20, unit_size=64,
               resume=resume, shard=shard, progress=False)


def run(kind, to, fatal_moment, resume, shard=None):
    global fatal
    fatal = fatal_moment
    counts.clear()
    child = os.fork()
    if child == 0:
        try:
            extract(kind, to, resume, shard)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

RUNS = """
for kind in sys.argv[2:]:
    extract(kind, root / kind / "whole")  # and loads what each of the forks would load anew
for kind in sys.argv[2:]:
    for name in ("before a rename", "after a rename", "rows", "read"):
        # Past the last such moment the run comes to its end.
        for number in itertools.count(1, STEPS[name] * (1 if kind == "generator" else 3)):
            to = root / kind / f"{name} {number}"
            ended = run(kind, to, (name, number), False)
            if ended == 0:
                break
            assert ended == -signal.SIGKILL, (kind, name, number, ended)
            if number % 4 == 0:  # and once more
                run(kind, to, (name, 4), True)
            assert run(kind, to, None, True) == 0, (kind, name, number)
"""

SHARDS = """
extract("dataset", root / "dataset" / "whole")  # and loads what the forks need
for name in STEPS:
    for number in itertools.count(1, 3 * STEPS[name]):
        to = root / "dataset" / f"{name} {number}"
        first, second = ((0, 2), (1, 2)) if number % 2 else ((1, 2), (0, 2))
        ended = run("dataset", to, (name, number), False, first)
        assert ended in (0, -signal.SIGKILL), (name, number, ended)
        if number % 3 == 0:
            run("dataset", to, (name, 4), False, second)
        for shard in (second, first):
            assert run("dataset", to, None, False, shard) == 0, (name, number, shard)
        if ended == 0:
            break
"""


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def drive(folder, script, *kinds):
    """Run a script of deaths, and check that every store is that of the whole run."""
    command = [sys.executable, "-c", DRIVER + script, str(folder), *kinds]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr

    for kind in folder.iterdir():
        whole = tree(kind / "whole")
        runs = [path for path in kind.iterdir() if path.name != "whole"]
        assert len(runs) > 10
        assert [path.name for path in runs if tree(path) != whole] == []


def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path):
    drive(tmp_path, RUNS, "generator", "dataset", "stream")


def test_shards_killed_at_any_moment_go_on_to_the_same_bytes(tmp_path):
    drive(tmp_path, SHARDS)


def test_fifty_kills_at_random_moments_lose_nothing_that_is_committed(tmp_path, record_property):
    command = [sys.executable, kills.__file__, str(tmp_path), "50", "0"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr

    counts = json.loads((tmp_path / "counts.json").read_text())
    for what, number in counts.items():
        record_property(what, number)
    assert counts["kills"] >= counts[kills.IN_A_UNIT] >= 50
    assert counts["whole stores, equal byte for byte"] >= len(kills.KINDS)
    assert counts["samples read back"] > 10_000


class Stop(Exception):
    """What a test lets happen in the user's own code."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU())


@pytest.fixture
def signals():
    return np.random.default_rng(0).normal(size=(150, 1, 9)).astype("f4")


def run(model, data, to, **settings):
    settings = {"batch_size": 20, "unit_size": 64, "progress": False, **settings}
    return ss.extract(model, data, "**", to=to, **settings)


def stopping(signals, error, after):
    for first in range(0, len(signals), 20):
        if first >= after:
            raise error
        yield torch.from_numpy(signals[first : first + 20])


@pytest.mark.parametrize("after", [20, 80, 140])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stop()], ids=["interrupt", "error"])
def test_a_stopped_run_keeps_its_units_and_goes_on(tmp_path, model, signals, error, after):
    with pytest.raises(type(error)):
        run(model, stopping(signals, error, after), tmp_path / "s")
    committed = tree(tmp_path / "s")
    run(model, stopping(signals, error, 999), tmp_path / "s", resume=True)
    run(model, stopping(signals, error, 999), tmp_path / "whole")

    shards = {name: data for name, data in committed.items() if "/1/activation/c/" in name}
    assert len(shards) == after // 64
    assert shards.items() <= tree(tmp_path / "s").items()
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


def test_an_interrupt_says_how_to_go_on(tmp_path, model, signals):
    with pytest.raises(KeyboardInterrupt) as caught:
        run(model, stopping(signals, KeyboardInterrupt(), 80), tmp_path / "s")

    assert caught.value.__notes__ == [
        f"64 samples of step 0 are committed in {tmp_path / 's'}: the same call with resume=True "
        "(--resume) continues"
    ]


class Full:
    """A disk that is full at the n-th call of an operation."""

    def __init__(self, monkeypatch, operation, number, code=errno.ENOSPC):
        self.calls, self.number, self.code = 0, number, code
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        owner = os if operation == "fsync" else Path
        original = getattr(owner, operation)

        def operate(*args, **kwargs):
            writing = operation != "open" or "wb" in args
            self.calls += writing
            if writing and self.calls == self.number:
                raise OSError(self.code, os.strerror(self.code), str(args[0]))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, operation, operate)


@pytest.mark.parametrize(("operation", "stride"), [("open", 3), ("fsync", 5), ("replace", 2)])
def test_a_disk_full_at_any_moment_is_one_sentence_and_the_run_goes_on(
    tmp_path, model, signals, operation, stride
):
    whole = tree(run(model, signals, tmp_path / "whole").path)
    for number in itertools.count(1, stride):
        to = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            full = Full(patch, operation, number)
            try:
                run(model, signals, to)
            except StoreError as error:
                message = str(error)
            else:
                break
        assert full.calls >= number
        assert "is full (" in message
        assert "make room and run the same again with resume=True (--resume)" in message
        assert "\n" not in message
        assert list(to.rglob("*.tmp-*")) == []
        if (to / "commits" / "0" / "spec.json").exists():
            store = ss.open_store(to)
            for span in store.committed_ranges():
                assert store["1"][span.start : span.stop].shape == (len(span), 3, 7)
        run(model, signals, to, resume=True)
        assert tree(to) == whole, number

    assert number > 20


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EDQUOT, "your quota is used up"), (errno.EFBIG, "ulimit -f")]
)
def test_a_limit_is_told_from_a_full_disk(tmp_path, monkeypatch, model, signals, code, words):
    Full(monkeypatch, "fsync", 12, code)

    with pytest.raises(StoreError, match=words):
        run(model, signals, tmp_path / "s")


def test_a_folder_that_may_not_be_written_is_one_sentence(tmp_path, monkeypatch, model, signals):
    Full(monkeypatch, "open", 1, errno.EACCES)

    with pytest.raises(
        StoreError, match=r"cannot be written: Permission denied\. Choose another folder"
    ):
        run(model, signals, tmp_path / "s")


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_is_read_only_is_read_and_refused(tmp_path, model, signals, begun):
    root = tmp_path / "s"
    root.mkdir()
    if begun:
        run(model, signals, root)
        paths = Paths(open_folder(root), 0)
        paths.folder.remove([paths.complete, paths.manifest(1)])
    before = tree(root)
    script = """
        import os, sys, numpy as np, torch, stratascope as ss
        from pathlib import Path

        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv1d(1, 3, 3), torch.nn.ReLU())
        signals = np.random.default_rng(0).normal(size=(150, 1, 9)).astype("f4")

        def run(to):
            ss.extract(model, signals, "**", to=to, batch_size=20, unit_size=64, resume=True)

        if os.geteuid() == 0:
            # Whoever may write everywhere gives that up, with all loaded that root alone may read.
            run(sys.argv[1] + " of root")
            ss.open_store(sys.argv[1] + " of root").verify(deep=True)
            os.setgid(65534)
            os.setuid(65534)
        try:
            if sys.argv[2] == "True":
                store = ss.open_store(sys.argv[1])
                print(store["1"][:64].shape, store["1"][128:].shape, store.verify(deep=True))
            run(sys.argv[1])
        except ss.errors.StoreError as error:
            sys.exit(str(error))
    """
    # Those that pytest has made, of which there is one more where processes share the tests.
    above = Path(tempfile.gettempdir())
    folders = [path for path in [tmp_path, *tmp_path.parents] if above in path.parents]
    modes = {path: path.stat().st_mode for path in [*folders, root, *root.rglob("*")]}
    try:
        for path, mode in modes.items():
            # Others may look; into the store nobody but root may write.
            inside = path.is_relative_to(root)
            path.chmod((0o555 if path.is_dir() else 0o444) if inside else mode | 0o055)
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(root), str(begun)],
            capture_output=True,
            text=True,
        )
    finally:
        for path, mode in modes.items():
            path.chmod(mode)

    assert ended.returncode == 1, ended.stderr
    assert "cannot be written: Permission denied. Choose another folder" in ended.stderr
    assert ended.stdout == ("(64, 3, 7) (22, 3, 7) []\n" if begun else "")
    assert tree(root) == before


def race(model, signals, roots):
    """Begin one step in several threads at once; give what became of each."""
    gate = threading.Barrier(len(roots))

    def begin(root):
        gate.wait()
        try:
            return run(copy.deepcopy(model), signals, root)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(len(roots)) as pool:
        return [*pool.map(begin, roots)]


@pytest.mark.parametrize("locks", [True, False])
def test_two_writers_of_one_range_end_with_one_store(tmp_path, monkeypatch, model, signals, locks):
    whole = tree(run(model, signals, tmp_path / "whole").path)
    if not locks:
        # As on a disk that has none: both write, and each unit is the same whoever writes it.
        monkeypatch.setattr("stratascope.store._lock.fcntl", None)
    for attempt in range(5):
        root = tmp_path / str(attempt)
        results = race(model, signals, [root, root])
        errors = [str(result) for result in results if isinstance(result, StoreError)]
        if locks:
            assert len(errors) <= 1
            assert all(
                "another run is" in error or "already holds step 0" in error for error in errors
            )
        if (root / "commits" / "0" / "spec.json").exists():
            store = ss.open_store(root)
            for span in store.committed_ranges():
                for site in ("0", "1"):
                    assert not np.isnan(store[site][span.start : span.stop]).any()
        run(model, signals, root, resume=True)
        assert tree(root) == whole, attempt


def test_a_folder_below_a_file_is_one_sentence(tmp_path, model, signals):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(StoreError, match=r"cannot be written: .*Choose another folder"):
        run(model, signals, tmp_path / "file" / "x" / "s")
    with pytest.raises(StoreError, match="exists and is not a stratascope store"):
        run(model, signals, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_the_system_lets_grow_no_further_stops_the_run_and_resumes(tmp_path):
    script = textwrap.dedent("""
        import os, resource, sys, numpy as np, torch, stratascope as ss
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv1d(1, 32, 3), torch.nn.Tanh())
        data = np.random.default_rng(0).normal(size=(150, 1, 100)).astype("f4")

        def extract(to):
            ss.extract(model, data, "1", to=to, unit_size=64, resume=True)

        extract(sys.argv[1] + "/whole")
        # A limit cannot be raised again by everybody: for a process of its own.
        child = os.fork()
        if child == 0:
            # The shards of whole units are larger than this, that of the rest is not.
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
            try:
                extract(sys.argv[1] + "/s")
            except ss.errors.StoreError as error:
                print(error, flush=True)
                os._exit(3)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print([code, *(name for _, _, names in os.walk(sys.argv[1]) for name in names
                       if ".tmp-" in name)])
        extract(sys.argv[1] + "/s")
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    said, left = ended.stdout.splitlines()
    assert "ulimit -f" in said
    assert left == "[3]"
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


@pytest.fixture
def stored(tmp_path, model, signals):
    run(model, signals, tmp_path / "s")
    store = ss.open_store(tmp_path / "s")
    return store, store["0"][:], tmp_path / "s" / "data.zarr" / "0" / "0" / "activation" / "c"


def assert_the_rest_is_untouched(store, values):
    np.testing.assert_array_equal(store["0"][:64], values[:64])
    np.testing.assert_array_equal(store["0"][128:], values[128:])
    assert store["1"][:].shape == values.shape


@pytest.mark.parametrize(
    ("place", "samples"),
    [
        (0, range(64, 72)),
        (100, range(64, 72)),
        (-150, range(120, 128)),
        (-20, range(64, 128)),
        (-3, range(64, 128)),
        (-1, range(64, 128)),
    ],
)
def test_a_flipped_bit_names_step_site_and_samples(stored, place, samples):
    store, values, folder = stored
    shard = folder / "1" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[place] ^= 4
    shard.write_bytes(content)

    named = f"samples {samples.start} to {samples.stop - 1}"
    with pytest.raises(
        StoreError, match=rf"step 0, site '0', {named} cannot be read: .*/1/0/0 is damaged: .*check"
    ):
        store["0"][64:128]
    assert_the_rest_is_untouched(store, values)
    # The index lies behind the chunks: damage there is to all, damage in a chunk to it alone.
    for number in set(range(64, 128)) - set(samples):
        np.testing.assert_array_equal(store["0"][number], values[number])


def read_all(root):
    store = ss.open_store(root)
    return {**store.to_numpy(), "target": store.targets[:], "sample": store.sample_index}


@pytest.mark.parametrize("seed", range(3))
def test_a_bit_flipped_in_any_file_gives_no_other_value(tmp_path, model, signals, seed):
    data = TensorDataset(torch.from_numpy(signals), torch.arange(150))
    root = run(model, data, tmp_path / "s").path
    meant, chance = read_all(root), random.Random(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    refused = 0
    for _ in range(60):
        path = chance.choice(files)
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read_all(root)
        except (StratascopeError, TypeError):  # TypeError: a number became text, or null
            refused += 1
        else:
            # In the text that describes it, such as a name, it does no harm.
            assert all(np.array_equal(found[name], meant[name]) for name in meant), path
        path.write_bytes(content)

    assert refused > 20


@pytest.mark.parametrize("torn", [0.0, 0.3, 0.99])
def test_a_torn_last_shard_is_found_and_done_again(tmp_path, model, signals, torn):
    root = run(model, signals, tmp_path / "s").path
    whole = tree(root)
    shard = root / "data.zarr" / "0" / "1" / "activation" / "c" / "2" / "0" / "0"
    # As of a disk that kept the name and the manifest, and not all of the file.
    content = shard.read_bytes()
    shard.write_bytes(content[: int(torn * len(content))].ljust(len(content), b"\0"))
    store = ss.open_store(root)

    with pytest.raises(StoreError, match="samples 128 to 149 cannot be read"):
        store["1"][149]
    (damage,) = store.verify()
    assert (damage.site, damage.samples) == ("1", range(128, 150))
    store.uncommit([damage])
    run(model, signals, root, resume=True)
    assert tree(root) == whole


@pytest.mark.parametrize("kept", [0, 1, 4, 100, 0.5, -1, -4, -50, -150])
def test_a_truncated_shard_is_never_read_as_values(stored, kept):
    store, values, folder = stored
    shard = folder / "1" / "0" / "0"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])

    with pytest.raises(StoreError, match=r"site '0', samples 64 to 127 cannot be read: "):
        store["0"][64:128]
    assert_the_rest_is_untouched(store, values)


def test_a_lost_shard_is_never_read_as_values(stored):
    store, values, folder = stored
    (folder / "1" / "0" / "0").unlink()

    with pytest.raises(
        StoreError, match=r"step 0, site '0', samples 64 to 127 cannot be read: .*/1/0/0 is not th"
    ):
        store["0"][100]
    assert_the_rest_is_untouched(store, values)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.json", "{", "run.json is damaged: it must be JSON"),
        ("run.json", "[1]", "its run.json is another program's"),
        ("run.json", '{"format": "other"}', "its run.json is another program's"),
        (
            "run.json",
            '{"format": "stratascope", "layout": 2}',
            "must have layout 1, got 2: read it with the release",
        ),
        ("commits/0/spec.json", "", "spec.json is damaged: it must be JSON"),
        ("commits/0/spec.json", '{"step": 0}', "spec.json is damaged: it must describe a step"),
    ],
)
def test_a_store_that_is_not_ours_to_read_is_refused(stored, model, signals, name, text, words):
    store, _, _ = stored
    (store.path / name).write_text(text)
    before = tree(store.path)

    with pytest.raises(StoreError, match=words):
        ss.open_store(store.path)
    with pytest.raises(StoreError, match=words):
        run(model, signals, store.path, resume=True)
    assert tree(store.path) == before


def test_a_foreign_folder_is_refused_and_untouched(tmp_path, model, signals):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("all of it")

    with pytest.raises(StoreError, match="exists and is not a stratascope store: nothing was writ"):
        run(model, signals, tmp_path / "s", resume=True)
    assert tree(tmp_path / "s") == {"thesis.tex": b"all of it"}


def test_an_empty_folder_is_taken(tmp_path, model, signals):
    (tmp_path / "s").mkdir()

    assert run(model, signals, tmp_path / "s").complete


def test_a_store_of_which_nothing_was_written_has_no_step(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"format": "stratascope", "layout": 1}))

    with pytest.raises(StoreError, match="holds no step yet"):
        ss.open_store(tmp_path)


def test_a_manifest_that_went_is_a_unit_to_do_again(tmp_path, model, signals):
    whole = tree(run(model, signals, tmp_path / "s", batch_size=150).path)
    paths = Paths(open_folder(tmp_path / "s"), 0)
    paths.folder.remove([paths.manifest(0), paths.manifest(2), paths.complete])
    run(model, signals, tmp_path / "s", batch_size=150, resume=True)

    assert tree(tmp_path / "s") == whole


@pytest.mark.parametrize("lost", [0, 1])
def test_a_manifest_that_went_early_costs_no_batch_of_an_iterable(tmp_path, model, signals, lost):
    def batches():
        # They end with a unit: a last one that is short would be done again in any case.
        return stopping(signals[:128], Stop(), 999)

    whole = tree(run(model, batches(), tmp_path / "s").path)
    paths = Paths(open_folder(tmp_path / "s"), 0)
    paths.folder.remove([paths.manifest(lost), paths.complete])
    store = run(model, batches(), tmp_path / "s", resume=True)

    assert store.samples == 128
    assert tree(tmp_path / "s") == whole


def test_a_generator_that_was_used_is_not_taken_for_the_same_data(tmp_path, model, signals):
    batches = stopping(signals, Stop(), 999)
    original = nn.Conv1d.forward
    calls = []

    def forward(self, x):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv1d, "forward", forward)
        with pytest.raises(KeyboardInterrupt):
            run(model, batches, tmp_path / "s")
    before = tree(tmp_path / "s")

    with pytest.raises(StoreError, match=r"the data begins with other values.*make it anew"):
        run(model, batches, tmp_path / "s", resume=True)
    with pytest.raises(DataError, match=r"must begin with the 64 samples .* but ended after 0"):
        run(model, iter(()), tmp_path / "s", resume=True)
    assert tree(tmp_path / "s") == before
