"""``stratascope diagnose``: commands of its own, each in a module of its own."""

from cyclopts import App

_COMMANDS = {
    "landscape": "Measure metrics over a line or a plane through a network's parameters.",
    "curvature": "Measure eigenvalues, trace and density of a loss's Hessian, and its sharpness.",
    "lr": "Train at every learning rate of a grid, and say how each metric takes it.",
    "optimizers": "Compare optimizers, each at the learning rate that a search found for it.",
}

diagnose = App(
    name="diagnose",
    help="Look at what training does: landscapes, curvature, learning rates, optimizers.",
    help_format="plaintext",
)
for _name, _help in _COMMANDS.items():
    diagnose.command(f"stratascope.cli._diagnose_{_name}:{_name}", name=_name, help=_help)
