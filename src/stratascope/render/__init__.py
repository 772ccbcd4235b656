"""Arrays in, pictures out: uint8 `(h, w, 3)` with range, channel numbers and caption.

>>> from stratascope import render
>>> render.map([[0.0, 1.0], [2.0, 3.0]]).shape[2]
3
"""

from stratascope.render._animate import animate
from stratascope.render._axes import Axis
from stratascope.render._basis import ColorBasis
from stratascope.render._difference import difference
from stratascope.render._fidelity import Fidelity
from stratascope.render._fit import FitOptions, fit_bases, fit_basis
from stratascope.render._gather import gather
from stratascope.render._grid import grid
from stratascope.render._line import line
from stratascope.render._map import map
from stratascope.render._overlay import overlay
from stratascope.render._rgb import rgb
from stratascope.render._save import read_provenance, save
from stratascope.render._scale import Scale, fit_scale
from stratascope.render._slices import slices
from stratascope.render._spectrogram import spectrogram
from stratascope.render._strip import strip
from stratascope.render._tokens import tokens
from stratascope.render._wiggle import wiggle

__all__ = [
    "Axis",
    "ColorBasis",
    "Fidelity",
    "FitOptions",
    "Scale",
    "animate",
    "difference",
    "fit_bases",
    "fit_basis",
    "fit_scale",
    "gather",
    "grid",
    "line",
    "map",
    "overlay",
    "read_provenance",
    "rgb",
    "save",
    "slices",
    "spectrogram",
    "strip",
    "tokens",
    "wiggle",
]
