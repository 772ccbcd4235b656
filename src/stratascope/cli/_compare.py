"""``stratascope compare``."""

import csv
import itertools
import math
import operator
import re
import warnings
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from stratascope import render as pictures
from stratascope._optional import require
from stratascope.cli._output import print_json, print_line
from stratascope.errors import UsageError
from stratascope.pipeline import Comparison
from stratascope.pipeline._compare import Method
from stratascope.pipeline._compare import compare as compare_stores
from stratascope.store import open_store

_FIGURES = {"diff": "largest", "relative": "relative", "cosine": "cosine"}
_COLUMNS = ("relative", "cosine", "largest", "identical")
_CONDITION = re.compile(r"\s*(diff|relative|cosine|similarity)\s*([<>])\s*(\S+)\s*")


def compare(
    a: str,
    b: str | None = None,
    *,
    sites: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    method: Method = "minibatch_cka",
    flatten: Annotated[bool, Parameter(negative="")] = False,
    step_a: int | None = None,
    step_b: int | None = None,
    tolerance: float = 0.0,
    fail_on: str | None = None,
    to: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Compare the sites of two stores, of two steps of one, or of one with each other.

    Args:
        a: Folder of a store, or its URL in a bucket.
        b: Folder of another. Without it, and without --step-b, the sites of the first are compared
            with each other.
        sites: Which sites: names, globs such as 'enc.*', classes such as 'Conv1d[*]'; without it
            all.
        method: How sites are compared: minibatch_cka, of all values; cka, unbiased_cka, svcca,
            procrustes (a distance) or rsa, of the channels' means.
        flatten: Compare all values by these, too.
        step_a: Which step of the first; without it the last.
        step_b: Which step of the second, or of the first if there is no second.
        tolerance: The relative L2 difference up to which a site counts as the same in both.
        fail_on: Exit with 1 if one of these holds at a site of both, such as 'diff>1e-3' (largest
            absolute difference), 'relative>0.01', 'cosine<0.99', 'similarity<0.9', with procrustes
            'similarity>0.1'; several with commas. A site that only one has, or in another shape, is
            passed over.
        to: Write the figures to a .csv or .parquet file, a row for each two sites, or draw the
            matrix to a .png file.
        json: Print JSON.
    """
    conditions = [] if fail_on is None else [_parse(part, method) for part in fail_on.split(",")]
    if to is not None and to.suffix not in _WRITERS:
        raise UsageError(f"--to must end in {', '.join(_WRITERS)}, got {to}")
    if conditions and b is None and step_b is None:
        raise UsageError("--fail-on needs two stores, or --step-b")
    first = open_store(a, step=step_a)
    second = None
    if b is not None or step_b is not None:
        second = open_store(b or a, step=step_b)
    with warnings.catch_warnings():
        # What it warns of stands in the notes as well, and these are printed.
        warnings.simplefilter("ignore", UserWarning)
        found = compare_stores(first, second, sites=sites, method=method, flatten=flatten)
    if conditions and not found.differences:
        raise UsageError(f"--fail-on needs a site of the same name and shape in {a} and {b or a}")
    failed = [line for condition in conditions for line in _check(found, *condition)]
    if to is not None:
        _WRITERS[to.suffix](found, to)
    if json:
        diverged = found.first_divergence(tolerance) if found.differences else None
        more = {"first_divergence": getattr(diverged, "site", None), "failed": failed}
        print_json(found.to_dict() | more)
        return 1 if failed else 0
    print_line(found.table())
    if found.differences:
        print_line(_name_divergence(found, tolerance))
    for line in failed:
        print_line(f"failed: {line}")
    if to is not None:
        print_line(str(to))
    return 1 if failed else 0


def _name_divergence(found: Comparison, tolerance: float) -> str:
    diverged = found.first_divergence(tolerance)
    beyond = f" by more than {tolerance:g}" if tolerance else ""
    if diverged is not None:
        return f"\nThey first differ{beyond} at {diverged}"
    if all(difference.identical for difference in found.differences.values()):
        return "\nAll sites that both have are identical to the bit"
    return f"\nNo site that both have differs{beyond}"


def _parse(text: str, method: str) -> tuple[str, str, float]:
    match = _CONDITION.fullmatch(text)
    name, sign, limit = match.groups() if match else ("", "", "")
    try:
        number = float(limit)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UsageError(
            "--fail-on must be such as 'diff>1e-3', of diff, relative, cosine or similarity, got "
            f"{text!r}"
        )
    if (name, sign, method) == ("similarity", "<", "procrustes"):
        raise UsageError(
            f"procrustes is a distance, 0 for alike: --fail-on 'similarity>{limit}', got {text!r}"
        )
    if sign == "<" and name in ("diff", "relative"):
        raise UsageError(
            f"{name} is a difference, 0 for alike: --fail-on '{name}>{limit}', got {text!r}"
        )
    return name, sign, number


def _check(found: Comparison, name: str, sign: str, limit: float) -> list[str]:
    """List the sites at which a condition holds, or cannot be told."""
    holds = operator.gt if sign == ">" else operator.lt
    failed: list[str] = []
    for site, difference in found.differences.items():
        figure = getattr(difference, _FIGURES.get(name, ""), found.similarity(site))
        if not difference.changed and math.isnan(figure):
            continue  # such as a dead layer in both
        if math.isnan(figure):
            failed.append(f"{site}: {name} cannot be computed")
        elif holds(figure, limit):
            failed.append(f"{site}: {name} {figure:.6g} {sign} {limit:g}")
    return failed


def _list_rows(found: Comparison) -> list[dict[str, Any]]:
    """List a row for each two sites."""
    pairs = itertools.product(found.sites_a, found.sites_b)
    rows: list[dict[str, Any]] = []
    for (one, other), figure in zip(pairs, found.matrix.ravel().tolist(), strict=True):
        difference = found.differences.get(one) if one == other else None
        figures = {name: getattr(difference, name, None) for name in _COLUMNS}
        rows.append({"site_a": one, "site_b": other, found.method: figure, **figures})
    return rows


def _write_csv(found: Comparison, to: Path) -> None:
    rows = _list_rows(found)
    with to.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(found: Comparison, to: Path) -> None:
    arrow = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    parquet.write_table(arrow.Table.from_pylist(_list_rows(found)), to)


def _draw(found: Comparison, to: Path) -> None:
    # From 0 for independent layers, whatever is below by chance, to 1; a distance to its greatest.
    scale = pictures.Scale(0, 2 if found.method == "procrustes" else 1)
    picture = pictures.map(
        found.matrix,
        scale=scale,
        title=f"{found.method} of {len(found.samples):,} samples",
        axes=(
            pictures.Axis(found.a, labels=found.sites_a),
            pictures.Axis(found.b or found.a, labels=found.sites_b),
        ),
    )
    pictures.save(picture, to, a=found.a, b=found.b, method=found.method)


_WRITERS = {".csv": _write_csv, ".parquet": _write_parquet, ".png": _draw}
