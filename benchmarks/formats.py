"""Formats in which the activations of three layers are written to files and read back.

All get the same batches in order, and each keeps them as its own users would. Those that are Zarr
get the very layout of ours: equal chunks, shards, compression and checksums.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stratascope.store import ArraySpec, StepSpec, StepWriter, open_store
from stratascope.store._layout import array_metadata, encode_json

SHAPES = {"conv2d": (64, 32, 32), "conv1d": (128, 250), "fc": (512,)}
BATCH, UNIT = 32, 256

Batches = Iterable[tuple[int, dict[str, np.ndarray]]]
Pieces = Iterator[tuple[str, int, np.ndarray]]
Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to keep activations.

    Attributes:
        name: What it is called.
        write: Takes an empty folder, the batches, each with the number of its first sample, and the
            number of samples. What it writes need not be durable.
        read: Gives all that is in a folder in pieces, each with its key and its first sample.
        open: Gives what finds one channel of one sample in a folder, by key, sample and channel.
        package: What it is a part of; ``""`` for what is always there.
    """

    name: str
    write: Callable[[Path, Batches, int], None]
    read: Callable[[Path, int], Pieces]
    open: Callable[[Path, int], Callable[[str, int, int], np.ndarray]]
    package: str = ""


def describe(samples: int) -> StepSpec:
    """Describe the three layers as our store does."""
    dims = ("channel", "y", "x")
    arrays = tuple(
        ArraySpec(f"{key}/activation", key, "", shape, "float32", "float32", dims[: len(shape)])
        for key, shape in SHAPES.items()
    )
    return StepSpec(0, samples, UNIT, arrays)


def _slice(arrays: Arrays, samples: int) -> Pieces:
    for key, array in arrays.items():
        for start in range(0, samples, UNIT):
            yield key, start, array[start : min(start + UNIT, samples)]


def _pick(arrays: Arrays) -> Callable[[str, int, int], np.ndarray]:
    return lambda key, sample, channel: arrays[key][sample, channel]


def _write_raw(folder: Path, batches: Batches, samples: int) -> None:
    with ExitStack() as stack:
        files = {key: stack.enter_context((folder / key).open("wb", buffering=0)) for key in SHAPES}
        for _, values in batches:
            for key, rows in values.items():
                files[key].write(rows.data)


def _read_raw(folder: Path, samples: int) -> Pieces:
    for key, shape in SHAPES.items():
        with (folder / key).open("rb") as file:
            for start in range(0, samples, UNIT):
                count = min(UNIT, samples - start)
                yield (
                    key,
                    start,
                    np.fromfile(file, "<f4", count * np.prod(shape)).reshape(-1, *shape),
                )


def _open_raw(folder: Path, samples: int) -> Callable[[str, int, int], np.ndarray]:
    def pick(key: str, sample: int, channel: int) -> np.ndarray:
        channels, *size = SHAPES[key]
        count = int(np.prod(size))
        offset = 4 * count * (sample * channels + channel)
        return np.fromfile(folder / key, "<f4", count, offset=offset).reshape(size)

    return pick


def _write_store(folder: Path, batches: Batches, samples: int) -> None:
    writer = StepWriter(folder, describe(samples))
    for start, values in batches:
        writer.write(start, {f"{key}/activation": rows for key, rows in values.items()})
    writer.finish()


def _read_store(folder: Path, samples: int) -> Pieces:
    for key, array in open_store(folder).items():
        for start, values in array.blocks():
            yield key, start, values


def _open_store(folder: Path, samples: int) -> Callable[[str, int, int], np.ndarray]:
    return _pick(dict(open_store(folder)))


def _write_units(folder: Path, batches: Batches, samples: int, open_arrays: Any) -> Iterator[Any]:
    """Write whole shards, gathered from batches; give what each assignment gives."""
    spec = describe(samples)
    for array in spec.arrays:
        (folder / array.site).mkdir()
        metadata = encode_json(array_metadata(array, spec, samples))
        (folder / array.site / "zarr.json").write_bytes(metadata)
    arrays = open_arrays(folder)
    held: dict[str, np.ndarray] = {}
    for start, values in batches:
        stop = start + len(values["fc"])
        first = start // UNIT * UNIT
        for key, rows in values.items():
            if start == first:
                held[key] = np.empty((UNIT, *SHAPES[key]), "<f4")
            held[key][start - first : stop - first] = rows
            if stop in (first + UNIT, samples):
                yield arrays[key], first, held.pop(key)[: stop - first]


def _open_by_zarr(folder: Path) -> Arrays:
    import zarr

    return {key: zarr.open_array(folder / key, mode="r+") for key in SHAPES}


def _write_by_zarr(folder: Path, batches: Batches, samples: int) -> None:
    for array, start, rows in _write_units(folder, batches, samples, _open_by_zarr):
        array[start : start + len(rows)] = rows


def _open_by_tensorstore(folder: Path) -> Arrays:
    import tensorstore

    def open_array(key: str) -> Any:
        place = {"driver": "file", "path": str(folder / key)}
        return tensorstore.open({"driver": "zarr3", "kvstore": place}).result()

    return {key: open_array(key) for key in SHAPES}


def _write_by_tensorstore(folder: Path, batches: Batches, samples: int) -> None:
    pending: deque[Any] = deque()
    for array, start, rows in _write_units(folder, batches, samples, _open_by_tensorstore):
        pending.append(array[start : start + len(rows)].write(rows))
        if len(pending) > 2 * len(SHAPES):
            pending.popleft().result()
    for future in pending:
        future.result()


def _read_by_tensorstore(folder: Path, samples: int) -> Pieces:
    for key, start, view in _slice(_open_by_tensorstore(folder), samples):
        yield key, start, view.read().result()


def _pick_by_tensorstore(folder: Path, samples: int) -> Callable[[str, int, int], np.ndarray]:
    pick = _pick(_open_by_tensorstore(folder))
    return lambda *place: pick(*place).read().result()


def _write_by_h5py(folder: Path, batches: Batches, samples: int) -> None:
    import h5py

    with h5py.File(folder / "all.h5", "w", libver="latest") as file:
        for array in describe(samples).arrays:
            shape = (samples, *array.shape)
            chunk = tuple(map(min, array.chunk, shape))
            file.create_dataset(array.site, shape, "<f4", chunks=chunk)
        for start, values in batches:
            for key, rows in values.items():
                file[key][start : start + len(rows)] = rows


def _open_by_h5py(folder: Path) -> Arrays:
    import h5py

    file = h5py.File(folder / "all.h5")
    return {key: file[key] for key in SHAPES}


def _name(folder: Path, start: int) -> Path:
    return folder / f"{start:08}"


def _write_by_torch(folder: Path, batches: Batches, samples: int) -> None:
    for start, values in batches:
        torch.save({key: torch.from_numpy(v) for key, v in values.items()}, _name(folder, start))


def _read_by_torch(folder: Path, samples: int) -> Pieces:
    for start in range(0, samples, BATCH):
        for key, rows in torch.load(_name(folder, start)).items():
            yield key, start, rows.numpy()


def _pick_by_torch(folder: Path, samples: int) -> Callable[[str, int, int], np.ndarray]:
    def pick(key: str, sample: int, channel: int) -> np.ndarray:
        start = sample // BATCH * BATCH
        found = torch.load(_name(folder, start), mmap=True)
        return found[key][sample - start, channel].numpy().copy()

    return pick


def _write_by_safetensors(folder: Path, batches: Batches, samples: int) -> None:
    from safetensors.numpy import save_file

    for start, values in batches:
        save_file(values, _name(folder, start))


def _read_by_safetensors(folder: Path, samples: int) -> Pieces:
    from safetensors.numpy import load_file

    for start in range(0, samples, BATCH):
        for key, rows in load_file(_name(folder, start)).items():
            yield key, start, rows


def _pick_by_safetensors(folder: Path, samples: int) -> Callable[[str, int, int], np.ndarray]:
    from safetensors import safe_open

    def pick(key: str, sample: int, channel: int) -> np.ndarray:
        start = sample // BATCH * BATCH
        with safe_open(_name(folder, start), "numpy") as file:
            return file.get_slice(key)[sample - start, channel]

    return pick


# The first is the limit that the others are measured by, the second is ours.
FORMATS = (
    Format("raw append", _write_raw, _read_raw, _open_raw),
    Format("stratascope StepWriter", _write_store, _read_store, _open_store),
    Format(
        "TensorStore, the same shards",
        _write_by_tensorstore,
        _read_by_tensorstore,
        _pick_by_tensorstore,
        "tensorstore",
    ),
    Format(
        "zarr-python, the same shards",
        _write_by_zarr,
        lambda folder, samples: _slice(_open_by_zarr(folder), samples),
        lambda folder, samples: _pick(_open_by_zarr(folder)),
        "zarr",
    ),
    Format(
        "HDF5, uncompressed",
        _write_by_h5py,
        lambda folder, samples: _slice(_open_by_h5py(folder), samples),
        lambda folder, samples: _pick(_open_by_h5py(folder)),
        "h5py",
    ),
    Format("torch.save, a file a batch", _write_by_torch, _read_by_torch, _pick_by_torch),
    Format(
        "safetensors, a file a batch",
        _write_by_safetensors,
        _read_by_safetensors,
        _pick_by_safetensors,
        "safetensors",
    ),
)
