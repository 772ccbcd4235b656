"""What commands print: aligned text for people, JSON for programs."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self


def print_line(text: str = "") -> None:
    """Print one line on standard output, at once."""
    print(text, flush=True)  # noqa: T201 - this is what a command line does


def print_json(plain: Any) -> None:
    """Print a value as JSON."""
    print_line(json.dumps(plain, indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, nothing cut off; empty headings are left out."""
    table = [headings, *rows] if any(headings) else rows
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print_line("  ".join(cells).rstrip())


def name_size(num_bytes: float) -> str:
    """Write a number of bytes for people.

    >>> name_size(1536), name_size(2_500_000_000)
    ('1.5 kB', '2.5 GB')
    """
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 1000:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} TB"


def name_program() -> str:
    """Give the words that start this program again: its name, or its path where that is not known.

    >>> name_program().endswith("stratascope")
    True
    """
    program = Path(sys.argv[0])
    known = shutil.which("stratascope")
    if program.name != "stratascope" or (known and program.resolve() == Path(known).resolve()):
        return "stratascope"
    return str(program)


class FractionBar:
    """A progress bar for work that knows which part of it is done; on a terminal only."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[remark]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._title, total=1.0, remark="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, fraction: float, remark: str) -> None:
        """Say which part is done, from 0 to 1, and what to show beside it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, remark=remark)
