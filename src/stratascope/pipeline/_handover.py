"""A job as a file that other processes load: tensors and arrays are mapped there, not copied."""

import mmap
import pickle
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stratascope.errors import DataError, first_line
from stratascope.pipeline._executor import Job


def check_portable(job: Job) -> None:
    """Make sure that a job can be pickled, without looking at the values that it carries.

    Raises:
        DataError: Some of it cannot.
    """
    state: Any = job.__getstate__()
    for name, part in state.items():
        try:
            _Outline(_Nowhere()).dump(part)
        except Exception as error:
            raise DataError(
                f"the {name} must be picklable to be handed to other processes, but is not: "
                f"{first_line(error)}. Define its classes and functions at the top level of a "
                "module, and open files when they are first read; or leave the executor "
                "(--workers) away"
            ) from error


def save_job(job: Job, path: Path) -> None:
    """Write a job to a file.

    Raises:
        DataError: Some of it cannot be pickled, or the disk is full.
    """
    # PyTorch asks for a module, and takes its Pickler.
    module: Any = types.ModuleType("handover")
    module.Pickler = _Pickler
    try:
        torch.save(job, path, pickle_module=module, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        check_portable(job)
        raise DataError(
            f"{path.parent} must hold model and data for other processes to map, but did not: "
            f"{first_line(error)}. Set TMPDIR to a folder with more room"
        ) from error


def load_job(path: Path) -> Job:
    """Load what `save_job` wrote.

    Raises:
        DataError: Some of it cannot be made again here.
    """
    try:
        return torch.load(path, mmap=True, weights_only=False)
    except Exception as error:
        raise DataError(
            f"what is handed to another process must be made again there, but was not: "
            f"{first_line(error)}. Define classes and functions in a module that can be imported, "
            "not in a notebook"
        ) from error


class _Pickler(pickle.Pickler):
    """Pickles arrays as what can be mapped: their own file, or the storage of a tensor."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        mapped = _find_file(value)
        if mapped is not None:
            return _map_array, mapped
        if type(value) is np.ndarray and value.nbytes >= mmap.PAGESIZE:
            with warnings.catch_warnings():
                # Of arrays that may not be written: nobody does.
                warnings.simplefilter("ignore")
                try:
                    return _as_array, (torch.from_numpy(value),)
                except (TypeError, ValueError):  # a type, or an order of bytes, that it lacks
                    return NotImplemented
        return NotImplemented


class _Outline(pickle.Pickler):
    """Pickles what holds tensors and arrays, and not their values."""

    def reducer_override(self, value: Any) -> Any:
        is_array = isinstance(value, np.ndarray) and not value.dtype.hasobject
        return (str, ()) if is_array or isinstance(value, Tensor) else NotImplemented


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, content: Any) -> int:
        return len(content)


def _find_file(array: np.ndarray[Any, Any]) -> tuple[Any, ...] | None:
    """Find the file in which the values of an array lie, and how they lie there."""
    root: Any = array
    while type(root) is np.ndarray:
        root = root.base
    content = getattr(root, "_mmap", None)
    # What was written to a copy on write is in memory alone.
    if content is None or root.mode == "c" or not Path(root.filename or "").is_file():
        return None
    begin = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    offset = array.__array_interface__["data"][0] - begin
    offset += root.offset - root.offset % mmap.ALLOCATIONGRANULARITY
    return str(root.filename), array.shape, array.dtype, offset, array.strides


def _as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.numpy()


def _map_array(
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    offset: int,
    strides: tuple[int, ...],
) -> np.ndarray[Any, Any]:
    content = np.memmap(path, np.uint8, "r")
    return np.ndarray(shape, dtype, content, offset, strides)
