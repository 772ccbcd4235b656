"""One site on a range, by the kind of picture, for ``stratascope render``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stratascope import render as pictures
from stratascope.errors import DataError, UsageError
from stratascope.render._channels import fit_layer
from stratascope.store import Store, StoredArray, name_file, read_channels

Kind = Literal[
    "map", "grid", "line", "slices", "wiggle", "gather", "spectrogram", "tokens", "overlay"
]

_RANGE = ("percentile", "estimator", "transform")
# How many axes each kind of picture draws, and which options it takes.
_KINDS: dict[Kind, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "map": ((2,), ("axes", *_RANGE)),
    "grid": ((3,), ("scope", *_RANGE)),
    "line": ((1, 2), ("scope", *_RANGE)),
    "slices": ((3, 4), ("axes", "at", *_RANGE)),
    "wiggle": ((1, 2), ("axes", "percentile", "transform")),
    "gather": ((2, 3), ("axes", "style", "gain", "agc", "flip", "percentile", "transform")),
    "spectrogram": ((1,), ("axes",)),
    "tokens": ((2,), ("shape", *_RANGE)),
    "overlay": ((2,), ("at",)),
}
_CHANNELS_FIRST = ("grid", "line", "slices", "wiggle")
_NUMBERED = ("line", "slices")
_SCALED = ("map", "grid", "line", "slices")
_AXES = {"slices": 3, "spectrogram": 1}


@dataclass(frozen=True, slots=True)
class View:
    """How a site is drawn.

    Attributes:
        kind: The kind of picture; None where the shape of the values is to choose.
        options: What else was given, for the function that draws it.
    """

    kind: Kind | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_view(kind: Kind | None, given: Mapping[str, Any]) -> View:
    """Read the options that were given on the command line.

    Raises:
        UsageError: This kind of picture does not take one of the options, or an option cannot be
            read.
    """
    for name in given:
        takers = [taker for taker, (_, options) in _KINDS.items() if name in options]
        common = kind is None and name in ("scope", *_RANGE)
        if kind not in takers and not common:
            got = "no --view" if kind is None else f"--view {kind}"
            raise UsageError(f"--{name} must go with --view {' or '.join(takers)}, got {got}")
    options = dict(given)
    if "axes" in given:
        options["axes"] = _parse_axes(given["axes"], _AXES.get(str(kind), 2))
    if "at" in given and (kind, given["at"]) != ("slices", "projection"):
        example = "3,10,20 or projection" if kind == "slices" else "10,20"
        options["at"] = parse_numbers("at", given["at"], between=",", example=example)
    if "shape" in given:
        options["shape"] = parse_numbers("shape", given["shape"], between="x", example="14x14")
    return View(kind, options)


def list_arrays(store: Store) -> dict[str, tuple[str, StoredArray]]:
    """List every array of a store under a name for its picture, with its site."""
    found: dict[str, tuple[str, StoredArray]] = {}
    for site, value in store.items():
        parts = value if isinstance(value, dict) else {"": value}
        found.update({name_file(site, place): (site, part) for place, part in parts.items()})
    return found


def find_problem(array: StoredArray, channel: int | None, view: View) -> str | None:
    """Say why a site has no picture, or none of this kind, or None."""
    axes = array.ndim - 1 - (channel is not None)
    if channel is not None:
        count = array.shape[1 + (array.spec.channel_axis or 0)] if axes > 0 else 0
        if not count:
            return f"--channel needs channels, and '{array.site}' has shape {array.shape[1:]}"
        if not 0 <= channel < count:
            return f"--channel must be 0 to {count - 1} at '{array.site}', got {channel}"
    drawn = (1, 2, 3, 4) if view.kind is None else _KINDS[view.kind][0]
    if axes in drawn:
        return None
    what = "what is drawn" if view.kind is None else f"what --view {view.kind} draws"
    remedy = ": choose one channel with --channel" if axes - 1 in drawn and channel is None else ""
    listed = " or ".join(map(str, drawn))
    return f"{what} must have {listed} axes, got {axes} at '{array.site}'{remedy}"


def draw_sample(
    store: Store,
    site: str,
    array: StoredArray,
    *,
    sample: int,
    channel: int | None = None,
    view: View | None = None,
    to: Path,
) -> Path:
    """Draw what one site made of one sample, and say in the file where it came from.

    Raises:
        DataError: Samples of this shape have no picture.
        UsageError: They have none of this kind, or there is no such channel.
    """
    view = view or View()
    if (problem := find_problem(array, channel, view)) is not None:
        raise (DataError if view.kind is None and channel is None else UsageError)(problem)
    kind, values = _read(array, sample, channel, view.kind)
    item = int(store.sample_index[sample])
    # In a shuffled run the place in the store is not the place in the data set.
    title = f"{site} · sample {sample}" + (f" (item {item} of the data)" if item != sample else "")
    taken = _KINDS[kind][1]
    told = {name: value for name, value in view.options.items() if name in taken}
    look: dict[str, Any] = dict(told)
    if kind in _SCALED and look.get("scope") != "channel":
        ways = {name: look.pop(name) for name in _RANGE if name in look}
        ways = {"percentile": 100.0 if kind == "line" else 99.5, **ways}
        channels = values[None] if kind in ("map", "slices") and values.ndim < 4 else values
        look["scale"] = told["scale"] = fit_layer(channels.astype(np.float64), **ways)
    if kind == "spectrogram" and "axes" in look:
        (look["axis"],) = look.pop("axes")
    if kind == "overlay":
        look["on"] = _read_input(store, sample)
    if channel is not None:
        title = f"{title} · channel {channel}"
        look |= {"channels": [channel]} if kind in _NUMBERED else {}
    caption = f"{store.path} · step {store.step}"
    picture = getattr(pictures, kind)(values, title=title, caption=caption, **look)
    provenance = {
        "store": str(store.path),
        "step": store.step,
        "site": site,
        "sample": sample,
        "item": item,
        "channel": "all" if channel is None else channel,
        "view": kind,
        **told,
        # Of the values that are drawn, beside which a shape of tokens is nothing new.
        "shape": list(values.shape),
        "dtype": str(array.source_dtype),
    }
    return pictures.save(picture, to, **provenance)


def _read(
    array: StoredArray, sample: int, channel: int | None, kind: Kind | None
) -> tuple[Kind, np.ndarray[Any, Any]]:
    """Read what is drawn, and choose the kind of picture by its axes where that is left open."""
    values, axis = array[sample], array.spec.channel_axis
    if channel is not None:
        values = np.moveaxis(values, axis or 0, 0)[channel]
    elif axis is not None and kind in _CHANNELS_FIRST:
        values = np.moveaxis(values, axis, 0)
    elif axis is not None and kind == "tokens":
        values = np.moveaxis(values, axis, -1)
    if kind is None:
        curves = values.ndim == 2 and channel is None and axis == 0
        by_axes: tuple[Kind, ...] = ("line", "map", "grid", "slices")
        kind = "line" if curves else by_axes[values.ndim - 1]
    return kind, values


def _read_input(store: Store, sample: int) -> np.ndarray[Any, Any]:
    """Read what came into the network: the first site that is an input with rows and columns."""
    for site, value in store.items():
        if site.endswith(":in") and isinstance(value, StoredArray) and 3 <= value.ndim <= 4:
            return read_channels(value, sample)
    raise UsageError(
        "--view overlay must have the input of the network in the store, such as 'conv1:in', got "
        f"{', '.join(map(repr, store))}: extract it, too"
    )


def _parse_axes(text: str, amount: int) -> list[pictures.Axis]:
    """Read axes such as ``time:0.004:s,offset:25:m``."""
    parts = [part.split(":") for part in text.split(",")]
    try:
        if len(parts) != amount or max(map(len, parts)) > 3:
            raise ValueError(text)
        return [
            pictures.Axis(name.strip(), *map(float, more[:1]), unit="".join(more[1:]).strip())
            for name, *more in parts
        ]
    except ValueError as error:
        example = ",".join(["time:0.004:s", "offset:25:m", "line:25:m"][:amount])
        raise UsageError(f"--axes must be {amount}, such as {example}, got {text!r}") from error


def parse_numbers(option: str, text: str, *, between: str, example: str) -> tuple[int, ...]:
    """Read whole numbers, as many as an example has.

    >>> parse_numbers("shape", "14x14", between="x", example="7x7")
    (14, 14)
    """
    try:
        numbers = tuple(int(part) for part in text.split(between))
    except ValueError:
        numbers = ()
    if len(numbers) != example.split()[0].count(between) + 1:
        raise UsageError(f"--{option} must be such as {example}, got {text!r}")
    return numbers
