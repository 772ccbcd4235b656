"""The picture that a notebook shows of activations.

What captures and what stores does not import what draws. A notebook asks for a picture long after
both are loaded, so that what draws is found by its name then, as `stratascope.render` is.
"""

import base64
import importlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

Layers = Sequence[tuple[str, Callable[[], Any]]]
"""By name, what gives the channels of one sample, channels first."""
Pick = Callable[[], tuple[Layers, str]]
"""Gives the layers to draw, and says what sample of how many they are of."""

_MOST_LAYERS = 8
_MOST_CHANNELS = 256
_MOST_POSITIONS = 128 * 128
# In base64 it is a third more, and with a table below 1 MB.
_MOST_BYTES = 600_000
_HEIGHTS = (120, 80, 48)


def draw_png(pick: Pick) -> bytes | None:
    """Draw layers side by side as the bytes of a PNG, at most 600 kB; None where there are none."""
    try:
        return _draw(pick)
    except Exception:  # noqa: BLE001 - a notebook would show a traceback instead of the text
        return None


def add_picture(table: str, pick: Pick) -> str:
    """Put the picture of layers above a table in HTML, or say why there is none."""
    try:
        data = _draw(pick)
    except Exception as error:  # noqa: BLE001 - as above
        reason = type(error).__name__
        return f"<div>{table}<div>no picture: it could not be drawn ({reason})</div></div>"
    if data is None:
        return table
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<div><img alt="activations" style="max-width:100%" src="{source}">{table}</div>'


def _draw(pick: Pick) -> bytes | None:
    layers, said = pick()
    render = importlib.import_module("stratascope.render")
    count = min(len(layers), _MOST_LAYERS)
    chosen = [layers[k * len(layers) // count] for k in range(count)]
    drawn: dict[str, Any] = {}
    thinned = ""
    for name, read in chosen:
        array = read()
        drawn[name], own = _thin(array)
        thinned = thinned or own
    if not drawn:
        return None
    left_out = f"{count} of {len(layers)} sites" if count < len(layers) else ""
    caption = " · ".join(filter(None, [said, left_out, thinned]))
    for height in _HEIGHTS:
        data = _encode(render.strip(drawn, height=height, caption=caption))
        if len(data) <= _MOST_BYTES:
            return data
    return None


def _thin(array: Any) -> tuple[Any, str]:
    """Take every so many of the channels and positions, if there are more than a look needs."""
    channels, *places = array.shape
    step = max(1, math.ceil(channels / _MOST_CHANNELS))
    many = math.prod(places) / _MOST_POSITIONS
    apart = max(1, math.ceil(many ** (1 / len(places)))) if places else 1
    if step == apart == 1:
        return array, ""
    thinned = array[(slice(None, None, step), *[slice(None, None, apart)] * len(places))]
    return thinned, "of large layers not every channel and position"


def _encode(picture: Any) -> bytes:
    image = importlib.import_module("PIL.Image")
    file = io.BytesIO()
    image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
