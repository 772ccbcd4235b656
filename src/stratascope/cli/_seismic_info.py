"""``stratascope seismic info``."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from stratascope.cli._output import FractionBar, print_json, print_line, print_table
from stratascope.errors import DataError
from stratascope.seismic._openfwi import (
    FASTEST,
    SEISMIC_SHAPE,
    SLOWEST,
    VELOCITY_SHAPE,
    Family,
    Pair,
    find_family,
    find_pairs,
    guess_family,
    map_file,
)

_ROWS = 50  # samples of a file that are in memory at once


def info(
    folder: Path,
    *,
    family: str | None = None,
    deep: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Show what a folder of OpenFWI's data holds, and what of it is missing or broken.

    Exit code 1 if something is broken.

    Args:
        folder: Folder of one family's .npy files.
        family: Which family, such as CurveFault_A; without it the name of the folder tells.
        deep: Read every value, to find NaN and the ranges.
        json: Print JSON.
    """
    found = describe_folder(
        folder, find_family(family) if family is not None else guess_family(folder), deep=deep
    )
    if json:
        print_json(found)
    else:
        _print_folder(found)
    return 1 if found["broken"] else 0


def describe_folder(folder: Path, family: Family, *, deep: bool) -> dict[str, Any]:
    """Collect what the files of a folder are, and measure their values if wanted."""
    pairs = find_pairs(folder, family)
    splits = {
        "train": {"pairs": 0, "published": family.train_files, "samples": 0},
        "test": {"pairs": 0, "published": family.test_files, "samples": 0},
    }
    broken: list[str] = []
    ranges: dict[str, list[float]] = {}
    with FractionBar("reading") as bar:
        for place, pair in enumerate(pairs):
            try:
                samples = pair.samples
                if deep:
                    _widen(ranges, _measure(pair))
            except DataError as error:
                broken.append(str(error))
            else:
                splits[pair.split]["pairs"] += 1
                splits[pair.split]["samples"] += samples
            bar.update((place + 1) / len(pairs), f"{place + 1} of {len(pairs)} pairs")
    return {
        "folder": str(folder),
        "family": family.name,
        "splits": splits,
        "published_range": [family.seismic_min, family.seismic_max],
        "ranges": ranges,
        "broken": broken,
    }


def _measure(pair: Pair) -> dict[str, list[float]]:
    """Find the ranges of a pair's values, a few samples at a time."""
    ranges: dict[str, list[float]] = {}
    for name, path, shape in (
        ("seismic", pair.seismic, SEISMIC_SHAPE),
        ("velocity", pair.velocity, VELOCITY_SHAPE),
    ):
        assert path is not None
        values = map_file(path, shape)
        for first in range(0, len(values), _ROWS):
            part = np.asarray(values[first : first + _ROWS])
            low, high = float(part.min()), float(part.max())
            if not np.isfinite([low, high]).all():
                bad = first + int(np.argmin(np.isfinite(part).reshape(len(part), -1).all(axis=1)))
                raise DataError(
                    f"the values of {path} must be finite, got NaN or infinity in sample {bad}: "
                    "fetch the file again"
                )
            _widen(ranges, {name: [low, high]})
    return ranges


def _widen(ranges: dict[str, list[float]], more: dict[str, list[float]]) -> None:
    for name, (low, high) in more.items():
        known = ranges.get(name, [low, high])
        ranges[name] = [min(low, known[0]), max(high, known[1])]


def _print_folder(found: dict[str, Any]) -> None:
    print_line(f"{found['folder']}: {found['family']}\n")
    rows = [
        [name, f"{split['pairs']:,} of {split['published']}", f"{split['samples']:,}"]
        for name, split in found["splits"].items()
    ]
    print_table(["split", "pairs", "samples"], rows)
    for name, (low, high) in found["ranges"].items():
        print_line(f"{name}: {low:.2f} to {high:.2f}, {_name_published(found, name)}")
    if found["broken"]:
        print_line("\nbroken")
        for sentence in found["broken"]:
            print_line(f"  {sentence}")


def _name_published(found: dict[str, Any], name: str) -> str:
    low, high = found["published_range"] if name == "seismic" else (SLOWEST, FASTEST)
    return f"published {low:.2f} to {high:.2f}"
