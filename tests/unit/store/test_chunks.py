import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope.errors import StoreError
from stratascope.store import ArraySpec, Paths, StepSpec, StepWriter, _chunks, _disk, open_store

# Cut along every axis: samples by 8, channels by 1; and by tiles of one map.
SHAPES = {"maps": (150, 3, 90, 390), "tiles": (3, 2, 1100, 1000), "vectors": (150, 4000)}
CHUNKS = {"maps": (8, 1, 90, 390), "tiles": (1, 1, 262, 1000), "vectors": (64, 4000)}
NEVER_WRITTEN = b"\xff" * 16


def make_values(shape):
    return np.random.default_rng(0).integers(0, 255, shape, dtype="uint8")


VALUES = {name: make_values(shape) for name, shape in SHAPES.items()}


def fill(root, values, step=0, unit=64):
    dims = ("channel", "y", "x")[: values.ndim - 1]
    array = ArraySpec("a/activation", "a", "", values.shape[1:], values.dtype.name, "x", dims)
    writer = StepWriter(root, StepSpec(step, len(values), unit, (array,)))
    writer.write(0, {"a/activation": values})
    writer.finish()
    return open_store(root, step=step)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {name: fill(folder / name, values) for name, values in VALUES.items()}


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "s", VALUES["maps"])


def shard_of(store, unit):
    return store.path / "data.zarr" / "0" / "a" / "activation" / "c" / str(unit) / "0/0/0"


@st.composite
def parts(draw, shape):
    """A number, a range or a list along each axis; a list along one at most."""
    found = []
    for size in shape:
        first = draw(st.integers(0, size - 1))
        stop = draw(st.integers(first, size))
        found.append(draw(st.sampled_from([first, slice(first, stop, draw(st.integers(1, 9)))])))
    axis = draw(st.integers(0, len(shape) - 1))
    if draw(st.booleans()):
        numbers = draw(st.lists(st.integers(0, shape[axis] - 1), max_size=7))
        found[axis] = np.array(numbers, dtype=int)
    return tuple(found)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_part_of_any_chunks_is_what_was_written(stores, name, data):
    index = data.draw(parts(SHAPES[name]))
    # Each chunk by itself, shared out among threads, or many at once.
    at_once = data.draw(st.sampled_from([1, 1_000_000]))

    assert stores[name]._spec.arrays[0].chunk == CHUNKS[name]
    with mock.patch.object(_disk._DiskContent, "read_at_once", at_once):
        found = stores[name]["a"][index]
    np.testing.assert_array_equal(found, VALUES[name][index], strict=True)


class Reads:
    """Counts what is read of files piece by piece."""

    def __init__(self, monkeypatch):
        self.sizes = []
        read = os.pread

        def read_counted(file, length, start):
            content = read(file, length, start)
            self.sizes.append(len(content))
            return content

        monkeypatch.setattr(os, "pread", read_counted)


def index_of(store, unit):
    grid = (8, 3, 1, 1)
    content = shard_of(store, unit).read_bytes()
    return np.frombuffer(content[-4 - 16 * 24 : -4], "<u8").reshape(*grid, 2)


def test_a_slice_of_one_chunk_costs_one_read_of_it(store, monkeypatch):
    lengths = index_of(store, 1)[..., 1].astype(int)
    reads = Reads(monkeypatch)
    for _ in range(2):
        values = store["a"][64 + 9, 2]

    np.testing.assert_array_equal(values, VALUES["maps"][73, 2])
    # The index once, with its checksum, and then no more than the chunk.
    assert reads.sizes == [16 * 24 + 4, lengths[1, 2, 0, 0], lengths[1, 2, 0, 0]]


def test_chunks_that_lie_side_by_side_are_read_at_once(store, monkeypatch):
    lengths = index_of(store, 1)[..., 1].astype(int)
    reads = Reads(monkeypatch)
    monkeypatch.setattr(_disk._DiskContent, "read_at_once", 600_000)
    store["a"][64 + 8 : 64 + 24, 1:]

    assert sorted(reads.sizes[1:]) == sorted([lengths[1, 1:].sum(), lengths[2, 1:].sum()])
    monkeypatch.setattr(_disk._DiskContent, "read_at_once", 500_000)
    reads.sizes.clear()
    np.testing.assert_array_equal(store["a"][64:128], VALUES["maps"][64:128])
    assert max(reads.sizes) <= 500_000
    assert sum(reads.sizes) == lengths.sum()


def test_any_number_of_threads_may_read(store):
    rng = np.random.default_rng(0)
    places = rng.integers(0, (150, 3), (400, 2)).tolist()
    arrays = [store["a"] for _ in range(4)]

    def read(number):
        sample, channel = places[number]
        return arrays[number % 4][sample, channel]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(len(places))))

    for (sample, channel), values in zip(places, found, strict=True):
        np.testing.assert_array_equal(values, VALUES["maps"][sample, channel])


def test_a_shard_that_was_written_anew_is_read_anew(store, tmp_path):
    array = store["a"]
    np.testing.assert_array_equal(array[70], VALUES["maps"][70])
    other = fill(tmp_path / "other", VALUES["maps"] // 16)
    shard_of(other, 1).replace(shard_of(store, 1))

    np.testing.assert_array_equal(array[70], VALUES["maps"][70] // 16)
    np.testing.assert_array_equal(array[0], VALUES["maps"][0])


def test_no_more_than_some_indices_are_kept(store, monkeypatch):
    monkeypatch.setattr(_chunks, "_KEPT_INDICES", 2)
    array = store["a"]

    for sample in (0, 70, 140, 1, 71, 141):
        np.testing.assert_array_equal(array[sample], VALUES["maps"][sample])
    assert len(array._reader._indices) <= 2


@pytest.mark.parametrize("name", SHAPES)
def test_blocks_come_in_storage_order_and_no_chunk_is_read_twice(stores, name, monkeypatch):
    array = pickle.loads(pickle.dumps(stores[name]))["a"]
    monkeypatch.setattr("stratascope.store._array._BLOCK_BYTES", 2_000_000)
    sizes = [path.stat().st_size for path in stores[name].path.rglob("c/*/0*") if path.is_file()]
    sizes += [path.stat().st_size for path in stores[name].path.rglob("c/*/0/0/0")]
    reads = Reads(monkeypatch)
    blocks = list(array.blocks())

    assert [start for start, _ in blocks] == list(range(0, len(array), len(blocks[0][1])))
    assert len(blocks) == {"maps": 10, "tiles": 3, "vectors": 1}[name]
    np.testing.assert_array_equal(np.concatenate([part for _, part in blocks]), VALUES[name])
    assert sum(reads.sizes) == sum(sizes)


def test_samples_one_by_one_are_read_in_blocks(store, monkeypatch):
    reads = Reads(monkeypatch)
    for number, values in enumerate(store["a"]):
        np.testing.assert_array_equal(values, VALUES["maps"][number])

    assert number == 149
    # Each chunk once, and the index of each shard.
    assert len(reads.sizes) <= 19 * 3 + 3


def test_a_store_and_its_arrays_go_to_other_processes(store):
    array = store["a"]
    np.testing.assert_array_equal(array[3], VALUES["maps"][3])
    for made in (pickle.loads(pickle.dumps(store))["a"], pickle.loads(pickle.dumps(array))):
        np.testing.assert_array_equal(made[149], VALUES["maps"][149])


def damage(path, place, content):
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content)] = content
    path.write_bytes(whole)


def test_a_damaged_chunk_costs_its_own_samples_and_channels_only(store):
    offset, length = map(int, index_of(store, 1)[2, 1, 0, 0])
    damage(shard_of(store, 1), offset + length // 2, b"\0\1\2\3")
    array = store["a"]

    with pytest.raises(
        StoreError,
        match=r"^step 0, site 'a', samples 80 to 87 cannot be read: .*/c/1/0/0/0 is damaged: a "
        "chunk has another checksum. Other samples and sites are not touched; stratascope verify ",
    ):
        array[:]
    np.testing.assert_array_equal(array[80:88, [0, 2]], VALUES["maps"][80:88, [0, 2]])
    np.testing.assert_array_equal(array[:80], VALUES["maps"][:80])
    np.testing.assert_array_equal(array[88:], VALUES["maps"][88:])


def test_the_samples_of_the_last_chunk_end_with_the_data(store):
    offset, length = map(int, index_of(store, 2)[2, 0, 0, 0])
    damage(shard_of(store, 2), offset + length - 1, b"\0")

    with pytest.raises(StoreError, match="samples 144 to 149 cannot be read"):
        store["a"][:]


def rewrite_index(path, change):
    content = path.read_bytes()
    index = bytearray(content[-4 - 16 * 24 : -4])
    change(index)
    checksum = google_crc32c.value(bytes(index)).to_bytes(4, "little")
    path.write_bytes(content[: -4 - 16 * 24] + index + checksum)


def test_a_chunk_that_was_never_written_is_no_value(store):
    def forget(index):
        index[16 * 4 : 16 * 5] = NEVER_WRITTEN  # the second row's second

    rewrite_index(shard_of(store, 1), forget)

    with pytest.raises(StoreError, match=r"samples 72 to 79 cannot be read: .* lacks a chunk"):
        store["a"][75, 1]
    np.testing.assert_array_equal(store["a"][75, 0], VALUES["maps"][75, 0])


def test_a_chunk_beyond_the_end_of_the_file_is_no_value(store):
    def move(index):
        index[16 * 4 : 16 * 4 + 8] = (10**9).to_bytes(8, "little")

    rewrite_index(shard_of(store, 1), move)

    with pytest.raises(StoreError, match=r"samples 72 to 79 .* a chunk has another checksum"):
        store["a"][75, 1]


def test_a_chunk_of_another_size_is_no_value(store):
    metadata = store.path / "data.zarr/0/a/activation/zarr.json"
    plain = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**plain, "data_type": "int64"}))

    with pytest.raises(StoreError, match=r"samples 0 to 7 .* a chunk cannot be unpacked"):
        store["a"][0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"codecs": [{}]}', None])
def test_metadata_that_are_damaged_name_the_site_and_all_its_samples(store, text):
    metadata = store.path / "data.zarr/0/a/activation/zarr.json"
    metadata.unlink() if text is None else metadata.write_text(text)

    with pytest.raises(
        StoreError, match=r"site 'a', samples 0 to 149 cannot be read: .*zarr.json does not descri"
    ):
        store["a"][3]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"1234"), "is cut off"),
        (lambda path: (path.unlink(), path.mkdir()), r"cannot be read \(Is a directory\)"),
    ],
)
def test_a_shard_that_is_no_shard_names_its_samples(store, break_it, words):
    break_it(shard_of(store, 2))

    with pytest.raises(StoreError, match=f"samples 128 to 149 cannot be read: .*/2/0/0/0 {words}"):
        store["a"][130]


def test_what_is_not_asked_for_is_not_looked_at(store):
    shard_of(store, 1).unlink()

    np.testing.assert_array_equal(store["a"][[0, 149]], VALUES["maps"][[0, 149]])
    assert store["a"][70:70].shape == (0, 3, 90, 390)


def test_a_damaged_coordinate_is_an_error(store):
    path = store.path / "data.zarr" / "0" / "sample" / "c" / "0"
    damage(path, 10, b"\1\2\3")

    with pytest.raises(
        StoreError, match=r"sample coordinate of step 0 .*c/0 is damaged: it has an"
    ):
        _ = store.sample_index
    path.unlink()
    with pytest.raises(StoreError, match=r"coordinate .*c/0 cannot be read \(No such file"):
        _ = store.sample_index


def test_paths_are_those_that_the_writer_uses(store):
    assert store["a"]._reader.key(2) == Paths(store.folder, 0).shard(store._spec.arrays[0], 2)
