import warnings

import numpy as np
import pytest
import torch

from stratascope import render
from stratascope.render import _colours, _slices
from stratascope.render._slices import _assembled, _planes


def test_the_planes_meet_in_the_point(rng):
    volume = rng.normal(size=(1, 4, 5, 6))
    front, right, below = _planes(volume, (3, 1, 2))
    for d in range(4):
        for h in range(5):
            for w in range(6):
                assert front[0, h, w] == volume[0, 3, h, w]
                assert right[0, h, d] == volume[0, d, h, 2]
                assert below[0, d, w] == volume[0, d, 1, w]


def test_a_projection_is_the_value_of_largest_magnitude_with_its_sign(rng):
    volume = rng.normal(size=(1, 4, 5, 6))
    volume[0, 1, 2, 3], volume[0, 0, 0, 0] = -99, np.nan
    front, right, below = _planes(volume, None)
    for h in range(5):
        for w in range(6):
            line = volume[0, :, h, w]
            assert front[0, h, w] == line[np.nanargmax(np.abs(line))]
    assert front[0, 2, 3] == right[0, 2, 1] == below[0, 1, 3] == -99


def test_a_line_of_nan_is_nan_in_the_projection_and_an_infinity_wins():
    volume = np.zeros((1, 2, 2, 2))
    volume[0, :, 0, 0], volume[0, 1, 1, 1] = np.nan, -np.inf
    front, _, _ = _planes(volume, None)
    np.testing.assert_array_equal(front[0], [[np.nan, 0], [0, -np.inf]])


def test_planes_that_share_an_axis_are_lined_up_and_marked():
    planes = [np.full((1, h, w), k, np.uint8) for k, h, w in ((10, 5, 6), (11, 5, 4), (12, 4, 6))]
    (tile,) = _assembled(planes, [3, 1, 2])
    gap = _slices._GAP
    assert (tile[:5, :6] == 10).all()
    assert (tile[:5, 6 + gap :] == 11).all()
    assert (tile[5 + gap :, :6] == 12).all()
    marked = {tuple(place) for place in np.argwhere(tile == 0).tolist()}
    assert (1, 8) in marked
    assert (8, 2) in marked
    assert (5 + gap + 3, 8) in marked
    assert (8, 6 + gap + 3) in marked


def test_the_caption_says_where_the_planes_are(said, rng):
    volume = rng.normal(size=(4, 5, 6))
    render.slices(volume)
    render.slices(volume, at=(-1, 0, 3))
    render.slices(volume, at="projection")
    assert (
        "1 volume of 4 x 5 x 6, through depth 2, row 2, column 3 · at its right rows by" in said[0]
    )
    assert "through depth 3, row 0, column 3" in said[1]
    assert "the value of largest magnitude along each axis" in said[2]


def test_the_range_is_that_of_the_whole_volume_wherever_the_planes_are(said, rng):
    volume = rng.normal(size=(4, 5, 6))
    for at in (None, (0, 0, 0), "projection"):
        render.slices(volume, at=at)
    assert len({text.partition("colours: ")[2] for text in said}) == 1
    assert render.fit_scale(volume).caption in said[0]


def test_volumes_of_several_channels_have_their_numbers_and_one_range(said, rng, has):
    volumes = rng.normal(size=(3, 4, 5, 6))
    volumes[1] = 0
    picture = render.slices(volumes, channels=[7, 8, 9])
    assert "3 volumes of 4 x 5 x 6" in said[0]
    assert "1 channel constant" in said[0]
    assert has(picture, _colours.CONSTANT)


def test_a_volume_too_large_to_draw_whole_says_what_it_left_out(said):
    picture = render.slices(np.arange(40_000.0).reshape(1, 1, -1))
    assert max(picture.shape) < 17_000
    assert "1 in 3 rows, 1 in 3 columns" in said[0]


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((0, 2, 2)), np.zeros((2, 0, 3, 4)), np.zeros((1, 1, 1)), np.full((2, 2, 2), 7.0),
        np.full((2, 2, 2), np.nan), np.full((2, 3, 4), np.inf), np.ones((2, 3, 4), bool),
        np.arange(24, dtype=np.float16).reshape(2, 3, 4) * 2000, np.ones((2, 3, 4)) * 1j,
        np.arange(24.0).reshape(2, 3, 4) * 5e-324, np.arange(24.0).reshape(2, 3, 4) * 1e306 - 9e306,
        torch.eye(4, dtype=torch.bfloat16)[None], np.arange(600.0).reshape(300, 2, 1),
        np.ones((300, 2, 2, 2)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [None, "projection"])
def test_any_volume_gives_a_picture_without_a_warning(values, at):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (render.slices(values, at=at, title="t", caption="c") for _ in range(2))
    assert first.dtype == np.uint8
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("at", [(0, 0), (4, 0, 0), (0, -6, 0), (0, 0, 0, 0), "mid", 3])
def test_the_point_must_be_inside(at):
    with pytest.raises(ValueError, match=r"at must be a point \(d, h, w\) inside \(4, 5, 6\), '"):
        render.slices(np.zeros((4, 5, 6)), at=at)


@pytest.mark.parametrize(
    ("shape", "remedy"), [((2, 3), "use render.map"), ((1, 2, 3, 4, 5), "pick a sample")]
)
def test_another_rank_is_an_error_with_a_remedy(shape, remedy):
    with pytest.raises(ValueError, match=rf"must have shape \(C, D, H, W\), got .*; {remedy}"):
        render.slices(np.zeros(shape))


def test_axes_stand_beside_each_of_the_planes(rng, monkeypatch):
    given = []
    ruled = _slices.ruled
    monkeypatch.setattr(_slices, "ruled", lambda *words: given.append(words[1:]) or ruled(*words))
    axes = ("depth", render.Axis("inline", 12.5, unit="m"), "crossline")
    picture = render.slices(rng.normal(size=(2, 4, 5, 6)), axes=axes)
    assert picture.shape > render.slices(rng.normal(size=(2, 4, 5, 6))).shape
    assert len(given) == 2
    down, across = given[0]
    assert [(ruler.axis.name, ruler.places) for ruler in down] == [("inline", 5), ("depth", 4)]
    assert [(ruler.axis.name, ruler.places) for ruler in across] == [("crossline", 6), ("depth", 4)]
    zoom = down[0].pixels // 5
    assert [ruler.start for ruler in down] == [0, 5 * zoom + _slices._GAP]


@pytest.mark.parametrize("axes", [("depth", "row"), "depth"])
def test_axes_of_a_volume_are_three(axes):
    with pytest.raises(ValueError, match="axes must be three, of depth, rows and columns"):
        render.slices(np.zeros((2, 3, 4)), axes=axes)
