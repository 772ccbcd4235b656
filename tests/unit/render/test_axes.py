import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope import render
from stratascope.render import Axis
from stratascope.render._axes import Ruler, framed, ruled, ticks

steps = st.floats(1e-9, 1e9)


def test_numbers_stand_in_the_middle_of_the_places_that_have_these_values():
    axis = Axis("time", step=0.004, start=1.2, unit="s")
    for pixel, text in ticks(axis, 300, 600, 40):
        place = int(pixel / 600 * 300)
        assert axis.start + axis.step * place == pytest.approx(float(text), abs=axis.step / 2)


def test_what_is_counted_has_whole_numbers():
    assert [text for _, text in ticks(Axis("token"), 3, 300, 30)] == ["0", "1", "2"]


def test_an_axis_may_run_downwards():
    assert ticks(Axis("frequency", -10.0, 20.0), 3, 90, 20) == [(75, "0"), (45, "10"), (15, "20")]


@settings(max_examples=200, deadline=None)
@given(steps, st.floats(-1e5, 1e5), st.integers(1, 5000), st.integers(20, 2000))
def test_numbers_are_inside_apart_and_different(step, start, places, pixels):
    marks = sorted(ticks(Axis("x", step, start * step), places, pixels, 40))
    rows = [row for row, _ in marks]
    assert all(0 <= row < pixels for row in rows)
    assert (np.diff(rows) >= 39).all()
    assert len({text for _, text in marks}) == len(marks)


@pytest.mark.parametrize("step", [5e-324, 1e-300, 1e308])
def test_an_axis_beyond_all_measure_has_no_numbers_or_few(step):
    assert len(ticks(Axis("x", step), 70, 280, 40)) <= 8
    assert render.map(np.arange(12.0).reshape(3, 4), axes=(Axis("x", step), "y")).ndim == 3


@pytest.mark.parametrize("axes", [("a",), "ab", Axis("a"), ("a", "b", "c")])
def test_axes_are_two(axes):
    with pytest.raises(ValueError, match="axes must be two, what runs down and what runs across"):
        render.map(np.eye(3), axes=axes)


def test_a_body_without_axes_stays_as_it_is():
    body = np.zeros((4, 5, 3), np.uint8)
    picture, top = framed(body, None, (4, 5))
    assert picture is body
    assert top == 0


@pytest.mark.parametrize("given", [{"step": 0}, {"step": np.inf}, {"start": np.nan}])
def test_an_axis_must_be_finite_and_move(given):
    with pytest.raises(ValueError, match="must have a finite start and a finite step that is not"):
        Axis("time", **given)


def test_an_axis_is_an_axis_or_a_name():
    with pytest.raises(TypeError, match=r"an axis must be a render\.Axis or a name, got 0\.004"):
        render.map([[0.0, 1.0]], axes=("time", 0.004))


def test_a_name_that_the_font_lacks_is_drawn_by_its_nearest_sign():
    assert render.map([[0.0, 1.0]], axes=("µ → τ", Axis("ω", unit="rad/s"))).ndim == 3


def test_labels_stand_in_the_middle_of_their_places():
    axis = Axis("layer", labels=["in", "enc", "dec"])
    assert ticks(axis, 3, 90, 40) == [(15, "in"), (45, "enc"), (75, "dec")]


def test_of_labels_without_room_one_in_so_many_is_kept():
    axis = Axis("layer", labels=[f"conv{k}" for k in range(100)])
    marks = ticks(axis, 100, 280, 40)
    assert [text for _, text in marks[:3]] == ["conv0", "conv5", "conv10"]
    assert (np.diff([row for row, _ in marks]) >= 14).all()


def test_of_a_long_label_the_middle_is_left_out():
    name = "features.denseblock3.denselayer17.conv2"
    ((_, text),) = ticks(Axis(labels=[name]), 1, 100, 40)
    assert len(text) == 32
    assert text == "features.d…k3.denselayer17.conv2"


def test_an_axis_has_as_many_labels_as_places():
    with pytest.raises(ValueError, match="one for each of the 3 places, got 2"):
        render.map(np.eye(3), axes=(Axis("a", labels=["x", "y"]), "b"))


def test_labels_across_stand_upright_where_they_have_no_room():
    body = np.zeros((60, 120, 3), np.uint8)
    side = [Ruler(Axis(), 1, 0, 60)]
    pages = [
        ruled(body, side, [Ruler(Axis(labels=labels), 3, 0, 120)])[0]
        for labels in (["in", "up", "on"], ["encoder", "decoder", "head"])
    ]
    lying, standing = (page[60:].min(2) < 128 for page in pages)
    assert standing.any(1).sum() > 2 * lying.any(1).sum()
    assert len(pages[1]) > len(pages[0])


def test_two_rulers_of_a_side_follow_each_other():
    body = np.zeros((100, 50, 3), np.uint8)
    down = [Ruler(Axis("row"), 10, 0, 40), Ruler(Axis("depth", 5.0, unit="m"), 10, 60, 40)]
    page, top = ruled(body, down, [Ruler(Axis("x"), 5, 0, 50)])
    left = int(np.flatnonzero((page == 0).all(-1).any(0))[0])
    rows = np.flatnonzero((page[:, left - 1] != 255).any(-1)) - top
    assert [row for row in rows if 0 <= row < 100] == [2, 62]


def test_one_in_so_many_places_keeps_values_and_labels():
    axis = Axis("trace", 25.0, 100.0, "m", labels="abcde").every(2)
    assert axis == Axis("trace", 50.0, 100.0, "m", labels=("a", "c", "e"))
