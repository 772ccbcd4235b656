"""``stratascope render``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from stratascope import render as pictures
from stratascope.cli._output import print_json, print_line
from stratascope.errors import DataError, UsageError
from stratascope.store import Store, StoredArray, open_store


def render(
    store: Path,
    *,
    site: str | None = None,
    sample: int = 0,
    channel: int | None = None,
    step: int | None = None,
    scope: Literal["layer", "channel"] = "layer",
    to: Path,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw a store's activations as PNG pictures.

    Args:
        store: Folder of the store.
        site: Which site; without it every site is drawn, and --to is a folder.
        sample: Which sample.
        channel: Draw only this channel, larger; counted from 0.
        step: Which step; without it the last.
        scope: One colour range for the whole layer, or one for each channel.
        to: The PNG file, or the folder.
        json: Print JSON.
    """
    opened = open_store(store, step=step)
    if not -opened.samples <= sample < opened.samples:
        raise UsageError(f"--sample must be 0 to {opened.samples - 1}, got {sample}")
    if site is not None:
        chosen = {to: (site, opened[site])}
        if isinstance(opened[site], dict):
            chosen = {_beside(to, place): (site, part) for place, part in opened[site].items()}
    else:
        chosen = {to / f"{name}.png": found for name, found in list_arrays(opened).items()}
    written = [
        draw_sample(opened, name, array, sample=sample, channel=channel, scope=scope, to=path)
        for path, (name, array) in chosen.items()
    ]
    if json:
        print_json([str(path) for path in written])
        return
    for path in written:
        print_line(str(path))


def list_arrays(store: Store) -> dict[str, tuple[str, StoredArray]]:
    """List every array of a store under a name for its picture, with its site."""
    found: dict[str, tuple[str, StoredArray]] = {}
    for site, value in store.items():
        name = site.replace(":", "~")
        if isinstance(value, dict):
            found.update({f"{name}.{place}": (site, array) for place, array in value.items()})
        else:
            found[name] = (site, value)
    return found


def draw_sample(
    store: Store,
    site: str,
    array: StoredArray,
    *,
    sample: int,
    channel: int | None = None,
    scope: Literal["layer", "channel"] = "layer",
    to: Path,
) -> Path:
    """Draw what one site made of one sample, and say in the file where it came from.

    Raises:
        DataError: Samples of this shape have no picture.
    """
    values = array[sample]
    title = f"{site} · sample {sample}"
    if channel is not None:
        values, title = _pick_channel(values, channel, site), f"{title} · channel {channel}"
    picture = _draw(values, title, f"{store.path} · step {store.step}", scope, site)
    provenance = {
        "store": str(store.path),
        "step": store.step,
        "site": site,
        "sample": sample,
        "channel": "all" if channel is None else channel,
        "scope": scope,
        "scale": pictures.fit_scale(values),
        "shape": list(values.shape),
        "dtype": str(array.source_dtype),
    }
    return pictures.save(picture, to, **provenance)


def _draw(
    values: np.ndarray[Any, Any], title: str, caption: str, scope: Any, site: str
) -> np.ndarray[Any, Any]:
    if values.ndim == 3:
        return pictures.grid(values, scope=scope, title=title, caption=caption)
    if values.ndim == 2:
        return pictures.line(values, scope=scope, title=title, caption=caption)
    if values.ndim == 1:
        return pictures.line(values[np.newaxis], title=title, caption=caption)
    raise DataError(
        f"samples of '{site}' must have 1 to 3 axes to be drawn, got {values.ndim}: choose a "
        "channel with --channel"
    )


def _pick_channel(values: np.ndarray[Any, Any], channel: int, site: str) -> np.ndarray[Any, Any]:
    count = values.shape[0] if values.ndim > 1 else 0
    if not 0 <= channel < count:
        raise UsageError(f"--channel must be 0 to {count - 1} at '{site}', got {channel}")
    return values[channel]


def _beside(path: Path, place: str) -> Path:
    return path.with_name(f"{path.stem}.{place}{path.suffix}")
