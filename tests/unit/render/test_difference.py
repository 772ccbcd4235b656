import numpy as np
import pytest

from stratascope import render
from stratascope.render import _colours, _page
from stratascope.render._panels import lay_out


@pytest.fixture
def said(monkeypatch):
    told = {}

    def listen(body, **arguments):
        told.update(arguments, text=" · ".join(filter(None, arguments["notes"])))
        return _page.compose(body, **arguments)

    def see(panels, **arguments):
        told["panels"] = [panel.pixels[1:-1, 1:-1] for panel in panels]
        return lay_out(panels, **arguments)

    monkeypatch.setattr("stratascope.render._difference.compose", listen)
    monkeypatch.setattr("stratascope.render._difference.lay_out", see)
    return told


def test_single_maps_share_a_range_and_the_difference_is_symmetric(said):
    first = np.linspace(0, 4, 240 * 240).reshape(240, 240)
    second = first + 1
    second[0, 0] = first[0, 0] - 3
    render.difference(first, second, single=True)
    assert said["text"].startswith("colours of all: 0 to")
    away = said["panels"][2]
    # One is a third of the way up; the lone -3 lies beyond the range, and is counted.
    assert said["key"].low.startswith("-")
    assert said["key"].low.lstrip("-") == said["key"].high
    assert (away[0, 0] == _colours.diverging()[0]).all()
    assert (away[5, 5] == _colours.diverging()[-1]).all()
    assert "largest 3" in said["text"]
    # What is equal in both has one colour in both.
    render.difference(first, first[::-1], single=True)
    assert (said["panels"][0] == said["panels"][1][::-1]).all()
    assert (said["panels"][2][:120] != said["panels"][2][120:]).any()


def test_of_channels_the_length_of_the_difference_is_drawn_from_zero(said):
    rng = np.random.default_rng(0)
    first = rng.normal(size=(8, 24, 24))
    second = first.copy()
    second[:, 3, 4] += 5
    basis = render.fit_basis(first[None])
    render.difference(first, second, basis=basis, names=("step 0", "step 9"))
    assert (said["panels"][0][::10, ::10] == basis.paint(first, axis=0)).all()
    assert (said["panels"][1][::10, ::10] == basis.paint(second, axis=0)).all()
    changed = (said["panels"][2][::10, ::10] != _colours.sequential()[0]).any(2)
    assert changed[3, 4]
    assert changed.sum() == 1
    relative = np.sqrt(8 * 25) / np.linalg.norm(first)
    assert f"largest of one channel 5 · relative L2 {relative:.3f}" in said["text"]


def test_the_two_are_fitted_together_where_no_basis_is_given(said):
    first, second = np.random.default_rng(0).normal(size=(2, 6, 8, 8))
    render.difference(first, second, method="energy")
    basis = render.fit_basis(np.stack([first, second]), method="energy")
    assert f"colours of all: {basis.caption}" in said["text"]


def test_equal_arrays_differ_by_a_constant_nothing(said):
    values = np.random.default_rng(0).normal(size=(6, 8, 8))
    render.difference(values, values)
    assert "difference: constant 0 · largest of one channel 0 · relative L2 0" in said["text"]
    assert (said["panels"][2][0] == _colours.CONSTANT).all()


@pytest.mark.parametrize(
    "values",
    [
        np.full((3, 4, 4), np.nan),
        np.full((3, 4, 4), np.inf),
        np.full((3, 4, 4), 1e308) * np.array([1, -1, 0.5])[:, None, None],
        np.zeros((3, 0, 4)),
        np.zeros((0, 4, 4)),
        np.arange(12).reshape(3, 4).astype(np.uint8),
        np.ones(5),
        np.ones((2, 3, 4, 5)),
        np.full((1, 1, 1), 5e-324),
    ],
)
def test_odd_arrays_are_drawn(values):
    other = np.roll(values[::-1], 1)
    assert render.difference(values, other).dtype == np.uint8
    one = values[0] if len(values) and values.ndim > 1 else values
    assert render.difference(one, one[::-1], single=True).shape[2] == 3


def test_squares_beyond_a_float_are_no_infinities(said):
    first = np.zeros((2, 4, 4))
    second = first + 1e200
    second[0, 0, 0] = 2e200
    render.difference(first, second)
    assert said["legend"] == []
    assert "to 2.17e200" in said["text"]


def test_wrong_arguments_are_refused():
    values = np.ones((3, 4, 4))
    with pytest.raises(ValueError, match="the two must have the same shape"):
        render.difference(values, values[:2])
    with pytest.raises(ValueError, match="two different ones"):
        render.difference(values, values, names=("A", "A"))
    with pytest.raises(ValueError, match="scale must be None where channels"):
        render.difference(values, values, scale=render.Scale(0, 1))
    with pytest.raises(ValueError, match="single=True"):
        render.difference(values[0], values[0], single=True, method="energy")
    with pytest.raises(ValueError, match="B must have shape"):
        render.difference(values, np.ones((2,) * 5))
