"""What the system says of a disk, in words of what the user can do about it."""

import errno
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from stratascope.errors import StoreError

_NO_SPACE = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full for you: your quota is used up",
    errno.EFBIG: "is full for so large a file: ulimit -f sets a limit",
}


@contextmanager
def explaining(root: Path) -> Generator[None]:
    """Turn an error of the system, while a store is written, into a sentence.

    Raises:
        StoreError: The disk is full, or something cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
            free = shutil.disk_usage(there).free
            raise StoreError(
                f"the disk of {root} {_NO_SPACE[error.errno]} ({free / 1e6:,.0f} MB free). What is "
                "committed is kept: make room and run the same again with resume=True (--resume), "
                "or store less with dtype='float16', a transform or fewer sites"
            ) from error
        raise StoreError(
            f"{error.filename or root} cannot be written: {error.strerror or error}. Choose "
            "another folder, or change its rights"
        ) from error
