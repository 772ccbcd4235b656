import numpy as np
import pytest

from stratascope.render import _colours
from stratascope.render._oklab import oklab_to_srgb, srgb_to_oklab


def lab(table):
    return srgb_to_oklab(table / 255)


def test_the_sequential_table_only_gets_lighter():
    assert (np.diff(lab(_colours.sequential())[:, 0]) > 0).all()


def test_equal_steps_along_a_table_look_equal():
    half = len(_colours.diverging()) // 2
    tables = [_colours.sequential(), _colours.grey()]
    for two_sided in (_colours.diverging(), _colours.red_blue()):
        tables += [two_sided[:half], two_sided[half:]]
    for table in tables:
        # Twelve levels at a time, since one step is near the rounding to bytes.
        steps = np.linalg.norm(lab(table)[12:] - lab(table)[:-12], axis=1)
        assert steps.max() / steps.min() < 1.5


@pytest.mark.parametrize("table", [_colours.diverging, _colours.red_blue])
def test_a_diverging_table_is_symmetric_in_lightness_about_a_light_neutral(table):
    colours = lab(table())
    middle = len(colours) // 2
    np.testing.assert_allclose(colours[:, 0], colours[::-1, 0], atol=4e-3)
    assert (np.diff(colours[: middle + 1, 0]) > 0).all()
    assert colours[middle, 0] > 0.95
    np.testing.assert_allclose(colours[middle, 1:], 0, atol=1e-3)


def test_the_ends_of_the_diverging_table_differ_for_the_colour_blind():
    # The b axis runs from blue to yellow, which red-green blindness leaves intact.
    colours = lab(_colours.diverging())
    assert colours[0, 2] < -0.08
    assert colours[-1, 2] > 0.06


@pytest.mark.parametrize(
    "path", [_colours._SEQUENTIAL, _colours._BLUE, _colours._ORANGE, _colours._RED]
)
def test_every_path_stays_in_gamut(path):
    lightness = (
        _colours._SEQUENTIAL_LIGHTNESS
        if path is _colours._SEQUENTIAL
        else _colours._DIVERGING_LIGHTNESS
    )
    t = np.linspace(0, 1, 500)
    light = lightness[0] + (lightness[1] - lightness[0]) * t
    srgb = oklab_to_srgb(np.column_stack([light, _colours._path(path, t)]))
    assert srgb.min() >= 0
    assert srgb.max() <= 1


def test_grey_runs_from_white_to_black_without_a_tint():
    colours = _colours.grey()
    assert (colours == colours[:, :1]).all()
    assert colours[0, 0] > 245
    assert colours[-1, 0] < 25


def test_a_table_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        _colours.sequential()[0] = 0


def test_marks_stand_apart_from_every_colour_of_the_tables():
    tables = np.concatenate(
        [_colours.sequential(), _colours.diverging(), _colours.red_blue(), _colours.grey()]
    )
    for mark in (_colours.PLUS_INFINITY, _colours.MINUS_INFINITY):
        distance = np.linalg.norm(lab(tables) - lab(np.array(mark)), axis=1)
        assert distance.min() > 0.06
