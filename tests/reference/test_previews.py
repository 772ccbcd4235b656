"""Previews and histograms against loops over places, and quantiles against NumPy's."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope.store import VALUES, ArraySpec, StoredHistogram, add_previews
from stratascope.store._bins import BINS, EDGES, describe_bins, find_bins, find_ends
from stratascope.store._previews import Counts, make_preview
from stratascope.store._quantized import dequantize

SHAPES = {
    "signal": ((20, 250), ("channel", "time")),
    "long": ((3, 2100), ("channel", "time")),
    "picture": ((33, 20, 35), ("channel", "y", "x")),
    "volume": ((2, 9, 20, 17), ("channel", "z", "y", "x")),
    "tokens": ((300, 70), ("token", "channel")),
}
SAMPLES = 5
START = 64


def make_array(name, dtype="float32", **more):
    shape, dims = SHAPES[name]
    return ArraySpec("s/activation", "s", "", shape, dtype, dtype, dims, **more)


def describe(array, samples=SAMPLES):
    values, *_ = specs = add_previews((array,), samples, 64)
    return values, {spec.role: spec for spec in specs if spec.role != VALUES}


def make_values(array):
    rng = np.random.default_rng(0)
    size = (SAMPLES, *array.shape)
    kind = np.dtype(array.dtype).kind
    if kind in "biu":
        return rng.integers(0, 2 if kind == "b" else 100, size).astype(array.dtype)
    values = rng.normal(size=size) * np.exp(rng.normal(size=size) * 5)
    values = np.where(rng.random(size) < 0.3, 0, values)
    if kind == "c":
        values = values + 1j * rng.normal(size=size)
    most = 6e4 if array.dtype == "float16" else np.inf
    return (values if kind == "c" else values.clip(-most, most)).astype(array.dtype)


def pool_slowly(values, channels, axis, block):
    """Take the mean of every block, one after the other, of the chosen channels."""
    chosen = np.take(values, channels, axis)
    grid = [range(0, size, step) for size, step in zip(chosen.shape, block, strict=True)]
    means = [
        chosen[tuple(slice(a, a + b) for a, b in zip(at, block, strict=True))].mean()
        for at in itertools.product(*grid)
    ]
    return np.reshape(means, [len(places) for places in grid])


def count_slowly(array, values, start, every, lengths=None):
    """Put one value after the other into its bin."""
    axis = array.dims.index("channel")
    counts = np.zeros((array.shape[axis], BINS), int)
    for n, sample in enumerate(values):
        for channel, row in enumerate(np.moveaxis(sample, axis, 0)):
            for place, value in enumerate(row.reshape(-1)):
                end = math.inf if lengths is None else lengths[n]
                if (place + start + n) % every == 0 and place < end:
                    counts[channel, find_slowly(value)] += 1
    return counts


def find_slowly(value):
    lower, upper = find_ends()
    value = float(np.float32(value))
    if math.isnan(value):
        return BINS - 1
    if math.isinf(value):
        return 0 if value < 0 else BINS - 2
    if abs(value) < 2.0**-126:
        return 123
    inside = (lower <= value) & (value < upper) if value > 0 else (lower < value) & (value <= upper)
    inside[122] = -EDGES[0] < value < 0
    inside[124] = 0 < value < EDGES[0]
    (place,) = np.flatnonzero(inside[1:-2]) + 1
    return place


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool", "int16", "complex64"])
def test_a_preview_has_the_means_of_its_blocks(name, dtype):
    array, made = describe(make_array(name, dtype))
    values = make_values(array)
    found = make_preview(made["preview"], array, {array.key: values})
    plain = np.abs(values) if dtype == "complex64" else values
    about, axis = made["preview"].about, array.dims.index("channel")
    wide = plain.astype("f8")
    means = [pool_slowly(sample, about["channels"], axis, about["block"]) for sample in wide]

    assert (found.dtype, found.shape) == (np.float16, (SAMPLES, *made["preview"].shape))
    most = float(np.finfo(np.float16).max)
    size = np.abs(wide).max()
    np.testing.assert_allclose(
        found.astype("f8"), np.clip(means, -most, most), rtol=2e-3, atol=1e-6 * size
    )


def test_a_block_with_a_nan_is_nan_and_no_other():
    array, made = describe(make_array("picture"))
    values = make_values(array)
    first = made["preview"].about["channels"][2]
    values[3, first, 7, 34] = np.nan
    values[1, first, 0, 0] = np.inf
    found = make_preview(made["preview"], array, {array.key: values})

    block = made["preview"].about["block"]
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 2, 7 // block[1], 34 // block[2]]]
    assert np.argwhere(np.isinf(found)).tolist() == [[1, 2, 0, 0]]


def test_what_is_too_large_for_a_preview_is_cut_off_and_not_infinite():
    array, made = describe(make_array("signal"))
    values = np.full((SAMPLES, *array.shape), -1e20, "float32")
    values[:, :, :100] = np.inf
    found = make_preview(made["preview"], array, {array.key: values})

    assert set(found.reshape(-1).tolist()) == {math.inf, -65504}


@pytest.mark.parametrize(("dtype", "size"), [("float32", 3e38), ("float64", 1e300)])
def test_finite_values_whose_sum_is_not_have_a_finite_preview(dtype, size):
    array, made = describe(make_array("picture", dtype))
    values = np.full((SAMPLES, *array.shape), size, dtype)
    values[1] *= -1
    # The half of a block's rows cancels the other out.
    values[2, :, ::2] *= -1
    found = make_preview(made["preview"], array, {array.key: values})

    assert np.isfinite(found).all()
    assert set(found[0].reshape(-1).tolist()) == {65504}
    assert set(found[1].reshape(-1).tolist()) == {-65504}


@pytest.mark.parametrize("name", ["signal", "long", "tokens"])
def test_a_preview_and_a_histogram_end_where_a_sample_does(name):
    whole = make_array(name, length_axis=1 - SHAPES[name][1].index("channel"))
    array, made = describe(whole)
    values, axis = make_values(array), array.dims.index("channel")
    lengths = np.array([array.shape[1 - axis], 1, 100, 130, 249])
    for sample, length in zip(np.moveaxis(values, 1 + axis, 1), lengths, strict=True):
        sample[:, length:] = np.nan
    rows = {array.key: values, array.key_of("length"): lengths}
    about = made["preview"].about
    found = make_preview(made["preview"], array, rows)
    counts = Counts(made["histogram"], array)
    counts.add(START, rows)

    every = made["histogram"].about["every"]
    slow = count_slowly(array, values, START, every, lengths)
    np.testing.assert_array_equal(counts.take(), slow)
    assert counts.take()[:, -1].sum() == 0
    block = about["block"][1 - axis]
    for sample, small, length in zip(values, found, lengths, strict=True):
        own = np.moveaxis(sample, axis, 0)[about["channels"], :length].astype("f8")
        means = [own[:, at : at + block].mean(1) for at in range(0, length, block)]
        size = np.abs(own).max()
        small = np.moveaxis(small, axis, 0).astype("f8")
        np.testing.assert_allclose(
            small[:, : len(means)], np.clip(np.stack(means, 1), -65504, 65504), 2e-3, 1e-6 * size
        )
        assert np.isnan(small[:, len(means) :]).all()


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("name", ["picture", "tokens"])
def test_codes_count_as_the_values_that_they_stand_for(name, axes):
    plain, made = describe(make_array(name))
    coded, coded_made = describe(make_array(name, "uint8", quantized=True))
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (SAMPLES, *coded.shape)).astype("uint8")
    scale, offset = rng.random((2, *codes.shape[:axes]), "float32")
    values = dequantize(codes, scale, offset - 1)
    rows = {coded.key: codes, "s/scale": scale, "s/offset": offset - 1}
    counts = [Counts(made["histogram"], array) for array in (plain, coded)]
    for count, parts in zip(counts, ({plain.key: values}, rows), strict=True):
        count.add(START, parts)

    np.testing.assert_array_equal(counts[0].take(), counts[1].take())
    np.testing.assert_array_equal(
        make_preview(coded_made["preview"], coded, rows),
        make_preview(coded_made["preview"], plain, {plain.key: values}),
    )


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bool", "int16", "complex64"])
def test_values_are_counted_in_their_bins(name, dtype):
    array, made = describe(make_array(name, dtype), samples=2000)
    values = make_values(array)
    if values.dtype.kind == "f":
        values[0].reshape(-1)[:7] = np.nan, np.inf, -np.inf, 0, -0.0, 1e-7, -6e4
    every = made["histogram"].about["every"]
    counts = Counts(made["histogram"], array)
    counts.add(START, {array.key: values})

    assert every > 1
    assert made["histogram"].about["share"] == 1 / every
    plain = np.abs(values) if dtype == "complex64" else values
    np.testing.assert_array_equal(counts.take(), count_slowly(array, plain, START, every))


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32))
def test_each_number_has_one_bin(value):
    assert find_bins(np.float32([value])).tolist() == [find_slowly(value)]


def test_a_signalling_nan_is_nan():
    signalling = np.array([0x7F800001, 0xFF800001], "u4").view("f4")

    assert find_bins(signalling).tolist() == [BINS - 1] * 2


def test_the_attributes_say_which_bin_is_which():
    said = describe_bins()
    edges, bins = said["edges"], said["bins"]
    lower, upper = find_ends()
    for i in (0, 1, 60, 119):
        above = eval(bins["at least edges[i], below edges[i + 1]"], {"i": i})
        below = eval(bins["above -edges[i + 1], at most -edges[i]"], {"i": i})
        assert (lower[above], upper[above]) == (edges[i], edges[i + 1])
        assert (lower[below], upper[below]) == (-edges[i + 1], -edges[i])
    special = [-math.inf, -(2.0**30), -1e-10, 0, 1e-10, 2.0**30, math.inf, math.nan]
    named = [number for number in bins.values() if isinstance(number, int)]
    assert find_bins(np.array(special)).tolist() == named


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_in_the_bin_of_the_true_ones(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4, 3000)) * [[1], [1e-3], [100], [1]]
    values[3] = np.maximum(values[3], 0)
    counts = np.stack([np.bincount(find_bins(row), minlength=BINS) for row in values])
    histogram = StoredHistogram(counts, 1.0, 3000)
    q = [0, 0.01, 0.25, 0.5, 0.9, 0.99, 1]
    true = np.quantile(values, q, axis=1, method="inverted_cdf").T

    assert np.abs(histogram.quantile(q) - true).max(initial=0, where=true == 0) == 0
    off = np.abs(histogram.quantile(q) - true) / np.where(true == 0, 1, np.abs(true))
    assert off.max() <= 0.5
    assert off.mean() < 0.1
    assert histogram.quantile(0.5).shape == (4,)
    assert histogram.quantile([0.5]).shape == (4, 1)
