"""The reference of the command line is what ``--help`` says.

To write the page anew after a change of the commands:

    .venv/bin/python tests/unit/cli/test_reference_page.py
"""

import io
from pathlib import Path

import pytest
from rich.console import Console

from stratascope.cli import app

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
WIDTH = 88

HEAD = """# Command line

What `--help` says, command by command. How to name models, data and sites, with examples, is in
[Use the command line](../how-to/use-the-command-line.md).

Exit codes: 0 when all went well, 1 when it failed, 2 when the command line was wrong. `--debug`
anywhere shows the traceback of an error. `--json` prints for programs; notes, progress and errors
go to standard error.
"""


def list_commands() -> list[str]:
    """The names of the commands, in the order of their help."""
    return sorted(name for name in app if not name.startswith("-"))


def read_help(*words: str) -> str:
    """The help of a command as it is printed, at a fixed width and without colours."""
    screen = io.StringIO()
    console = Console(
        file=screen, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False
    )
    app.help_print(list(words), console=console)
    return "\n".join(line.rstrip() for line in screen.getvalue().strip().splitlines())


def write_page() -> str:
    """The page as it should be."""
    sections = [
        f"## stratascope {name}\n\n```text\n{read_help(name)}\n```\n" for name in list_commands()
    ]
    return "\n".join([HEAD, f"```text\n{read_help()}\n```\n", *sections])


def test_the_page_says_what_help_says():
    assert PAGE.read_text(encoding="utf-8") == write_page(), (
        "docs/reference/cli.md is not what --help says; write it anew with "
        "`.venv/bin/python tests/unit/cli/test_reference_page.py`"
    )


@pytest.mark.parametrize("name", list_commands())
def test_every_command_has_a_section(name):
    assert f"\n## stratascope {name}\n" in PAGE.read_text(encoding="utf-8")


def test_the_page_is_plain_text_of_a_fixed_width():
    lines = write_page().splitlines()

    assert max(len(line) for line in lines) <= 100
    assert not any("\x1b" in line for line in lines)


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
