"""``stratascope seismic``: the commands of the seismic benchmark."""

from cyclopts import App

_COMMANDS = {
    "info": "Show what a folder of OpenFWI's data holds, and what of it is missing or broken.",
}

seismic = App(
    name="seismic",
    help="Train and test networks that turn seismic data into velocity maps.",
    help_format="plaintext",
)
for _name, _help in _COMMANDS.items():
    seismic.command(f"stratascope.cli._seismic_{_name}:{_name}", name=_name, help=_help)
