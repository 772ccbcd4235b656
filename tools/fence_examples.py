"""Show the examples of docstrings as code, where Markdown takes a bare `>>>` for a quotation."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^(?P<indent>[ \t]*)>>> .*(?:\n[ \t]*\S.*)*", re.MULTILINE)


class FenceExamples(griffe.Extension):
    """Puts a fence around every example of a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = fence_examples(obj.docstring.value)


def fence_examples(text: str) -> str:
    """Put a fence around every paragraph that begins with a prompt."""
    return _EXAMPLE.sub(r"\g<indent>```pycon\n\g<0>\n\g<indent>```", text)
