"""``stratascope render``."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Group, Parameter

from stratascope import render as pictures
from stratascope.cli._output import print_json, print_line
from stratascope.cli._sheets import Look, draw_colours, draw_sheet
from stratascope.errors import DataError, UsageError
from stratascope.store import Store, StoredArray, name_file, open_store

Scope = Literal["layer", "channel"]

_COLOUR = Group.create_ordered("All channels in colour")
_BESIDE = Group.create_ordered("Several beside each other")


def render(
    store: str,
    *,
    site: str | None = None,
    sample: int = 0,
    channel: int | None = None,
    step: int | None = None,
    scope: Scope = "layer",
    percentile: float | None = None,
    method: Annotated[str | None, Parameter(group=_COLOUR)] = None,
    basis: Annotated[str | None, Parameter(group=_COLOUR)] = None,
    strip: Annotated[bool, Parameter(group=_BESIDE, negative="")] = False,
    steps: Annotated[str | None, Parameter(group=_BESIDE)] = None,
    diff: Annotated[str | None, Parameter(group=_BESIDE)] = None,
    to: Path,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw a store's activations: on ranges, in colours, side by side.

    Args:
        store: Folder of the store, or its URL in a bucket.
        site: Which sites: a name, a glob such as 'enc.*', a class such as 'ReLU[*]'; without it
            every one.
        sample: Which sample, by its place in the store.
        channel: Draw only this channel, larger; counted from 0.
        step: Which step; without it the last.
        scope: One colour range for the whole layer, or one for each channel.
        percentile: Which part of the values the range covers; without it 99.5 for maps and 100 for
            curves.
        method: Draw all channels as one picture, by this method, such as pca-oklab, kmeans or
            energy.
        basis: The recipe for the colours: 'fit', which fits one to all samples, saves it in the
            store and uses it again later; or the first digits of the id of one that is there.
        strip: All sites in one picture, each in its own colours.
        steps: One site at several steps in the same colours: 'all', or such as '0,100,200'. A .gif
            or .mp4 shows them one after the other.
        diff: One site beside that of another store, or of another step of this one, and what
            differs.
        to: The PNG file, or a folder.
        json: Print JSON.
    """
    opened = open_store(store, step=step)
    if not -opened.samples <= sample < opened.samples:
        raise UsageError(f"--sample must be 0 to {opened.samples - 1}, got {sample}")
    kinds = [name for name, given in (("strip", strip), ("steps", steps), ("diff", diff)) if given]
    if kinds or method or basis:
        if scope != "layer" or percentile is not None:
            raise UsageError(
                "--scope and --percentile go with one picture of each site on a range: leave them "
                "out, or --method, --basis, --strip, --steps and --diff"
            )
        look = Look(opened, sample % opened.samples, channel, method, basis)
        found = _match(opened, site)
        if kinds:
            arrays = [array for _, array in found.values()]
            drawn = [draw_sheet(look, arrays, kinds, steps=steps, diff=diff, to=to)]
        else:
            drawn = draw_colours(look, _place(found, to), chosen=site is not None)
        _tell(drawn, json=json)
        return
    written: list[Path] = []
    for path, (name, array) in _place(_match(opened, site), to).items():
        if site is None and (problem := _find_problem(array, channel)) is not None:
            warnings.warn(f"'{name}' is not drawn: {problem}", stacklevel=2)
            continue
        look = {"channel": channel, "scope": scope, "percentile": percentile}
        place = sample % opened.samples
        written.append(draw_sample(opened, name, array, sample=place, to=path, **look))
    _tell([(str(path), []) for path in written], json=json)


def _tell(drawn: Sequence[tuple[str, Sequence[str]]], *, json: bool) -> None:
    """Print the pictures that were written, and below each what is to be said of it."""
    if json:
        print_json([path for path, _ in drawn])
        return
    for path, lines in drawn:
        print_line(path)
        for line in lines:
            print_line(f"  {line}")


def _match(store: Store, pattern: str | None) -> dict[str, tuple[str, StoredArray]]:
    arrays = list_arrays(store)
    if pattern is None:
        return arrays
    sites = store.select(pattern)
    return {name: found for name, found in arrays.items() if found[0] in sites}


def _place(
    arrays: dict[str, tuple[str, StoredArray]], to: Path
) -> dict[Path, tuple[str, StoredArray]]:
    """Give each picture its file."""
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
