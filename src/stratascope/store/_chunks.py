"""Reading the chunks of an array straight from its files, each checked by its checksum."""

import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import decompress
from numcodecs.zstd import Zstd

from stratascope.errors import StoreError
from stratascope.store._folder import Content, Folder, ReplacedError
from stratascope.store._index import Part
from stratascope.store._layout import COORDINATE_CHUNK

_CRC_BYTES = 4
_ENTRY_BYTES = 16
_NEVER_WRITTEN = 2**64 - 1
_KEPT_INDICES = 256
_READERS = min(4, os.cpu_count() or 1)

ShardIndex = np.ndarray[Any, Any]
Octets = np.ndarray[Any, np.dtype[np.uint8]]


class DamageError(Exception):
    """Values that were written and cannot be had.

    Attributes:
        path: The file.
        samples: Whose values they are, to the end of a chunk or a shard.
        problem: What a sentence that begins with the file says of it.
    """

    def __init__(self, path: Path | str, samples: range, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path, self.samples, self.problem = path, samples, problem


@dataclass(frozen=True, slots=True)
class Encoding:
    """How an array is cut and encoded, as its own metadata say.

    Attributes:
        shard: Shape of a shard.
        chunk: Shape of a chunk.
        dtype: Type of the values as they lie in a chunk.
        decompress: Takes the bytes of a chunk, without its checksum, and the array to fill; a
            ValueError or RuntimeError says that they do not fill it.
    """

    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    decompress: Callable[[Octets, np.ndarray[Any, Any]], None]

    @classmethod
    def read(cls, folder: Folder, key: str) -> "Encoding":
        """Read it from the ``zarr.json`` of an array.

        Raises:
            DamageError: The file does not describe an array of this layout.
        """
        try:
            plain = json.loads(folder.read(key))
            (sharding,) = plain["codecs"]
            _, compressor, _ = sharding["configuration"]["codecs"]
            return cls(
                tuple(plain["chunk_grid"]["configuration"]["chunk_shape"]),
                tuple(sharding["configuration"]["chunk_shape"]),
                np.dtype(plain["data_type"]).newbyteorder("<"),
                {"blosc": _fill_by_blosc, "zstd": _fill_by_zstd}[compressor["name"]],
            )
        except StoreError:
            raise  # a bucket that cannot be asked is no damage
        except (KeyError, TypeError, ValueError, OSError) as error:
            problem = f"does not describe an array of this layout ({error!r})"
            raise DamageError(folder.locate(key), range(sys.maxsize), problem) from error

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks of a shard along each axis."""
        return tuple(size // part for size, part in zip(self.shard, self.chunk, strict=True))


@dataclass(frozen=True, slots=True)
class _Cut:
    """What of one axis lies in one chunk: where in the chunk, and where in the result."""

    chunk: int
    inside: slice | np.ndarray[Any, Any]
    into: slice | np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk's place in its shard, and what is wanted of it along each axis."""

    offset: int
    length: int
    cuts: tuple[_Cut, ...]


class ShardReader:
    """Reads parts of one array, in any number of threads.

    The index of a shard is kept once it was read: a part of one chunk then costs one read.

    Args:
        folder: The store's folder.
        key: The array's place in it.
        ndim: Number of its axes.

    Attributes:
        ndim: Number of the array's axes.
    """

    def __init__(self, folder: Folder, key: str, ndim: int) -> None:
        self.ndim = ndim
        self._folder = folder
        self._key = key
        self._indices: dict[int, tuple[Hashable, ShardIndex]] = {}

    @functools.cached_property
    def encoding(self) -> Encoding:
        """How the array is cut and encoded."""
        return Encoding.read(self._folder, f"{self._key}/zarr.json")

    def read(self, parts: Sequence[Part]) -> np.ndarray[Any, Any]:
        """Read what some numbers of each axis have in common.

        Args:
            parts: One for each axis, counted from the start; a number gives an axis of one.

        Raises:
            DamageError: A file is not there, or is not what was written.
        """
        encoding = self.encoding
        ranges = [slice(part, part + 1, 1) if isinstance(part, int) else part for part in parts]
        axes = [_cut_axis(part, size) for part, size in zip(ranges, encoding.chunk, strict=True)]
        dtype = encoding.dtype.newbyteorder("=")
        values = np.empty([_count(part) for part in ranges], dtype=dtype)
        height = encoding.grid[0]
        for unit, rows in itertools.groupby(axes[0], key=lambda cut: cut.chunk // height):
            wanted = list(itertools.product(rows, *axes[1:]))
            try:
                self._read_unit(unit, wanted, values)
            except ReplacedError:
                self._indices.pop(unit, None)
                self._read_unit(unit, wanted, values)
        return values

    def _read_unit(
        self, unit: int, wanted: Iterable[tuple[_Cut, ...]], values: np.ndarray[Any, Any]
    ) -> None:
        with self._open(unit) as file:
            index = self._index(unit, file)
            pieces = [self._locate(unit, index, cuts) for cuts in wanted]
            runs = _join_pieces(pieces, file.read_at_once)
            read = functools.partial(self._read_runs, unit, file, iter(runs), values)
            if len(runs) == 1:
                read()
                return
            # Of this read alone: threads do not outlive a fork.
            with ThreadPoolExecutor(_READERS, thread_name_prefix="stratascope-read") as readers:
                for part in [readers.submit(read) for _ in range(min(_READERS, len(runs)))]:
                    part.result()

    def _read_runs(
        self, unit: int, file: Content, runs: Iterator[list[_Piece]], values: np.ndarray[Any, Any]
    ) -> None:
        """Read runs of pieces, which threads may share, and put what is wanted where it belongs."""
        chunk = np.empty(self.encoding.chunk, self.encoding.dtype)
        for run in runs:
            begin = run[0].offset
            length = run[-1].offset + run[-1].length - begin
            content = np.frombuffer(file.read(begin, length), np.uint8)
            for piece in run:
                place = piece.offset - begin
                self._decode(unit, piece, content[place : place + piece.length], chunk)
                into = tuple(cut.into for cut in piece.cuts)
                values[into] = chunk[tuple(cut.inside for cut in piece.cuts)]

    def read_index_checksum(self, unit: int) -> int:
        """Give the checksum of the index of a shard.

        Raises:
            DamageError: The index is not whole.
        """
        with self._open(unit) as file:
            return google_crc32c.value(self._index(unit, file).tobytes())

    def read_checksums(self, unit: int) -> tuple[int, int]:
        """Read every byte of a shard; give their checksum, and that of its chunks' checksums.

        Raises:
            DamageError: The index is not whole.
        """
        with self._open(unit) as file:
            places = self._index(unit, file).reshape(-1, 2).tolist()
            ends = [offset + length for offset, length in places if offset != _NEVER_WRITTEN]
            return sum_up(file, ends)

    def key(self, unit: int) -> str:
        """Give the file of a unit."""
        return "/".join([self._key, "c", str(unit), *["0"] * (self.ndim - 1)])

    def path(self, unit: int) -> Path | str:
        """Give the file of a unit by its whole name, for people."""
        return self._folder.locate(self.key(unit))

    @contextmanager
    def _open(self, unit: int) -> Generator[Content]:
        try:
            with self._folder.open(self.key(unit)) as file:
                yield file
        except ReplacedError:
            raise
        except FileNotFoundError as error:
            raise self._damage(unit, "is not there") from error
        except OSError as error:
            raise self._damage(unit, f"cannot be read ({error.strerror})") from error

    def _index(self, unit: int, file: Content) -> ShardIndex:
        """Read where the chunks of a shard lie, or recall it if the file is still the same."""
        known = self._indices.get(unit)
        if known is not None and file.is_still(known[0]):
            return known[1]
        grid = self.encoding.grid
        size = _ENTRY_BYTES * int(np.prod(grid))
        content = file.read_end(size + _CRC_BYTES)
        if len(content) < size + _CRC_BYTES:
            raise self._damage(unit, "is cut off" if content else "is empty")
        if not _is_whole(content):
            raise self._damage(unit, "is damaged: its index has another checksum")
        index = np.frombuffer(content, "<u8", count=size // 8).reshape(*grid, 2)
        if len(self._indices) >= _KEPT_INDICES:
            self._indices.clear()
        self._indices[unit] = (file.stamp, index)
        return index

    def _locate(self, unit: int, index: ShardIndex, cuts: tuple[_Cut, ...]) -> _Piece:
        row = cuts[0].chunk % self.encoding.grid[0]
        offset, length = map(int, index[(row, *(cut.chunk for cut in cuts[1:]))])
        if offset == _NEVER_WRITTEN:
            raise self._damage(unit, "lacks a chunk", cuts[0].chunk)
        return _Piece(offset, length, cuts)

    def _decode(
        self, unit: int, piece: _Piece, content: Octets, chunk: np.ndarray[Any, Any]
    ) -> None:
        row = piece.cuts[0].chunk
        if len(content) != piece.length or not _is_whole(content):
            raise self._damage(unit, "is damaged: a chunk has another checksum", row)
        try:
            self.encoding.decompress(content[:-_CRC_BYTES], chunk)
        except (RuntimeError, ValueError) as error:
            problem = f"is damaged: a chunk cannot be unpacked ({error})"
            raise self._damage(unit, problem, row) from error

    def _damage(self, unit: int, problem: str, row: int | None = None) -> DamageError:
        """Describe damage to a whole shard, or to one row of the array's chunks."""
        whole = row is None
        number, shape = (unit, self.encoding.shard) if whole else (row, self.encoding.chunk)
        samples = range(number * shape[0], (number + 1) * shape[0])
        return DamageError(self.path(unit), samples, problem)


def read_coordinate(folder: Folder, array: str, samples: int) -> np.ndarray[Any, Any]:
    """Read the index in the data set of the first samples, int64.

    Raises:
        DamageError: A file is not there, or is not what was written.
    """
    values = np.empty(samples, np.int64)
    for first in range(0, samples, COORDINATE_CHUNK):
        key = f"{array}/c/{first // COORDINATE_CHUNK}"
        path = folder.locate(key)
        whole = range(first, min(first + COORDINATE_CHUNK, samples))
        try:
            content = folder.read(key)
        except OSError as error:
            raise DamageError(path, whole, f"cannot be read ({error.strerror})") from error
        if not _is_whole(content):
            raise DamageError(path, whole, "is damaged: it has another checksum")
        plain = Zstd().decode(content[:-_CRC_BYTES])
        values[first : whole.stop] = np.frombuffer(plain, "<i8", count=len(whole))
    return values


def sum_up(file: Content, ends: Sequence[int] = ()) -> tuple[int, int]:
    """Read a whole file; give its checksum, and that of the checksums that end at some places."""
    whole, start, tail = 0, 0, b""
    found: dict[int, bytes] = {}
    ahead = sorted(ends, reverse=True)
    for block in file.blocks():
        whole = google_crc32c.extend(whole, block)
        # A checksum may begin in the block before.
        content, start = tail + block, start - len(tail)
        while ahead and ahead[-1] <= start + len(content):
            end = ahead.pop()
            found[end] = content[end - start - _CRC_BYTES : end - start]
        start, tail = start + len(content), content[-_CRC_BYTES:]
    parts = (found.get(end, b"") for end in ends)
    return whole, functools.reduce(google_crc32c.extend, parts, 0)


def _is_whole(content: bytes | Octets) -> bool:
    """Tell whether bytes end with their own checksum."""
    body, checksum = content[:-_CRC_BYTES], bytes(content[-_CRC_BYTES:])
    # The checksum of nothing is 0, which nothing would spell.
    return len(checksum) == _CRC_BYTES and google_crc32c.value(body) == int.from_bytes(
        checksum, "little"
    )


def _cut_axis(part: slice | np.ndarray[Any, Any], size: int) -> list[_Cut]:
    """Sort the numbers of one axis by the chunks of a size in which they lie."""
    return list(_cut_slice(part, size) if isinstance(part, slice) else _cut_list(part, size))


def _cut_slice(part: slice, size: int) -> Iterator[_Cut]:
    wanted = range(part.start, part.stop, part.step)
    place = 0
    while place < len(wanted):
        chunk, first = divmod(wanted[place], size)
        count = min(len(wanted) - place, -(-(size - first) // part.step))
        yield _Cut(
            chunk,
            slice(first, first + (count - 1) * part.step + 1, part.step),
            slice(place, place + count),
        )
        place += count


def _cut_list(part: np.ndarray[Any, Any], size: int) -> Iterator[_Cut]:
    chunks = part // size
    order = np.argsort(chunks, kind="stable")
    ends = np.flatnonzero(np.diff(chunks[order])) + 1
    for places in np.split(order, ends) if len(part) else ():
        chunk = int(chunks[places[0]])
        yield _Cut(chunk, part[places] - chunk * size, places)


def _count(part: slice | np.ndarray[Any, Any]) -> int:
    return len(range(part.start, part.stop, part.step) if isinstance(part, slice) else part)


def _join_pieces(pieces: Iterable[_Piece], most: int) -> list[list[_Piece]]:
    """Put pieces together that lie side by side, up to so many bytes."""
    runs: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.offset):
        run = runs[-1] if runs else None
        if (
            run is None
            or piece.offset != run[-1].offset + run[-1].length
            or piece.offset + piece.length - run[0].offset > most
        ):
            runs.append([piece])
        else:
            run.append(piece)
    return runs


def _fill_by_blosc(content: Octets, chunk: np.ndarray[Any, Any]) -> None:
    # It would leave the rest of what it does not fill as it was.
    if (size := int.from_bytes(content[4:8].tobytes(), "little")) != chunk.nbytes:
        raise ValueError(f"it holds {size} bytes, not {chunk.nbytes}")
    decompress(content, chunk)


def _fill_by_zstd(content: Octets, chunk: np.ndarray[Any, Any]) -> None:
    chunk[...] = np.frombuffer(Zstd().decode(content), chunk.dtype).reshape(chunk.shape)
