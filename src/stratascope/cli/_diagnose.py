"""``stratascope diagnose``: commands of its own, each in a module of its own."""

from cyclopts import App

_COMMANDS = {
    "landscape": "Measure metrics over a line or a plane through a network's parameters.",
    "curvature": "Measure eigenvalues, trace and density of a loss's Hessian, and its sharpness.",
}

diagnose = App(
    name="diagnose",
    help="Look at what training does: landscapes and curvature around a network.",
    help_format="plaintext",
)
for _name, _help in _COMMANDS.items():
    diagnose.command(f"stratascope.cli._diagnose_{_name}:{_name}", name=_name, help=_help)
