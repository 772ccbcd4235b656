"""Draw the pictures of several panels in the documentation anew, with the networks of the tests.

Usage: python docs/images/sheets.py
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import pictured
import stratascope as ss
from stratascope import render
from stratascope.capture import receptive_field

HERE = Path(__file__).parent


def strip() -> None:
    """A photograph through a network that was trained on others."""
    deep = pictured.layers("EfficientNet-Lite0")
    names = {f"block {site.rpartition('.')[2]}": maps for site, maps in deep.items()}
    picture = render.strip(
        {name: maps.unseen[0] for name, maps in names.items()},
        input=pictured.photographs(224)[-pictured.UNSEEN],
        basis={name: render.fit_basis(maps.fit) for name, maps in names.items()},
        title="A photograph through EfficientNet-Lite0",
    )
    render.save(picture, HERE / "strip.png", network="EfficientNet-Lite0")


def steps() -> None:
    """A layer while its network learns."""
    told = {"network": "Colouriser", "site": "c2"}
    found = {}
    for snapshot in (0, 1, 3, 7):
        model, pictures = pictured.colouriser(snapshot)
        with ss.tap(model, "c2") as acts, torch.no_grad():
            model(pictures)
        found[12 * (snapshot + 1)] = acts["c2"].numpy()
    bases = render.fit_bases({step: maps[: -pictured.UNSEEN] for step, maps in found.items()})
    panels = {f"step {step}": maps[-pictured.UNSEEN] for step, maps in found.items()}
    basis = next(iter(bases.values()))
    picture = render.strip(panels, basis=basis, title="The second convolution, step by step")
    render.save(picture, HERE / "steps.png", **told)
    first, *_, last = panels
    picture = render.difference(panels[first], panels[last], names=(first, last), basis=basis)
    render.save(picture, HERE / "difference.png", **told)


def overlay() -> None:
    """How strong a layer is, on the photograph, and what one position can have seen of it."""
    model, pictures = pictured.colouriser()
    photograph = pictures[-pictured.UNSEEN :][:1]
    with ss.tap(model, "r4") as acts, torch.no_grad():
        model(photograph)
    strength = acts["r4"][0].square().mean(0).sqrt()
    row, column = divmod(int(strength.argmax()), strength.shape[1])
    box = receptive_field(model, "r4", example=(photograph,), position=(row, column))
    picture = render.overlay(
        strength, photograph[0], at=(row, column), box=box, title="Strength of the last ReLU"
    )
    render.save(picture, HERE / "overlay.png", network="Colouriser", site="r4")


if __name__ == "__main__":
    strip()
    steps()
    overlay()
