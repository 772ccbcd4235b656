"""``stratascope info``."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from stratascope.cli._output import name_size, print_json, print_line, print_table
from stratascope.errors import StoreError
from stratascope.store import TEXT, Store, StoredArray, open_store

_SHOWN = 8


def info(
    store: str,
    *,
    step: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show what a store holds: steps, sites, shapes, bytes, and where it comes from.

    Args:
        store: Folder of the store, or its URL in a bucket.
        step: Which step; without it the last.
        json: Print JSON.
    """
    found = describe_store(open_store(store, step=step))
    if json:
        print_json(found)
    else:
        _print_store(found)


def describe_store(store: Store) -> dict[str, Any]:
    """Collect what a store says of itself."""
    committed = sum(map(len, store.committed_ranges()))
    values = [value if isinstance(value, dict) else {"": value} for value in store.values()]
    arrays = [
        _describe_array(store, array, committed) for parts in values for array in parts.values()
    ]
    written = store.written_at
    return {
        "store": str(store.path),
        "steps": [_describe_step(store, step) for step in store.steps],
        "step": store.step,
        "complete": store.complete,
        "samples": store.samples,
        "samples_committed": committed,
        "written_at": None if written is None else written.isoformat(timespec="seconds"),
        "bytes": sum(array["bytes"] for array in arrays),
        "bytes_in_memory": sum(array["bytes_in_memory"] for array in arrays),
        "bytes_previews": sum(array["bytes_previews"] for array in arrays),
        "codec": store.codec,
        "unit_size": store.unit,
        "arrays": arrays,
        "coordinates": {
            name: _describe_coordinate(array) for name, array in store.coordinates.items()
        },
        "skipped": store.skipped,
        "settings": store.settings,
        "provenance": store.provenance,
    }


def _describe_step(store: Store, step: int) -> dict[str, Any]:
    try:
        other = Store(store.folder, step)
        return {"step": step, "complete": other.complete, "bytes": other.nbytes}
    except StoreError as error:
        return {"step": step, "problem": str(error)}


def _describe_array(store: Store, array: StoredArray, committed: int) -> dict[str, Any]:
    site = store.describe(array.site)
    whole = array.shape[0]
    return {
        "site": array.site,
        "place": array.place,
        "module": site.module,
        "aliases": list(site.aliases),
        "ordinals": site.ordinals,
        "shape": list(array.shape),
        "axes": list(array.dims),
        "dtype": str(array.dtype),
        "stored_dtype": str(array.stored_dtype),
        "source_dtype": array.source_dtype,
        "bytes": array.nbytes_stored,
        "bytes_previews": array.nbytes_previews,
        "bytes_in_memory": array.nbytes * committed // whole if whole else 0,
    }


def _describe_coordinate(array: StoredArray) -> dict[str, Any]:
    # Texts are stored as bytes, so many for each.
    is_text = array.source_dtype == TEXT
    shape = array.shape[:1] if is_text else array.shape
    return {"shape": list(shape), "dtype": "text" if is_text else str(array.dtype)}


def _print_store(found: dict[str, Any]) -> None:
    print_line(f"{found['store']}, step {found['step']}{_name_steps(found['steps'])}")
    state = "complete" if found["complete"] else "UNFINISHED"
    print_line(
        f"{found['samples_committed']:,} of {found['samples']:,} samples, {state}, "
        f"{found['written_at'] or 'nothing written'}"
    )
    print_line(
        f"{name_size(found['bytes'])} on disk, {name_size(found['bytes_in_memory'])} in memory, "
        f"{_name_ratio(found)}, {_name_previews(found['bytes_previews'])}\n"
    )
    rows = [
        [
            array["site"] + (f" [{array['place']}]" if array["place"] else ""),
            array["module"],
            str(tuple(array["shape"])),
            _name_dtype(array),
            name_size(array["bytes"]),
            _name_ratio(array),
            f"also {', '.join(array['aliases'])}" if array["aliases"] else "",
        ]
        for array in found["arrays"]
    ]
    print_table(["site", "class", "shape", "type", "on disk", "ratio", ""], rows)
    for name, beside in found["coordinates"].items():
        print_line(f"beside: {name}s {tuple(beside['shape'])} {beside['dtype']}")
    for key, reason in found["skipped"].items():
        print_line(f"not stored: {key}: {reason}")
    for title in ("settings", "provenance"):
        _print_details(title, found[title])


def _name_dtype(array: Mapping[str, Any]) -> str:
    stored = array["stored_dtype"]
    return array["dtype"] + ("" if stored == array["dtype"] else f" (stored as {stored})")


def _name_steps(steps: list[dict[str, Any]]) -> str:
    if len(steps) == 1:
        return ""
    names = [str(step["step"]) for step in steps]
    shown = names if len(names) <= _SHOWN else [*names[:_SHOWN], "…", names[-1]]
    unfinished = [str(step["step"]) for step in steps if not step.get("complete", False)]
    remark = f"; unfinished: {', '.join(unfinished)}" if unfinished else ""
    return f" of {len(steps)} ({', '.join(shown)}{remark}), {name_size(_total(steps))} in all"


def _total(steps: list[dict[str, Any]]) -> int:
    return sum(step.get("bytes", 0) for step in steps)


def _name_ratio(found: Mapping[str, Any]) -> str:
    return f"{found['bytes_in_memory'] / found['bytes']:.1f} ×" if found["bytes"] else "–"


def _name_previews(nbytes: int) -> str:
    return f"previews {name_size(nbytes)}" if nbytes else "no previews"


def _print_details(title: str, details: Mapping[str, Any]) -> None:
    rows = [["", name, _name_value(value)] for name, value in details.items() if value is not None]
    if rows:
        print_line(f"\n{title}")
        print_table(["", "", ""], rows)


def _name_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_name_value(part)}" for name, part in value.items() if part)
    if isinstance(value, list):
        shown = [_name_value(part) for part in value[:_SHOWN]]
        return ", ".join([*shown, "…"] if len(value) > _SHOWN else shown)
    return str(value)
