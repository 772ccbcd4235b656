"""Draw the pictures of the page 'From channels to colours' anew, with the networks of the tests.

Usage: python docs/images/colours.py
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import pictured
from stratascope import render

HERE = Path(__file__).parent


def beside(*pages: np.ndarray) -> np.ndarray:
    """Put pages side by side."""
    height = max(len(page) for page in pages)
    padded = [
        np.pad(page, ((0, height - len(page)), (0, 0), (0, 0)), constant_values=255)
        for page in pages
    ]
    return np.concatenate(padded, axis=1)


def write(name: str, picture: np.ndarray) -> None:
    """Write a picture."""
    Image.fromarray(picture).save(HERE / name, optimize=True)


def stacked(*rows: np.ndarray) -> np.ndarray:
    """Put rows of pages below each other."""
    wide = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, wide - row.shape[1]), (0, 0)), constant_values=255) for row in rows
    ]
    return np.concatenate(padded)


def photograph(title: str) -> np.ndarray:
    """Put the cat on a page like those of its maps."""
    page = render.map(np.zeros((384, 384)), title=title)
    pixels = pictured.photographs(192)[-pictured.UNSEEN].permute(1, 2, 0).numpy() * 255
    pixels = pixels.repeat(2, 0).repeat(2, 1)
    page[50:] = 255
    page[51 : 51 + 384, 21 : 21 + 384] = pixels.round().astype(np.uint8)
    return page


def main() -> None:
    """Draw them all."""
    layer = pictured.layers("Colouriser")["c2"]
    basis = render.fit_basis(layer.fit)
    samples = {"cat": layer.unseen[0], "motorcycle": layer.unseen[3]}
    cat = samples["cat"]
    write(
        "colours-channel-0.png",
        beside(
            photograph("A photograph"),
            render.map(cat[0], title="Channel 0 of 32"),
            render.rgb(cat, basis=basis, title="All 32 channels"),
        ),
    )
    alone = [render.rgb(maps, title=f"{name}, fitted alone") for name, maps in samples.items()]
    shared = [
        render.rgb(maps, basis=basis, title=f"{name}, one basis") for name, maps in samples.items()
    ]
    write("colours-basis.png", stacked(beside(*alone), beside(*shared)))
    methods = ("pca-vivid", "nmf", "kmeans", "argmax-hue", "energy", "spectral")
    pages = [
        render.rgb(cat, basis=render.fit_basis(layer.fit, method=method), title=method)
        for method in methods
    ]
    write("colours-methods.png", stacked(beside(*pages[:3]), beside(*pages[3:])))
    deep = pictured.layers("EfficientNet-Lite0")
    pages = [
        render.rgb(maps.unseen[0], basis=render.fit_basis(maps.fit), title=title)
        for title, maps in (
            ("Block 1, 24 channels", deep["_blocks.1"]),
            ("Block 10, 112 channels", deep["_blocks.10"]),
        )
    ]
    write("colours-trust.png", beside(*pages))


if __name__ == "__main__":
    main()
