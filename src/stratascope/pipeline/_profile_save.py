"""Profiles as files and as tables of other libraries."""

import json
import math
import re
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stratascope._optional import require
from stratascope.errors import DataError, StoreError
from stratascope.pipeline._profile_gather import Gatherer, Settings
from stratascope.pipeline._profile_result import FIGURES, Profile, SiteProfile, layer_figures
from stratascope.store import RUN_FILE, StepSpec, find_root, name_file

FORMAT = "stratascope profile"
VERSION = 1
FOLDER = "profile"
DESCRIPTION, CHANNELS, STATE = "profile.json", "channels.parquet", "state.npz"
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def list_channels(profile: Profile) -> dict[str, list[Any] | np.ndarray[Any, Any]]:
    """Give the figures of all channels of all sites, as columns."""
    sites = list(profile.values())
    columns: dict[str, Any] = {
        "site": [site.name for site in sites for _ in range(site.channels)],
        "channel": np.concatenate([np.arange(site.channels) for site in sites]),
    }
    for name in FIGURES:
        columns[name] = np.concatenate([getattr(site, name) for site in sites])
    columns["dead"] = np.concatenate([site.dead() for site in sites])
    columns["constant"] = np.concatenate([site.constant for site in sites])
    return columns


def to_plain(profile: Profile) -> dict[str, Any]:
    """Give figures and findings as values that JSON can hold."""
    return {
        "source": profile.source,
        "step": profile.step,
        "samples": profile.samples,
        "settings": asdict(profile.settings),
        "sites": [_site_to_plain(site) for site in profile.values()],
        "findings": [asdict(finding) for finding in profile.findings()],
    }


def _site_to_plain(site: SiteProfile) -> dict[str, Any]:
    figures = layer_figures(site)
    if site.has_covariance:
        figures["effective_rank"] = site.effective_rank
        figures["participation_ratio"] = site.participation_ratio
    channels = {name: getattr(site, name).tolist() for name in FIGURES}
    plain: dict[str, Any] = {
        "site": site.name,
        "module": site.array.kind,
        "shape": list(site.array.shape),
        "axes": list(site.array.dims),
        "dtype": site.array.source_dtype,
        "samples": site.samples,
        "layer": {name: _finite(value) for name, value in figures.items()},
        "channels": {
            name: [_finite(value) for value in values] for name, values in channels.items()
        },
    }
    return plain


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_pandas(profile: Profile) -> Any:
    """Give a row for each site and channel."""
    pandas = require("pandas", extra="pandas")
    return pandas.DataFrame(list_channels(profile)).set_index(["site", "channel"])


def to_xarray(profile: Profile) -> Any:
    """Give a node for each site."""
    xarray = require("xarray", extra="xarray")
    return xarray.DataTree.from_dict(
        {name_file(name): _make_dataset(xarray, site) for name, site in profile.items()}
    )


def _make_dataset(xarray: Any, site: SiteProfile) -> Any:
    variables: dict[str, Any] = {name: ("channel", getattr(site, name)) for name in FIGURES}
    variables |= {"dead": ("channel", site.dead()), "constant": ("channel", site.constant)}
    coordinates: dict[str, Any] = {"channel": np.arange(site.channels)}
    if site.has_quantiles:
        variables["quantile"] = (("q", "channel"), site.quantile(_QUANTILES))
        coordinates["q"] = list(_QUANTILES)
    if site.has_covariance:
        variables["covariance"] = (("channel", "other_channel"), site.covariance.covariance)
    attributes = {"site": site.name, "module": site.array.kind, "samples": site.samples}
    return xarray.Dataset(variables, coordinates, attributes)


def check_place(path: str | Path) -> Path:
    """Give the folder that a profile can be written to, before there is one.

    Raises:
        StoreError: It is in a bucket, or holds something else.
        MissingExtraError: PyArrow is not installed.
    """
    require("pyarrow", extra="parquet")
    folder = Path(path)
    # pathlib makes one slash of the two of a URL.
    if re.fullmatch(r"[a-z][a-z\d+.-]+:", next(iter(folder.parts), "")):
        raise StoreError(
            f"a profile must be written to a folder of this machine, got the URL {path}: write it "
            "to a folder, and copy that to the bucket"
        )
    if folder.exists() and not (
        folder.is_dir() and ((folder / DESCRIPTION).exists() or not any(folder.iterdir()))
    ):
        raise StoreError(
            f"{folder} holds something other than a profile: nothing was written. Choose another "
            "folder"
        )
    return folder


def save(profile: Profile, path: str | Path | None) -> Path:
    """Write a profile to a folder; the description comes last."""
    arrow = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    folder = check_place(_place_beside(profile) if path is None else path)
    description = folder / DESCRIPTION
    folder.mkdir(parents=True, exist_ok=True)
    description.unlink(missing_ok=True)
    gathered, sites, notes = profile.take_apart()
    state = {
        f"{number}/{name}": array
        for number, one in enumerate(gathered)
        for name, array in one.pack().items()
    }
    np.savez_compressed(folder / STATE, **state)  # pyright: ignore[reportArgumentType]
    parquet.write_table(arrow.table(list_channels(profile)), folder / CHANNELS)
    arrays = tuple(one.array for one in gathered)
    spec = StepSpec(profile.step or 0, profile.samples, 1, arrays, sites=sites)
    plain = {
        "format": FORMAT,
        "version": VERSION,
        **to_plain(profile),
        "notes": list(notes),
        "gathered": spec.to_json(),
    }
    description.write_text(json.dumps(plain, indent=1) + "\n")
    return folder


def _place_beside(profile: Profile) -> Path:
    if profile.step is None:
        raise DataError(
            "the profile of a model lies beside no store: give save() the path of a folder (--save)"
        )
    root = find_root(profile.source).path
    if not isinstance(root, Path):
        raise DataError(
            f"the profile of {root} cannot lie beside it in the bucket: give save() the path of a "
            "folder (--save)"
        )
    return root / FOLDER / str(profile.step)


def load(path: Path, step: int | None) -> Profile:
    """Read a profile from its folder, or from beside a store."""
    folder = path
    if (path / RUN_FILE).exists():
        folder = _find_beside(path, step)
    description = folder / DESCRIPTION
    if not description.exists():
        raise StoreError(f"{folder} holds no profile: write one with Profile.save")
    try:
        plain = json.loads(description.read_text())
        known = (plain["format"], plain["version"])
        if known != (FORMAT, VERSION):
            raise StoreError(
                f"{description} must be a profile of version {VERSION}, got {known[1]}: read it "
                "with the release of stratascope that wrote it"
            )
        spec, settings = StepSpec.from_json(plain["gathered"]), Settings(**plain["settings"])
        gathered = [Gatherer(array, settings) for array in spec.arrays]
        with np.load(folder / STATE) as state:
            for number, one in enumerate(gathered):
                begin = f"{number}/"
                names = [name for name in state.files if name.startswith(begin)]
                one.unpack({name.removeprefix(begin): state[name] for name in names})
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{folder} is damaged: it must hold a profile ({error!r})") from error
    return Profile(
        gathered, spec.sites, source=plain["source"], step=plain["step"], notes=plain["notes"]
    )


def _find_beside(store: Path, step: int | None) -> Path:
    there = sorted(
        int(path.parent.name)
        for path in (store / FOLDER).glob(f"*/{DESCRIPTION}")
        if path.parent.name.isdecimal()
    )
    if not there or step not in (None, *there):
        listed = ", ".join(map(str, there)) or "none"
        wanted = "" if step is None else f" of step {step}"
        raise StoreError(
            f"{store} must have a profile{wanted} beside it, got those of steps {listed}: write "
            "one with stratascope.profile(store).save()"
        )
    return store / FOLDER / str(there[-1] if step is None else step)
