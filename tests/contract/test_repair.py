"""Whatever is damaged in a store, the same extraction mends it and leaves what is fine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stratascope as ss
from stratascope.errors import DataError, StoreError

SIGNALS = np.random.default_rng(0).normal(size=(200, 1, 9)).astype("f4")
COMMITS = "commits/0"
ARRAY = "data.zarr/0/1/activation"


def batches(signals=SIGNALS):
    for first in range(0, len(signals), 20):
        yield torch.from_numpy(signals[first : first + 20])


SOURCES = {
    "array": lambda: SIGNALS,
    "loader": lambda: DataLoader(TensorDataset(torch.from_numpy(SIGNALS)), batch_size=20),
    "generator": batches,
}


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU())


def run(root, data, model=None, **settings):
    settings = {"batch_size": 20, "unit_size": 64, "progress": False, **settings}
    return ss.extract(model or build(), data, "**", to=root, **settings)


def tree(root):
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def flip(path):
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)


HARM = {
    "a chunk": lambda root: flip(root / ARRAY / "c/1/0/0"),
    "a shard": lambda root: (root / ARRAY / "c/0/0/0").unlink(),
    "two shards": lambda root: [(root / ARRAY / f"c/{unit}/0/0").unlink() for unit in (0, 2)],
    "the last shard": lambda root: (root / ARRAY / "c/3/0/0").write_bytes(b""),
    "a manifest": lambda root: (root / COMMITS / "u00000001.json").write_text("{"),
    "a manifest that went": lambda root: (root / COMMITS / "u00000002.json").unlink(),
    "the coordinate": lambda root: flip(root / "data.zarr/0/sample/c/0"),
    "an array's description": lambda root: (root / ARRAY / "zarr.json").unlink(),
    "the step's description": lambda root: (root / "data.zarr/0/zarr.json").write_text(""),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("harm", HARM)
def test_a_repaired_store_is_as_it_was_and_what_was_fine_is_not_touched(tmp_path, source, harm):
    store = run(tmp_path / "s", SOURCES[source]())
    before = tree(store.path)
    HARM[harm](store.path)
    damages = store.verify(deep=True)
    store.uncommit(damages)
    mended = run(tmp_path / "s", SOURCES[source](), resume=True)
    after = tree(store.path)
    units = {n // 64 for damage in damages for n in damage.samples}

    assert damages
    assert mended.complete
    assert mended.verify(deep=True) == []
    changed = {name for name in before if before[name][0] != after[name][0]}
    # That the length of an iterable is known now is the only difference.
    assert changed == ({f"{COMMITS}/spec.json"} if source == "generator" else set())
    written = {name for name in before if before[name][1] != after[name][1]}
    shards = {f"data.zarr/0/{site}/activation/c/{unit}/0/0" for site in "01" for unit in units}
    assert {name for name in written if "/activation/c/" in name} == shards


def test_only_the_damaged_samples_are_computed_again(tmp_path, monkeypatch):
    store = run(tmp_path / "s", SIGNALS)
    (store.path / ARRAY / "c/1/0/0").unlink()
    seen = []
    forward = nn.Conv1d.forward
    monkeypatch.setattr(
        nn.Conv1d, "forward", lambda self, x: seen.append(len(x)) or forward(self, x)
    )
    store.uncommit(store.verify())
    run(tmp_path / "s", SIGNALS, resume=True)

    # Samples 60 to 139, in batches of 20.
    assert seen == [20] * 4


def test_another_model_mends_nothing_and_takes_nothing_more(tmp_path):
    store = run(tmp_path / "s", SIGNALS)
    (store.path / ARRAY / "c/1/0/0").unlink()
    values = store["0"][:]
    store.uncommit(store.verify())
    model = build()
    nn.init.ones_(model[0].weight)

    with pytest.raises(StoreError, match="was begun, the model's parameters changed"):
        run(tmp_path / "s", SIGNALS, model=model, resume=True)
    again = ss.open_store(tmp_path / "s")
    assert again.committed_ranges() == [range(64), range(128, 200)]
    np.testing.assert_array_equal(again["0"][128:], values[128:])
    with pytest.raises(StoreError, match=r"samples 0 to 63, 128 to 199 are there"):
        again["0"][64]


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_giving_back_may_stop_at_any_moment(tmp_path, monkeypatch, moment):
    store = run(tmp_path / "s", SIGNALS)
    before = tree(store.path)
    for unit in (0, 2):
        (store.path / ARRAY / f"c/{unit}/0/0").unlink()
    unlink, calls = Path.unlink, []

    def stop(path, **settings):
        # The end of the step goes first, then the manifests.
        calls.append(path.name)
        if len(calls) == moment:
            raise KeyboardInterrupt
        unlink(path, **settings)

    damages = store.verify()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            store.uncommit(damages)
    assert ss.open_store(store.path).complete == (moment == 1)
    found = store.verify()
    store.uncommit(found)
    run(tmp_path / "s", SIGNALS, resume=True)

    after = tree(store.path)
    assert {name: after[name][0] for name in after} == {name: before[name][0] for name in before}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([20] + [35] * 6, "must have 200 samples, as when step 0 .* was written, but goes on"),
        ([20] * 9, "must begin with the 192 samples that are committed, but ended after 180"),
        ([20] * 9 + [16], "must have 200 samples, as it said, but ended after 196"),
    ],
)
def test_an_iterable_of_another_length_is_refused(tmp_path, sizes, words):
    store = run(tmp_path / "s", batches())
    (store.path / ARRAY / "c/3/0/0").unlink()
    store.uncommit(store.verify())
    longer = torch.from_numpy(np.concatenate([SIGNALS, SIGNALS])[: sum(sizes)])

    with pytest.raises(DataError, match=words):
        run(tmp_path / "s", iter(longer.split(sizes)), resume=True)
    assert ss.open_store(tmp_path / "s").committed_ranges() == [range(192)]
    assert list(tmp_path.rglob("*.tmp-*")) == []


def test_a_repair_that_is_stopped_goes_on(tmp_path):
    store = run(tmp_path / "s", batches())
    whole = {name: content for name, (content, _) in tree(store.path).items()}
    for unit in (0, 2):
        (store.path / ARRAY / f"c/{unit}/0/0").unlink()
    store.uncommit(store.verify())

    def stopping():
        for number, batch in enumerate(batches()):
            if number == 5:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", stopping(), resume=True)
    assert ss.open_store(tmp_path / "s").committed_ranges() == [range(128), range(192, 200)]
    run(tmp_path / "s", batches(), resume=True)

    after = {name: content for name, (content, _) in tree(store.path).items()}
    assert {name for name in whole if whole[name] != after[name]} == {f"{COMMITS}/spec.json"}
