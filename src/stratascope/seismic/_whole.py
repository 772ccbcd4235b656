"""Files that are there whole or not at all."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a name to write under; the file gets its own, in place of another, when all went well.

    >>> with replacing(Path("run.json")) as unfinished:
    ...     _ = unfinished.write_text("{}")
    >>> unfinished.exists(), Path("run.json").read_text()
    (False, '{}')
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    yield unfinished
    unfinished.replace(path)
