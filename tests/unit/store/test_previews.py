import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope.store import ArraySpec, add_previews
from stratascope.store._previews import Counts, make_preview

AXES = {1: ("channel",), 2: ("channel", "time"), 3: ("channel", "y", "x")}


def make_array(shape, dtype="float32", dims=None, **more):
    dims = dims or AXES.get(len(shape), ("channel", "z", "y", "x"))[: len(shape)]
    return ArraySpec("s/activation", "s", "", shape, dtype, dtype, dims, **more)


def describe(*args, samples=1000, unit=256, **more):
    values, *made = add_previews((make_array(*args, **more),), samples, unit)
    return values, {spec.role: spec for spec in made}


@pytest.mark.parametrize(
    ("shape", "dtype", "channels", "block"),
    [
        ((64, 32, 32), "float32", 16, (1, 2, 2)),
        ((64, 32, 32), "uint8", 8, (1, 2, 2)),
        ((64, 16, 16), "float32", 8, (1, 1, 1)),
        ((64, 16, 16), "float16", 8, (1, 2, 2)),
        ((512, 7, 7), "float32", 16, (1, 1, 1)),
        ((1, 70, 70), "float32", 1, (1, 5, 5)),
        ((3, 1000, 70), "float32", 3, (1, 63, 5)),
        ((128, 250), "float32", 16, (1, 4)),
        ((16, 64, 64, 64), "float32", 16, (1, 8, 8, 8)),
    ],
)
def test_a_preview_is_as_large_as_its_values_allow(shape, dtype, channels, block):
    array, made = describe(shape, dtype)
    preview = made["preview"]

    assert array.about == {"preview": "preview", "histogram": "histogram"}
    assert len(preview.about["channels"]) == channels == preview.shape[0]
    assert tuple(preview.about["block"]) == block
    assert preview.shape[1:] == tuple(map(math.ceil, np.divide(shape, block)[1:]))


def test_tokens_have_their_channels_last():
    _, made = describe((197, 768), dims=("token", "channel"))

    assert made["preview"].shape == (197, 16)
    assert made["preview"].dims == ("preview_token", "preview_channel")
    assert made["histogram"].shape == (768, 248)


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 33, 100, 512])
def test_channels_are_evenly_spaced(channels):
    _, made = describe((channels, 100, 100))
    chosen = made["preview"].about["channels"]

    assert len(chosen) == min(16, channels)
    assert len({int(step) for step in np.diff(chosen)}) <= 2
    assert abs(chosen[0] - (channels - 1 - chosen[-1])) <= 1


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((512,), "none: a sample has no maps"),
        ((), "none: a sample has no maps"),
        ((8, 4, 4), "none: a sample is about as small"),
        ((8, 0, 4), "none: a sample is about as small"),
    ],
)
def test_what_has_no_preview_says_why(shape, problem):
    array, made = describe(shape)

    assert "preview" not in made
    assert array.about["preview"] == problem


def test_samples_without_channels_in_common_have_neither():
    array, made = describe((512,), length_axis=0)

    assert made == {}
    assert array.about["histogram"] == "none: samples have no channels in common"


@pytest.mark.parametrize(
    ("shape", "samples", "every", "dtype"),
    [
        ((64, 32, 32), 1000, 127, "uint16"),
        ((64, 32, 32), None, 64, "uint16"),
        ((512,), 1000, 1, "uint16"),
        ((512,), 50_000, 12, "uint8"),
        ((), 100, 1, "uint16"),
        ((2, 3000, 3000), 1000, 127, "uint32"),
    ],
)
def test_so_many_values_are_counted_as_tell_something(shape, samples, every, dtype):
    _, made = describe(shape, samples=samples)

    assert made["histogram"].about["every"] == every
    assert made["histogram"].dtype == dtype


def test_several_tensors_of_a_site_have_each_their_own():
    arrays = tuple(
        ArraySpec(f"s/activation.{k}", "s", f"{k}", (3, 40, 40), "float32", "float32", AXES[3])
        for k in range(2)
    )
    keys = [spec.key for spec in add_previews(arrays, 10, 64)]

    assert keys[2:] == ["s/preview.0", "s/histogram.0", "s/preview.1", "s/histogram.1"]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 60), min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(["float32", "float16", "uint8", "float64"]),
)
def test_a_preview_takes_a_sixteenth_of_its_values_at_most(shape, dtype):
    array, made = describe(shape, dtype)

    if "preview" in made:
        assert made["preview"].sample_bytes * 16 <= array.sample_bytes
        assert made["preview"].sample_bytes > 0
    elif len(shape) > 1:
        # Even four channels of eight places would be too much, or the samples are tiny.
        least = 4 * min(math.prod(shape[1:]), 8) * 2
        assert array.sample_bytes < 4096 or least * 16 > array.sample_bytes / 16


@settings(max_examples=40, deadline=None)
@given(data=st.data(), case=st.sampled_from([(20, 250), (3, 2100), (9, 20, 35), (2, 9, 20, 17)]))
def test_bytes_depend_on_no_batch(data, case):
    array, made = describe(case)
    rng = np.random.default_rng(0)
    samples = 23
    values = (rng.normal(size=(samples, *case)) * 1e3).astype("f4")
    order = data.draw(st.sampled_from(["C", "F", "K"]))
    if order == "K":
        values = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1)
    cuts = sorted({0, samples, *data.draw(st.lists(st.integers(1, samples - 1)))})
    whole = Counts(made["histogram"], array)
    whole.add(100, {array.key: values})
    parts = Counts(made["histogram"], array)
    previews = []
    for first, end in itertools.pairwise(cuts):
        rows = {array.key: np.asarray(values[first:end], order=order)}
        parts.add(100 + first, rows)
        previews.append(make_preview(made["preview"], array, rows))

    np.testing.assert_array_equal(parts.take(), whole.take())
    together = make_preview(made["preview"], array, {array.key: values})
    assert np.concatenate(previews).tobytes() == together.tobytes()


def test_all_places_are_counted_in_turn():
    array, made = describe((3, 17, 17), samples=10_000_000)
    counts = Counts(made["histogram"], array)
    places = np.arange(17 * 17, dtype="f4").reshape(1, 1, 17, 17)
    for start in range(127):
        counts.add(start, {array.key: places.repeat(3, 1)})

    assert counts.take().sum(1).tolist() == [17 * 17] * 3
