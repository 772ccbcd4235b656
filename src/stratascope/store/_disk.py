"""A store's folder on a disk, and what the system says of it in words of what to do about it."""

import errno
import os
import shutil
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, final

from stratascope.errors import StoreError
from stratascope.store._commit import (
    TEMPORARY,
    stale_files,
    sync_folders,
    temporary_name,
    write_once,
    write_whole,
)
from stratascope.store._folder import Content, FileStat, Folder, Sink, StepPart
from stratascope.store._lock import lock_part, lock_step

_NO_SPACE = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full for you: your quota is used up",
    errno.EFBIG: "is full for so large a file: ulimit -f sets a limit",
}
_BLOCK_BYTES = 1024 * 1024


@final
class DiskFolder(Folder):
    """A folder on a disk: files are written under temporary names, synced and renamed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def locate(self, key: str) -> Path:
        return self.path / key

    def exists(self, key: str) -> bool:
        return self.locate(key).exists()

    def is_vacant(self) -> bool:
        if not self.path.exists():
            return True
        return self.path.is_dir() and all(TEMPORARY in name for name in os.listdir(self.path))

    def names(self, key: str) -> list[str]:
        try:
            return os.listdir(self.locate(key))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def stat(self, keys: Sequence[str]) -> dict[str, FileStat]:
        found: dict[str, FileStat] = {}
        for key in keys:
            try:
                known = self.locate(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            found[key] = FileStat(known.st_size, known.st_mtime)
        return found

    def read(self, key: str) -> bytes:
        return self.locate(key).read_bytes()

    @contextmanager
    def open(self, key: str) -> Generator[Content]:
        with self.locate(key).open("rb", buffering=0) as file:
            yield _DiskContent(file)

    def write(self, key: str, content: bytes) -> None:
        write_whole(self.locate(key), content)

    def write_once(self, key: str, content: bytes) -> None:
        write_once(self.locate(key), content)

    def commit(self, key: str, content: bytes) -> bool:
        # The lock keeps others out.
        write_whole(self.locate(key), content)
        return True

    def append(self, key: str) -> Sink:
        return _DiskSink(self.locate(key))

    def publish(self, sinks: Sequence[Sink]) -> None:
        ours = [sink for sink in sinks if isinstance(sink, _DiskSink)]
        for sink in ours:
            sink.temporary.replace(sink.path)
        sync_folders(sink.path.parent for sink in ours)

    def remove(self, keys: Iterable[str]) -> None:
        paths = [self.locate(key) for key in keys]
        for path in paths:
            path.unlink(missing_ok=True)
        sync_folders(path.parent for path in paths)

    def find_stale(self, *keys: str) -> Iterator[str]:
        for path in stale_files(*map(self.locate, keys)):
            yield path.relative_to(self.path).as_posix()

    def hold(self, step: int, part: StepPart | None) -> list[Callable[[], None]]:
        locks = [lock_step(self.path, step)] if part is None else lock_part(self.path, step, part)
        return [lock.release for lock in locks]

    def explaining(self) -> AbstractContextManager[None]:
        return explaining(self.path)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def for_zarr(self, key: str) -> Path:
        return self.locate(key)


@final
class _DiskContent(Content):
    # What one thread decodes while it is in the processor's cache.
    read_at_once = 512 * 1024

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        found = os.fstat(file.fileno())
        self._size = found.st_size
        self.stamp = (found.st_ino, found.st_size, found.st_mtime_ns)

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, start)

    def read_end(self, length: int) -> bytes:
        start = max(0, self._size - length)
        return self.read(start, self._size - start)

    def is_still(self, stamp: Hashable) -> bool:
        return self.stamp == stamp

    def blocks(self) -> Iterator[bytes]:
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            yield block


@final
class _DiskSink(Sink):
    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = temporary_name(path)
        # Smaller than a chunk, which then goes to the system without one more copy.
        self._file = self.temporary.open("wb", buffering=64 * 1024)

    def write(self, content: bytes) -> None:
        self._file.write(content)

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        try:
            self._file.close()
        finally:
            self.temporary.unlink(missing_ok=True)


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
