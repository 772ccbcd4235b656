"""A store's folder in a bucket of an object store: Amazon S3 and its like, or Google's."""

import errno
import os
import posixpath
import uuid
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, final

from stratascope._optional import require
from stratascope.errors import StoreError, first_line
from stratascope.store._folder import Content, FileStat, Folder, ReplacedError, Sink, StepPart

SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, for another service than "
    "Amazon's AWS_ENDPOINT_URL too",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
"""The kinds of buckets, and the variables of the environment that open them."""

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 4
_COMPLETED_AT_ONCE = 8
_WRITER = "stratascope-writer"


@final
class BucketFolder(Folder):
    """A folder in a bucket: objects appear whole, when their upload is completed.

    What was seen once is taken to be there, unless it was deleted here.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._obstore = require("obstore", extra="objects")
        self._store = require("obstore.store").from_url(url, client_options=_client_options())
        self._errors = self._obstore.exceptions
        self._seen: set[str] = set()
        self._process = os.getpid()
        # Tells its own objects from those of another run with the same content.
        self._writer = uuid.uuid4().hex

    @property
    def path(self) -> str:
        return self._url

    def __reduce__(self) -> tuple[Any, ...]:
        return BucketFolder, (self.path,)

    def locate(self, key: str) -> str:
        return f"{self.path}/{key}" if key else self.path

    def exists(self, key: str) -> bool:
        if not key:
            return not self.is_vacant()
        if key not in self._seen and self.stat([key]):
            self._seen.add(key)
        return key in self._seen

    def is_vacant(self) -> bool:
        with self.asking():
            return not any(self._obstore.list(self._store, chunk_size=1))

    def names(self, key: str) -> list[str]:
        with self.asking(key):
            found = self._obstore.list_with_delimiter(self._store, key)
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return [path.rpartition("/")[2] for path in paths]

    def stat(self, keys: Sequence[str]) -> dict[str, FileStat]:
        with self.asking(keys[0] if keys else ""):
            if len(keys) > 1:
                near = posixpath.commonpath(keys)
                pages = self._obstore.list(self._store, near)
                found = {item["path"]: item for page in pages for item in page}
            else:
                found = {key: item for key in keys if (item := self._head(key)) is not None}
        stats = {key: found[key] for key in keys if key in found}
        return {
            key: FileStat(item["size"], item["last_modified"].timestamp())
            for key, item in stats.items()
        }

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return self._obstore.head(self._store, key)
        except FileNotFoundError:
            return None

    def read(self, key: str) -> bytes:
        with self.asking(key):
            return bytes(self._obstore.get(self._store, key).bytes())

    def open(self, key: str) -> AbstractContextManager[Content]:
        return nullcontext(_ObjectContent(self, key))

    def get(self, key: str, **options: Any) -> Any:
        """Ask for an object, or a part of it."""
        with self.asking(key):
            try:
                return self._obstore.get(self._store, key, options=options)
            except self._errors.PreconditionError as error:
                problem = "another object has its name by now"
                raise ReplacedError(errno.ESTALE, problem, self.locate(key)) from error

    def write(self, key: str, content: bytes) -> None:
        with self.asking(key):
            self._obstore.put(self._store, key, content, use_multipart=False)

    def write_once(self, key: str, content: bytes) -> None:
        if not self.exists(key):
            self.commit(key, content)

    def commit(self, key: str, content: bytes) -> bool:
        ours = {_WRITER: self._writer}
        with self.asking(key):
            try:
                self._obstore.put(self._store, key, content, mode="create", attributes=ours)
            except self._errors.AlreadyExistsError:
                # An answer that was lost on its way is asked for again.
                found = self._obstore.get(self._store, key).attributes
                return found.get(_WRITER) == self._writer
        return True

    def append(self, key: str) -> Sink:
        return _Upload(self, key)

    def begin_upload(self, key: str) -> Any:
        """Open a file whose parts are uploaded while it is written."""
        sizes = {"buffer_size": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        return self._obstore.open_writer(self._store, key, **sizes)

    def publish(self, sinks: Sequence[Sink]) -> None:
        # Each is an answer to wait for.
        with ThreadPoolExecutor(_COMPLETED_AT_ONCE) as pool:
            uploads = [sink for sink in sinks if isinstance(sink, _Upload)]
            for _ in pool.map(_Upload.complete, uploads):
                pass

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._seen.discard(key)
            with suppress(FileNotFoundError), self.asking(key):
                self._obstore.delete(self._store, key)

    def find_stale(self, *keys: str) -> Iterator[str]:
        """Nothing: uploads that were never completed are not seen here."""
        return iter(())

    def hold(self, step: int, part: StepPart | None) -> list[Callable[[], None]]:
        """Nothing: `commit` lets one run win."""
        return []

    def explaining(self) -> AbstractContextManager[None]:
        return nullcontext()

    def free_bytes(self) -> None:
        return None

    def for_zarr(self, key: str) -> Any:
        inner = require("obstore.store").from_url(
            self.locate(key), client_options=_client_options()
        )
        return require("zarr.storage").ObjectStore(inner, read_only=True)

    @contextmanager
    def asking(self, key: str = "") -> Generator[None]:
        """Turn what goes wrong in a request into a sentence.

        Raises:
            FileNotFoundError: There is no such object.
            StoreError: The bucket is not there, not open to us, or cannot be reached.
        """
        if os.getpid() != self._process:
            raise StoreError(
                f"{self.path} was opened before this process was forked, which connections do not "
                "outlive: begin processes with spawn, such as "
                "DataLoader(..., multiprocessing_context='spawn')"
            )
        scheme, _, place = self.path.partition("://")
        bucket = f"{scheme}://{place.partition('/')[0]}"
        refused = (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError)
        try:
            yield
        except (FileNotFoundError, self._errors.BaseError) as error:
            said = str(error)
            if "NoSuchBucket" in said:
                raise StoreError(f"the bucket {bucket} does not exist: make it first") from error
            if isinstance(error, FileNotFoundError):
                name = self.locate(key)
                raise FileNotFoundError(errno.ENOENT, "there is no such object", name) from error
            if isinstance(error, refused):
                problem, remedy = "refuses access", "set, with the rights to it,"
            else:
                problem, remedy = "cannot be asked", "look at the network, and set"
            raise StoreError(
                f"{bucket} {problem} ({first_line(error)}): {remedy} {SCHEMES[scheme]} in the "
                "environment. What is committed is kept"
            ) from error


@final
class _ObjectContent(Content):
    read_at_once = _PART_BYTES

    def __init__(self, folder: BucketFolder, key: str) -> None:
        self._folder = folder
        self._key = key
        self.stamp = None

    def read(self, start: int, length: int) -> bytes:
        return bytes(self._get(range=(start, start + length)).bytes())

    def read_end(self, length: int) -> bytes:
        try:
            answer = self._get(range={"suffix": length})
        except StoreError:
            if self._folder.stat([self._key])[self._key].bytes > 0:
                raise
            return b""  # of which no part can be asked for
        self.stamp = answer.meta["e_tag"]
        return bytes(answer.bytes())

    def is_still(self, stamp: Hashable) -> bool:
        self.stamp = stamp
        return True

    def blocks(self) -> Iterator[bytes]:
        with self._folder.asking(self._key):
            for block in self._get().stream(_PART_BYTES):
                yield bytes(block)

    def _get(self, **options: Any) -> Any:
        if self.stamp is not None:
            options["if_match"] = self.stamp
        return self._folder.get(self._key, **options)


@final
class _Upload(Sink):
    def __init__(self, folder: BucketFolder, key: str) -> None:
        self._folder = folder
        self._key = key
        self._file = folder.begin_upload(key)

    def write(self, content: bytes) -> None:
        with self._folder.asking(self._key):
            self._file.write(content)

    def finish(self) -> None:
        """Nothing: completing an upload gives it its name."""

    def complete(self) -> None:
        with self._folder.asking(self._key):
            self._file.close()

    def discard(self) -> None:
        # As when an error leaves a block of `with`: the parts are deleted.
        with self._folder.asking(self._key):
            self._file.__exit__(StoreError, StoreError(), None)


def _client_options() -> dict[str, Any]:
    # Who names such an endpoint has chosen to go without encryption.
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    # Of each request, and a shard may be long and a line slow.
    return {"allow_http": plain, "timeout": "10m"}
