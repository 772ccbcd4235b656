"""``stratascope seismic train``."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from stratascope.capture import tune_allocator
from stratascope.cli._output import print_json, print_line
from stratascope.errors import UsageError
from stratascope.seismic import (
    OpenFWI,
    Recipe,
    Training,
    build_network,
    hold_out,
    load_weights,
    take_evenly,
)
from stratascope.seismic import (
    train as train_network,
)
from stratascope.seismic._train import has_tensorboard
from stratascope.seismic._weights import Network

_USUAL = Recipe()


def train(
    folder: Path,
    *,
    to: Path,
    network: Network = "InversionNet",
    base_channels: int = 32,
    weights: Path | None = None,
    family: str | None = None,
    split_file: Path | None = None,
    samples: int | None = None,
    held_out: float = 0.05,
    epochs: int = _USUAL.epochs,
    batch_size: int = _USUAL.batch_size,
    learning_rate: float = _USUAL.learning_rate,
    weight_decay: float = _USUAL.weight_decay,
    l1: float = _USUAL.l1,
    l2: float = _USUAL.l2,
    warmup_epochs: float = _USUAL.warmup_epochs,
    milestones: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    patience: int | None = None,
    minutes: float | None = None,
    seed: int = _USUAL.seed,
    sites: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    every: int = 100,
    device: str | None = None,
    workers: int = 0,
    resume: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a network on the training files of a family; exit code 1 if it diverged.

    Args:
        folder: Folder of one family's .npy files.
        to: Folder for checkpoint, weights, metrics.csv and what is recorded; new, or with --resume
            that of a training.
        network: Which network.
        base_channels: Channels of its first layer, on which all others depend.
        weights: File of weights to begin with, .safetensors or a checkpoint of OpenFWI's.
        family: Which family, such as CurveFault_A; without it the name of the folder tells.
        split_file: One of OpenFWI's text files, to choose files by name; without it those that
            OpenFWI trains on.
        samples: Use only so many, evenly spread.
        held_out: Which share of the samples only chooses the best epoch.
        epochs: How often all samples are seen.
        batch_size: Samples a step; 256, OpenFWI's, takes much memory.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        l1: Weight of the mean absolute error in the loss.
        l2: Weight of the mean squared error in the loss.
        warmup_epochs: Over how many epochs the learning rate rises.
        milestones: After which epochs it falls to a tenth.
        patience: Stop after so many epochs without a better MAE.
        minutes: Stop after so many; --resume goes on.
        seed: Of the first weights and the order of the samples.
        sites: What to record of eight samples while it trains: names, globs, classes.
        every: How many steps apart to record.
        device: Where to run, such as cuda; without it on a GPU if there is one.
        workers: Processes that read samples.
        resume: Go on from the checkpoint of the folder.
        json: Print JSON.
    """
    try:
        recipe = Recipe(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            l1=l1,
            l2=l2,
            warmup_epochs=warmup_epochs,
            milestones=milestones,
            patience=patience,
            seed=seed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    place = choose_device(device)
    data = OpenFWI(
        folder, split=None if split_file else "train", family=family, split_file=split_file
    )
    chosen = data if samples is None else take_evenly(data, samples)
    learned, validated = hold_out(chosen, held_out)
    torch.manual_seed(seed)
    model = build_network(network, base_channels).to(place)
    if weights is not None:
        load_weights(model, weights)
    tune_allocator()
    if not json:
        _announce(model, data.family.name, len(learned), len(validated))
    ended = train_network(
        model,
        learned,
        validated,
        to=to,
        recipe=recipe,
        minutes=minutes,
        workers=workers,
        sites=sites,
        every=every,
        facts={
            "network": network,
            "base_channels": base_channels,
            "family": data.family.name,
            "recipe": asdict(recipe),
        },
        resume=resume,
        on_epoch=None if json else _tell_epoch,
    )
    if json:
        print_json(
            {"ended": ended.ended, "folder": str(to), "history": [dict(r) for r in ended.history]}
        )
    else:
        _tell_end(ended)
    return 1 if ended.ended == "diverged" else 0


def choose_device(wanted: str | None) -> torch.device:
    """Take the device that is wanted, or a GPU if there is one."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device must be one of this machine, such as cpu, got {wanted!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return device


def _announce(model: torch.nn.Module, family: str, learned: int, validated: int) -> None:
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    print_line(
        f"{type(model).__name__}, {count:,} parameters, on {parameters[0].device}; {family}, "
        f"{learned:,} samples to learn from, {validated:,} to choose the best epoch"
    )
    if not has_tensorboard():
        print_line("metrics go to metrics.csv only: for TensorBoard, pip install tensorboard")


def _tell_epoch(row: Mapping[str, float]) -> None:
    print_line(
        f"epoch {row['epoch']:g}, step {row['step']}: loss {row['loss']:.4f}; held out: "
        f"MAE {row['mae']:.4f} ({row['mae_m_s']:.0f} m/s), RMSE {row['rmse']:.4f}, "
        f"SSIM {row['ssim']:.4f}; {row['seconds']:.0f} s"
    )


def _tell_end(ended: Training) -> None:
    why = {
        "epochs": "all epochs are done",
        "patience": "stopped, as the MAE did not get better any more",
        "minutes": "stopped, as the time is over; --resume goes on",
        "diverged": "the loss is not finite any more: try a lower --learning-rate",
    }[ended.ended]
    print_line(
        f"{why}\nbest: MAE {ended.best['mae']:.4f} after epoch {ended.best['epoch']:g}, in "
        f"{ended.folder / 'best.safetensors'}"
    )
