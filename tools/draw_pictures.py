"""Draw the pictures of the documentation: run the pages that save them, and keep what they show.

A page below shows `../images/NAME.png` beside the block that saves `NAME.png`.

Usage: python tools/draw_pictures.py
"""

import contextlib
import re
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
PAGES = [ROOT / "docs/how-to/draw-signals-volumes-and-tokens.md"]

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"\(\.\./images/([\w-]+\.png)\)")


def draw(page: Path) -> dict[str, bytes]:
    """Run the blocks of a page in an empty folder; give the files that it shows by name."""
    import torch

    torch.manual_seed(0)
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec("\n".join(_BLOCK.findall(text)), {"__name__": "page"})
        return {name: Path(name).read_bytes() for name in _SHOWN.findall(text)}


if __name__ == "__main__":
    for page in PAGES:
        for name, content in draw(page).items():
            (IMAGES / name).write_bytes(content)
            print(f"docs/images/{name}")
