"""``stratascope render``."""

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from stratascope import render as pictures
from stratascope.cli._output import print_json, print_line
from stratascope.errors import DataError, UsageError
from stratascope.sites import match_names
from stratascope.store import Store, StoredArray, name_file, open_store

Scope = Literal["layer", "channel"]


def render(
    store: str,
    *,
    site: str | None = None,
    sample: int = 0,
    channel: int | None = None,
    step: int | None = None,
    scope: Scope = "layer",
    percentile: float | None = None,
    to: Path,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw a store's activations as PNG pictures.

    Args:
        store: Folder of the store, or its URL in a bucket.
        site: Which site, or a glob such as 'enc.*'; without it every one.
        sample: Which sample, by its place in the store.
        channel: Draw only this channel, larger; counted from 0.
        step: Which step; without it the last.
        scope: One colour range for the whole layer, or one for each channel.
        percentile: Which part of the values the range covers; without it 99.5 for maps and 100 for
            curves.
        to: The PNG file, or a folder.
        json: Print JSON.
    """
    opened = open_store(store, step=step)
    if not -opened.samples <= sample < opened.samples:
        raise UsageError(f"--sample must be 0 to {opened.samples - 1}, got {sample}")
    written: list[Path] = []
    for path, (name, array) in _choose(opened, site, to).items():
        if site is None and (problem := _find_problem(array, channel)) is not None:
            warnings.warn(f"'{name}' is not drawn: {problem}", stacklevel=2)
            continue
        look = {"channel": channel, "scope": scope, "percentile": percentile}
        place = sample % opened.samples
        written.append(draw_sample(opened, name, array, sample=place, to=path, **look))
    if json:
        print_json([str(path) for path in written])
        return
    for path in written:
        print_line(str(path))


def _choose(store: Store, pattern: str | None, to: Path) -> dict[Path, tuple[str, StoredArray]]:
    arrays = list_arrays(store)
    if pattern is not None:
        # A name that is no pattern and not there is an error with near names.
        sites = match_names(pattern, store) or [store.find(pattern)]
        arrays = {name: found for name, found in arrays.items() if found[0] in sites}
    if to.suffix == ".png" and not to.is_dir():
        if len(arrays) > 1:
            raise UsageError(
                f"--to must be a folder for {len(arrays)} pictures, got {to}: choose one with "
                "--site, or leave the .png out"
            )
        (found,) = arrays.values()
        return {to: found}
    if to.suffix and not to.is_dir():
        raise UsageError(f"--to must be a .png file or a folder, got {to}")
    return {to / f"{name}.png": found for name, found in arrays.items()}


def list_arrays(store: Store) -> dict[str, tuple[str, StoredArray]]:
    """List every array of a store under a name for its picture, with its site."""
    found: dict[str, tuple[str, StoredArray]] = {}
    for site, value in store.items():
        parts = value if isinstance(value, dict) else {"": value}
        found.update({name_file(site, place): (site, part) for place, part in parts.items()})
    return found


def draw_sample(
    store: Store,
    site: str,
    array: StoredArray,
    *,
    sample: int,
    channel: int | None = None,
    scope: Scope = "layer",
    percentile: float | None = None,
    to: Path,
) -> Path:
    """Draw what one site made of one sample, and say in the file where it came from.

    Raises:
        DataError: Samples of this shape have no picture.
    """
    values = array[sample]
    item = int(store.sample_index[sample])
    # In a shuffled run the place in the store is not the place in the data set.
    title = f"{site} · sample {sample}" + (f" (item {item} of the data)" if item != sample else "")
    if channel is not None:
        values, title = _pick_channel(values, channel, site), f"{title} · channel {channel}"
    picture, scale = _draw(
        values,
        array.dims[1:],
        channel,
        scope=scope,
        percentile=percentile,
        title=title,
        caption=f"{store.path} · step {store.step}",
    )
    provenance = {
        "store": str(store.path),
        "step": store.step,
        "site": site,
        "sample": sample,
        "item": item,
        "channel": "all" if channel is None else channel,
        "scope": scope,
        "scale": scale,
        "shape": list(values.shape),
        "dtype": str(array.source_dtype),
    }
    return pictures.save(picture, to, **provenance)


def _draw(
    values: np.ndarray[Any, Any],
    dims: tuple[str, ...],
    channel: int | None,
    *,
    scope: Scope,
    percentile: float | None,
    title: str,
    caption: str,
) -> tuple[np.ndarray[Any, Any], pictures.Scale]:
    """Choose the kind of picture by what the axes are."""
    curves = values.ndim == 1 or (values.ndim == 2 and channel is None and dims[0] == "channel")
    share = percentile or (100.0 if curves else 99.5)
    scale = pictures.fit_scale(values, percentile=share)
    look: dict[str, Any] = {"percentile": share, "title": title, "caption": caption}
    if curves:
        numbers = None if channel is None else [channel]
        picture = pictures.line(np.atleast_2d(values), scope=scope, channels=numbers, **look)
    elif values.ndim == 2:
        picture = pictures.map(values, **look)
    elif values.ndim == 3:
        picture = pictures.grid(values, scope=scope, **look)
    else:
        raise DataError(_describe_no_picture(values.ndim))
    return picture, scale


def _find_problem(array: StoredArray, channel: int | None) -> str | None:
    """Say why a site has no picture, or None."""
    axes = array.ndim - 1 - (channel is not None)
    if not 1 <= axes <= 3:
        return _describe_no_picture(axes)
    if channel is not None and channel >= array.shape[1]:
        return f"it has {array.shape[1]} channels"
    return None


def _describe_no_picture(axes: int) -> str:
    remedy = ": choose a channel with --channel" if axes > 3 else ""
    return f"what is drawn must have 1 to 3 axes, got {axes}{remedy}"


def _pick_channel(values: np.ndarray[Any, Any], channel: int, site: str) -> np.ndarray[Any, Any]:
    count = values.shape[0] if values.ndim > 1 else 0
    if count == 0:
        raise UsageError(f"--channel needs channels, and '{site}' has shape {values.shape}")
    if not 0 <= channel < count:
        raise UsageError(f"--channel must be 0 to {count - 1} at '{site}', got {channel}")
    return values[channel]
