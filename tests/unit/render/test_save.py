import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stratascope.render import Scale, read_provenance, save

PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def test_a_saved_picture_is_read_back_pixel_by_pixel(tmp_path):
    path = save(PICTURE, tmp_path / "new" / "folder" / "a.png")
    assert path == tmp_path / "new" / "folder" / "a.png"
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), PICTURE)


def test_a_picture_carries_its_provenance(tmp_path):
    scale = Scale(-1, 1, diverging=True)
    facts = {"site": "enc.3", "sample": np.int64(17), "path": Path("x"), "scale": scale}
    path = save(PICTURE, tmp_path / "a.png", **facts, model="größe", gap=float("nan"))
    with Image.open(path) as image:
        chunks = image.info
    assert chunks["Software"].startswith("stratascope ")
    assert chunks["site"] == "enc.3"
    assert chunks["sample"] == "17"
    assert chunks["model"] == "größe"
    assert json.loads(chunks["scale"])["diverging"] is True
    read = read_provenance(path)
    assert read["scale"]["low"] == -1
    assert (read["sample"], read["path"], read["gap"]) == (17, "x", "nan")


def test_the_same_picture_makes_the_same_file(tmp_path):
    one = save(PICTURE, tmp_path / "a.png", site="s")
    two = save(PICTURE, tmp_path / "b.png", site="s")
    assert one.read_bytes() == two.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = save(PICTURE, tmp_path / "a.png")
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save(PICTURE, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "picture",
    [PICTURE.astype(float), PICTURE[..., 0], PICTURE[..., :2], PICTURE[:0], PICTURE[:, :0]],
)
def test_anything_but_a_picture_is_refused(tmp_path, picture):
    with pytest.raises(ValueError, match=r"picture must be uint8 of shape \(h, w, 3\), got .*; d"):
        save(picture, tmp_path / "a.png")


def test_only_png_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in '\.png', got .*a\.jpg"):
        save(PICTURE, tmp_path / "a.jpg")


@pytest.mark.parametrize("key", ["Software", "stratascope", "ä", "k" * 80])
def test_a_keyword_that_no_chunk_can_have_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match="a provenance keyword must be"):
        save(PICTURE, tmp_path / "a.png", **{key: "x"})


def test_a_picture_of_others_has_no_provenance(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"must be a picture written by render\.save"):
        read_provenance(tmp_path / "a.png")
    (tmp_path / "nets.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"nets\.py' must be a picture written by render\.save"):
        read_provenance(tmp_path / "nets.py")
