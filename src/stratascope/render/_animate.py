"""Pictures one after the other: GIF by Pillow, MP4 where there is an encoder."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stratascope._optional import require
from stratascope.errors import MissingExtraError
from stratascope.render import _colours
from stratascope.render._page import Picture
from stratascope.render._save import checked_picture, plain_value, written_whole

_COLOURS = 256
# Of more pixels than this the palette is made of a part, always the same one.
_MOST_PIXELS = 2**24
_AT_ONCE = 4096
_SUFFIXES = (".gif", ".mp4")


def animate(
    pictures: Iterable[Any],
    path: str | os.PathLike[str],
    /,
    *,
    milliseconds: int = 500,
    **provenance: Any,
) -> Path:
    """Write pictures one after the other, such as those of a layer at the steps of a training.

    All frames share one palette, so that what has one colour in the pictures has one colour in
    the animation. A GIF has 256 colours: where the pictures have more, each takes its nearest. MP4
    has all of them, smoothed by its compression. Smaller pictures are filled up with white.

    Args:
        pictures: uint8 of shape `(h, w, 3)` each.
        path: Where to write; it ends in `.gif` or `.mp4`. The file appears whole or not at all.
        milliseconds: How long each is shown.
        **provenance: What they show, kept as JSON in the comment of the file.

    Returns:
        The path.

    Raises:
        ValueError: There is no picture, or one is not uint8 `(h, w, 3)`; the path has another end;
            or the time is not from 20 to 60,000.
        MissingExtraError: An MP4 is asked for, and there is no encoder.

    >>> import tempfile
    >>> frames = [np.full((20, 20, 3), shade, np.uint8) for shade in (0, 128, 255)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     animate(frames, f"{folder}/a.gif", site="enc.3").name
    'a.gif'
    """
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"path must end in '.gif' or '.mp4', got {str(target)!r}")
    if not 20 <= milliseconds <= 60_000:
        raise ValueError(f"milliseconds must be from 20 to 60,000, got {milliseconds!r}")
    frames = _fill_up([checked_picture(picture) for picture in pictures])
    told = json.dumps({key: plain_value(value) for key, value in provenance.items()})
    if target.suffix.lower() == ".gif":
        _write_gif(frames, target, milliseconds, told)
    else:
        _write_mp4(frames, target, milliseconds, told)
    return target


def _fill_up(frames: Sequence[Picture]) -> Sequence[Picture]:
    if not frames:
        raise ValueError("pictures must hold at least one, got none")
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    # The compression of MP4 halves both.
    filled = []
    for frame in frames:
        page = np.full((height + height % 2, width + width % 2, 3), _colours.PAPER, np.uint8)
        page[: frame.shape[0], : frame.shape[1]] = frame
        filled.append(page)
    return filled


def _write_gif(frames: Sequence[Picture], target: Path, milliseconds: int, told: str) -> None:
    palette = _find_palette(frames)
    images = [_index(frame, palette) for frame in frames]
    with written_whole(target) as file:
        images[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=milliseconds,
            loop=0,
            optimize=False,
            comment=told.encode(),
        )


def _find_palette(frames: Sequence[Picture]) -> NDArray[np.uint8]:
    """Give all colours where there are few, or such as stand for all."""
    pixels = np.concatenate([frame.reshape(-1, 3) for frame in frames])
    found = np.unique(_pack(pixels))
    if len(found) <= _COLOURS:
        return _unpack(found)
    pixels = pixels[:: -(-len(pixels) // _MOST_PIXELS)]
    image = Image.fromarray(pixels[None])
    chosen = image.quantize(_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    listed = chosen.getpalette() or []
    return np.array(listed, np.uint8).reshape(-1, 3)


def _index(frame: Picture, palette: NDArray[np.uint8]) -> Image.Image:
    """Give each pixel the number of the nearest colour of a palette."""
    colours, places = np.unique(_pack(frame), return_inverse=True)
    nearest = np.empty(len(colours), np.uint8)
    for start in range(0, len(colours), _AT_ONCE):
        block = _unpack(colours[start : start + _AT_ONCE]).astype(np.int32)
        away = np.square(block[:, None] - palette.astype(np.int32)).sum(2)
        nearest[start : start + _AT_ONCE] = away.argmin(1)
    image = Image.fromarray(nearest[places.reshape(frame.shape[:2])], mode="P")
    image.putpalette(palette.tobytes())
    return image


def _pack(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    red, green, blue = (pixels[..., k].astype(np.int32) for k in range(3))
    return red << 16 | green << 8 | blue


def _unpack(packed: NDArray[np.int32]) -> NDArray[np.uint8]:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)


def _write_mp4(frames: Sequence[Picture], target: Path, milliseconds: int, told: str) -> None:
    height, width = frames[0].shape[:2]
    with written_whole(target) as file:
        command = [
            _find_encoder(), "-loglevel", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
            "-framerate", f"1000/{milliseconds}", "-i", "-",
            "-c:v", "libx264", "-crf", "12", "-pix_fmt", "yuv420p", "-movflags", "+faststart",
            "-metadata", f"comment={told}", "-f", "mp4", file.name,
        ]  # fmt: skip
        data = b"".join(frame.tobytes() for frame in frames)
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise OSError(f"ffmpeg must write {target}, got: {said}; write a .gif instead")


def _find_encoder() -> str:
    """Find ffmpeg on the path, or in the package that brings it."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        return str(require("imageio_ffmpeg", extra="video").get_ffmpeg_exe())
    except RuntimeError as error:
        raise MissingExtraError(
            "this needs an encoder, and imageio-ffmpeg brings none for this machine: put ffmpeg on "
            "the path, or write a .gif"
        ) from error
