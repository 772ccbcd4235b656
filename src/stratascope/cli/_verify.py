"""``stratascope verify``."""

from pathlib import Path, PurePath
from typing import Annotated, Any

from cyclopts import Parameter

from stratascope.cli._output import FractionBar, name_program, print_json, print_line
from stratascope.errors import StoreError, UsageError
from stratascope.store import SPEC_FILE, Damage, Store, open_store
from stratascope.store import verify as verify_store
from stratascope.store._files import find_root, list_steps

_SHOWN = 20


def verify(
    store: str,
    *,
    step: int | None = None,
    deep: Annotated[bool, Parameter(negative="")] = False,
    repair: Annotated[bool, Parameter(negative="")] = False,
    model: str | None = None,
    data: str | None = None,
    weights: Path | None = None,
    device: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Look for damage in a store, and repair it. Exit code 1 if something is damaged.

    Args:
        store: Folder of the store, or its URL in a bucket.
        step: Which step; without it all.
        deep: Read every byte, not only sizes, descriptions and the indices of the shards.
        repair: Compute again what is damaged, and nothing else; reads every byte, as --deep does,
            and needs --model and --data.
        model: For --repair, what the store was extracted with: package.module:function or
            path/to/file.py:function.
        data: For --repair, what the store was extracted from.
        weights: For --repair, file of a state dict, .pt or .safetensors.
        device: For --repair, where to run, such as cuda.
        json: Print JSON.
    """
    if repair and (model is None or data is None):
        raise UsageError("--repair needs --model and --data, as the store was extracted with")
    # What only a deep look had found would otherwise pass for repaired.
    deep = deep or repair
    found, mended = _look(store, step, deep=deep), []
    if repair and found:
        _mend(store, found, model=model, data=data, weights=weights, device=device)
        found, mended = _look(store, step, deep=deep), found
    unfinished = [] if found else _list_unfinished(store, step)
    if json:
        lists = {"damages": found, "repaired": mended}
        plain = {name: [_to_json(damage) for damage in each] for name, each in lists.items()}
        print_json({"store": str(store), "deep": deep, **plain, "unfinished": unfinished})
    else:
        _print_found(store, found, mended, deep=deep)
        for line in unfinished:
            print_line(line)
    return 1 if found else 0


def _look(store: str, step: int | None, *, deep: bool) -> list[Damage]:
    with FractionBar("verify") as bar:
        return verify_store(
            store, step=step, deep=deep, watch=lambda part: bar.update(part, str(store))
        )


def _list_unfinished(store: str, step: int | None) -> list[str]:
    """Say which steps lack samples; what is not there yet is no damage."""
    root = find_root(store)
    lines: list[str] = []
    for number in list_steps(root) if step is None else [step]:
        one = Store(root, number)
        if not one.complete:
            there, whole = sum(map(len, one.committed_ranges())), one.samples
            # Of an iterable nobody knows how many are to come.
            amount = f"{there:,} of {whole:,}" if there < whole else f"{there:,}"
            lines.append(
                f"step {number} is unfinished: {amount} samples are there. Run the same extract "
                "again with --resume"
            )
    return lines


def _mend(
    store: str,
    damages: list[Damage],
    *,
    model: str | None,
    data: str | None,
    weights: Path | None,
    device: str | None,
) -> None:
    """Compute again what is damaged, if model and data are those of before."""
    # Looking for damage needs no torch.
    from stratascope.capture import tune_allocator
    from stratascope.cli._targets import load_data, load_model
    from stratascope.pipeline._extract import extract

    assert model is not None
    assert data is not None
    tune_allocator()
    network = load_model(model, weights)
    for step in dict.fromkeys(damage.step for damage in damages):
        opened = _open_described(store, step, damages)
        again = _read_settings(opened)

        def run(again: dict[str, Any] = again) -> None:
            extract(network, load_data(data), to=store, device=device, resume=True, **again)

        # Refused here if anything differs, before anything is given back.
        run()
        opened.uncommit(damages)
        run()


def _open_described(store: str, step: int, damages: list[Damage]) -> Store:
    for damage in damages:
        if damage.step == step and PurePath(damage.path).name == SPEC_FILE:
            raise StoreError(
                f"step {step} of {store} cannot be repaired: nothing else says what it holds than "
                f"{damage.path}, which {damage.problem}. Restore that file from a copy, or extract "
                "to another folder"
            )
    return open_store(store, step=step)


def _read_settings(store: Store) -> dict[str, Any]:
    """Read from a store how it was extracted."""
    settings = store.settings
    if settings["transform"] is not None:
        raise StoreError(
            f"step {store.step} of {store.path} was extracted with transform="
            f"{settings['transform']}, which a command line cannot give: repair it in Python, with "
            "store.uncommit(store.verify(deep=True)) and the same extract with resume=True"
        )
    return {
        "sites": settings["sites"],
        "step": store.step,
        "batch_size": settings["batch_size"],
        "dtype": settings["dtype"],
        "limit": settings["data"].get("limit"),
        "unit_size": settings["unit_size"],
    }


def _to_json(damage: Damage) -> dict[str, Any]:
    samples = [damage.samples.start, damage.samples.stop] if damage.samples else []
    return {
        "step": damage.step,
        "site": damage.site,
        "place": damage.place,
        "samples": samples,
        "path": str(damage.path),
        "problem": damage.problem,
    }


def _print_found(store: str, found: list[Damage], mended: list[Damage], *, deep: bool) -> None:
    looked = "every byte was read" if deep else "--deep reads every byte"
    for damage in found[:_SHOWN]:
        print_line(str(damage))
    if len(found) > _SHOWN:
        print_line(f"… and {len(found) - _SHOWN} more, which --json lists")
    if mended:
        print_line(f"repaired: {len(mended)}")
    if not found:
        print_line(f"{store}: no damage is left" if mended else f"{store}: no damage; {looked}")
    elif not mended:
        print_line(
            f"\n{len(found)} damages; what is not named here can be read. To compute it again:\n"
            f"  {name_program()} verify {store} --repair --model MODEL --data DATA"
        )
