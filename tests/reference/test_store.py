"""What the store writes against zarr-python, xarray and a decoder of its own."""

import contextlib
import itertools
import json
import math
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc, zstd

from stratascope.errors import StoreError
from stratascope.store import (
    DTYPES,
    ArraySpec,
    Paths,
    StepSpec,
    StepWriter,
    open_folder,
    open_store,
)

SHAPES = [(), (7,), (13, 11), (31, 5, 3), (3, 2, 5, 7)]
TILED = [(2, 300, 1000), (3, 300_000), (1, 2, 300, 700)]
DIMS = ("channel", "z", "y", "x")


def make_spec(shapes, samples, *, dtype="float32", codec="fast", unit=64, unknown=False):
    stored = "float32" if dtype == "bfloat16" else dtype
    arrays = tuple(
        ArraySpec(f"s{k}/activation", f"s{k}", "", shape, stored, dtype, DIMS[: len(shape)], "Net")
        for k, shape in enumerate(shapes)
    )
    return StepSpec(0, None if unknown else samples, unit, arrays, codec)


def make_values(spec, samples):
    rng = np.random.default_rng(0)
    values = {}
    for array in spec.arrays:
        size = (samples, *array.shape)
        normal = np.maximum(rng.normal(size=size), 0) * 50
        if np.dtype(array.dtype).kind == "c":
            normal = normal + 1j * rng.normal(size=size)
        plain = normal.astype(array.dtype)
        if array.source_dtype == "bfloat16":
            plain = (plain.view("<u4") & 0xFFFF0000).view("<f4")
        values[array.key] = plain
    return values


def write(root, spec, values, cuts):
    writer = StepWriter(root, spec)
    for start, stop in itertools.pairwise(cuts):
        writer.write(start, {key: rows[start:stop] for key, rows in values.items()})
    writer.finish()


def every(size, samples):
    return [*range(0, samples, size), samples]


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def assert_all_readers_agree(root, spec, values):
    samples = len(next(iter(values.values())))
    store = open_store(root)
    with xarray.open_datatree(root / "data.zarr", engine="zarr", consolidated=False) as tree:
        step = tree["0"]
        for array in spec.arrays:
            expected = values[array.key]
            by_zarr = zarr.open_array(root / "data.zarr" / "0" / array.key, mode="r")
            node = step[array.site]
            np.testing.assert_array_equal(by_zarr[...], expected, strict=True)
            np.testing.assert_array_equal(node["activation"].values, expected, strict=True)
            np.testing.assert_array_equal(store[array.site][:], expected, strict=True)
            assert node["activation"].dims == ("sample", *array.dims)
            # The coordinate is written once, at the step, and inherited by every site.
            np.testing.assert_array_equal(node["sample"].values, np.arange(samples))


@pytest.mark.parametrize("codec", ["fast", "compact"])
@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_every_type_reads_back_equal_by_every_reader(tmp_path, dtype, codec):
    spec = make_spec(SHAPES, 67, dtype=dtype, codec=codec)
    values = make_values(spec, 67)
    write(tmp_path / "s", spec, values, every(7, 67))

    assert_all_readers_agree(tmp_path / "s", spec, values)


@pytest.mark.parametrize(
    ("samples", "batch"), [(1, 1), (1, 1000), (61, 64), (64, 7), (128, 64), (129, 1), (131, 1000)]
)
def test_every_number_of_samples_reads_back_equal(tmp_path, samples, batch):
    spec = make_spec(SHAPES, samples)
    values = make_values(spec, samples)
    write(tmp_path / "s", spec, values, every(batch, samples))

    assert_all_readers_agree(tmp_path / "s", spec, values)


@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_large_maps_are_cut_into_tiles_and_read_back_equal(tmp_path, codec):
    spec = make_spec(TILED, 3, codec=codec)
    values = make_values(spec, 3)
    write(tmp_path / "s", spec, values, every(2, 3))

    assert [array.chunk for array in spec.arrays] == [
        (1, 1, 65, 1000),
        (1, 1, 65536),
        (1, 1, 1, 300, 700),
    ]
    assert_all_readers_agree(tmp_path / "s", spec, values)


def test_a_step_of_unknown_length_is_the_same_in_the_end(tmp_path):
    known = make_spec(SHAPES, 131)
    values = make_values(known, 131)
    write(tmp_path / "known", known, values, every(50, 131))
    write(tmp_path / "unknown", make_spec(SHAPES, 131, unknown=True), values, every(50, 131))
    data = [
        {name: content for name, content in files(tmp_path / root).items() if "data.zarr" in name}
        for root in ("known", "unknown")
    ]

    assert data[0] == data[1]


def test_samples_without_values_read_back_equal(tmp_path):
    spec = make_spec([(0,), (3, 0)], 5)
    values = make_values(spec, 5)
    write(tmp_path / "s", spec, values, [0, 5])

    assert_all_readers_agree(tmp_path / "s", spec, values)


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown length"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 129), max_size=12))
def test_the_files_do_not_depend_on_the_batches(unknown, cuts):
    spec = make_spec([(5,), (3, 7)], 130, unknown=unknown)
    values = make_values(spec, 130)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        write(whole, spec, values, [0, 130])
        write(cut, spec, values, [0, *sorted(cuts), 130])

        assert files(whole) == files(cut)


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown length"])
def test_large_chunks_are_the_same_bytes_each_time(tmp_path, unknown):
    # Blosc cuts a large chunk into blocks, and its threads would put them down as they come.
    spec = make_spec([(1, 512, 512)], 3, unknown=unknown)
    values = make_values(spec, 3)
    for attempt in range(8):
        write(tmp_path / str(attempt), spec, values, [0, 3])

    assert len({str(files(tmp_path / str(attempt))) for attempt in range(8)}) == 1


@pytest.mark.parametrize("codec", ["fast", "compact"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "complex64", "bool", "uint8"])
def test_the_metadata_is_what_zarr_itself_would_write(tmp_path, dtype, codec):
    spec = make_spec([(31, 5, 3)], 67, dtype=dtype, codec=codec)
    write(tmp_path / "s", spec, make_values(spec, 67), [0, 67])
    path = tmp_path / "s" / "data.zarr" / "0" / "s0" / "activation"
    ours = json.loads((path / "zarr.json").read_text())
    sharding = ours["codecs"][0]["configuration"]
    packed, kind = sharding["codecs"][1], zarr.codecs.ZstdCodec
    if packed["name"] == "blosc":
        kind = zarr.codecs.BloscCodec
    array = zarr.create_array(
        tmp_path / "theirs",
        shape=ours["shape"],
        dtype=ours["data_type"],
        chunks=tuple(sharding["chunk_shape"]),
        shards=tuple(ours["chunk_grid"]["configuration"]["chunk_shape"]),
        compressors=[kind.from_dict(packed), zarr.codecs.Crc32cCodec()],
        fill_value=zarr.open_array(path).fill_value,
        attributes=ours["attributes"],
        dimension_names=ours["dimension_names"],
    )

    assert zarr.open_array(path, mode="r").metadata.to_dict() == array.metadata.to_dict()
    assert json.loads((tmp_path / "theirs" / "zarr.json").read_text()) == ours


def test_missing_values_are_nan_where_there_is_one(tmp_path):
    kinds = {}
    for dtype in DTYPES:
        spec = make_spec([(3,)], 5, dtype=dtype)
        write(tmp_path / dtype, spec, make_values(spec, 5), [0, 5])
        array = zarr.open_array(tmp_path / dtype / "data.zarr" / "0" / "s0" / "activation")
        kinds[dtype] = bool(np.isnan(np.asarray(array.fill_value).astype(complex)))

    assert {dtype for dtype, missing in kinds.items() if missing} == {
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    }


def crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_decoder_of_the_test_computes_the_published_checksum():
    assert crc32c(b"123456789") == 0xE3069283


def decode_shard(content, grid, chunk, dtype, codec):
    """Read a shard by the letter of the specification, without our code or zarr's."""
    index_size = 16 * math.prod(grid)
    index = content[-index_size - 4 : -4]
    assert crc32c(index) == struct.unpack("<I", content[-4:])[0]
    entries = np.frombuffer(index, "<u8").reshape(*grid, 2)
    decode = zstd.decompress if codec == "compact" else blosc.decompress
    values = np.full([g * c for g, c in zip(grid, chunk, strict=True)], np.nan, dtype)
    end = 0
    for position in itertools.product(*map(range, grid)):
        offset, size = (int(number) for number in entries[position])
        if offset == size == 2**64 - 1:
            continue
        # Chunks lie close together, in the order of their places.
        assert offset == end
        end = offset + size
        payload, checksum = content[offset : end - 4], content[end - 4 : end]
        assert crc32c(payload) == struct.unpack("<I", checksum)[0]
        place = tuple(slice(p * c, (p + 1) * c) for p, c in zip(position, chunk, strict=True))
        values[place] = np.frombuffer(decode(payload), dtype).reshape(chunk)
    assert end == len(content) - index_size - 4
    return values


@pytest.mark.parametrize("codec", ["fast", "compact"])
def test_a_shard_holds_what_the_specification_says(tmp_path, codec):
    spec = make_spec([(7, 5)], 67, codec=codec)
    values = make_values(spec, 67)["s0/activation"]
    write(tmp_path / "s", spec, {"s0/activation": values}, every(10, 67))
    paths = Paths(open_folder(tmp_path / "s"), 0)
    shards = [paths.folder.read(paths.shard(spec.arrays[0], unit)) for unit in (0, 1)]
    first, second = (decode_shard(s, (8, 1, 1), (8, 7, 5), "<f4", codec) for s in shards)

    np.testing.assert_array_equal(first, values[:64])
    np.testing.assert_array_equal(second[:3], values[64:])
    assert np.isnan(second[3:]).all()


def test_a_manifest_tells_the_checksums_of_its_shards(tmp_path):
    spec = make_spec([(7, 5)], 67)
    write(tmp_path / "s", spec, make_values(spec, 67), every(10, 67))
    paths = Paths(open_folder(tmp_path / "s"), 0)
    content = paths.folder.read(paths.shard(spec.arrays[0], 1))
    only_chunk = content[: -8 * 16 - 4]

    assert json.loads(paths.folder.read(paths.manifest(1))) == {
        "unit": 1,
        "start": 64,
        "stop": 67,
        "files": {
            "s0/activation": {
                "bytes": len(content),
                "crc32c": crc32c(content),
                "index_crc32c": crc32c(content[-8 * 16 - 4 : -4]),
                "chunks_crc32c": crc32c(only_chunk[-4:]),
            }
        },
    }


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown length"])
def test_a_stopped_run_reads_as_far_as_it_is_committed(tmp_path, unknown):
    spec = make_spec([(3, 4)], 200, dtype="int16", unknown=unknown)
    values = make_values(spec, 200)["s0/activation"]
    writer = StepWriter(tmp_path / "s", spec)
    writer.write(0, {"s0/activation": values[:150]})
    writer.abort()
    told = pytest.warns(UserWarning, match="is unfinished: 128 samples are there")
    with told if unknown else contextlib.nullcontext():
        array = open_store(tmp_path / "s")["s0"]

    np.testing.assert_array_equal(array[:128], values[:128])
    np.testing.assert_array_equal(array[[127, 0]], values[[127, 0]])
    if unknown:
        assert array.shape == (128, 3, 4)
    else:
        assert array.shape == (200, 3, 4)
        with pytest.raises(StoreError, match=r"samples 0 to 127 are there.*resume=True"):
            array[120:130]
        with pytest.raises(StoreError, match="is incomplete"):
            array[-1]
