"""What earlier releases wrote is read, checked and continued by this one."""

import shutil

import numpy as np
import pytest
import xarray
import zarr

import stored
import stratascope as ss
from stratascope.errors import SiteNotFoundError, StoreError
from stratascope.store import verify

ROOTS = sorted(stored.FIXTURES.glob("*.zarr"))
INPUTS = {0: stored.make_inputs(), 1: stored.make_inputs(), 2: stored.make_inputs()[::-1][:40]}
DTYPES = {0: ("float32", "float32"), 1: ("float32", "bfloat16"), 2: ("float16", "float16")}


@pytest.fixture(params=ROOTS, ids=lambda root: root.stem)
def root(request):
    return request.param


@pytest.fixture
def copy(root, tmp_path):
    return shutil.copytree(root, tmp_path / "copy.zarr")


def tree(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_there_is_one_of_each_release_that_wrote_other_things():
    assert [root.stem for root in ROOTS] == ["early", "sites"]
    for root in ROOTS:
        assert sum(map(len, tree(root).values())) < 100_000


def assert_holds(store, step):
    expected = stored.compute(INPUTS[step])
    found = {}
    for site, value in store.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        found.update({f"{site} [{place}]" if place else site: array for place, array in parts})

    assert found.keys() == expected.keys()
    for name, values in expected.items():
        stored_as, computed_as = (DTYPES[step]) if values.dtype != bool else ("bool", "bool")
        assert (found[name].dtype, found[name].source_dtype) == (stored_as, computed_as)
        np.testing.assert_array_equal(found[name][:], values.astype(stored_as), strict=True)


@pytest.mark.parametrize("step", stored.STEPS)
def test_every_value_is_read(root, step):
    store = ss.open_store(root, step=step)

    assert store.complete
    assert store.samples == len(INPUTS[step])
    assert list(store.skipped) == ["head/activation.channels"]
    assert_holds(store, step)


def test_the_order_of_the_samples_is_read(root):
    np.testing.assert_array_equal(
        ss.open_store(root, step=2).sample_index, np.arange(stored.SAMPLES)[::-1][:40]
    )


def test_an_unfinished_step_is_read_as_far_as_it_goes(root):
    store = ss.open_store(root, step=stored.BY_HAND)
    values = stored.compute(stored.make_inputs())["enc.0@2"]

    assert store.codec == "compact"
    np.testing.assert_array_equal(store["enc.0"][:64], values[:64])
    with pytest.raises(StoreError, match=r"of step 3 samples 0 to 63 are there\. Run the same"):
        store["enc.0"][64]


def test_nothing_is_damaged(root):
    assert verify(root, deep=True) == []


def test_other_programs_read_it(root):
    values = stored.compute(INPUTS[0])["enc.0@2"]
    array = zarr.open_array(root / "data.zarr/0/enc.0@2/activation", mode="r")
    with xarray.open_datatree(root / "data.zarr", engine="zarr", consolidated=False) as tree:
        np.testing.assert_array_equal(tree["0"]["enc.0@2"]["activation"].values, values)

    np.testing.assert_array_equal(array[:], values)


@pytest.mark.parametrize("step", stored.STEPS)
def test_a_finished_step_counts_as_finished(copy, step):
    before = tree(copy)

    assert_holds(stored.extract(copy, step, resume=True), step)
    assert tree(copy) == before


@pytest.mark.parametrize("step", stored.STEPS)
def test_a_damaged_step_is_mended(copy, step):
    (copy / f"data.zarr/{step}/head/activation.sum/c/0").unlink()
    (copy / f"data.zarr/{step}/sample/c/0").write_bytes(b"")
    store = ss.open_store(copy, step=step)
    store.uncommit(store.verify(deep=True))
    assert not store.complete
    store = stored.extract(copy, step, resume=True)

    assert_holds(store, step)
    assert store.verify(deep=True) == []


def test_names_are_found_since_they_are_written(root):
    store = ss.open_store(root, step=0)
    others = ["dec.0@1", "dec.0@-1", "Conv1d[1]@2", "enc.0@-1:in"]
    if root.stem == "early":
        for name in others:
            with pytest.raises(SiteNotFoundError, match="holds no site"):
                store[name]
    else:
        assert [store.find(name) for name in others] == [
            "enc.0@1",
            "enc.0@2",
            "enc.0@2",
            "enc.0@2:in",
        ]
        assert store.provenance["command"] == "tests/stored.py"
