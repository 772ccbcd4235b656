"""From what a user calls a store's folder to the folder."""

from pathlib import Path

from stratascope.errors import StoreError
from stratascope.store._bucket import SCHEMES, BucketFolder
from stratascope.store._disk import DiskFolder
from stratascope.store._folder import Folder


def open_folder(path: str | Path | Folder) -> Folder:
    """Find the folder of a store, which need not be there yet: on a disk, or in a bucket.

    Raises:
        StoreError: The URL is of a kind that is not known, or names no bucket.
        MissingExtraError: It is in a bucket, and obstore is not installed.

    >>> open_folder("acts.zarr").path.name
    'acts.zarr'
    """
    if isinstance(path, Folder):
        return path
    if isinstance(path, Path):
        if path.parts[:1] and path.parts[0] in {f"{scheme}:" for scheme in SCHEMES}:
            raise StoreError(
                f"a store in a bucket must be named by text, got the path {path}: pathlib makes "
                "one slash of two, so leave Path out"
            )
        return DiskFolder(path)
    scheme, found, place = path.partition("://")
    if not found:
        return DiskFolder(Path(path))
    bucket = place.partition("/")[0]
    if scheme not in SCHEMES or not bucket:
        raise StoreError(
            f"a store must be in a folder, or in a bucket as s3://bucket/name or gs://bucket/name, "
            f"got {path!r}"
        )
    return BucketFolder(path.rstrip("/"))
