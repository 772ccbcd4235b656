import numpy as np
import pytest

from stratascope import render
from stratascope.render import _colours, _page
from stratascope.render._oklab import srgb_to_oklab


@pytest.fixture
def said(monkeypatch):
    told = {}

    def listen(body, **arguments):
        told.update(arguments, body=body[1:-1, 1:-1], text=" · ".join(arguments["notes"]))
        return _page.compose(body, **arguments)

    monkeypatch.setattr("stratascope.render._overlay.compose", listen)
    return told


def test_the_map_covers_the_input_evenly(said):
    values = np.array([[0.0, 1.0], [2.0, 3.0]])
    render.overlay(values, np.zeros((64, 64)), opacity=1.0, scale=render.Scale(0, 3))
    body = said["body"]
    half = body.shape[0] // 2
    for row in (0, 1):
        for column in (0, 1):
            block = body[row * half : (row + 1) * half, column * half : (column + 1) * half]
            assert (block == block[0, 0]).all()
    # All of the lightness is then the map's, and so are hue and colourfulness.
    assert np.abs(body[0, 0].astype(int) - _colours.sequential()[0]).max() <= 1
    assert np.abs(body[-1, -1].astype(int) - _colours.sequential()[-1]).max() <= 1
    assert "map 2 x 2 on input 64 x 64" in said["text"]


def test_the_lightness_of_the_input_shows_through(said):
    ramp = np.tile(np.arange(32.0), (32, 1))
    render.overlay(np.ones((4, 4)), ramp, opacity=0.5)
    lightness = srgb_to_oklab(said["body"][0] / 255)[:, 0]
    assert (np.diff(lightness) >= -1e-9).all()
    assert lightness[-1] - lightness[0] > 0.3
    render.overlay(np.eye(4), ramp, opacity=0.0)
    assert np.ptp(said["body"], axis=2).max() <= 1


def test_position_and_receptive_field_are_framed(said):
    ramp = np.arange(256.0).reshape(16, 16)
    arguments = {"scale": render.Scale(0, 255), "opacity": 0.5}
    render.overlay(ramp[::4, ::4], ramp, **arguments)
    plain = said["body"]
    render.overlay(ramp[::4, ::4], ramp, at=(1, 2), box=(range(-1, 11), (4, 16)), **arguments)
    framed = said["body"]
    zoom = plain.shape[0] // 16
    rows, columns = np.nonzero((plain != framed).any(2))
    assert rows.max() == 11 * zoom - 1
    assert columns.max() == 16 * zoom - 1
    assert columns.min() == 4 * zoom
    assert tuple(framed[11 * zoom - 2, 6 * zoom]) == _colours.PAPER
    assert tuple(framed[4 * zoom + 1, 9 * zoom]) == _colours.PAPER
    assert "at 1, 2: 72" in said["text"]
    assert (
        "box: rows -1 to 10, columns 4 to 15 (12 x 12), part of it beyond the rim" in said["text"]
    )


def test_what_is_not_finite_is_seen(said):
    values = np.arange(16.0).reshape(4, 4)
    values[0, 0], values[1, 1] = np.nan, np.inf
    below = np.arange(64.0).reshape(8, 8)
    below[0] = np.nan
    render.overlay(values, below)
    assert (said["scale"].nans, said["scale"].plus_infs) == (1, 1)
    for odd in (np.full((3, 3), np.nan), np.full((3, 3), 1e308), np.zeros((1, 1))):
        render.overlay(odd, odd)
        render.overlay(odd, np.stack([odd] * 3))


def test_wrong_arguments_are_refused():
    values = np.ones((4, 4))
    for arguments, message in (
        ({"values": np.ones((3, 4, 4))}, r"values must have shape \(H, W\)"),
        ({"on": np.ones(4)}, r"on must have shape \(H, W\)"),
        ({"on": np.ones((0, 4))}, r"on must have shape \(H, W\)"),
        ({"on": np.ones((1, 3000))}, "thin it"),
        ({"opacity": 2}, "opacity must be from 0 to 1"),
        ({"at": (4, 0)}, "at must be a position"),
        ({"box": (range(3), range(0))}, "box must be rows and columns"),
        ({"box": (range(3),)}, "box must be rows and columns"),
    ):
        with pytest.raises(ValueError, match=message):
            render.overlay(**{"values": values, "on": values, **arguments})
