"""``stratascope profile``."""

import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from stratascope.cli._output import print_json, print_line
from stratascope.errors import UsageError
from stratascope.pipeline import Finding, Profile
from stratascope.pipeline._profile import profile as profile_source
from stratascope.pipeline._profile_findings import parse_rules
from stratascope.pipeline._profile_save import check_place
from stratascope.store import open_store


def profile(
    source: str,
    data: str | None = None,
    *,
    sites: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    step: int | None = None,
    weights: Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
    limit: int | None = None,
    share: float | None = None,
    threshold: float = 0.0,
    workers: int | None = None,
    save: Path | None = None,
    fail_on: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure every channel over a data set, and list what a person should look at.

    Args:
        source: Folder of a store; or, with DATA, a model: package.module:function or
            path/to/file.py:function.
        data: What to run through the model: a .npy file, or package.module:function.
        sites: What to measure: names, globs such as 'enc.*', classes such as 'Conv1d[*]'. Without
            it all of a store.
        step: Which step of a store; without it the last.
        weights: File of a state dict of the model, .pt or .safetensors.
        batch_size: Samples a forward, where the data does not come in batches.
        device: Where to run the model, such as cuda.
        limit: Use only the first samples.
        share: Which part of the positions of each map is looked at for all but ranges, NaN, dead
            channels and top samples; without it all of a store, and 1/128 of what flows through a
            model.
        threshold: A channel that is never above this is dead.
        workers: How many processes to run in; without it this one.
        save: Folder to write the profile to, as JSON, Parquet and all that was gathered.
        fail_on: Rules with commas between them, such as 'nan,dead>0.5'; exit code 1 if one hits.
        json: Print JSON.
    """
    for name, value in {"--batch-size": batch_size, "--limit": limit, "--workers": workers}.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if fail_on is not None:
        # Before the work, not after it.
        try:
            parse_rules(fail_on)
        except ValueError as error:
            raise UsageError(f"--fail-on: {error}") from error
    if save is not None:
        check_place(save)
    _check_source(source, data)
    settings: dict[str, Any] = {
        "limit": limit, "share": share, "threshold": threshold, "workers": workers,
    }  # fmt: skip
    if data is None:
        made_of_model = {"--weights": weights, "--device": device}
        for name, value in made_of_model.items():
            if value is not None:
                raise UsageError(f"{name} is of a model, and {source} came without DATA")
        found = profile_source(open_store(source, step=step), sites=sites, **settings)
    else:
        found = _profile_model(
            source, data, sites, step, weights, batch_size=batch_size, device=device, **settings
        )
    hits = [] if fail_on is None else found.findings(fail_on)
    if json:
        print_json({**found.to_dict(), "failed_on": [str(hit) for hit in hits]})
    else:
        _print_profile(found, hits)
    if save is not None:
        # After what was found is told, for a disk may be full.
        found.save(save)
        if not json:
            print_line(f"\nwritten to {save}")
    return 1 if hits else 0


def _check_source(source: str, data: str | None) -> None:
    """Refuse a model without data, and a store with some."""
    is_url = "://" in source
    if data is None:
        names_model = re.fullmatch(r".+:[A-Za-z_][\w.]*", source) is not None
        if names_model and not is_url and not Path(source).exists():
            raise UsageError(
                f"a model needs data to run through it: stratascope profile {source} DATA, with a "
                ".npy file or package.module:function"
            )
    elif is_url or Path(source).is_dir():
        raise UsageError(
            f"{source} is a store, which has its values: leave out {data}, or name a model as "
            "package.module:function or path/to/file.py:function"
        )


def _profile_model(
    model: str,
    data: str,
    sites: list[str] | None,
    step: int | None,
    weights: Path | None,
    **settings: Any,
) -> Profile:
    from stratascope.capture import tune_allocator
    from stratascope.cli._targets import load_data, load_model

    if step is not None:
        raise UsageError("--step is of a store, and DATA makes the first argument a model")
    if sites is None:
        raise UsageError("--sites must say what of a model to profile, such as '**' for all")
    # This process is ours alone.
    tune_allocator()
    return profile_source(load_model(model, weights), load_data(data), sites, **settings)


def _print_profile(found: Profile, hits: list[Finding]) -> None:
    print_line(f"{found!r}\n\n{found.table()}")
    findings = found.findings()
    print_line(f"\nfindings: {len(findings) or 'none'}")
    for finding in findings:
        print_line(f"  {finding.severity:<7}  {finding}")
    if hits:
        print_line("\nfailed on")
        for hit in hits:
            print_line(f"  {hit.rule}  {hit}")
