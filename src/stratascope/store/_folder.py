"""Where the files of a store lie: what a store asks of a disk, or of a bucket."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

StepPart = tuple[int, int]
"""Which part of a step, from 0, and how many there are."""


class ReplacedError(OSError):
    """A file that is no longer the one of which a part was read before."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """What a listing says of a file.

    Attributes:
        bytes: Its size.
        modified: When it was written, in seconds since 1970.
    """

    bytes: int
    modified: float


class Content(ABC):
    """A file that is read piece by piece.

    Attributes:
        stamp: What tells this file from any other of its name, once `read_end` was called.
        read_at_once: How many bytes to ask for at a time, of a file that is read whole.
    """

    stamp: Hashable
    read_at_once: ClassVar[int]

    @abstractmethod
    def read(self, start: int, length: int) -> bytes:
        """Read a piece; less where the file ends. Several threads may call it at a time.

        Raises:
            ReplacedError: The file has another stamp than `is_still` was asked for.
        """

    @abstractmethod
    def read_end(self, length: int) -> bytes:
        """Read the last bytes; less where there are not so many."""

    @abstractmethod
    def is_still(self, stamp: Hashable) -> bool:
        """Tell whether the file has this stamp; what cannot know yet sees to it in `read`."""

    @abstractmethod
    def blocks(self) -> Iterator[bytes]:
        """Read all, block by block."""


class Sink(ABC):
    """A file that is written as a stream, and has no name before it is whole."""

    @abstractmethod
    def write(self, content: bytes) -> None:
        """Add bytes."""

    @abstractmethod
    def finish(self) -> None:
        """Make what was written durable; it has no name yet."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing of it, where it has no name yet."""


class Folder(ABC):
    """The folder of a store.

    Its files go by keys, which are their places in it, such as ``commits/0/spec.json``. Each is
    there whole or not at all, whatever kills the process that writes it.
    """

    @property
    @abstractmethod
    def path(self) -> Path | str:
        """What opens it again: a `Path` on a disk, the URL of a bucket as text."""

    def __str__(self) -> str:
        return str(self.path)

    @abstractmethod
    def locate(self, key: str) -> Path | str:
        """Give the whole name of a file, for people."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Tell whether a file is there; ``""`` asks whether anything is."""

    @abstractmethod
    def is_vacant(self) -> bool:
        """Tell whether a store may begin here: nothing is there, or what a kill at birth left."""

    @abstractmethod
    def names(self, key: str) -> list[str]:
        """List what lies in a folder below this one; nothing where there is no such folder."""

    @abstractmethod
    def stat(self, keys: Sequence[str]) -> dict[str, FileStat]:
        """Look at files that lie near each other; of those that are not there nothing is said."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Read a whole file.

        Raises:
            OSError: It is not there, or cannot be read.
        """

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[Content]:
        """Open a file to be read piece by piece.

        Raises:
            OSError: It is not there, or cannot be read; by its first read at the latest.
        """

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Write a file, in place of another if there is one."""

    @abstractmethod
    def write_once(self, key: str, content: bytes) -> None:
        """Write a file that several runs share, if it is not there."""

    @abstractmethod
    def commit(self, key: str, content: bytes) -> bool:
        """Write a file that one run alone may write; tell whether this one did.

        False says that another run was first. Where `hold` keeps others out it does not come to
        that.
        """

    @abstractmethod
    def append(self, key: str) -> Sink:
        """Begin a file that is written as a stream."""

    @abstractmethod
    def publish(self, sinks: Sequence[Sink]) -> None:
        """Give finished files their names."""

    @abstractmethod
    def remove(self, keys: Iterable[str]) -> None:
        """Delete files, for good when this returns; those that are not there are passed over."""

    @abstractmethod
    def find_stale(self, *keys: str) -> Iterator[str]:
        """Find what a killed run left half written in some folders, at any depth."""

    @abstractmethod
    def hold(self, step: int, part: StepPart | None) -> list[Callable[[], None]]:
        """Keep other runs out of a step, or of a part of it, where that can be done.

        Gives what lets them in again, the last one first.

        Raises:
            StoreError: Another run holds it.
        """

    @abstractmethod
    def explaining(self) -> AbstractContextManager[None]:
        """Turn an error of the system, while a store is written, into a sentence.

        Raises:
            StoreError: There is no more room, or something cannot be written.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Tell how much room is left; None where that has no end."""

    @abstractmethod
    def for_zarr(self, key: str) -> Any:
        """Give a folder in it as zarr-python takes it."""
