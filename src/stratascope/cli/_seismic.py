"""``stratascope seismic``: the commands of the seismic benchmark."""

from cyclopts import App

_COMMANDS = {
    "info": (
        "info:info",
        "Show what a folder of OpenFWI's data holds, and what of it is missing or broken.",
    ),
    "train": ("train:train", "Train a network on the training files of a family."),
    # A module or function of the name test would be taken for one.
    "test": ("score:score_network", "Score a network on the test files of a family."),
    "simulate": (
        "simulate:simulate",
        "Simulate seismic data and velocity maps like those of CurveFault-A.",
    ),
    "benchmark": (
        "benchmark:benchmark",
        "Train InversionNet and ReconstructionNet alike, and report how they do.",
    ),
}

seismic = App(
    name="seismic",
    help="Train and test networks that turn seismic data into velocity maps.",
    help_format="plaintext",
)
for _name, (_target, _help) in _COMMANDS.items():
    seismic.command(f"stratascope.cli._seismic_{_target}", name=_name, help=_help)
