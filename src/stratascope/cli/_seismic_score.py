"""``stratascope seismic test``."""

import csv
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stratascope.cli._output import print_json, print_line
from stratascope.cli._seismic_train import choose_device
from stratascope.errors import UsageError
from stratascope.seismic import OpenFWI, Scores, build_network, evaluate, take_evenly
from stratascope.seismic._metrics import METRICS
from stratascope.seismic._weights import Network, check_state, read_weights


def score_network(
    folder: Path,
    *,
    weights: Path,
    network: Network | None = None,
    base_channels: int | None = None,
    family: str | None = None,
    split: Literal["test", "train", "all"] = "test",
    split_file: Path | None = None,
    samples: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    workers: int = 0,
    save: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Score a network on the test files of a family, as OpenFWI reports it.

    Args:
        folder: Folder of one family's .npy files.
        weights: File of weights: what train writes, or a checkpoint of OpenFWI's.
        network: Of which network they are; without it what the file says, or InversionNet.
        base_channels: Channels of its first layer; without it what the file says, or 32.
        family: Which family, such as CurveFault_A; without it the name of the folder tells.
        split: Which files: those that OpenFWI tests on, those that it trains on, or all.
        split_file: One of OpenFWI's text files, to choose files by name instead.
        samples: Use only so many, evenly spread.
        batch_size: Samples a forward.
        device: Where to run, such as cuda; without it on a GPU if there is one.
        workers: Processes that read samples.
        save: File for the scores of each sample, .csv.
        json: Print JSON.
    """
    if save is not None and save.suffix != ".csv":
        raise UsageError(f"--save must be a .csv file, got {save}")
    place = choose_device(device)
    part = None if split == "all" or split_file else split
    data = OpenFWI(folder, split=part, family=family, split_file=split_file)
    chosen = data if samples is None else take_evenly(data, samples)
    state, facts = read_weights(weights)
    name = network or facts.get("network", "InversionNet")
    model = build_network(name, base_channels or facts.get("base_channels", 32))
    check_state(model, state, weights)
    model.load_state_dict(state)
    scores = evaluate(
        model.to(place),
        chosen,
        batch_size=batch_size,
        workers=workers,
        progress=not json,
    )
    means = scores.means()
    if save is not None:
        _write_scores(save, scores)
    if json:
        found = {"network": name, "family": data.family.name, "samples": len(chosen), **means}
        print_json({**found, "trained_on": facts.get("family"), "step": facts.get("step")})
        return
    print_line(
        f"{name} on {len(chosen):,} samples of {data.family.name}, trained on "
        f"{facts.get('family', 'what its file does not say')}"
    )
    print_line(
        f"MAE {means['mae']:.4f} ({means['mae_m_s']:.1f} m/s), RMSE {means['rmse']:.4f}, "
        f"SSIM {means['ssim']:.4f}"
    )


def _write_scores(path: Path, scores: Scores) -> None:
    """Write a line for each sample, in the order of the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [getattr(scores, name) for name in METRICS]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", *METRICS])
        writer.writerows([place, *row] for place, row in enumerate(zip(*columns, strict=True)))
