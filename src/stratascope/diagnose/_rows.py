"""The rows of a grid, one after another or in several processes."""

import concurrent.futures
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stratascope.diagnose._evaluate import Evaluator, Job
from stratascope.errors import DataError, StratascopeError, first_line

Row = tuple[int, Sequence[tuple[float, ...]]]
"""Its number, and its points."""

Run = Callable[[Sequence[Row]], Iterator[tuple[int, NDArray[np.float64]]]]
"""Gives for rows their numbers and ``(points, metrics, 2)``, in any order."""

_here: Evaluator | Exception | None = None


@contextmanager
def running(job: Job, workers: int) -> Generator[Run]:
    """Be ready to evaluate rows of a job.

    Raises:
        DataError: The job cannot be handed to another process.
        StratascopeError: A process ended in the middle of its work.
    """
    if workers == 1:
        evaluator = Evaluator(job)
        yield lambda rows: ((number, _run(evaluator, points)) for number, points in rows)
        return
    descriptor, name = tempfile.mkstemp(prefix="stratascope-", suffix=".pt")
    os.close(descriptor)
    try:
        _save(job, name)
        pool = concurrent.futures.ProcessPoolExecutor(
            workers,
            # Not forked: the threads of PyTorch do not outlive that.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_load,
            initargs=(name, max(1, torch.get_num_threads() // workers)),
        )
        try:
            yield partial(_share, pool)
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        Path(name).unlink(missing_ok=True)


def _share(
    pool: concurrent.futures.Executor, rows: Sequence[Row]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    try:
        waiting = {pool.submit(_run_here, points): number for number, points in rows}
        for one in concurrent.futures.as_completed(waiting):
            yield waiting[one], one.result()
    except BrokenProcessPool as error:
        raise StratascopeError(
            "the processes must live until the last row, and one ended, perhaps because memory "
            "ran out: take fewer workers; with to= the rows that are done are kept for "
            "resume=True (--resume). A script must do its work below "
            "`if __name__ == '__main__':`"
        ) from error


def _save(job: Job, name: str) -> None:
    try:
        torch.save(job, name)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            "model and metrics must be picklable to be handed to other processes, such as "
            f"functions of a module and no lambdas, got: {first_line(error)}. Or leave out workers"
        ) from error


def _load(name: str, threads: int) -> None:
    global _here
    torch.set_num_threads(threads)
    try:
        # It holds classes of the user's; this process wrote it.
        _here = Evaluator(torch.load(name, weights_only=False))
    except Exception as error:  # noqa: BLE001 - raised where a row is asked for
        _here = DataError(
            "model and metrics must be importable in other processes, such as those of a package "
            f"or of a file beside the script, got: {first_line(error)}. Or leave out workers"
        )


def _run_here(points: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
    assert _here is not None
    if isinstance(_here, Exception):
        raise _here
    return _run(_here, points)


def _run(evaluator: Evaluator, points: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
    return np.stack([evaluator.at(point) for point in points])
