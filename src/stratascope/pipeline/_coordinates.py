"""What the data gives beside the inputs, targets and ids, as arrays along the samples."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from stratascope.errors import DataError
from stratascope.pipeline._source import MOST_TARGET_VALUES, Batch
from stratascope.pipeline._transfer import span, to_host, to_numpy
from stratascope.store import DTYPES, TEXT, ArraySpec


def describe_coordinates(batch: Batch) -> tuple[tuple[ArraySpec, ...], dict[str, str]]:
    """Decide how what the first batch gives beside its inputs is stored.

    Returns:
        The arrays, and for what is left out the reason.
    """
    problems = {role: _find_problem(role, rows, batch.size) for role, rows in batch.beside.items()}
    arrays = tuple(
        _describe(role, batch.beside[role]) for role in problems if problems[role] is None
    )
    return arrays, {role: problem for role, problem in problems.items() if problem is not None}


def take_coordinates(arrays: Iterable[ArraySpec], batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    """Copy what a batch gives beside its inputs, by the arrays' keys.

    Raises:
        DataError: It is not what the first batch gave.
    """
    taken: dict[str, np.ndarray[Any, Any]] = {}
    for array in arrays:
        given = batch.beside.get(array.role)
        problem = _find_problem(array.role, given, batch.size)
        rows = None if problem is not None else _read_rows(given)
        if rows is None or rows.shape[1:] != array.shape or rows.dtype != array.dtype:
            found = problem if rows is None else f"{rows.dtype} of shape {rows.shape[1:]}"
            raise DataError(
                f"the {array.role} of each sample must be {array.dtype} of shape {array.shape}, as "
                f"the first was, but of samples {span(batch)} {found}. Give all alike, or the "
                "inputs alone"
            )
        taken[array.key] = rows
    return taken


def _find_problem(role: str, rows: Any, size: int) -> str | None:
    """Tell why something is not stored."""
    if not isinstance(rows, Tensor | np.ndarray):
        return f"it is no array of numbers ({type(rows).__name__})"
    shape = tuple(rows.shape)
    if shape[:1] != (size,):
        return f"its shape {shape} does not begin with the batch's {size} samples"
    if role == "target" and math.prod(shape[1:]) > MOST_TARGET_VALUES:
        return f"a sample has {math.prod(shape[1:]):,} values, and {MOST_TARGET_VALUES} are kept"
    dtype = str(_read_rows(rows[:0]).dtype)
    return None if dtype in DTYPES else f"its type {dtype} has no place in Zarr"


def _describe(role: str, given: Any) -> ArraySpec:
    rows = _read_rows(given)
    source = TEXT if _is_text(given) else str(given.dtype).removeprefix("torch.")
    axes = [f"{role}_axis_{number}" for number in range(1, rows.ndim)]
    return ArraySpec(
        *(role, role, "", rows.shape[1:], str(rows.dtype), source, tuple(axes)), role=role
    )


def _read_rows(given: Any) -> np.ndarray[Any, Any]:
    """Copy what may be written over when the next batch comes; text becomes rows of bytes."""
    if isinstance(given, Tensor):
        return np.array(to_numpy(to_host(given.detach())))
    if _is_text(given):
        return np.array(given).view(np.uint8).reshape(len(given), given.dtype.itemsize)
    return np.array(given, given.dtype.newbyteorder("="))


def _is_text(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.dtype.kind == "S"
