"""The reference of the command line is what ``--help`` says.

To write the page anew after a change of the commands:

    .venv/bin/python tests/unit/cli/test_reference_page.py
"""

import io
from pathlib import Path

import pytest
from cyclopts import App
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


def list_commands(above: App = app) -> list[tuple[str, ...]]:
    """The words of the commands, in the order of their help, each before those inside it."""
    found: list[tuple[str, ...]] = []
    for name in sorted(name for name in above if not name.startswith("-")):
        found += [(name,), *((name, *words) for words in list_commands(above[name]))]
    return found


def title(words: tuple[str, ...]) -> str:
    """What a user types for a command."""
    return " ".join(["stratascope", *words])


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
        f"{'#' * (1 + len(words))} {title(words)}\n\n```text\n{read_help(*words)}\n```\n"
        for words in list_commands()
    ]
    return "\n".join([HEAD, f"```text\n{read_help()}\n```\n", *sections])


def test_the_page_says_what_help_says():
    assert PAGE.read_text(encoding="utf-8") == write_page(), (
        "docs/reference/cli.md is not what --help says; write it anew with "
        "`.venv/bin/python tests/unit/cli/test_reference_page.py`"
    )


@pytest.mark.parametrize("words", list_commands(), ids=" ".join)
def test_every_command_has_a_section(words):
    assert f"# {title(words)}\n" in PAGE.read_text(encoding="utf-8")


def test_the_page_is_plain_text_of_a_fixed_width():
    lines = write_page().splitlines()

    assert max(len(line) for line in lines) <= 100
    assert not any("\x1b" in line for line in lines)


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
