"""Every example in the documentation and in a docstring is a test.

A Python block of a Markdown page that cannot run says why, directly above itself:

    <!-- not run: needs a GPU -->

and is then reported as skipped, with that reason.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable
from doctest import ELLIPSIS
from typing import Any
from unittest import mock

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->[ \t]*\n(?:[ \t]*\n)*")


class PythonBlocks(PythonCodeBlockParser):
    """The Python blocks of a Markdown page; those that say why they do not run are skipped."""

    def __call__(self, document: Document) -> Iterable[Region]:
        """List the blocks of a page, to run or to skip."""
        reasons = {match.end(): match["reason"] for match in _NOT_RUN.finditer(document.text)}
        blocks = list(self.codeblock_parser(document))
        skipped = [
            Region(block.start, block.end, reasons[block.start], skip_example)
            for block in blocks
            if block.start in reasons
        ]
        yield from skipped
        for region in super().__call__(document):
            if not any(block.start <= region.start < block.end for block in skipped):
                yield region


def skip_example(example: Example) -> None:
    """Report a block as skipped with the reason that stands above it."""
    # Without the item's place, the summary of the run would point here and not at the page.
    raise pytest.skip.Exception(example.parsed, _use_item_location=True)


def enter_folder(namespace: dict[str, Any]) -> None:
    """Give a document a folder and an environment of its own, and the same random numbers."""
    import torch

    torch.manual_seed(0)
    stack = contextlib.ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stratascope-example-"))
    stack.enter_context(contextlib.chdir(folder))
    stack.enter_context(mock.patch.dict(os.environ))
    namespace["__leave_folder__"] = stack.close


def leave_folder(namespace: dict[str, Any]) -> None:
    """Go back to where the tests run and remove what the document wrote."""
    namespace.pop("__leave_folder__")()


# `pattern="src/**/*.py"` would match one folder level only; a bare "*.py" below `path` matches all.
pytest_collect_file = (
    Sybil([PythonBlocks()], patterns=["*.md"], setup=enter_folder, teardown=leave_folder)
    + Sybil(
        [DocTestParser(optionflags=ELLIPSIS)],
        path="src",
        patterns=["*.py"],
        setup=enter_folder,
        teardown=leave_folder,
    )
).pytest()
