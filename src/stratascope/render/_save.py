"""Pictures to PNG files that say how they were made."""

import json
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

_WHOLE = "stratascope"
_RESERVED = ("Software", _WHOLE)


def save(picture: Any, path: str | os.PathLike[str], /, **provenance: Any) -> Path:
    """Write a picture as a PNG file that carries its provenance.

    The file has one text chunk per keyword and all of them as JSON in the chunk `stratascope`.
    It appears whole or not at all, and its folder is made if need be.

    Args:
        picture: uint8 of shape `(h, w, 3)`.
        path: Where to write; it ends in `.png`.
        **provenance: What the picture shows: model, site, sample, scale, anything with a text.

    Returns:
        The path.

    Raises:
        ValueError: The picture is not uint8 `(h, w, 3)`, or the path does not end in `.png`, or
            a keyword is not fit for a PNG chunk.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save(np.zeros((2, 2, 3), np.uint8), f"{folder.name}/a.png", site="enc.3").name
    'a.png'
    >>> folder.cleanup()
    """
    target = Path(path)
    image = Image.fromarray(checked_picture(picture))
    if target.suffix.lower() != ".png":
        raise ValueError(f"path must end in '.png', got {str(target)!r}; only PNG is written")
    chunks = _chunks(provenance)
    with written_whole(target) as file:
        image.save(file, format="PNG", pnginfo=chunks)
    return target


@contextmanager
def written_whole(target: Path) -> Generator[BinaryIO]:
    """Open a file that appears under its name when all of it is written, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since only there the last step is one rename.
    partial = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read back what `save` was told about a picture.

    Raises:
        ValueError: The file carries no provenance.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(np.zeros((2, 2, 3), np.uint8), f"{folder}/a.png", sample=17)
    ...     read_provenance(path)
    {'sample': 17}
    """
    try:
        with Image.open(path) as image:
            text = image.info.get(_WHOLE)
    except UnidentifiedImageError:
        text = None
    if text is None:
        raise ValueError(f"{os.fspath(path)!r} must be a picture written by render.save, got none")
    return json.loads(text)


def checked_picture(picture: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Refuse what is no picture."""
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(
            f"picture must be uint8 of shape (h, w, 3), got {array.dtype} of shape {array.shape}; "
            "draw the values first: render.map(values)"
        )
    return np.ascontiguousarray(array)


def _chunks(provenance: dict[str, Any]) -> PngInfo:
    info = PngInfo()
    info.add_text("Software", f"stratascope {_version()}")
    plain = {key: plain_value(value) for key, value in provenance.items()}
    for key, value in plain.items():
        if key in _RESERVED or not (key.isascii() and key.isprintable() and 0 < len(key) < 80):
            raise ValueError(
                f"a provenance keyword must be 1 to 79 ASCII letters and none of "
                f"{', '.join(_RESERVED)}, got {key!r}"
            )
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    info.add_itxt(_WHOLE, json.dumps(plain))
    return info


def plain_value(value: Any) -> Any:
    """Turn a value into what JSON has; what it has no form for becomes its text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if hasattr(value, "summary"):
        value = value.summary
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _version() -> str:
    try:
        return version("stratascope")
    except PackageNotFoundError:
        return "(not installed)"
