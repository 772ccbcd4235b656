"""Reading the small files that say what a store holds, and refusing those that say nonsense."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratascope.errors import StoreError
from stratascope.store._layout import (
    COMMITS,
    DATA,
    FORMAT,
    LAYOUT_VERSION,
    RUN_FILE,
    Paths,
    StepSpec,
)


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


def find_root(path: Path) -> Path:
    """Check that a folder is a store that this version reads."""
    if path.name == DATA and (path.parent / RUN_FILE).exists():
        path = path.parent
    if not (path / RUN_FILE).is_file():
        problem = "does not exist" if not path.exists() else "is not a stratascope store"
        raise StoreError(f"{path} {problem}: expected a folder that stratascope extract wrote")
    run = read_json(path / RUN_FILE)
    if run.get("format") != FORMAT:
        raise StoreError(f"{path} is not a stratascope store: its run.json is another program's")
    if run.get("layout") != LAYOUT_VERSION:
        raise StoreError(
            f"{path} must have layout {LAYOUT_VERSION}, got {run.get('layout')}: read it with the "
            "release of stratascope that wrote it"
        )
    return path


def list_steps(root: Path) -> list[int]:
    """List the steps of a store, in order."""
    names = [spec.parent.name for spec in (root / COMMITS).glob("*/spec.json")]
    return sorted(int(name) for name in names if name.isdecimal())


def read_spec(paths: Paths) -> StepSpec:
    """Read what a step holds."""
    try:
        return StepSpec.from_json(read_json(paths.spec))
    except (KeyError, TypeError) as error:
        raise _describe_damage(paths.spec, f"a step ({error!r})") from error


def read_manifest(paths: Paths, spec: StepSpec, unit: int) -> Manifest:
    """Read what a committed unit holds."""
    path = paths.manifest(unit)
    plain = read_json(path)
    try:
        files = {array.key: _read_shard_file(plain["files"][array.key]) for array in spec.arrays}
        manifest = Manifest(int(plain["start"]), int(plain["stop"]), files)
    except (KeyError, TypeError, ValueError) as error:
        raise _describe_damage(path, f"a unit ({error!r})") from error
    first = unit * spec.unit
    if manifest.start != first or not first < manifest.stop <= first + spec.unit:
        raise _describe_damage(path, f"samples from {first} on")
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
    plain = read_json(paths.complete)
    if not isinstance(plain.get("samples"), int):
        raise _describe_damage(paths.complete, "the end of a step")
    return plain["samples"]


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object; of another value nothing is kept."""
    try:
        plain = json.loads(path.read_text())
    except ValueError as error:
        raise StoreError(f"{path} is damaged: it must be JSON ({error})") from error
    return plain if isinstance(plain, dict) else {}


def _describe_damage(path: Path, meant: str) -> StoreError:
    return StoreError(f"{path} is damaged: it must describe {meant}")
