import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratascope.store import (
    DTYPES,
    UNIT_MULTIPLE,
    ArraySpec,
    Paths,
    SiteSpec,
    StepSpec,
    open_folder,
)
from stratascope.store._layout import (
    CHUNK_BYTES,
    TILE_BYTES,
    array_metadata,
    choose_chunk,
    encode_json,
    fill_value,
    shard_shape,
)

shapes = st.lists(st.integers(0, 3000), max_size=4).map(tuple)


def make_array(shape, dtype="float32", source=None):
    dims = tuple(f"axis_{k}" for k in range(len(shape)))
    return ArraySpec("enc.3/activation", "enc.3", "", shape, dtype, source or dtype, dims, "Conv2d")


@given(shape=shapes, dtype=st.sampled_from(DTYPES))
def test_a_chunk_divides_the_shard_and_covers_the_sample(shape, dtype):
    array = make_array(shape, dtype)
    shard = shard_shape(array, 3 * UNIT_MULTIPLE)

    assert len(array.chunk) == len(shard) == len(shape) + 1
    assert all(size >= 1 for size in array.chunk)
    assert all(whole % size == 0 for whole, size in zip(shard, array.chunk, strict=True))
    assert all(whole >= size for whole, size in zip(shard[1:], shape, strict=True))
    # No more is filled up than less than one chunk.
    rest = zip(shard[1:], array.chunk[1:], shape, strict=True)
    assert all(whole - chunk < max(1, size) for whole, chunk, size in rest)


@given(shape=st.lists(st.integers(1, 3000), min_size=0, max_size=3).map(tuple))
def test_a_chunk_is_not_much_larger_than_what_one_read_should_bring(shape):
    size = math.prod(choose_chunk(shape, 4)) * 4
    row = 4 * math.prod(shape[2:])

    assert size <= max(CHUNK_BYTES, TILE_BYTES, row)


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ((), (64,)),
        ((512,), (64, 512)),
        ((100_000,), (64, 1024)),
        ((31, 32, 32), (8, 8, 32, 32)),
        ((128, 250), (8, 32, 250)),
        ((64, 300, 400), (1, 1, 300, 400)),
        ((2, 2000, 3000), (1, 1, 21, 3000)),
        ((2, 1_000_000), (1, 1, 65_536)),
    ],
)
def test_chunks_hold_a_few_samples_of_whole_maps(shape, chunk):
    assert choose_chunk(shape, 4) == chunk


def test_a_specification_comes_back_from_json_as_it_was():
    arrays = (make_array((3, 4)), make_array((), "bool"))
    site = SiteSpec("enc.3@2", "enc.3", "out", 2, 2, "Conv2d", ("dec.3",), {"Conv2d": 1})
    spec = StepSpec(
        *(5, None, 128, arrays, "compact", {"dtype": None}, {"lstm/1": "its shape"}),
        sites=(site,),
        provenance={"command": "train.py"},
    )
    read = StepSpec.from_json(json.loads(encode_json(spec.to_json())))

    assert read == spec
    assert read.provenance == spec.provenance
    assert read.table == {"enc.3@2": site, "enc.3": SiteSpec("enc.3", "enc.3")}


def test_a_specification_of_another_release_is_read():
    spec = StepSpec(0, 5, 64, (make_array((3,)),))
    plain = spec.to_json()
    del plain["sites"], plain["provenance"]
    older = StepSpec.from_json(plain)
    newer = StepSpec.from_json(
        {**plain, "colour": "red", "arrays": [{**plain["arrays"][0], "unit": "m/s"}]}
    )

    assert older == newer == spec


def test_the_files_of_a_step_lie_where_the_layout_says():
    paths = Paths(open_folder("r"), 7)

    assert paths.manifest(12) == "commits/7/u00000012.json"
    assert paths.shard(make_array((3, 4)), 2) == "data.zarr/7/enc.3/activation/c/2/0/0"
    assert paths.shard(make_array(()), 2) == "data.zarr/7/enc.3/activation/c/2"
    assert paths.folder.locate(paths.complete) == Path("r/commits/7/complete.json")


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_missing_is_nan_where_there_is_one(dtype):
    kind = np.dtype(dtype).kind
    expected = {"f": "NaN", "c": ["NaN", "NaN"], "b": False}

    assert fill_value(make_array((), dtype)) == expected.get(kind, 0)


def test_missing_codes_are_those_of_nan():
    array = replace(make_array((3, 4), "uint8", "bfloat16"), quantized=True)
    metadata = array_metadata(array, StepSpec(0, 5, 64, (array,)), 5)

    assert metadata["fill_value"] == metadata["attributes"]["quantized"]["codes"]["nan"] == 255
    packed = metadata["codecs"][0]["configuration"]["codecs"][1]["configuration"]
    assert (packed["shuffle"], packed["typesize"]) == ("noshuffle", 1)


def test_what_belongs_to_values_lies_beside_them():
    array = make_array((3, 4))
    placed = replace(array, key="lstm/activation.1~activation", place="1/activation")

    assert array.key_of("scale") == "enc.3/scale"
    assert placed.key_of("scale") == "lstm/scale.1~activation"
    beside = replace(array, key=array.key_of("scale"), role="scale")
    spec = StepSpec(0, 5, 64, (array, beside))
    assert spec.values == (array,)
    attributes = array_metadata(beside, spec, 5)["attributes"]
    assert (attributes["site"], attributes["role"]) == ("enc.3", "scale")


@pytest.mark.parametrize(
    ("codec", "source", "names"),
    [
        ("fast", "float32", ("blosc", "lz4", "noshuffle")),
        ("compact", "float32", ("zstd", None, None)),
        ("fast", "bfloat16", ("blosc", "lz4", "shuffle")),
        ("compact", "bfloat16", ("blosc", "zstd", "shuffle")),
    ],
)
def test_only_widened_bfloat16_is_shuffled(codec, source, names):
    array = make_array((3, 4), source=source)
    metadata = array_metadata(array, StepSpec(0, 5, 64, (array,), codec), 5)
    packed = metadata["codecs"][0]["configuration"]["codecs"][1]
    settings = packed["configuration"]

    assert (packed["name"], settings.get("cname"), settings.get("shuffle")) == names
