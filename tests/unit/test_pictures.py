"""The pictures in the documentation are what the blocks beside them draw."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def load_tool():
    spec = importlib.util.spec_from_file_location("draw_pictures", ROOT / "tools/draw_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.mark.parametrize("page", tool.PAGES, ids=lambda page: page.stem)
def test_the_pictures_of_a_page_are_what_it_draws(page):
    drawn = tool.draw(page)

    assert drawn
    for name, content in drawn.items():
        with Image.open(io.BytesIO(content)) as new, Image.open(tool.IMAGES / name) as kept:
            assert new.size == kept.size, f"{name}: run python tools/draw_pictures.py"
            different = (np.asarray(new) != np.asarray(kept)).any(-1).mean()
        # Another processor may round a value on the edge between two colours to the other side.
        assert different < 1e-3, f"{name}: run python tools/draw_pictures.py"


def test_the_pictures_are_small():
    for page in tool.PAGES:
        for name in tool._SHOWN.findall(page.read_text(encoding="utf-8")):
            assert (tool.IMAGES / name).stat().st_size < 120_000
