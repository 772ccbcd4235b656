import subprocess
import sys

from stratascope import render


def test_the_public_names_are_these():
    assert sorted(render.__all__) == [
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


def test_rendering_imports_no_torch():
    code = "import sys, stratascope.render as r; r.map([[1, 2]]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
