"""Pictures in colour, and several beside each other, for ``stratascope render``."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stratascope import render as pictures
from stratascope.cli._views import parse_numbers
from stratascope.errors import DataError, UsageError
from stratascope.store import Store, StoredArray, open_store, read_channels

Drawn = tuple[str, Sequence[str]]
"""A file, and what is to be said of it."""

_FIT = "fit"
_DEFAULT = "pca-oklab"
_SHORTEST_ID = 4


@dataclass(frozen=True, slots=True)
class Look:
    """What of a store is drawn, and in which colours.

    Attributes:
        store: The store, at the step that is looked at.
        sample: Which sample, by its place.
        channel: The one channel to draw, on a range, instead of all in colour.
        method: How channels become colours; None where it is not said.
        basis: ``"fit"``, or the first digits of an id; None where it is not said.
        target: The position that all others are compared with, as it was given.
        said: What there is to say of the bases that were used, by id.
    """

    store: Store
    sample: int
    channel: int | None
    method: str | None
    basis: str | None
    target: str | None = None
    said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channel is not None and (self.method or self.basis):
            raise UsageError(
                "--channel draws one channel, which needs no --method and no --basis: leave out "
                "one of the two"
            )
        cosine, stored = self.method == "cosine", self.basis not in (None, _FIT)
        if (self.target and not cosine) or (cosine and not self.target and not stored):
            raise UsageError(
                f"--target, such as 10,20, must go with --method cosine, got {self.target!r} with "
                f"{self.method!r}"
            )

    @property
    def title(self) -> str:
        """Which sample it is, also in the data where that is another number."""
        item = int(self.store.sample_index[self.sample])
        more = f" (item {item} of the data)" if item != self.sample else ""
        return f"sample {self.sample}{more}"

    @property
    def provenance(self) -> dict[str, Any]:
        """What each picture says of where it comes from."""
        item = int(self.store.sample_index[self.sample])
        return {"store": str(self.store.path), "sample": self.sample, "item": item}

    def read(self, array: StoredArray, sample: int | None = None) -> np.ndarray[Any, Any]:
        """Read a sample, channels first, or the one channel."""
        values = read_channels(array, self.sample if sample is None else sample)
        if self.channel is None:
            return values
        if not 0 <= self.channel < len(values):
            raise UsageError(
                f"--channel must be 0 to {len(values) - 1} at {name_array(array)!r}, got "
                f"{self.channel}"
            )
        return values[self.channel]

    def find_basis(
        self, array: StoredArray, steps: Mapping[int, StoredArray] | None = None
    ) -> pictures.ColorBasis:
        """Find the basis of an array, of one step or several, in the store, or fit and save it."""
        # In a bucket no basis is kept.
        folder = self.store.path / "basis" if isinstance(self.store.path, Path) else None
        sources = {self.store.step: array} if steps is None else steps
        settings = [self.store.at(step).settings for step in sources]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        origin = {
            "site": array.site,
            "place": array.place,
            "steps": ",".join(map(str, sources)),
            "samples": ",".join(str(len(source)) for source in sources.values()),
            # A step that was written anew, of another model or other data, has a basis of its own.
            "settings": digest.hexdigest()[:16],
        }
        target = None
        if self.target is not None:
            target = self._read_target(array)
            origin["target"] = f"{self.target} of item {int(self.store.sample_index[self.sample])}"
        files = [] if folder is None else sorted(folder.glob("*.npz"))
        known = [basis for path in files if (basis := _load(path))]
        if self.basis not in (None, _FIT):
            return self._note(self._find_by_id(known, array), "from the store")
        method = self.method or _DEFAULT
        for basis in known:
            if basis.method == method and basis.about.get("origin") == _told(origin, steps):
                return self._note(basis, "from the store")
        how: dict[str, Any] = {"method": method, "origin": origin, "target": target}
        try:
            if steps is None:
                basis = pictures.fit_basis(array, **how)
            else:
                fitted = pictures.fit_bases(steps, **how)
                basis = next(iter(fitted.values()))
        except ValueError as error:
            if isinstance(error, DataError) or not str(error).startswith("method must be"):
                raise
            raise UsageError(f"--{error}") from error
        if folder is None:
            return self._note(basis, "fitted now, and not kept, as the store is in a bucket")
        basis.save(folder)
        return self._note(basis, "fitted now, and saved in the store")

    def _read_target(self, array: StoredArray) -> np.ndarray[Any, Any]:
        """Read the channels at the position that all others are compared with."""
        values = self.read(array)
        example = ",".join(["3", "10", "20"][4 - values.ndim :])
        place = parse_numbers("target", str(self.target), between=",", example=example)
        if not all(0 <= k < n for k, n in zip(place, values.shape[1:], strict=True)):
            raise UsageError(
                f"--target must be a position of {values.shape[1:]} at {name_array(array)!r}, got "
                f"{self.target}"
            )
        return values[(slice(None), *place)]

    def _find_by_id(
        self, known: Sequence[pictures.ColorBasis], array: StoredArray
    ) -> pictures.ColorBasis:
        start = str(self.basis)
        found = [basis for basis in known if basis.id.startswith(start)]
        if len(start) < _SHORTEST_ID or len(found) != 1:
            listed = ", ".join(f"{basis.id[:8]} ({_describe(basis)})" for basis in known)
            raise UsageError(
                f"--basis must be 'fit', or {_SHORTEST_ID} or more digits of the id of one in "
                f"{self.store.path} ({listed or 'it holds none'}), got {start!r}"
            )
        (basis,) = found
        if self.method not in (None, basis.method):
            raise UsageError(
                f"--method must be that of the basis {start} ({basis.method}), got {self.method!r}:"
                " leave out one of the two"
            )
        axis = array.spec.channel_axis
        channels = 1 if axis is None else array.shape[1 + axis]
        if basis.channels != channels:
            raise UsageError(
                f"--basis must be of {channels} channels for {name_array(array)!r}, got {start} "
                f"of {basis.channels} ({_describe(basis)})"
            )
        return basis

    def _note(self, basis: pictures.ColorBasis, how: str) -> pictures.ColorBasis:
        # That it was fitted now is still so when it is used again.
        text = f"basis {basis.id[:8]} of {_describe(basis)}, {how}: {basis.fidelity.caption}"
        self.said.setdefault(basis.id, text)
        return basis


def draw_colours(
    look: Look, targets: Mapping[Path, tuple[str, StoredArray]], *, chosen: bool
) -> list[Drawn]:
    """Draw each site as one picture in colour; what cannot be is an error where it was chosen."""
    drawn: list[Drawn] = []
    for path, (_, array) in targets.items():
        if not 3 <= array.ndim <= 5:
            _refuse(array, chosen=chosen)
            continue
        one = replace(look, channel=None, said={})
        basis = one.find_basis(array)
        title = f"{name_array(array)} · {look.title}"
        caption = f"{look.store.path} · step {look.store.step}"
        picture = pictures.rgb(one.read(array), basis=basis, title=title, caption=caption)
        told = {"site": array.site, "step": look.store.step, "basis": basis}
        pictures.save(picture, path, **look.provenance, **told)
        drawn.append((str(path), list(one.said.values())))
    return drawn


def draw_sheet(
    look: Look,
    arrays: Sequence[StoredArray],
    kinds: Sequence[str],
    *,
    steps: str | None,
    diff: str | None,
    to: Path,
) -> Drawn:
    """Draw one picture of several panels."""
    if len(kinds) > 1:
        raise UsageError(f"choose one of --{', --'.join(kinds)}: each makes a picture of its own")
    (kind,) = kinds
    suffixes = (".png", ".gif", ".mp4") if kind == "steps" else (".png",)
    if to.suffix.lower() not in suffixes or to.is_dir():
        raise UsageError(f"--to must be a {' or '.join(suffixes)} file for --{kind}, got {to}")
    if kind == "strip":
        told = _draw_strip(look, arrays, to)
    else:
        if len(arrays) != 1:
            names = ", ".join(name_array(array) for array in arrays[:8])
            raise UsageError(f"--{kind} must have one --site, got {len(arrays)}: {names}")
        if steps is not None:
            told = _draw_steps(look, arrays[0], steps, to)
        else:
            told = _draw_difference(look, arrays[0], str(diff), to)
    return str(to), [*told, *look.said.values()]


def _draw_strip(look: Look, arrays: Sequence[StoredArray], to: Path) -> list[str]:
    """Draw all sites; one that is what came in stands first, as the input."""
    if look.basis not in (None, _FIT):
        raise UsageError("--basis must be 'fit' with --strip, where each site has its own")
    drawable = [array for array in arrays if 2 <= array.ndim - (look.channel is not None) <= 5]
    if not drawable:
        _refuse(arrays[0], chosen=True)
    given = drawable[0] if drawable[0].site.endswith(":in") and len(drawable) > 1 else None
    layers = {name_array(array): array for array in drawable if array is not given}
    values = {name: look.read(array) for name, array in layers.items()}
    own = {
        name: look.find_basis(array)
        for name, array in layers.items()
        if look.channel is None and array.ndim > 2
    }
    beside: dict[str, Any] = {"single": True} if look.channel is not None else {}
    if own:
        # Where channels have no place, there are no colours to fit.
        values = {name: value for name, value in values.items() if name in own}
        beside = {"basis": own}
    picture = pictures.strip(
        values,
        input=None if given is None else read_channels(given, look.sample),
        title=_add_channel(look.title, look.channel),
        caption=f"{look.store.path} · step {look.store.step}",
        **beside,
    )
    ids = {name: basis.id for name, basis in own.items()}
    told = {"sites": list(values), "step": look.store.step, "channel": look.channel, "bases": ids}
    pictures.save(picture, to, **look.provenance, **told)
    left_out = len(arrays) - len(values) - (given is not None)
    return [f"{left_out} sites without a map are left out"] if left_out else []


def _draw_steps(look: Look, array: StoredArray, wanted: str, to: Path) -> list[str]:
    chosen = _parse_steps(look.store, wanted)
    sources = {step: _find_array(look.store.at(step), array) for step in chosen}
    values = {
        step: look.read(source, _find_sample(look, look.store.at(step)))
        for step, source in sources.items()
    }
    name = _add_channel(f"{name_array(array)} · {look.title}", look.channel)
    if look.channel is None:
        basis = look.find_basis(array, sources)
        told: dict[str, Any] = {"basis": basis}
        beside: dict[str, Any] = {"basis": basis}
    else:
        scale = pictures.fit_scale(np.stack(list(values.values())))
        told = {"channel": look.channel, "scale": scale}
        beside = {"single": True, "scale": scale}
    told = {**look.provenance, "site": array.site, "steps": list(chosen), **told}
    caption = str(look.store.path)
    if to.suffix.lower() == ".png":
        panels = {f"step {step}": value for step, value in values.items()}
        pictures.save(pictures.strip(panels, title=name, caption=caption, **beside), to, **told)
        return []
    frames = [
        pictures.strip({f"step {step}": value}, title=name, caption=caption, height=320, **beside)
        for step, value in values.items()
    ]
    pictures.animate(frames, to, **told)
    return []


def _draw_difference(look: Look, array: StoredArray, other: str, to: Path) -> list[str]:
    step = int(other) if other.isdecimal() else None
    second = look.store.at(step) if step is not None else open_store(other)
    first, last = look.store, second
    names = [f"{store.path} step {store.step}" for store in (first, last)]
    if first.path == last.path:
        names = [f"step {store.step}" for store in (first, last)]
    if names[0] == names[1]:
        raise UsageError(f"--diff must be another store or step, got {other}: it is the same")
    pair = [look.read(array), look.read(_find_array(last, array), _find_sample(look, last))]
    if pair[0].shape != pair[1].shape:
        raise UsageError(
            f"--diff must hold {name_array(array)!r} in the same shape {pair[0].shape}, got "
            f"{pair[1].shape}"
        )
    basis = None if look.channel is not None else look.find_basis(array)
    picture = pictures.difference(
        *pair,
        names=(names[0], names[1]),
        single=look.channel is not None,
        basis=basis,
        title=_add_channel(f"{name_array(array)} · {look.title}", look.channel),
        caption=f"{first.path}",
    )
    told = {"site": array.site, "step": first.step, "channel": look.channel, "basis": basis}
    told |= {"other": str(last.path), "other_step": last.step}
    pictures.save(picture, to, **look.provenance, **told)
    return []


def name_array(array: StoredArray) -> str:
    """Name an array by its site, and its place in the site's value."""
    return f"{array.site} {array.place}".strip()


def _add_channel(title: str, channel: int | None) -> str:
    return title if channel is None else f"{title} · channel {channel}"


def _parse_steps(store: Store, wanted: str) -> list[int]:
    if wanted == "all":
        return list(store.steps)
    parts = wanted.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--steps must be 'all' or numbers such as 0,100,200, got {wanted!r}")
    return list(dict.fromkeys(map(int, parts)))


def _find_array(store: Store, like: StoredArray) -> StoredArray:
    found = store[like.site]
    return found[like.place] if isinstance(found, dict) else found


def _find_sample(look: Look, store: Store) -> int:
    """Find the place of the same item of the data, which may differ where the order does."""
    item = int(look.store.sample_index[look.sample])
    places = np.flatnonzero(store.sample_index == item)
    if not len(places):
        raise UsageError(f"--sample must be in step {store.step} of {store.path} too: item {item}")
    return int(places[0])


def _refuse(array: StoredArray, *, chosen: bool) -> None:
    """Say that an array has no picture in colour: an error where it was asked for."""
    said = f"{name_array(array)!r} of shape {array.shape[1:]} has no channels with 1 to 3 axes"
    if chosen:
        raise DataError(f"{said} to be drawn in colour: leave out --method, --basis and --strip")
    warnings.warn(f"{said}, and is not drawn", stacklevel=3)


def _told(origin: Mapping[str, str], steps: Any) -> dict[str, str]:
    """Give what a basis fitted to this keeps of it."""
    return dict(origin) if steps is None else {"policy": "pooled", **origin}


def _describe(basis: pictures.ColorBasis) -> str:
    origin = basis.about.get("origin", {})
    site = origin.get("site", "?")
    return f"{basis.method} for {site!r}"


def _load(path: Path) -> pictures.ColorBasis | None:
    """Read a basis; a damaged one is as good as none, since it can be fitted again."""
    try:
        return pictures.ColorBasis.load(path)
    except DataError as error:
        warnings.warn(str(error), stacklevel=2)
        return None
