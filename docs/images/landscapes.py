"""Draw the pictures of docs/how-to/look-at-a-loss-landscape.md anew: its blocks, with finer grids.

Usage: python docs/images/landscapes.py
"""

import contextlib
import re
import tempfile
from pathlib import Path

import torch
from PIL import Image

HERE = Path(__file__).parent
PAGE = HERE.parent / "how-to/look-at-a-loss-landscape.md"
PICTURES = ("landscape.png", "trajectory.png", "tradeoffs.png", "curvature.png")

if __name__ == "__main__":
    blocks = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    finer = {"steps=5, span": "steps=17, span", "plane, steps=5": "plane, steps=17"}
    code = "\n".join(blocks)
    for quick, fine in finer.items():
        code = code.replace(quick, fine)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(code, {"__name__": "page"})
        for name in PICTURES:
            # A few colours are enough; by coverage, or a red star among greens would be lost.
            Image.open(name).convert("RGB").quantize(200, Image.Quantize.MAXCOVERAGE).save(
                HERE / name, optimize=True
            )
