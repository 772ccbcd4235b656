"""Reading the small files that say what a store holds, and refusing those that say nonsense."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from stratascope.errors import StoreError
from stratascope.store._folder import Folder
from stratascope.store._layout import (
    COMMITS,
    DATA,
    FORMAT,
    LAYOUT_VERSION,
    RUN_FILE,
    Paths,
    StepSpec,
)
from stratascope.store._where import open_folder

_MANIFEST = re.compile(r"u(\d{8,})\.json")


class UnreadableError(StoreError):
    """A small file that is there, but does not say what it should."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """What a manifest says of one shard.

    Attributes:
        bytes: Its size.
        crc32c: Checksum of the whole file.
        index_crc32c: Checksum of its index.
        chunks_crc32c: Checksum of the checksums of its chunks; None in stores of early releases.
    """

    bytes: int
    crc32c: int
    index_crc32c: int
    chunks_crc32c: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a committed unit holds.

    Attributes:
        start: Its first sample.
        stop: The sample behind its last.
        files: Its shards, by the arrays' keys.
    """

    start: int
    stop: int
    files: dict[str, ShardFile]


def find_root(path: str | Path | Folder) -> Folder:
    """Check that a folder is a store that this version reads."""
    folder = open_folder(path)
    if PurePath(str(folder)).name == DATA:
        inner = folder.path
        above = inner.parent if isinstance(inner, Path) else inner.rpartition("/")[0]
        if open_folder(above).exists(RUN_FILE):
            folder = open_folder(above)
    try:
        run = read_json(folder, RUN_FILE)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        problem = "is not a stratascope store" if folder.exists("") else "does not exist"
        raise StoreError(
            f"{folder} {problem}: expected a folder that stratascope extract wrote"
        ) from error
    if run.get("format") != FORMAT:
        raise StoreError(f"{folder} is not a stratascope store: its run.json is another program's")
    if run.get("layout") != LAYOUT_VERSION:
        raise StoreError(
            f"{folder} must have layout {LAYOUT_VERSION}, got {run.get('layout')}: read it with "
            "the release of stratascope that wrote it"
        )
    return folder


def list_steps(folder: Folder) -> list[int]:
    """List the steps of a store, in order."""
    numbers = (int(name) for name in folder.names(COMMITS) if name.isdecimal())
    specs = {Paths(folder, number).spec: number for number in numbers}
    return sorted(specs[key] for key in folder.stat([*specs]))


def committed_units(paths: Paths) -> set[int]:
    """List the units of a step that are committed: those whose manifest exists."""
    found = map(_MANIFEST.fullmatch, paths.folder.names(paths.commits))
    return {int(match[1]) for match in found if match is not None}


def read_spec(paths: Paths) -> StepSpec:
    """Read what a step holds."""
    plain = read_json(paths.folder, paths.spec)
    try:
        return StepSpec.from_json(plain)
    except (KeyError, TypeError) as error:
        raise _describe_damage(paths, paths.spec, f"a step ({error!r})") from error


def read_manifest(paths: Paths, spec: StepSpec, unit: int) -> Manifest:
    """Read what a committed unit holds."""
    key = paths.manifest(unit)
    plain = read_json(paths.folder, key)
    try:
        files = {array.key: _read_shard_file(plain["files"][array.key]) for array in spec.arrays}
        manifest = Manifest(int(plain["start"]), int(plain["stop"]), files)
    except (KeyError, TypeError, ValueError) as error:
        raise _describe_damage(paths, key, f"a unit ({error!r})") from error
    first = unit * spec.unit
    if manifest.start != first or not first < manifest.stop <= first + spec.unit:
        raise _describe_damage(paths, key, f"samples from {first} on")
    return manifest


def _read_shard_file(plain: Any) -> ShardFile:
    return ShardFile(
        int(plain["bytes"]),
        int(plain["crc32c"]),
        int(plain["index_crc32c"]),
        plain.get("chunks_crc32c"),
    )


def read_end(paths: Paths) -> int:
    """Read how many samples a finished step has."""
    plain = read_json(paths.folder, paths.complete)
    if not isinstance(plain.get("samples"), int):
        raise _describe_damage(paths, paths.complete, "the end of a step")
    return plain["samples"]


def read_json(folder: Folder, key: str) -> dict[str, Any]:
    """Read a file that holds a JSON object; of another value nothing is kept.

    Raises:
        UnreadableError: It holds no JSON.
        OSError: It is not there, or cannot be read.
    """
    content = folder.read(key)
    try:
        plain = json.loads(content)
    except ValueError as error:
        problem = f"is damaged: it must be JSON ({error})"
        raise UnreadableError(f"{folder.locate(key)} {problem}") from error
    return plain if isinstance(plain, dict) else {}


def _describe_damage(paths: Paths, key: str, meant: str) -> UnreadableError:
    return UnreadableError(f"{paths.folder.locate(key)} is damaged: it must describe {meant}")
