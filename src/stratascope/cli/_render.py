"""``stratascope render``."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from stratascope.cli._output import print_json, print_line
from stratascope.cli._sheets import Look, draw_colours, draw_sheet
from stratascope.cli._views import Kind, draw_sample, find_problem, list_arrays, parse_view
from stratascope.errors import UsageError
from stratascope.store import Store, StoredArray, open_store

Scope = Literal["layer", "channel"]
Estimator = Literal["percentile", "symmetric", "range", "mad", "sigma"]
Transform = Literal["linear", "sqrt", "asinh", "log"]
Style = Literal["grey", "red-blue", "wiggle"]

_VIEW = Group.create_ordered("One picture of each site, on a range")
_COLOUR = Group.create_ordered("All channels in colour")
_BESIDE = Group.create_ordered("Several beside each other")


def render(
    store: str,
    *,
    site: str | None = None,
    sample: int = 0,
    channel: int | None = None,
    step: int | None = None,
    view: Annotated[Kind | None, Parameter(group=_VIEW)] = None,
    scope: Annotated[Scope | None, Parameter(group=_VIEW)] = None,
    percentile: Annotated[float | None, Parameter(group=_VIEW)] = None,
    estimator: Annotated[Estimator | None, Parameter(group=_VIEW)] = None,
    transform: Annotated[Transform | None, Parameter(group=_VIEW)] = None,
    axes: Annotated[str | None, Parameter(group=_VIEW)] = None,
    at: Annotated[str | None, Parameter(group=_VIEW)] = None,
    shape: Annotated[str | None, Parameter(group=_VIEW)] = None,
    style: Annotated[Style | None, Parameter(group=_VIEW)] = None,
    gain: Annotated[float | None, Parameter(group=_VIEW)] = None,
    agc: Annotated[float | None, Parameter(group=_VIEW)] = None,
    flip: Annotated[bool, Parameter(group=_VIEW, negative="")] = False,
    method: Annotated[str | None, Parameter(group=_COLOUR)] = None,
    basis: Annotated[str | None, Parameter(group=_COLOUR)] = None,
    target: Annotated[str | None, Parameter(group=_COLOUR)] = None,
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
        view: The kind of picture; an overlay is on the input. Without it the axes of the values
            choose.
        scope: One range for the whole layer, or one for each channel; without it the layer.
        percentile: Which part of the values the range covers; without it 99.5 for maps, 100 for
            curves, 99 for wiggles and 98 for gathers.
        estimator: What sets the range: the percentile, also about zero (symmetric), all values, or
            three deviations.
        transform: How values spread over it.
        axes: What runs down and across, with its sampling: 'time:0.004:s,offset:25:m'; of a volume
            depth first, of a spectrogram time alone.
        at: The point where the slices of a volume meet, such as '3,10,20', or 'projection'; the
            position to frame in an overlay, such as '10,20'.
        shape: How many tokens stand below and beside each other, such as '14x14'.
        style: How a gather is drawn; without it in grey.
        gain: The power of time that a gather is multiplied by.
        agc: The window of a gather's automatic gain control, in the unit of time.
        flip: A gather with its polarity reversed.
        method: Draw all channels as one picture, by this method, such as pca-oklab, kmeans or
            energy.
        basis: The recipe for the colours: 'fit', which fits one to all samples, saves it in the
            store and uses it again later; or the first digits of the id of one that is there.
        target: The row and column that cosine compares all others with, such as '10,20'.
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
    words = {
        "scope": scope,
        "percentile": percentile,
        "estimator": estimator,
        "transform": transform,
        "axes": axes,
        "at": at,
        "shape": shape,
        "style": style,
        "gain": gain,
        "agc": agc,
        "flip": flip or None,
    }
    words = {name: value for name, value in words.items() if value is not None}
    kinds = [name for name, given in (("strip", strip), ("steps", steps), ("diff", diff)) if given]
    if kinds or method or basis or target:
        if view or words:
            raise UsageError(
                f"--{'view' if view else next(iter(words))} goes with one picture of each site on "
                "a range: leave it out, or --method, --basis, --strip, --steps and --diff"
            )
        look = Look(opened, sample % opened.samples, channel, method, basis, target)
        found = _match(opened, site)
        if kinds:
            arrays = [array for _, array in found.values()]
            drawn = [draw_sheet(look, arrays, kinds, steps=steps, diff=diff, to=to)]
        else:
            drawn = draw_colours(look, _place(found, to), chosen=site is not None)
        _tell(drawn, json=json)
        return
    drawing = parse_view(view, words)
    written: list[Path] = []
    for path, (name, array) in _place(_match(opened, site), to).items():
        if site is None and (problem := find_problem(array, channel, drawing)) is not None:
            warnings.warn(f"'{name}' is not drawn: {problem}", stacklevel=2)
            continue
        how: dict[str, Any] = {"channel": channel, "view": drawing, "to": path}
        written.append(draw_sample(opened, name, array, sample=sample % opened.samples, **how))
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
