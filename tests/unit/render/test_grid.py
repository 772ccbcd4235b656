import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stratascope import render
from stratascope.render import _cells, _colours
from stratascope.render._channels import channel_numbers, constants, prepare


def prepared(values, scope="layer", channels=None, badged=True):
    names = channel_numbers(channels, len(values))
    return prepare(values, names, scope, None, 99.5, badged=badged)


def test_every_tile_bears_the_true_number_of_its_channel(rng):
    layer = prepared(rng.normal(size=(5, 4, 4)), channels=[3, 1023, 7, 0, 64])
    sheet = _cells.arrange(5, (40, 40), columns=2, label_width=layer.label_width)
    labels = sheet.labels(layer.names, layer.remarks)
    assert [label.name for label in labels] == ["3", "1023", "7", "0", "64"]
    rows = sorted({label.y for label in labels})
    assert [rows.index(label.y) for label in labels] == [0, 0, 1, 1, 2]


def test_a_tile_stands_below_its_label(rng):
    tiles = np.arange(1, 6, dtype=np.uint8)[:, None, None] * np.ones((1, 30, 40), np.uint8)
    sheet = _cells.arrange(5, (30, 40), columns=3, label_width=10)
    board = _cells.place(tiles, sheet, paper=100, edge=101)
    for k in range(5):
        y, x = sheet.corner(k)
        assert (board[y : y + 30, x : x + 40] == k + 1).all()
        assert board[y - 1, x] == board[y + 30, x] == 101
        assert sheet.labels("01234", [""] * 5)[k].y < y
    assert (board[sheet.cell[0] :, 2 * sheet.cell[1] :] == 100).all()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 64, 65, 512, 2048])
def test_the_tiles_have_room_and_are_near_square(count):
    sheet = _cells.arrange(count, (40, 40), columns=None, label_width=24)
    assert sheet.rows * sheet.columns >= count
    assert (sheet.rows - 1) * sheet.columns < count
    height, width = sheet.rows * sheet.cell[0], sheet.columns * sheet.cell[1]
    assert 1 / 4 < height / width < 4


@pytest.mark.parametrize(
    ("count", "columns"), [(8, 4), (12, 4), (64, 8), (100, 10), (128, 16), (256, 16)]
)
def test_a_round_number_of_channels_fills_its_rows(count, columns):
    assert _cells.arrange(count, (60, 60), columns=None, label_width=24).columns == columns


def test_a_wide_label_widens_the_cell():
    assert _cells.arrange(9, (30, 30), columns=3, label_width=90).cell[1] > 90


def test_a_constant_channel_is_grey_with_a_badge(rng):
    values = rng.normal(size=(6, 8, 8))
    plain = render.grid(values)
    values[2] = -0.0
    values[4, 0] = np.nan
    values[4, 1:] = 3
    layer = prepared(values)
    assert layer.badges(100) == [(2, "const 0"), (4, "const 3")]
    assert layer.badges(34) == [(2, "const"), (4, "const")]
    assert layer.badges(5) == []
    assert layer.notes == ["2 channels constant"]
    grey = np.array(_colours.CONSTANT)
    # The smoothed edge of a letter may be of that grey by chance.
    assert (plain == grey).all(-1).sum() < 50
    assert (render.grid(values) == grey).all(-1).sum() > 10_000


def test_constant_maps_have_no_say_in_the_range_of_the_others(rng, said):
    values = rng.normal(size=(6, 8, 8))
    others = np.delete(values, 3, axis=0)
    values[3], values[3, 0, 0] = 1000, np.nan
    whole, alone = prepared(values).whole, prepared(others).whole
    assert (whole.low, whole.high, whole.finite) == (alone.low, alone.high, alone.finite)
    assert (whole.nans, alone.nans) == (1, 0)
    render.grid(values)
    assert f"colours: {alone.caption}" in said[0]
    assert "1 channel constant" in said[0]
    # Where all are, they have one.
    assert prepared(np.ones((2, 8, 8)) * [[[1]], [[5]]]).whole.high == 5
    # A curve is drawn where it is.
    assert prepared(values[:, 1]).whole.high == 1000


def test_a_channel_of_one_value_is_not_called_constant(rng):
    assert not prepared(rng.normal(size=(9, 1, 1))).dead.any()


def test_constants_are_found_beside_what_is_not_finite():
    values = np.array([[1, np.inf], [np.nan, np.nan], [1, 2], [np.inf, -np.inf]])
    assert constants(values).tolist() == [True, False, False, False]


def test_each_channel_may_have_its_own_range(rng):
    values = np.abs(rng.normal(size=(3, 9, 9))) * np.array([1, 10, 100])[:, None, None]
    layer = prepared(values, "channel")
    highs = [scale.high for scale in layer.scales]
    assert highs[0] < highs[1] < highs[2]
    assert layer.remarks[0] == layer.scales[0].extent
    assert "own range" in layer.caption
    values[1] = 4
    layer = prepared(values, "channel")
    assert layer.remarks[1] == "const 4"
    assert layer.badges(100) == []
    picture = render.grid(values, scope="channel")
    assert (picture.shape != render.grid(values).shape) or (picture != render.grid(values)).any()


def test_own_ranges_are_all_diverging_if_one_is(rng):
    values = np.abs(rng.normal(size=(3, 9, 9)))
    values[1] *= -1
    layer = prepared(values, "channel")
    assert all(scale.diverging and scale.low == -scale.high for scale in layer.scales)
    assert all(remark.startswith("±") for remark in layer.remarks)


def test_the_same_channels_are_the_same_picture_every_time(rng):
    values = rng.normal(size=(20, 7, 9))
    assert render.grid(values).tobytes() == render.grid(values).tobytes()


def test_an_outlier_changes_no_other_pixel_once_it_is_clipped(rng):
    values = rng.normal(size=(16, 20, 20))
    before = render.grid(values)
    values[np.unravel_index(values.argmax(), values.shape)] = 1e9
    np.testing.assert_array_equal(render.grid(values), before)


def test_two_thousand_channels_are_drawn_in_seconds(rng):
    values = rng.normal(size=(2048, 64, 64)).astype(np.float32)
    start = time.process_time()
    picture = render.grid(values)
    assert time.process_time() - start < 5
    assert picture.shape[0] < 4500
    assert picture.shape[1] < 4500


def test_more_channels_than_a_picture_holds_are_cut_and_the_caption_says_so():
    layer = prepared(np.zeros((20_000, 1, 1)))
    assert layer.count == 16_384
    assert layer.notes == ["only the first 16384 are drawn"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [1]}, "channels must name each of the 2 channels drawn, got 1 numbers; pass"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"scope": "tile"}, "scope must be 'layer' or 'channel', got 'tile'"),
        (
            {"scope": "channel", "scale": render.Scale(0, 1)},
            "scale must be None with scope='channel'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        render.grid(np.zeros((2, 3, 3)), **options)


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [((3, 4), "use render.map"), ((1, 2, 3, 4), r"pick a sample: array\[0\]"), ((5,), "pick the")],
)
def test_another_rank_is_an_error_with_a_remedy(shape, remedy):
    with pytest.raises(ValueError, match=rf"must have shape \(C, H, W\), got .*; {remedy}"):
        render.grid(np.zeros(shape))


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.bool_, np.complex128]),
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=6),
    ),
    st.sampled_from(["layer", "channel"]),
)
def test_any_channels_give_a_picture_without_a_warning(values, scope):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = render.grid(values, scope=scope)
    assert picture.dtype == np.uint8
    assert (picture != 255).any()
