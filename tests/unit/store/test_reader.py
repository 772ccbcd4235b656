import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope.errors import SiteNotFoundError, StoreError
from stratascope.sites import Site
from stratascope.store import ArraySpec, StepSpec, StepWriter, open_store

SAMPLES = 130
DIMS = ("a", "b")
VALUES = {
    "enc.3": np.arange(SAMPLES * 20, dtype="float32").reshape(SAMPLES, 5, 4),
    "loss": np.arange(SAMPLES, dtype="int64") * 3,
    "relu@1": np.ones((SAMPLES, 2), "float32"),
    "relu@2": np.zeros((SAMPLES, 2), "float32"),
    "enc.3:in": np.zeros((SAMPLES, 1), "uint8"),
}


def key_of(site):
    return f"{site.replace(':', '~')}/activation"


def describe(site, rows):
    dims = DIMS[: rows.ndim - 1]
    return ArraySpec(key_of(site), site, "", rows.shape[1:], rows.dtype.name, "x", dims)


def make_spec(step=0):
    arrays = [describe(site, rows) for site, rows in VALUES.items()]
    arrays += [
        ArraySpec(f"lstm/activation.{k}", "lstm", str(k), (2,), "float32", "float32", ("c",))
        for k in (0, 1)
    ]
    return StepSpec(step, SAMPLES, 64, tuple(arrays), settings={"batch_size": 7})


def fill(root, step=0):
    writer = StepWriter(root, make_spec(step))
    values = {key_of(site): rows for site, rows in VALUES.items()}
    rows = {f"lstm/activation.{k}": np.full((SAMPLES, 2), k, "float32") for k in (0, 1)}
    writer.write(0, {**values, **rows})
    writer.finish()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores") / "acts.zarr"
    fill(root)
    fill(root, step=200)
    return open_store(root)


def numbers(length):
    return st.integers(-length, length - 1)


def slices(length):
    bound = st.none() | st.integers(-length - 5, length + 5)
    return st.builds(slice, bound, bound, st.none() | st.integers(1, length))


def picks(length):
    several = st.lists(numbers(length), max_size=9)
    mask = st.lists(st.booleans(), min_size=length, max_size=length)
    return several | several.map(lambda n: np.array(n, dtype=int)) | mask.map(np.array)


def plain(length):
    whole = numbers(length)
    return slices(length) | whole | whole.map(np.int64) | whole.map(np.array)


def strange(length):
    """What NumPy takes and Zarr does not, and what neither takes."""
    backwards = st.integers(-length, 0)
    return (
        st.sampled_from([None, True, np.False_, 0.0, "a", [0.0], [[0]], (), b"x"])
        | st.builds(slice, st.none() | numbers(length), st.none(), backwards)
        | st.sampled_from([length, -length - 1, [length], np.ones((length, 4), bool)])
        | st.lists(st.booleans(), max_size=length + 1)
        | picks(length)
    )


@st.composite
def indices(draw, others=None):
    """One index for each of some axes; a list or a mask for one at most; perhaps an ellipsis."""
    lengths = (SAMPLES, 5, 4)
    kept = sorted(draw(st.sets(st.integers(0, 2))))
    front = draw(st.integers(0, len(kept)))
    # Axes that are left out lie behind, or where the ellipsis is.
    axes = [*range(front), *range(3 - len(kept) + front, 3)]
    index = [draw(plain(lengths[axis])) for axis in axes]
    if axes and draw(st.booleans()):
        place = draw(st.integers(0, len(axes) - 1))
        index[place] = draw((others or picks)(lengths[axes[place]]))
    if front < len(kept) or draw(st.booleans()):
        index.insert(front, ...)
    if len(index) == 1 and draw(st.booleans()):
        return index[0]
    return tuple(index)


@settings(max_examples=300, deadline=None)
@given(index=indices())
def test_indexing_gives_what_numpy_gives(store, index):
    np.testing.assert_array_equal(store["enc.3"][index], VALUES["enc.3"][index], strict=True)


@settings(max_examples=300, deadline=None)
@given(index=indices(strange))
def test_what_is_not_read_as_numpy_reads_it_is_an_index_error(store, index):
    try:
        found = store["enc.3"][index]
    except IndexError as error:
        message = str(error)
    else:
        np.testing.assert_array_equal(found, VALUES["enc.3"][index], strict=True)
        return

    words = "index with integers|too many indices: got|a mask along|(sample|a|b) must be -"
    assert re.match(words, message)


@pytest.mark.parametrize(
    "index", [3, -1, slice(None), slice(5, 100, 7), [4, 4, -1], ..., np.int64(7), (), []]
)
def test_single_numbers_are_indexed_as_in_numpy(store, index):
    expected = np.asarray(VALUES["loss"][index])

    np.testing.assert_array_equal(store["loss"][index], expected, strict=True)


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        ((3, [0, 2]), (2, 4)),
        (([1, 5], 2), (2, 4)),
        (([1, 5], slice(None), 0), (2, 5)),
        ((0, slice(None), [3, 0, 1]), (3, 5)),
        ((0, ..., [3, 0, 1]), (3, 5)),
        ((slice(2, 7), 0, [3, 0, 1]), (5, 3)),
        ((slice(2, 7), 0, ..., [3, 0, 1]), (3, 5)),
    ],
)
def test_a_list_beside_a_number_lies_where_numpy_puts_it(store, index, shape):
    assert store["enc.3"][index].shape == shape
    np.testing.assert_array_equal(store["enc.3"][index], VALUES["enc.3"][index], strict=True)


def test_a_list_of_truths_is_a_mask(store):
    chosen = store["enc.3"][7, [True, False, False, True, False]]

    np.testing.assert_array_equal(chosen, VALUES["enc.3"][7, [0, 3]], strict=True)
    with pytest.raises(IndexError, match="a mask along sample must have 130 entries, got 1"):
        store["enc.3"][[True]]


def test_an_array_becomes_a_numpy_array(store):
    array = store["enc.3"]

    np.testing.assert_array_equal(np.asarray(array), VALUES["enc.3"], strict=True)
    assert np.asarray(array, dtype="float64").dtype == "float64"
    assert (len(array), array.ndim, array.nbytes) == (SAMPLES, 3, VALUES["enc.3"].nbytes)
    assert array.dims == ("sample", "a", "b")
    assert sum(1 for _ in store["loss"]) == SAMPLES
    with pytest.raises(ValueError, match="must be copied to become a NumPy array"):
        np.array(array, copy=False)


@pytest.mark.parametrize("index", [130, -131, np.int64(1000)])
def test_a_sample_beyond_the_end_is_an_index_error(store, index):
    with pytest.raises(IndexError, match=f"sample must be -130 to 129, got {index}"):
        store["enc.3"][index]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ((0, 5), "a must be -5 to 4, got 5"),
        ((0, 0, -5), "b must be -4 to 3, got -5"),
        ([130], "sample must be -130 to 129, got 130"),
        ([4, -131], "sample must be -130 to 129, got -131"),
        ((0, [7]), "a must be -5 to 4, got 7"),
    ],
)
def test_an_index_beyond_the_end_is_an_index_error(store, index, words):
    with pytest.raises(IndexError, match=words):
        store["enc.3"][index]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (slice(None, None, -1), "got a step of -1"),
        (slice(None, None, 0), "got a step of 0"),
        ((..., 0, ...), "got 2 ellipses"),
        ((0, None), "got None"),
        (True, "got True"),
        (1.5, r"got 1\.5"),
        ("a", "got 'a'"),
        ([[0, 1]], r"got int64 of shape \(1, 2\)"),
        (np.ones((130, 5), bool), r"got bool of shape \(130, 5\)"),
        (([0, 1], [0, 1]), "got more than one list or mask"),
        ((slice(None), [0], np.array([True] * 4)), "got more than one list or mask"),
    ],
)
def test_what_is_no_index_is_refused_with_what_is_one(store, index, words):
    with pytest.raises(
        IndexError, match=f"^index with integers, slices that go forwards, .* comes back: {words}$"
    ):
        store["enc.3"][index]


def test_too_many_indices_are_an_index_error(store):
    with pytest.raises(IndexError, match="too many indices"):
        store["loss"][0, 0]


def test_a_mask_of_the_wrong_length_is_an_index_error(store):
    with pytest.raises(IndexError, match="a mask along sample must have 130 entries, got 7"):
        store["enc.3"][np.ones(7, bool)]


def test_the_store_is_a_mapping_of_its_sites(store):
    assert list(store) == [*VALUES, "lstm"]
    assert len(store) == 6
    assert "enc.3" in store
    assert "enc.4" not in store
    assert "relu" not in store
    assert list(store["lstm"]) == ["0", "1"]
    assert store["lstm"]["1"][0].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["enc.3", "enc.3@1", "enc.3@-1", Site("enc.3")])
def test_a_site_that_ran_once_is_found_with_and_without_its_call(store, name):
    assert store[name].shape == (SAMPLES, 5, 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "enc.4",
            r"holds no site 'enc\.4'\. Did you mean 'enc\.3'.*It holds: enc\.3, loss",
        ),
        ("relu", r"It ran several times: ask for one of 'relu@1', 'relu@2'\."),
        ("relu@3", "Did you mean 'relu@2' or 'relu@1'"),
        ("enc.3@2", r"holds no site 'enc\.3@2'"),
        ("enc.3:inn", r"the port of 'enc\.3:inn' must be 'out', 'in' or 'grad'"),
        ("", "holds no site ''"),
    ],
)
def test_a_site_that_is_not_there_is_an_error_with_near_names(store, name, words):
    with pytest.raises(SiteNotFoundError, match=words):
        store[name]


def test_sites_are_selected_in_the_order_of_the_store(store):
    assert store.select() == tuple(store)
    assert store.select(["relu", Site("enc.3")]) == ("enc.3", "relu@1", "relu@2")
    assert store.select("**:in") == ("enc.3:in",)
    with pytest.raises(SiteNotFoundError, match=r"holds no site 'dec\.\*'"):
        store.select(["enc.3", "dec.*"])


def test_whole_sites_are_read_into_memory(store):
    found = store.to_numpy(["loss", "lstm"])

    assert list(found) == ["loss", "lstm"]
    np.testing.assert_array_equal(found["loss"], VALUES["loss"], strict=True)
    assert found["lstm"]["1"].tolist() == [[1, 1]] * SAMPLES
    assert list(store.to_numpy()) == list(store)


def test_the_last_step_is_shown_and_the_others_are_found(store):
    assert store.step == 200
    assert store.steps == (0, 200)
    assert open_store(store.path, step=0).step == store.at(0).step == 0
    np.testing.assert_array_equal(store.at(0)["loss"][:], VALUES["loss"])
    assert "step 200 (also steps 0): 6 sites, 130 samples\n" in repr(store)
    with pytest.raises(StoreError, match=r"step must be one of those in .* \(0, 200\), got 7"):
        store.at(7)


def test_a_store_is_found_by_its_data_too(store):
    assert open_store(store.path / "data.zarr").path == store.path


def test_a_path_without_a_store_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="nowhere does not exist: expected a folder"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is not a stratascope store: expected a folder"):
        open_store(tmp_path)


def test_a_store_tells_what_it_holds(store):
    files = (store.path / "data.zarr" / "200").glob("*/activation*/c/**/*")

    assert store.nbytes == sum(path.stat().st_size for path in files if path.is_file())
    assert store.committed_ranges() == [range(SAMPLES)]
    assert store.complete
    assert store.settings == {"batch_size": 7}
    assert store.skipped == {}
    assert store.unit == 64


def test_an_incomplete_store_says_so(tmp_path):
    writer = StepWriter(tmp_path / "s", make_spec())
    writer.abort()
    store = open_store(tmp_path / "s")

    assert not store.complete
    assert store.nbytes == 0
    assert "130 samples, INCOMPLETE" in repr(store)
    with pytest.raises(
        StoreError, match=r"of step 0 samples none are there.*resume=True"
    ) as caught:
        store["loss"][0]
    assert "read those only" not in str(caught.value)


@pytest.mark.parametrize(
    "look", [lambda path: open_store(path, step=0), lambda path: open_store(path, step=1).at(0)]
)
def test_a_step_that_nobody_knows_the_end_of_says_so_when_it_is_opened(tmp_path, look):
    array = ArraySpec("a/activation", "a", "", (), "uint8", "uint8", ())
    for step in (0, 1):
        writer = StepWriter(tmp_path / "s", StepSpec(step, None, 64, (array,)))
        writer.write(0, {"a/activation": np.zeros(70, "uint8")})
        writer.abort() if step == 0 else writer.finish()

    with pytest.warns(UserWarning, match="^step 0 of .* is unfinished: 64 samples") as caught:
        look(tmp_path / "s")
    assert caught[0].filename == __file__
    open_store(tmp_path / "s")


def test_xarray_does_not_show_what_is_missing_as_data(tmp_path):
    writer = StepWriter(tmp_path / "s", make_spec())
    rows = {
        array.key: np.zeros((SAMPLES, *array.shape), array.dtype) for array in writer.spec.arrays
    }
    writer.write(0, {key: values[:70] for key, values in rows.items()})
    writer.abort()

    with pytest.raises(
        StoreError, match=r"samples 0 to 63 are there\. Run .*resume=True.* store\[site\]\[0:64\]$"
    ):
        open_store(tmp_path / "s").to_xarray()


@pytest.mark.parametrize("harm", ["lost", "empty"])
def test_xarray_does_not_show_what_is_lost_as_data(tmp_path, harm):
    fill(tmp_path / "s")
    shard = tmp_path / "s" / "data.zarr" / "0" / "loss" / "activation" / "c" / "2"
    shard.unlink() if harm == "lost" else shard.write_bytes(b"")

    with pytest.raises(
        StoreError, match=r"step 0, site 'loss', samples 128 to 129 cannot be read: .*c/2 is not th"
    ):
        open_store(tmp_path / "s").to_xarray()


def make_growing(root):
    """A step of unknown length with two whole units, a short one and no end."""
    array = ArraySpec("a/activation", "a", "", (), "uint8", "uint8", ())
    writer = StepWriter(root, StepSpec(0, None, 64, (array,)))
    writer.write(0, {"a/activation": np.arange(150, dtype="uint8")})
    writer.finish()
    return root / "commits" / "0"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"samples": "many"}', "\udcff"])
def test_a_damaged_end_of_a_step_is_an_error_that_names_the_file(tmp_path, text):
    commits = make_growing(tmp_path / "s")
    (commits / "complete.json").write_text(text, errors="surrogateescape")

    with pytest.raises(StoreError, match=r"commits/0/complete.json is damaged: it must "):
        _ = open_store(tmp_path / "s").samples


@pytest.mark.parametrize("text", ["", "[1]", '{"start": 64, "stop": 999, "files": {}}'])
def test_a_unit_with_a_damaged_manifest_is_owed_where_only_that_tells_its_end(tmp_path, text):
    commits = make_growing(tmp_path / "s")
    (commits / "complete.json").unlink()
    (commits / "u00000002.json").write_text(text)
    with pytest.warns(UserWarning, match="128 samples are there"):
        store = open_store(tmp_path / "s")

    assert store.committed_ranges() == [range(128)]
    np.testing.assert_array_equal(store["a"][:], np.arange(128))


def test_files_that_are_not_ours_are_passed_over(tmp_path):
    commits = make_growing(tmp_path / "s")
    for name in ("unrelated.json", "u1.json", "u00000001.json.bak", "lock"):
        (commits / name).write_text("mine")
    (commits.parent / "notes").mkdir()
    (commits.parent / "7").mkdir()
    store = open_store(tmp_path / "s")

    assert store.steps == (0,)
    assert store.committed_ranges() == [range(150)]


def test_reading_needs_neither_torch_nor_zarr(store):
    script = f"""
import sys
from stratascope.store import open_store
store = open_store({str(store.path)!r})
assert store["enc.3"][129, 4, 3] == 2599
assert store.sample_index[129] == 129
assert "zarr" not in sys.modules
assert len(store.to_xarray()["loss"]["activation"]) == 130
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
