"""Runs that are killed at random moments, by `kill -9` from outside, and what is left of them.

    PYTHONPATH=tests:src .venv/bin/python -m kills FOLDER KILLS SEED

One process that has loaded everything forks the runs. Each is killed after a random part of the
time that a run takes once it holds its step, and goes on where the last one was killed, until
it comes to its end. After every kill all that is committed is read back. KILLS must have been in
the middle of a unit. Writes to FOLDER/counts.json what happened.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

import stratascope as ss
from stratascope.errors import StoreError
from stratascope.store import SPEC_FILE

IN_A_UNIT = "in the middle of a unit"
SAMPLES, BATCH, UNIT = 300, 20, 64
SIGNALS = np.random.default_rng(0).normal(size=(SAMPLES, 1, 64)).astype("f4")


class Mapped(Dataset):
    """Pairs by number."""

    ids = tuple(f"record {number}" for number in range(SAMPLES))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        return SIGNALS[index], index % 7


class Streamed(IterableDataset):
    """Samples without a number."""

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        yield from SIGNALS


KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "dataset": (Mapped, {}),
    "stream": (Streamed, {}),
    "codes": (lambda: SIGNALS, {"dtype": "uint8", "codec": "compact"}),
}


def extract(kind: str, to: Path, *, resume: bool = False) -> ss.Store:
    """Write a store, or what is missing of it."""
    make_data, settings = KINDS[kind]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 16, 3), torch.nn.ReLU())
    return ss.extract(
        *(model, make_data(), "**"),
        to=to, batch_size=BATCH, unit_size=UNIT, resume=resume, progress=False, **settings,
    )  # fmt: skip


def start(kind: str, to: Path) -> int:
    """Fork a run, and wait until it holds its step."""
    lock = to / "commits" / "0" / "lock"
    lock.unlink(missing_ok=True)  # of the last one
    resume = to.exists()
    child = os.fork()
    if child:
        # The file goes again with the end of the run, of which nothing is taken away here.
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while not lock.exists() and os.waitid(os.P_PID, child, ended) is None:
            time.sleep(0.001)
        return child
    try:
        extract(kind, to, resume=resume)
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)


def end(child: int) -> int:
    """Wait for a run."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tree(root: Path) -> dict[str, bytes]:
    """Read all files of a store."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


Whole = tuple[dict[ss.Site, np.ndarray[Any, Any]], dict[str, bytes]]


def describe(store: ss.Store) -> Whole:
    """Read the values of a store, and its files."""
    return store.to_numpy(), tree(store.path)


class Chain:
    """Runs of one store, one after another, until it is whole.

    Attributes:
        counts: What happened, of all chains.
    """

    def __init__(self, kind: str, to: Path, whole: Whole, counts: Counter[str]) -> None:
        self.kind, self.to, self.counts = kind, to, counts
        self.meant, self.whole = whole
        self.kept: dict[str, bytes] = {}

    def run(self, seconds: float) -> bool:
        """Run for some seconds; tell whether it came to its end before."""
        child = start(self.kind, self.to)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        code = end(child)
        assert code in (0, -signal.SIGKILL), (self.kind, code)
        self.look()
        if code == 0:
            assert tree(self.to) == self.whole, self.kind
            self.counts["whole stores, equal byte for byte"] += 1
            return True
        self.counts["kills"] += 1
        return False

    def look(self) -> None:
        """Check that what is committed stays, is read as it was meant, and all else is refused."""
        found = tree(self.to)
        shards = {name for name in found if "/c/" in name and ".tmp-" not in name}
        if not (self.to / "commits" / "0" / SPEC_FILE).exists():
            self.counts["before the step was described"] += 1
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "step 0 of .* is unfinished")
            store = ss.open_store(self.to)
        units = {
            number
            for span in store.committed_ranges()
            for number in range(span.start // UNIT, -(-span.stop // UNIT))
        }
        # Only the end of an iterable tells that its last unit is whole: a killed run does it again.
        last = {SAMPLES // UNIT} if self.kind == "stream" and not store.complete else set[int]()
        kept = {
            name: found[name]
            for name in shards
            if not name.startswith("data.zarr/0/sample/") and _unit_of(name) in units - last
        }
        lost = self.kept.keys() - kept.keys()
        assert not lost, (self.kind, "committed and lost", lost)
        assert all(kept[name] == content for name, content in self.kept.items())
        self.kept = kept
        self._read(store, units)
        if not store.complete:
            writing = any(".tmp-" in name and "/c/" in name for name in found)
            named = {
                name for name in shards if "/sample/" not in name and _unit_of(name) not in units
            }
            self.counts["with a shard half written"] += writing
            self.counts["with a shard that no manifest commits"] += bool(named)
            self.counts[IN_A_UNIT] += writing or bool(named)

    def _read(self, store: ss.Store, units: set[int]) -> None:
        for site, array in store.items():
            for number in range(-(-len(array) // UNIT)):
                part = slice(number * UNIT, min((number + 1) * UNIT, len(array)))
                if number in units:
                    np.testing.assert_array_equal(array[part], self.meant[site][part])
                    self.counts["samples read back"] += part.stop - part.start
                    continue
                with pytest.raises(StoreError, match="is incomplete"):
                    array[part]
                self.counts["ranges refused"] += 1
        if store.targets is not None:
            for number in units:
                part = slice(number * UNIT, min((number + 1) * UNIT, SAMPLES))
                np.testing.assert_array_equal(
                    store.targets[part], np.arange(part.start, part.stop) % 7
                )
        # Before the first unit, what describes the arrays may be missing.
        assert not units or store.verify(deep=True) == []


def _unit_of(name: str) -> int:
    return int(name.partition("/c/")[2].partition("/")[0])


def kill(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill runs of every kind in turn until so many were in the middle of a unit."""
    torch.set_num_threads(1)
    # A killed process, unlike a cut cable, loses nothing that it wrote.
    os.fsync = lambda descriptor: None
    chance, counts = random.Random(seed), Counter[str]()
    wholes = {kind: describe(extract(kind, folder / kind)) for kind in KINDS}
    seconds: dict[str, float] = {}
    for kind in KINDS:
        child, began = start(kind, folder / f"{kind} timed"), time.perf_counter()
        assert end(child) == 0
        seconds[kind] = time.perf_counter() - began
    for number in range(10 * kills):
        kind = list(KINDS)[number % len(KINDS)]
        chain = Chain(kind, folder / f"{kind} {number}", wholes[kind], counts)
        # The last one is whole too, however many kills that takes.
        longest = seconds[kind]
        while not chain.run(chance.uniform(0, longest)):
            # A machine that has become too slow to end a unit in that time comes to an end, too.
            longest *= 1.1
        if counts[IN_A_UNIT] >= kills and number >= len(KINDS) - 1:
            break
    return counts


if __name__ == "__main__":
    folder, kills, seed = sys.argv[1:]
    happened = kill(Path(folder), int(kills), int(seed))
    Path(folder, "counts.json").write_text(json.dumps(happened))
