import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import stratascope as ss
from stratascope.errors import DataError, StoreError
from stratascope.store import Paths, StepSpec, open_folder

SIGNALS = np.random.default_rng(0).normal(size=(150, 1, 9)).astype("f4")
CLASSES = torch.arange(150) % 7


class Listed(Dataset):
    """Samples, each with a target, and names of them."""

    def __init__(self, targets, ids=None):
        self.targets = targets
        if ids is not None:
            self.ids = ids

    def __len__(self):
        return 150

    def __getitem__(self, index):
        return SIGNALS[index], self.targets[index]


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU())


def extract(to, data, **settings):
    settings = {"batch_size": 20, "unit_size": 64, "progress": False, **settings}
    return ss.extract(convnet(), data, "1", to=to, **settings)


def batches(targets, stop_at=999):
    for first in range(0, 150, 20):
        if first == stop_at:
            raise KeyboardInterrupt
        yield torch.from_numpy(SIGNALS[first : first + 20]), targets[first : first + 20]


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    "targets",
    [
        CLASSES,
        torch.rand(150, 3, dtype=torch.float64),
        torch.rand(150, 4, 16).half(),
        CLASSES > 3,
        CLASSES.to(torch.uint8)[:, None],
        torch.rand(150, 2, dtype=torch.complex64),
    ],
    ids=["class", "vector", "matrix", "mask", "byte", "complex"],
)
@pytest.mark.parametrize("kind", ["dataset", "batches", "lists"])
def test_a_target_of_numbers_is_stored_as_it_is(tmp_path, targets, kind):
    data = {
        "dataset": TensorDataset(torch.from_numpy(SIGNALS), targets),
        "batches": batches(targets),
        "lists": batches(targets.tolist() if targets.ndim == 1 else targets.numpy()),
    }[kind]
    store = extract(tmp_path / "s", data)

    np.testing.assert_array_equal(store.targets[:], targets.numpy())
    assert store.targets.dtype == targets.numpy().dtype
    assert (store.skipped, store.ids, list(store)) == ({}, None, ["1"])
    assert store.verify(deep=True) == []


def test_bfloat16_targets_are_widened(tmp_path):
    targets = torch.rand(150).bfloat16()
    store = extract(tmp_path / "s", TensorDataset(torch.from_numpy(SIGNALS), targets))

    assert (str(store.targets.dtype), store.targets.source_dtype) == ("float32", "bfloat16")
    np.testing.assert_array_equal(store.targets[:], targets.float().numpy())


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (torch.zeros(150, 5, 13), "a sample has 65 values, and 64 are kept"),
        ([f"class {n}" for n in range(150)], r"it is no array of numbers \((list|tuple)\)"),
        ([{"box": n} for n in range(150)], r"it is no array of numbers \(dict\)"),
    ],
    ids=["image", "text", "dict"],
)
def test_other_targets_are_left_out_and_said_to_be(tmp_path, targets, reason):
    store = extract(tmp_path / "s", Listed(targets))

    assert store.targets is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(store.skipped["target"])
    assert sorted(path.name for path in (store.path / "data.zarr" / "0").iterdir()) == [
        "1",
        "sample",
        "zarr.json",
    ]
    assert "target" not in store.to_torch()[0]


def test_a_target_for_the_whole_batch_is_none_of_a_sample(tmp_path):
    class Whole(IterableDataset):
        def __iter__(self):
            yield from ((torch.from_numpy(SIGNALS[n : n + 10]), torch.zeros(3)) for n in (0, 10))

    store = extract(tmp_path / "s", DataLoader(Whole(), batch_size=None))

    assert store.skipped == {"target": "its shape (3,) does not begin with the batch's 10 samples"}


def test_arrays_dicts_without_one_and_triples_have_no_target(tmp_path):
    rows = torch.from_numpy(SIGNALS)
    for number, data in enumerate(
        [SIGNALS, [{"input": rows[:20]}], TensorDataset(rows, CLASSES, CLASSES)]
    ):
        store = extract(tmp_path / str(number), data)
        assert (store.targets, store.ids, store.skipped) == (None, None, {})


def test_a_dict_keeps_its_labels_and_the_model_gets_them_too(tmp_path):
    class Labelled(nn.Module):
        def forward(self, x, labels):
            return x[:, 0] + labels[:, None]

    data = [{"x": torch.from_numpy(SIGNALS[:40]), "labels": CLASSES[:40]}]
    store = ss.extract(Labelled(), data, "model", to=tmp_path / "s", progress=False)

    np.testing.assert_array_equal(store.targets[:], CLASSES[:40])
    np.testing.assert_array_equal(
        store["model"][:], SIGNALS[:40, 0] + CLASSES[:40, None].float().numpy()
    )


def test_targets_follow_the_order_of_the_samples_and_the_limit(tmp_path):
    torch.manual_seed(3)
    data = DataLoader(Listed(CLASSES, range(150)), batch_size=20, shuffle=True)
    data.dataset.ids = list(range(1000, 1150))
    store = extract(tmp_path / "s", data, limit=70)

    np.testing.assert_array_equal(store.targets[:], CLASSES[store.sample_index])
    np.testing.assert_array_equal(store.ids, store.sample_index + 1000)
    item = store.to_torch()[[3, 60]]
    np.testing.assert_array_equal(item["target"], CLASSES[item["sample"]])
    given = store.to_torch(targets=-CLASSES)[[3, 60]]
    np.testing.assert_array_equal(given["target"], -CLASSES[given["sample"]])


def test_samples_of_several_lengths_have_targets(tmp_path):
    class Uneven(Listed):
        def __getitem__(self, index):
            return SIGNALS[index][:, : 9 - index % 3], int(self.targets[index])

    store = extract(tmp_path / "s", Uneven(CLASSES), length="longest")

    np.testing.assert_array_equal(store.targets[:], CLASSES)
    np.testing.assert_array_equal(store["1"].lengths[:], 7 - np.arange(150) % 3)


def test_ids_may_be_text_of_any_script(tmp_path):
    ids = [f"événement/{n}-震" if n % 5 else "" for n in range(150)]
    store = extract(tmp_path / "s", Listed(CLASSES, ids))

    assert store.ids.tolist() == ids
    assert store.verify(deep=True) == []


@pytest.mark.parametrize(
    "ids", [[1, 2], "x" * 150, [[n] for n in range(150)], [None] * 150, [[]] * 149 + [[1]]]
)
def test_other_things_called_ids_are_passed_by(tmp_path, ids):
    assert extract(tmp_path / "s", Listed(CLASSES, ids)).ids is None


def test_a_buffer_that_is_used_again_is_copied(tmp_path):
    target = torch.empty(20, dtype=torch.int64)

    def reusing():
        for first in range(0, 140, 20):
            target[:] = CLASSES[first : first + 20]
            yield torch.from_numpy(SIGNALS[first : first + 20]), target

    store = extract(tmp_path / "s", reusing())

    np.testing.assert_array_equal(store.targets[:], CLASSES[:140])


@pytest.mark.parametrize("change", [lambda t: t.float(), lambda t: t[:, None], lambda t: t[:3]])
def test_a_target_unlike_the_first_is_refused(tmp_path, change):
    def changing():
        for number, (x, target) in enumerate(batches(CLASSES)):
            yield x, change(target) if number == 4 else target

    with pytest.raises(DataError, match=r"the target of each sample must be int64 of shape \(\), "):
        extract(tmp_path / "s", changing())


def test_a_target_that_fails_to_come_is_refused(tmp_path):
    def ending():
        for number, (x, target) in enumerate(batches(CLASSES)):
            yield x if number == 4 else (x, target)

    with pytest.raises(DataError, match=r"but of samples 80 to 99 it is no array .*NoneType"):
        extract(tmp_path / "s", ending())


def test_a_run_that_goes_on_ends_with_the_same_targets(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "s", batches(CLASSES, stop_at=80))
    with pytest.warns(UserWarning, match="unfinished"):
        part = ss.open_store(tmp_path / "s")
    np.testing.assert_array_equal(part.targets[:], CLASSES[:64])
    extract(tmp_path / "s", batches(CLASSES), resume=True)
    extract(tmp_path / "whole", batches(CLASSES))

    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("targets", "ids"), [(CLASSES + 1, list(range(150))), (CLASSES, list(range(1, 151)))]
)
def test_other_targets_or_ids_are_other_data(tmp_path, targets, ids):
    extract(tmp_path / "s", Listed(CLASSES, list(range(150))))
    (tmp_path / "s/commits/0/complete.json").unlink()

    with pytest.raises(StoreError, match=r"was begun, the targets or ids of the data changed\."):
        extract(tmp_path / "s", Listed(targets, ids), resume=True)


def test_a_step_that_an_early_release_began_goes_on_without_targets(tmp_path):
    extract(tmp_path / "s", Listed(CLASSES))
    paths = Paths(open_folder(tmp_path / "s"), 0)
    plain = StepSpec.from_json(ss.store._files.read_json(paths.folder, paths.spec)).to_json()
    del plain["settings"]["data"]["beside_digest"]
    plain["arrays"] = [array for array in plain["arrays"] if array["role"] != "target"]
    paths.folder.write(paths.spec, ss.store._layout.encode_json(plain))
    paths.folder.remove([paths.manifest(1), paths.complete])
    store = extract(tmp_path / "s", Listed(CLASSES + 1), resume=True)

    assert (store.complete, store.targets, store.verify(deep=True)) == (True, None, [])


@pytest.mark.parametrize("cut", [0, 20])
def test_a_damaged_target_is_named_and_mended(tmp_path, cut):
    store = extract(tmp_path / "s", Listed(CLASSES, [str(n) for n in range(150)]))
    shard = store.path / "data.zarr" / "0" / "target" / "c" / "1"
    shard.write_bytes(shard.read_bytes()[:cut])

    with pytest.raises(StoreError, match=r"step 0, site 'target', samples 64 to 127 cannot be rea"):
        store.targets[:]
    np.testing.assert_array_equal(store.targets[:64], CLASSES[:64])
    (damage,) = store.verify()
    assert (damage.site, damage.samples) == ("target", range(64, 128))
    store.uncommit([damage])
    mended = extract(tmp_path / "s", Listed(CLASSES, [str(n) for n in range(150)]), resume=True)
    np.testing.assert_array_equal(mended.targets[:], CLASSES)
    assert mended.verify(deep=True) == []


def test_shards_write_targets_too(tmp_path):
    for shard in ((1, 2), (0, 2)):
        store = extract(tmp_path / "s", Listed(CLASSES, list(range(150))), shard=shard)

    np.testing.assert_array_equal(store.targets[:], CLASSES)
    np.testing.assert_array_equal(store.ids, np.arange(150))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_xarray_and_zarr_show_targets_and_ids(tmp_path):
    import xarray
    import zarr

    ids = [f"é{n}" for n in range(150)]
    store = extract(tmp_path / "s", Listed(torch.rand(150, 2), ids), dtype="uint8")
    tree = store.to_xarray()
    group = zarr.open_group(store.path / "data.zarr" / "0", mode="r")
    plain = xarray.open_datatree(
        store.path / "data.zarr", engine="zarr", group="0", consolidated=False
    )

    coordinates = tree["1"].coords
    assert coordinates["target"].dims == ("sample", "target_axis_1")
    np.testing.assert_array_equal(coordinates["target"], store.targets[:])
    assert coordinates["id"].values.tolist() == ids
    np.testing.assert_array_equal(group["target"][:], store.targets[:])
    assert bytes(group["id"][17]).rstrip(b"\0").decode() == "é17"
    assert group["id"].attrs["encoding"] == "utf-8"
    assert {"target", "id"} <= set(plain.coords)


def test_modules_called_target_and_id_are_stored_beside_them(tmp_path):
    model = nn.Sequential()
    model.add_module("target", nn.Conv1d(1, 3, 3))
    model.add_module("id", nn.ReLU())
    store = ss.extract(
        model, Listed(CLASSES, list(range(150))), "*", to=tmp_path / "s", progress=False
    )

    assert store["target"].shape == (150, 3, 7)
    np.testing.assert_array_equal(store.targets[:], CLASSES)
    assert store.verify(deep=True) == []
