"""Whoever reads Zarr v3 opens a store as it is, and finds the values that were written."""

import itertools

import numpy as np
import pytest
import tensorstore
import torch
import xarray
import zarr

from stratascope.pipeline._quantize import quantize
from stratascope.store import (
    DTYPES,
    ArraySpec,
    Paths,
    StepSpec,
    StepWriter,
    open_folder,
    open_store,
)

SAMPLES, UNIT = 67, 64
SHAPE, DIMS = (31, 5, 3), ("channel", "y", "x")
# A step has one compression for all of its arrays.
CODECS = {"fast": 0, "compact": 1}


def describe(source):
    stored = "float32" if source == "bfloat16" else source
    return ArraySpec(f"{source}/activation", source, "", SHAPE, stored, source, DIMS)


ARRAYS = {source: describe(source) for source in (*DTYPES, "bfloat16")}


def make_values(array):
    """Make zeros and any other bytes, so that every kind of number and of NaN is there."""
    rng = np.random.default_rng(0)
    size = (SAMPLES, *SHAPE)
    kept = rng.random(size) < 0.5
    if array.dtype == "bool":
        return kept
    values = np.frombuffer(rng.bytes(SAMPLES * array.sample_bytes), array.dtype).reshape(size)
    if array.source_dtype == "bfloat16":
        values = (values.view("u4") & 0xFFFF0000).view("f4")
    return np.where(kept, values, np.zeros_like(values))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers") / "store"
    for codec, step in CODECS.items():
        writer = StepWriter(folder, StepSpec(step, SAMPLES, UNIT, tuple(ARRAYS.values()), codec))
        values = {array.key: make_values(array) for array in ARRAYS.values()}
        for start, stop in itertools.pairwise((0, 30, 60, SAMPLES)):
            writer.write(start, {key: rows[start:stop] for key, rows in values.items()})
        writer.finish()
    return folder


def open_by_zarr(root, step, site, name="activation"):
    return zarr.open_group(root / "data.zarr", mode="r")[f"{step}/{site}/{name}"]


def open_by_xarray(root, step, site, name="activation"):
    with xarray.open_datatree(root / "data.zarr", engine="zarr", consolidated=False) as tree:
        return tree[f"{step}/{site}/{name}"]


def open_by_tensorstore(root, step, site, name="activation"):
    folder = root / "data.zarr" / str(step) / site / name
    place = {"driver": "file", "path": str(folder)}
    return tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()


READERS = {
    "zarr-python": open_by_zarr,
    "xarray": open_by_xarray,
    "TensorStore": open_by_tensorstore,
}


def assert_equal_bits(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@pytest.fixture(params=READERS)
def open_array(request):
    return READERS[request.param]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("source", ARRAYS)
def test_every_reader_finds_every_bit(root, open_array, source, codec):
    array = open_array(root, CODECS[codec], source)
    expected = make_values(ARRAYS[source])

    assert_equal_bits(np.asarray(array), expected)
    assert_equal_bits(np.asarray(array[58:66, 30]), expected[58:66, 30])


def test_every_reader_takes_a_lost_shard_for_nan_and_not_for_zeros(tmp_path, open_array):
    array = ARRAYS["float32"]
    writer = StepWriter(tmp_path / "store", StepSpec(0, SAMPLES, UNIT, (array,)))
    writer.write(0, {array.key: np.ones((SAMPLES, *SHAPE), "float32")})
    writer.finish()
    folder = open_folder(tmp_path / "store")
    folder.remove([Paths(folder, 0).shard(array, 0)])
    found = np.asarray(open_array(tmp_path / "store", 0, "float32"))

    assert np.isnan(found[:UNIT]).all()
    assert (found[UNIT:] == 1).all()


def test_every_reader_turns_codes_into_values_by_the_attributes(tmp_path, open_array):
    codes = ArraySpec(
        *("q/activation", "q", "", (3, 100), "uint8", "float32", ("channel", "time")),
        quantized=True,
    )
    groups = [
        ArraySpec(codes.key_of(role), "q", "", (3,), "float32", "float32", ("channel",), role=role)
        for role in ("scale", "offset")
    ]
    values = torch.randn(SAMPLES, 3, 100, generator=torch.Generator().manual_seed(0))
    values[3, 1, 7], values[66, 2] = torch.nan, -torch.inf
    stored = [tensor.numpy() for tensor in quantize(values, 2)]
    writer = StepWriter(tmp_path, StepSpec(0, SAMPLES, UNIT, (codes, *groups)))
    writer.write(0, dict(zip((codes.key, *[group.key for group in groups]), stored, strict=True)))
    writer.finish()
    meaning = open_by_zarr(tmp_path, 0, "q").attrs["quantized"]
    found, scale, offset = (
        np.asarray(open_array(tmp_path, 0, "q", name))
        for name in ("activation", meaning["scale"], meaning["offset"])
    )
    if found.dtype == "uint8":
        special = {code: float(name) for name, code in meaning["codes"].items() if name != "finite"}
        plain = offset[..., None] + scale[..., None] * found.astype("float32")
        found = np.select([found == code for code in special], [*special.values()], plain)

    assert_equal_bits(found.astype("float32"), open_store(tmp_path)["q"][:])
    np.testing.assert_allclose(found, values, atol=0.02)
    folder = open_folder(tmp_path)
    folder.remove([Paths(folder, 0).shard(codes, 0)])
    missing = np.asarray(open_array(tmp_path, 0, "q"))[:UNIT]
    assert (missing == meaning["codes"]["nan"]).all()


def test_the_type_that_the_network_computed_in_and_the_axes_are_told(root):
    attributes = {source: open_by_zarr(root, 0, source).attrs["source_dtype"] for source in ARRAYS}
    by_xarray = open_by_xarray(root, 0, "bfloat16")
    by_tensorstore = open_by_tensorstore(root, 0, "bfloat16")

    assert attributes == {source: source for source in ARRAYS}
    assert by_xarray.attrs["source_dtype"] == "bfloat16"
    assert by_xarray.dims == by_tensorstore.domain.labels == ("sample", *DIMS)
