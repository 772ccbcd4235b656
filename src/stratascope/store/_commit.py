"""Files on a disk that are there whole or not at all."""

import contextlib
import errno
import os
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

TEMPORARY = ".tmp-"

_ATTEMPTS = 10
_SWEPT_AWAY = {errno.ENOENT, errno.ESTALE}


def temporary_name(path: Path) -> Path:
    """Name the file under which a file is written until it is whole, in the same folder."""
    return path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex[:12]}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds either nothing or all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folders([path.parent])


def write_once(path: Path, content: bytes) -> None:
    """Write a file that several runs share, if it is not there, and what a killed one left of it.

    Two that are born at once may sweep away each other's: they try again after a while, each after
    another, and a longer one each time, as syncing may take long.
    """
    for attempt in range(_ATTEMPTS):
        if path.exists():
            return
        for stale in path.parent.glob(f"{path.name}{TEMPORARY}*"):
            stale.unlink(missing_ok=True)
        try:
            write_whole(path, content)
        except OSError as error:
            if error.errno not in _SWEPT_AWAY or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(random.SystemRandom().uniform(0, 0.01 * 2**attempt))


def sync_folders(folders: Iterable[Path]) -> None:
    """Make renames in folders survive a power cut, where the system lets folders be synced."""
    for folder in dict.fromkeys(folders):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except (PermissionError, IsADirectoryError):  # Windows opens no folders
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stale_files(*folders: Path) -> Iterator[Path]:
    """Find what a killed run left half written, at any depth."""
    for folder in folders:
        yield from folder.rglob(f"*{TEMPORARY}*")
