import importlib
import pkgutil

import numpy as np
import pytest

from stratascope import render


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def said(monkeypatch):
    """The notes of each picture made, which are drawn as its caption."""
    texts = []
    page = importlib.import_module("stratascope.render._page")
    compose = page.compose

    def listen(*arguments, **options):
        texts.append(" · ".join(filter(None, options["notes"])))
        return compose(*arguments, **options)

    for found in pkgutil.iter_modules(render.__path__, "stratascope.render."):
        module = importlib.import_module(found.name)
        if getattr(module, "compose", None) is compose:
            monkeypatch.setattr(module, "compose", listen)
    return texts


@pytest.fixture
def has():
    """Whether a picture has a pixel of a colour."""
    return lambda picture, colour: bool((picture == np.array(colour, np.uint8)).all(-1).any())
