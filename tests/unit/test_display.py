import base64
import io
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import stratascope as ss
from stratascope._display import add_picture, draw_png
from stratascope.store import read_channels

LIMIT = 1_000_000


@pytest.fixture
def drawn(monkeypatch):
    """What was handed to the renderer last."""
    told = {}
    strip = ss.render.strip

    def listen(layers, **arguments):
        told.update(arguments, layers=layers)
        return strip(layers, **arguments)

    monkeypatch.setattr(ss.render, "strip", listen)
    return told


def picture_of(html):
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def capture(layers=3, channels=4, size=16):
    model = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1))
    for _ in range(layers - 1):
        model.append(nn.Conv2d(channels, channels, 3, padding=1))
    with ss.tap(model, "**") as acts:
        model(torch.randn(2, 1, size, size))
    return acts


def test_activations_show_their_layers_and_the_table(drawn):
    acts = capture()
    html = acts._repr_html_()
    assert picture_of(html).width > 300
    assert "(2, 4, 16, 16) float32" in html
    assert list(drawn["layers"]) == ["0", "1", "2"]
    assert (drawn["layers"]["1"] == acts["1"][0]).all()
    assert drawn["caption"] == "the first of the samples, axis 1 for the channels"
    assert Image.open(io.BytesIO(acts._repr_png_())).size == picture_of(html).size


def test_what_is_left_out_is_said(drawn):
    html = capture(layers=20)._repr_html_()
    assert len(drawn["layers"]) == 8
    assert "8 of 20 sites" in drawn["caption"]
    assert len(html) < LIMIT
    capture(layers=1, channels=600, size=200)._repr_png_()
    assert drawn["layers"]["0"].shape == (200, 100, 100)
    assert "of large layers not every channel and position" in drawn["caption"]


def test_a_picture_that_compresses_badly_is_drawn_smaller(drawn, monkeypatch):
    noise = np.random.default_rng(0).normal(size=(8, 9, 128, 128))
    layers = [(str(k), lambda k=k: noise[k]) for k in range(8)]
    monkeypatch.setattr("stratascope._display._MOST_BYTES", 200_000)
    assert len(draw_png(lambda: (layers, "noise"))) < 200_000
    assert drawn["height"] < 120
    monkeypatch.setattr("stratascope._display._MOST_BYTES", 2_000)
    assert draw_png(lambda: (layers, "noise")) is None
    assert add_picture("<table>", lambda: (layers, "noise")) == "<table>"


def test_odd_values_are_shown_or_left_out():
    class Odd(nn.Module):
        def forward(self, x):
            return {"vector": x[:, 0, 0], "scalar": x.sum(), "flags": x > 0, "wave": x * 1j,
                    "nan": x * torch.nan, "six": x[:, None, None], "none": x[:0],
                    "half": x.bfloat16(), "sparse": x.to_sparse(), "text": "hello"}  # fmt: skip

    model = Odd()
    with ss.tap(model, "") as acts:
        model(torch.randn(3, 2, 4, 5))
    assert picture_of(acts._repr_html_()).width > 100
    assert ss.Activations()._repr_png_() is None
    assert "<img" not in ss.Activations()._repr_html_()


def test_a_store_and_its_arrays_show_a_sample(tmp_path, drawn):
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(32, 5))
    data = np.random.default_rng(0).normal(size=(6, 1, 10)).astype("float32")
    store = ss.extract(model, data, "**", to=tmp_path / "a.zarr", progress=False)
    html = store._repr_html_()
    assert picture_of(html).width > 300
    assert "3 sites, 6 samples" in html
    assert list(drawn["layers"]) == ["0", "1", "2"]
    assert drawn["caption"] == "sample 0"
    assert picture_of(store["0"]._repr_html_()).width > 100
    assert (drawn["layers"]["0"] == store["0"][0]).all()
    assert store["2"]._repr_png_().startswith(b"\x89PNG")


def test_of_tokens_the_channels_go_first(tmp_path, drawn):
    model = nn.Sequential(nn.LayerNorm(6))
    store = ss.extract(model, torch.randn(3, 9, 6), "0", to=tmp_path / "a.zarr", progress=False)
    assert store["0"].dims == ("sample", "token", "channel")
    store["0"]._repr_png_()
    assert (drawn["layers"]["0"] == store["0"][0].T).all()


@pytest.mark.filterwarnings("ignore:not stored")
def test_of_the_tokens_of_one_of_several_tensors_the_channels_go_first_too(tmp_path):
    lstm, tokens = nn.LSTM(3, 5, batch_first=True), torch.randn(4, 11, 3)
    store = ss.extract(lstm, tokens, "model", to=tmp_path / "acts.zarr", progress=False)
    array = store["model"]["0"]

    np.testing.assert_array_equal(read_channels(array, 2), array[2].T)


def test_a_damaged_store_says_why_it_shows_nothing(tmp_path):
    model, data = nn.Conv1d(1, 4, 3), np.ones((6, 1, 10), "float32")
    store = ss.extract(model, data, "model", to=tmp_path / "a.zarr", progress=False)
    array = store["model"]
    for path in (tmp_path / "a.zarr").rglob("c"):
        shutil.rmtree(path)
    assert array._repr_png_() is None
    assert store._repr_png_() is None
    assert "no picture: it could not be drawn (StoreError)" in array._repr_html_()
    assert "no picture: it could not be drawn (StoreError)" in store._repr_html_()


def test_what_captures_and_stores_does_not_import_what_draws():
    code = (
        "import sys, stratascope.capture, stratascope.store; "
        "sys.exit('stratascope.render' in sys.modules or 'PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
