import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from stratascope.errors import DataError, SiteNotFoundError, StoreError
from stratascope.store import ArraySpec, StepSpec, StepWriter, open_store

SAMPLES = 150
RNG = np.random.default_rng(0)
# The order of a shuffled run over a data set of 200.
INDEX = RNG.permutation(200)[:SAMPLES]
MAPS = RNG.normal(size=(SAMPLES, 3, 5)).astype("float32")
TARGETS = np.arange(200) * 10


def describe(key, site, place, rows):
    dims = ("channel", "time")[: rows.ndim - 1]
    return ArraySpec(key, site, place, rows.shape[1:], rows.dtype.name, rows.dtype.name, dims)


def fill(root, values, finish=True):
    arrays = [describe(f"{site}/activation", site, "", rows) for site, rows in values.items()]
    arrays.append(describe("lstm/activation.0", "lstm", "0", MAPS))
    writer = StepWriter(root, StepSpec(0, SAMPLES, 64, tuple(arrays)), sample_index=INDEX)
    rows = {f"{site}/activation": rows for site, rows in values.items()}
    rows["lstm/activation.0"] = MAPS
    there = SAMPLES if finish else 130
    writer.write(0, {key: part[:there] for key, part in rows.items()})
    writer.finish() if finish else writer.abort()
    return open_store(root)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    values = {"enc": MAPS, "head": np.arange(SAMPLES), "mask": MAPS[:, 0] > 0}
    return fill(tmp_path_factory.mktemp("stores") / "s", values)


def test_a_sample_is_a_dict_of_what_the_sites_hold_of_it(store):
    dataset = store.to_torch(["head", "enc", "lstm"], targets=TARGETS)
    item = dataset[-7]

    assert len(dataset) == SAMPLES
    assert list(item) == ["enc", "head", "lstm", "sample", "target"]
    np.testing.assert_array_equal(item["enc"], MAPS[-7], strict=True)
    np.testing.assert_array_equal(item["lstm"]["0"], MAPS[-7])
    assert (item["head"], item["sample"]) == (SAMPLES - 7, INDEX[-7])
    assert item["target"] == 10 * INDEX[-7]


def test_several_numbers_give_a_batch(store):
    dataset = store.to_torch()
    numbers = [149, 3, 3, 70]
    batch = dataset[numbers]

    assert list(batch) == ["enc", "head", "mask", "lstm", "sample"]
    np.testing.assert_array_equal(batch["enc"], MAPS[numbers], strict=True)
    np.testing.assert_array_equal(batch["sample"], INDEX[numbers])
    assert batch["mask"].dtype == torch.bool
    assert dataset[10:20]["head"].tolist() == list(range(10, 20))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("targets", [TARGETS, torch.as_tensor(TARGETS), TARGETS.tolist()])
def test_a_shuffled_loader_keeps_sites_and_targets_together(store, workers, targets):
    dataset = store.to_torch(["enc", "head"], targets=targets)
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=workers)
    seen = []
    for batch in loader:
        numbers = batch["head"].tolist()
        np.testing.assert_array_equal(batch["enc"], MAPS[numbers])
        assert batch["sample"].tolist() == INDEX[numbers].tolist()
        assert batch["target"].tolist() == TARGETS[INDEX[numbers]].tolist()
        seen += numbers

    assert sorted(seen) == list(range(SAMPLES))


def test_a_batch_is_read_together(store, monkeypatch):
    from stratascope.store._chunks import ShardReader

    read, calls = ShardReader.read, []
    monkeypatch.setattr(ShardReader, "read", lambda *args: calls.append(1) or read(*args))
    part = Subset(store.to_torch(["enc", "head"]), range(0, 100, 2))
    (batch,) = DataLoader(part, batch_size=50)

    assert len(calls) == 2
    np.testing.assert_array_equal(batch["enc"], MAPS[:100:2])


def test_a_data_set_can_be_sent_to_other_processes(store):
    dataset = pickle.loads(pickle.dumps(store.to_torch("enc", targets=TARGETS)))

    np.testing.assert_array_equal(dataset[149]["enc"], MAPS[149])
    assert dataset[0]["target"] == TARGETS[INDEX[0]]


def test_too_few_targets_are_an_error(store):
    with pytest.raises(
        DataError, match="an entry for each sample of the data set, at least 199, got 150"
    ):
        store.to_torch("enc", targets=TARGETS[:SAMPLES])


def test_a_site_that_is_not_there_is_an_error(store):
    with pytest.raises(SiteNotFoundError, match="holds no site 'dec'"):
        store.to_torch(["enc", "dec"])


def test_a_site_that_is_called_like_a_coordinate_is_an_error(tmp_path):
    store = fill(tmp_path / "s", {"enc": MAPS, "target": MAPS})

    with pytest.raises(StoreError, match="the site 'target' has the name under which a sample's t"):
        store.to_torch()
    assert len(store.to_torch("enc")) == SAMPLES


def test_an_unfinished_step_is_no_data_set(tmp_path):
    store = fill(tmp_path / "s", {"enc": MAPS}, finish=False)

    with pytest.raises(StoreError, match=r"samples 0 to 127 are there\. Run the same extract"):
        store.to_torch("enc")


def test_torch_is_imported_when_it_is_asked_for(store):
    script = f"""
import sys
from stratascope.store import open_store
dataset = open_store({str(store.path)!r}).to_torch("enc")
assert "torch" not in sys.modules
dataset[0]
assert "torch" in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
