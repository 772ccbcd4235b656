import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from stratascope import render
from stratascope.errors import MissingExtraError
from stratascope.render._animate import _find_encoder


def read(path):
    with Image.open(path) as image:
        return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def few(seed, shape=(20, 30)):
    palette = np.random.default_rng(0).integers(0, 256, (40, 3), np.uint8)
    return palette[np.random.default_rng(seed).integers(0, 40, shape)]


def many(seed, size=64):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def test_pictures_of_few_colours_come_back_as_they_were(tmp_path):
    frames = [few(seed) for seed in range(4)]
    path = render.animate(frames, tmp_path / "a.gif", milliseconds=200)
    assert (np.array(read(path)) == frames).all()
    with Image.open(path) as image:
        assert image.info["duration"] == 200
        assert image.info["loop"] == 0


def test_a_colour_is_the_same_in_all_frames(tmp_path):
    """Not so where each frame has a palette of its own, as by Pillow alone."""
    frames = [many(seed) for seed in range(3)]
    for frame in frames:
        frame[:8, :8] = 90, 120, 33
    shown = read(render.animate(frames, tmp_path / "a.gif"))
    assert len({tuple(pixel) for frame in shown for pixel in frame[:8, :8].reshape(-1, 3)}) == 1
    assert np.abs(np.array(shown).astype(int) - frames).max() < 90
    assert len(np.unique(np.concatenate(shown).reshape(-1, 3), axis=0)) <= 256


def test_it_tells_where_it_comes_from(tmp_path):
    scale = render.Scale(0, 1)
    path = render.animate([few(0)], tmp_path / "a.gif", site="enc.3", scale=scale, text="é" * 300)
    with Image.open(path) as image:
        told = json.loads(image.info["comment"])
    assert (told["site"], told["scale"]["high"], len(told["text"])) == ("enc.3", 1, 300)


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    for name in ("a.gif", "b.gif"):
        render.animate((many(seed) for seed in range(3)), tmp_path / name, site="x")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_smaller_pictures_are_filled_up_with_white(tmp_path):
    frames = [few(0, (20, 30)), few(1, (11, 8))]
    first, second = read(render.animate(frames, tmp_path / "a.gif"))
    assert first.shape == second.shape == (20, 30, 3)
    assert (second[:11, :8] == frames[1]).all()
    assert (second[11:] == 255).all()
    assert (second[:, 8:] == 255).all()


def test_an_mp4_is_near_to_the_pictures(tmp_path):
    frames = [render.map(np.arange(64.0).reshape(8, 8) * k) for k in (1, 2, 3)]
    path = render.animate(frames, tmp_path / "a.mp4", milliseconds=100, site="enc.3")
    encoder = _find_encoder()
    command = [encoder, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    height, width = (size + size % 2 for size in frames[0].shape[:2])
    shown = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    assert len(shown) == 3
    for frame, given in zip(shown, frames, strict=True):
        away = frame[: given.shape[0], : given.shape[1]].astype(int) - given
        assert np.abs(away).mean() < 6


def test_without_an_encoder_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match=r"needs imageio_ffmpeg.*stratascope\[video\]"):
        render.animate([few(0)], tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_fails_is_told(tmp_path, tmp_path_factory, monkeypatch):
    failing = tmp_path_factory.mktemp("bin") / "ffmpeg"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(failing))
    with pytest.raises(OSError, match=r"ffmpeg must write .*a.mp4, got: .* write a .gif instead"):
        render.animate([few(0)], tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one, got none"):
        render.animate([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"must end in '.gif' or '.mp4', got '.*a.png'"):
        render.animate([few(0)], tmp_path / "a.png")
    with pytest.raises(ValueError, match="milliseconds must be from 20"):
        render.animate([few(0)], tmp_path / "a.gif", milliseconds=0)
    with pytest.raises(ValueError, match="picture must be uint8"):
        render.animate([np.ones((4, 4))], tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
