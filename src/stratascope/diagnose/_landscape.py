"""Metrics of a network around where it is."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stratascope._progress import ProgressBar
from stratascope._random import keeping_random
from stratascope.diagnose._batchnorm import BatchNorm, check_batchnorm, list_batchnorms, set_modes
from stratascope.diagnose._directions import Directions, random_directions
from stratascope.diagnose._evaluate import Evaluator, Job, Metric, read_batches, read_metrics
from stratascope.diagnose._fold import find_pairs
from stratascope.diagnose._landscape_file import LandscapeFile, digest
from stratascope.diagnose._landscape_result import Landscape
from stratascope.diagnose._parameters import list_parameters
from stratascope.diagnose._refine import choose
from stratascope.diagnose._rows import Row, Run, running
from stratascope.errors import DataError, StoreError, first_line

Span = float | tuple[float, float]

_MOST_ROUNDS = 5  # an axis of 21 points has 641 then
_AGREE = 1e-4  # of the largest output: how far folding may move any


def landscape(
    model: nn.Module,
    metrics: Mapping[str, Metric],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    directions: Directions | None = None,
    steps: int | tuple[int, int] = 21,
    span: Span | tuple[Span, Span] | None = None,
    refine: int = 0,
    batchnorm: BatchNorm = "frozen",
    seed: int = 0,
    fast: bool = True,
    workers: int = 1,
    to: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Landscape:
    """Measure several metrics over a line, a plane or a curve through a network's parameters.

    All metrics are taken of one forward at each point, over all batches, which are read once and
    kept. A copy of the model is moved, with dropout off; the model itself is only read, and random
    numbers go on afterwards as if nothing had drawn any. Parameters with ``requires_grad=False``
    stay; shared ones are moved once; those in half precision are moved in float32 and rounded at
    each point. Li et al., Visualizing the loss landscape of neural nets, NeurIPS 2018.

    Args:
        model: Any module whose forward takes one tensor.
        metrics: By name, functions of output and target that give one number, the mean over their
            batch: they are averaged over batches, each sample counting the same. What is no mean,
            such as RMSE, is a metric of torchmetrics, which gathers over batches itself.
        batches: Pairs of input and target.
        directions: Where to move; two random ones, scaled to the filters, unless given.
        steps: Points on each axis; with an odd number the model itself is one of them.
        span: How far each axis goes, ``a`` for ``(-a, a)``, or for each axis its own; as far as the
            directions say unless given.
        refine: How often to halve the spacing where something is to be seen. In each round the
            points at half of it within one spacing of where a metric is lowest, highest or bent
            most are added: about 48 for each metric, or 6 on a line. The result has the finest
            grid, NaN where nothing was measured, and `Landscape.rounds` tells what was. A basin
            that no point of the first grid feels is not found.
        batchnorm: ``"frozen"`` for the running statistics of the model, whatever its parameters;
            ``"recalibrated"`` for statistics gathered anew over the batches at each point;
            ``"batch"`` for those of each batch.
        seed: Of the random directions, and of what the model draws by itself, at each point anew.
        fast: Lay out maps with their channels last, and fold batch normalisation into convolutions
            at each point, where this is found to give the same outputs.
        workers: Processes that rows are shared among, each with its share of the threads.
        to: A folder for a Zarr group to which each row is written as soon as it is done.
        resume: Go on with what is there, if it was begun with the same model, data and settings.
        progress: Show a bar on a terminal, with the time that is left.

    Returns:
        The values and their standard errors, with the axes and all settings.

    Raises:
        ValueError: An argument is out of its range, or the model has nothing to move.
        DataError: The batches are no pairs of tensors, or a metric gives no finite number at the
            model as it is.
        StoreError: There is something at `to` already, or something else than is to go on.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2.0)
    >>> data = [(torch.ones(4, 1), torch.zeros(4, 1))]
    >>> line = random_directions(model, 1)
    >>> found = landscape(
    ...     model, {"mse": nn.functional.mse_loss}, data, directions=line, steps=3
    ... )
    >>> sorted(found["mse"].tolist())
    [0.0, 4.0, 16.0]
    """
    check_batchnorm(batchnorm)
    if not 0 <= refine <= _MOST_ROUNDS:
        raise ValueError(
            f"refine must be from 0 to {_MOST_ROUNDS} rounds, got {refine}: give a smaller span to "
            "look closer"
        )
    list_parameters(model)
    with ExitStack() as stack:
        stack.enter_context(keeping_random(model))
        chosen = directions or random_directions(model, seed=seed)
        axes = _lay_axes(chosen, steps, span, 2**refine)
        _check_between(model, chosen, batchnorm)
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        job = Job(
            model=_copy(model),
            metrics=read_metrics(metrics),
            batches=read_batches(batches, model),
            directions=chosen,
            batchnorm=batchnorm,
            seed=seed,
        )
        still = _look(job)
        notes: list[str] = []
        if fast:
            job = _speed_up(job, [axis[0] for axis in axes], notes)
        begun = _begin(job, axes, still, notes, refine)
        file = None if to is None else _open(Path(to), job, begun, resume)
        if file is not None:
            held = file.read()
            begun = replace(
                begun, values=held["values"], errors=held["errors"], rounds=file.list_rounds()
            )
        run = stack.enter_context(running(job, min(workers, len(axes[0]))))
        for number in range(refine + 1):
            for row in _measure(run, begun, number, refine, progress):
                if file is not None:
                    file.write_row(row, begun.to_dict())
    whole = _finish(begun, refine)
    if file is not None:
        file.finish(whole.notes)
    return whole


def _measure(run: Run, begun: Landscape, number: int, refine: int, progress: bool) -> Iterator[int]:
    """Measure what one round adds, and iterate over the rows that have got something."""
    rounds = begun.rounds
    assert rounds is not None
    spacing = 2 ** (refine - number)
    if number:
        # Nothing of a round that was begun before may change what it consists of.
        known = (rounds >= 0) & (rounds < number)
        found = (np.where(known, values, np.nan) for values in begun.values.values())
        wanted = choose(found, 2 * spacing)
    else:
        wanted = np.zeros(rounds.shape, dtype=bool)
        wanted[(slice(None, None, spacing),) * rounds.ndim] = True
    missing = wanted & (rounds < 0)
    total = int(wanted.sum())
    done = total - int(missing.sum())
    title = f"landscape, refined {number}×" if number else "landscape"
    with ProgressBar(title, total, enabled=progress, unit="points") as bar:
        bar.update(done)
        for row, measured in run(_list_rows(begun.axes, missing)):
            place = (row, missing[row])
            for k, metric in enumerate(begun.values):
                begun.values[metric][place] = measured[:, k, 0]
                begun.errors[metric][place] = measured[:, k, 1]
            rounds[place] = number
            done += len(measured)
            bar.update(done)
            yield row


def _finish(begun: Landscape, refine: int) -> Landscape:
    rounds = begun.rounds
    assert rounds is not None
    measured = rounds >= 0
    notes = [*begun.notes, *_note_holes(begun.values, measured)]
    if refine:
        notes.append(
            f"refined: {measured.sum()} of {measured.size} points are measured, the others NaN"
        )
    return replace(begun, rounds=rounds if refine else None, notes=tuple(notes))


def _copy(model: nn.Module) -> nn.Module:
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise DataError(
            f"the model must be copyable by copy.deepcopy, got: {first_line(error)}. Weights that "
            "are computed must be so by torch.nn.utils.parametrize"
        ) from error
    for parameter in copied.parameters():
        parameter.grad = None
    return copied


def _lay_axes(
    directions: Directions, steps: int | tuple[int, int], span: Any, parts: int
) -> tuple[NDArray[np.float64], ...]:
    count = directions.axes
    numbers = (steps,) * count if isinstance(steps, int) else tuple(steps)
    if len(numbers) != count or min(numbers) < 2:
        raise ValueError(
            f"steps must be a number from 2 upwards, or one for each of {count} axes, got {steps}"
        )
    if span is None:
        spans: tuple[Any, ...] = directions.ranges
    elif isinstance(span, int | float):
        spans = (span,) * count
    else:
        spans = (tuple(span),) if count == 1 else tuple(span)
    ends = [(-one, one) if isinstance(one, int | float) else tuple(one) for one in spans]
    fits = len(ends) == count and all(len(pair) == 2 and pair[0] < pair[1] for pair in ends)
    if not fits or not np.isfinite(ends).all():
        raise ValueError(
            f"span must be a positive number, or (low, high), or one of these for each of {count} "
            f"axes, got {span}"
        )
    return tuple(
        # Every so many of these are those of the coarse axis, to the last bit.
        np.linspace(pair[0], pair[1], (number - 1) * parts + 1)
        for pair, number in zip(ends, numbers, strict=True)
    )


def _check_between(model: nn.Module, directions: Directions, batchnorm: str) -> None:
    if directions.between and batchnorm == "frozen" and list_batchnorms(model):
        raise ValueError(
            "batchnorm must be 'recalibrated' or 'batch' between checkpoints of a model with batch "
            "normalisation, got 'frozen': the running statistics of one do not fit another"
        )


def _look(job: Job) -> NDArray[np.float64]:
    """Evaluate the model as it is, and refuse metrics that give no number there."""
    unmoved = Directions(vectors=(), labels=(), ranges=(), method="as it is")
    found = Evaluator(replace(job, directions=unmoved)).at(())
    for name, (value, _) in zip(job.metrics, found, strict=True):
        if not np.isfinite(value):
            raise DataError(
                f"metric {name!r} must be finite at the model as it is, got {value}: look for its "
                "cause with stratascope.trace(model, x).first_nonfinite()"
            )
    return found


def _speed_up(job: Job, corner: Sequence[float], notes: list[str]) -> Job:
    """Lay out and fold what can be, if the outputs stay the same, or say why not."""
    convolves = any(
        isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in job.model.modules()
    )
    fast = replace(job, channels_last=convolves, pairs=_find_pairs(job))
    if not convolves and not fast.pairs:
        return job
    points = ([0.0] * job.directions.axes, corner)
    plain = Evaluator(job)
    for choice in (fast, replace(fast, pairs=[])):
        try:
            quick = Evaluator(choice)
            if all(_agree(plain.run(point), quick.run(point)) for point in points):
                return choice
        except RuntimeError as error:
            notes.append(f"not with channels last: {first_line(error)}")
            break
        if choice.pairs:
            notes.append("batch normalisation is not folded: the outputs would be others")
    return job


def _find_pairs(job: Job) -> list[tuple[str, str]]:
    if job.batchnorm != "frozen":
        return []
    set_modes(job.model, "frozen")
    return find_pairs(job.model, job.batches[0][0])


def _agree(plain: Any, quick: Any) -> bool:
    if not isinstance(plain, Tensor) or not isinstance(quick, Tensor):
        return False
    finite = plain[torch.isfinite(plain)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(plain, quick, rtol=0.0, atol=_AGREE * largest, equal_nan=True)


def _begin(
    job: Job,
    axes: tuple[NDArray[np.float64], ...],
    still: NDArray[np.float64],
    notes: list[str],
    refine: int,
) -> Landscape:
    shape = tuple(len(axis) for axis in axes)
    cosine = job.directions.cosine()
    return Landscape(
        values={name: np.full(shape, np.nan) for name in job.metrics},
        errors={name: np.full(shape, np.nan) for name in job.metrics},
        centre={
            name: (float(value), float(error))
            for name, (value, error) in zip(job.metrics, still, strict=True)
        },
        axes=axes,
        labels=job.directions.labels,
        path=job.directions.path,
        explained=job.directions.explained,
        rounds=np.full(shape, -1, dtype=np.int8),
        settings={
            "refine": refine,
            "directions": job.directions.method,
            "cosine": cosine,
            "batchnorm": job.batchnorm,
            "samples": sum(len(x) for x, _ in job.batches),
            "batches": len(job.batches),
            "seed": job.seed,
            "channels_last": job.channels_last,
            "folded": len(job.pairs),
            "parameters": sum(value.numel() for value in list_parameters(job.model).values()),
        },
        notes=(*notes, *_note_model(job)),
    )


def _note_model(job: Job) -> list[str]:
    notes: list[str] = []
    if len(job.batches) == 1:
        notes.append("one batch: there is no standard error, and another batch may look different")
    kinds = {value.dtype for value in list_parameters(job.model).values()}
    for kind in kinds & {torch.float16, torch.bfloat16}:
        relative = torch.finfo(kind).eps / 2
        notes.append(
            f"parameters are {str(kind).removeprefix('torch.')}: each is rounded at every point, "
            f"by up to {relative:.2g} of itself"
        )
    return notes


def _note_holes(
    values: Mapping[str, NDArray[np.float64]], measured: NDArray[np.bool_]
) -> list[str]:
    return [
        f"{name} is not finite at {bad} of {measured.sum()} points"
        for name, found in values.items()
        if (bad := int((~np.isfinite(found[measured])).sum()))
    ]


def _open(path: Path, job: Job, empty: Landscape, resume: bool) -> LandscapeFile:
    words = repr((empty.settings, list(job.metrics), empty.labels))
    tensors = {f"state {name}": value for name, value in job.model.state_dict().items()}
    for k, pair in enumerate(job.batches):
        tensors |= {f"batch {k} {part}": value for part, value in zip("xy", pair, strict=True)}
    for k, vector in enumerate((job.directions.origin or {}, *job.directions.vectors)):
        tensors |= {f"vector {k} {name}": value for name, value in vector.items()}
    tensors |= {f"axis {k}": torch.from_numpy(axis) for k, axis in enumerate(empty.axes)}
    key = digest(
        {name: value for name, value in tensors.items() if isinstance(value, Tensor)}, words
    )
    if not resume or not path.exists():
        refined = bool(empty.settings and empty.settings["refine"])
        held = empty if refined else replace(empty, rounds=None)
        return LandscapeFile.create(path, held.to_dict(), key)
    file = LandscapeFile.open(path)
    if file.key != key:
        raise StoreError(
            f"a landscape can go on with the model, data and settings that it was begun with, and "
            f"{path} had others: leave out resume (--resume), and choose another place"
        )
    return file


def _list_rows(axes: tuple[NDArray[np.float64], ...], missing: NDArray[np.bool_]) -> list[Row]:
    first, *others = axes
    return [
        (
            int(row),
            [
                (
                    float(first[row]),
                    *(float(axis[k]) for axis, k in zip(others, place, strict=True)),
                )
                for place in np.argwhere(missing[row])
            ],
        )
        for row in np.flatnonzero(missing.reshape(len(first), -1).any(axis=1))
    ]
