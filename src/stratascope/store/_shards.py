"""A Zarr v3 shard written as a stream: rows come in, chunks go out, the index comes last."""

import itertools
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import NOSHUFFLE, SHUFFLE, Blosc
from numcodecs.zstd import Zstd

from stratascope.store._folder import Sink
from stratascope.store._layout import (
    ArraySpec,
    Codec,
    blosc_settings,
    missing_value,
    shard_shape,
)

_EMPTY = np.uint64(2**64 - 1)


class ShardWriter:
    """Writes one shard into a file that has no name yet; memory holds one row of chunks.

    The order of the bytes depends on the rows alone, not on the batches in which they came.
    """

    def __init__(self, sink: Sink, array: ArraySpec, unit: int, codec: Codec) -> None:
        self.sink = sink
        self._array = array
        self._chunk = array.chunk
        self._encode = _make_encoder(array, codec)
        self._dtype = np.dtype(array.dtype).newbyteorder("<")
        whole = shard_shape(array, unit)
        self._grid = tuple(size // chunk for size, chunk in zip(whole, self._chunk, strict=True))
        self._index = np.full((*self._grid, 2), _EMPTY, dtype="<u8")
        self._held = np.empty((self._chunk[0], *array.shape), dtype=self._dtype)
        self._num_held = 0
        self._chunk_row = 0
        self._offset = 0
        self._crc = 0
        self._chunks_crc = 0

    def append(self, rows: np.ndarray[Any, Any]) -> None:
        """Add the next samples, shape ``(n, …)``."""
        height = self._chunk[0]
        start = 0
        if self._num_held:
            start = min(height - self._num_held, len(rows))
            self._held[self._num_held : self._num_held + start] = rows[:start]
            self._num_held += start
            if self._num_held == height:
                self._write_chunk_row(self._held)
                self._num_held = 0
        for first in range(start, len(rows) - height + 1, height):
            self._write_chunk_row(rows[first : first + height])
            start = first + height
        if start < len(rows):
            self._num_held = len(rows) - start
            self._held[: self._num_held] = rows[start:]

    def finish(self) -> dict[str, int]:
        """Write the index and make the file durable; it has no name yet."""
        if self._num_held:
            self._write_chunk_row(self._held[: self._num_held])
        index = self._index.tobytes()
        checksum = google_crc32c.value(index)
        self._write(index + checksum.to_bytes(4, "little"))
        self.sink.finish()
        return {
            "bytes": self._offset,
            "crc32c": self._crc,
            "index_crc32c": checksum,
            "chunks_crc32c": self._chunks_crc,
        }

    def _write_chunk_row(self, rows: np.ndarray[Any, Any]) -> None:
        for position in itertools.product(*(range(size) for size in self._grid[1:])):
            window = tuple(
                slice(place * size, (place + 1) * size)
                for place, size in zip(position, self._chunk[1:], strict=True)
            )
            encoded = self._encode(self._fill_up(rows[(slice(None), *window)]))
            checksum = google_crc32c.value(encoded).to_bytes(4, "little")
            self._index[(self._chunk_row, *position)] = (self._offset, len(encoded) + 4)
            self._write(encoded)
            self._write(checksum)
            # What holds its own checksum has the same one whatever it holds: that of the file tells
            # damage, but not one shard from another with chunks of the same lengths.
            self._chunks_crc = google_crc32c.extend(self._chunks_crc, checksum)
        self._chunk_row += 1

    def _fill_up(self, part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if part.shape == self._chunk:
            return np.ascontiguousarray(part, dtype=self._dtype)
        whole = np.full(self._chunk, missing_value(self._array), dtype=self._dtype)
        whole[tuple(slice(0, size) for size in part.shape)] = part
        return whole

    def _write(self, content: bytes) -> None:
        self.sink.write(content)
        self._crc = google_crc32c.extend(self._crc, content)
        self._offset += len(content)


def _make_encoder(array: ArraySpec, codec: Codec) -> Any:
    settings = blosc_settings(array, codec)
    if settings is None:
        return Zstd(level=1).encode
    shuffle = SHUFFLE if settings["shuffle"] == "shuffle" else NOSHUFFLE
    return Blosc(settings["cname"], settings["clevel"], shuffle, settings["blocksize"]).encode
