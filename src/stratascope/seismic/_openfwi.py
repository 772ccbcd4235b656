"""OpenFWI's data as they are published: pairs of ``.npy`` files, mapped and scaled by the sample.

Deng et al., OpenFWI, NeurIPS 2022, arXiv:2111.02926; ranges and splits as in its repository
lanl/OpenFWI (dataset_config.json, split_files). The data are under CC BY-NC-SA 4.0.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stratascope.errors import DataError
from stratascope.sites import suggest

Split = Literal["train", "test"]

SEISMIC_SHAPE = (5, 1000, 70)  # shots, time steps of 1 ms, receivers 10 m apart
VELOCITY_SHAPE = (1, 70, 70)  # one map, 10 m a cell, depth first
FILE_SIZE = 500
SLOWEST, FASTEST = 1500.0, 4500.0  # m/s, in every family
_NUMBERED = re.compile(r"(?P<kind>data|model)(?P<number>\d+)\.npy")
_LAYERED = re.compile(r"(?P<kind>seis|vel)(?P<number>\d+_\d+_\d+)\.npy")
_SEISMIC_KINDS = ("data", "seis")
_LAYERED_TRAIN = 32  # of the 36 files of each number of layers
_MOST_LAYERS_OF_A = 5

_Half = tuple[bool, tuple[int, ...]]  # whether it is the seismic half, and the number of its pair


@dataclass(frozen=True, slots=True)
class Family:
    """One of OpenFWI's families: the ranges by which it is scaled, and its split.

    Attributes:
        name: As its folder is called.
        seismic_min: Least value of the seismic data, from which they are scaled.
        seismic_max: Greatest value of the seismic data.
        train_files: How many files are for training, 500 samples each.
        test_files: How many are for testing.

    >>> family = find_family("curvefault-a")
    >>> family.name, family.train_files, family.test_files
    ('CurveFault_A', 96, 12)
    >>> family.scale_velocity(torch.tensor([1500.0, 3000.0, 4500.0]))
    tensor([-1.,  0.,  1.])
    >>> family.unscale_velocity(torch.tensor(0.5))
    tensor(3750.)
    """

    name: str
    seismic_min: float
    seismic_max: float
    train_files: int
    test_files: int

    def scale_seismic(self, seismic: Tensor) -> Tensor:
        """Take the logarithm, ``sign(x) log(1 + |x|)``, and scale the family's range to [-1, 1]."""
        low, high = _compress(self.seismic_min), _compress(self.seismic_max)
        scale = 2 / (high - low)
        return seismic.abs().log1p_().copysign_(seismic).mul_(scale).sub_(1 + low * scale)

    def unscale_seismic(self, scaled: Tensor) -> Tensor:
        """Undo `scale_seismic`."""
        low, high = _compress(self.seismic_min), _compress(self.seismic_max)
        compressed = (scaled + 1).mul_((high - low) / 2).add_(low)
        return compressed.abs().expm1_().copysign_(compressed)

    def scale_velocity(self, velocity: Tensor) -> Tensor:
        """Scale 1500 to 4500 m/s to [-1, 1]."""
        return (velocity - SLOWEST).mul_(2 / (FASTEST - SLOWEST)).sub_(1)

    def unscale_velocity(self, scaled: Tensor) -> Tensor:
        """Undo `scale_velocity`; gives m/s."""
        return (scaled + 1).mul_((FASTEST - SLOWEST) / 2).add_(SLOWEST)


# Vel, Fault and Style have 30, 54 and 67 thousand samples.
FAMILIES = {
    family.name: family
    for family in (
        Family("FlatVel_A", -26.95, 52.77, 48, 12),
        Family("FlatVel_B", -27.17, 56.05, 48, 12),
        Family("CurveVel_A", -27.11, 55.10, 48, 12),
        Family("CurveVel_B", -29.04, 57.03, 48, 12),
        Family("FlatFault_A", -26.10, 50.86, 96, 12),
        Family("FlatFault_B", -24.86, 50.28, 96, 12),
        Family("CurveFault_A", -26.48, 52.32, 96, 12),
        Family("CurveFault_B", -24.93, 50.98, 96, 12),
        Family("Style_A", -24.96, 48.93, 120, 14),
        Family("Style_B", -23.76, 46.01, 120, 14),
    )
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A file of seismic data and the file of its velocity maps; one of them may be missing.

    Attributes:
        number: What the two names share, such as ``(12,)`` or ``(2, 1, 0)``.
        seismic: File of the seismic data.
        velocity: File of the velocity maps.
        split: Where the published split has it.
    """

    number: tuple[int, ...]
    seismic: Path | None
    velocity: Path | None
    split: Split

    @property
    def samples(self) -> int:
        """How many samples the two files hold.

        Raises:
            DataError: One of them is missing, cannot be read, or has a wrong shape.
        """
        if self.seismic is None or self.velocity is None:
            lost = "seismic data" if self.seismic is None else "velocity maps"
            raise DataError(
                f"{self.velocity or self.seismic} must have its file of {lost} beside it, got none"
                ": fetch that, or move this one away"
            )
        seismic = map_file(self.seismic, SEISMIC_SHAPE)
        velocity = map_file(self.velocity, VELOCITY_SHAPE)
        if len(seismic) != len(velocity):
            raise DataError(
                f"{self.seismic.name} and {self.velocity.name} in {self.seismic.parent} must have "
                f"equally many samples, got {len(seismic)} and {len(velocity)}: fetch them again"
            )
        return len(seismic)


class OpenFWI(Dataset[tuple[Tensor, Tensor]]):
    """The samples of one family, scaled as OpenFWI scales them: (seismic, velocity).

    Seismic data are float32 ``(5, 1000, 70)``, velocity maps float32 ``(1, 70, 70)``, both in
    [-1, 1] where the family's ranges hold. Files are mapped and never whole in memory, so the data
    set may be larger than it, and goes to the processes of a DataLoader as a list of paths.

    Both ways of naming files are known: ``data1.npy`` with ``model1.npy``, also in folders ``data``
    and ``model``, and ``seis2_1_0.npy`` with ``vel2_1_0.npy``. A file may have any number of
    samples.

    Args:
        folder: Folder of one family's files.
        split: ``"train"`` or ``"test"``, as published: by the number of a file. None takes all.
        family: Which family; None takes it from the name of the folder or of one above it.
        split_file: One of OpenFWI's text files, with the paths of a pair, tabulator between, on
            each line. Of the paths the names count. Instead of ``split``.

    Raises:
        DataError: There is no such family or folder, or its files are not whole pairs of one
            family; of a sample when it is read: it has values that are not finite.

    >>> import numpy as np
    >>> from pathlib import Path
    >>> Path("CurveFault_A").mkdir()
    >>> for number in ("2_1_0", "2_1_32"):
    ...     np.save(f"CurveFault_A/seis{number}.npy", np.zeros((3, 5, 1000, 70), "float32"))
    ...     np.save(f"CurveFault_A/vel{number}.npy", np.full((3, 1, 70, 70), 3000, "float32"))
    >>> data = OpenFWI("CurveFault_A", split="train")
    >>> seismic, velocity = data[2]
    >>> len(data), seismic.shape, velocity.mean()
    (3, torch.Size([5, 1000, 70]), tensor(0.))

    Attributes:
        family: The family, with its ranges.
        pairs: The files, in order.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: Split | None = None,
        family: str | None = None,
        split_file: str | Path | None = None,
    ):
        if split not in (None, "train", "test"):
            raise ValueError(f"split must be 'train', 'test' or None, got {split!r}")
        if split is not None and split_file is not None:
            raise ValueError("split must be None where a split_file says which files to take")
        folder = Path(folder)
        self.family = find_family(family) if family is not None else guess_family(folder)
        pairs = find_pairs(folder, self.family)
        if split_file is not None:
            pairs = _choose(pairs, folder, Path(split_file))
        elif split is not None:
            pairs = [pair for pair in pairs if pair.split == split]
        if not pairs:
            raise DataError(
                f"{folder} must hold files of {self.family.name} to {split}, got none with such "
                "numbers: take all with split=None, or choose them with a split_file"
            )
        self.pairs = tuple(pairs)
        self._ends = list(accumulate(pair.samples for pair in pairs))
        self._maps: dict[Path, np.ndarray[Any, Any]] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        file = int(np.searchsorted(self._ends, place, side="right"))
        inside = place - (self._ends[file - 1] if file else 0)
        pair = self.pairs[file]
        seismic = self._read(pair.seismic, SEISMIC_SHAPE, inside)
        velocity = self._read(pair.velocity, VELOCITY_SHAPE, inside)
        return self.family.scale_seismic(seismic), self.family.scale_velocity(velocity)

    def __getstate__(self) -> dict[str, Any]:
        # Pickled, a mapped array would be the whole of its file.
        return {**self.__dict__, "_maps": {}}

    def _read(self, path: Path | None, shape: tuple[int, ...], place: int) -> Tensor:
        assert path is not None
        if path not in self._maps:
            self._maps[path] = map_file(path, shape)
        values = torch.from_numpy(np.array(self._maps[path][place], np.float32))
        # Of finite numbers these are finite, and they are found 20 times as fast as by isfinite.
        if not all(map(math.isfinite, torch.stack(values.aminmax()).tolist())):
            raise DataError(
                f"the values of {path} must be finite, got NaN or infinity in sample {place}: "
                "fetch the file again, or leave it out with a split_file"
            )
        return values


def find_family(name: str) -> Family:
    """Find a family by its name, however it is written.

    Raises:
        DataError: There is none of that name.
    """
    wanted = _fold(name)
    for family in FAMILIES.values():
        if _fold(family.name) == wanted:
            return family
    near = suggest(name, FAMILIES) or f" There are {', '.join(FAMILIES)}."
    raise DataError(f"there is no family {name!r} in OpenFWI.{near}")


def guess_family(folder: Path) -> Family:
    """Tell the family by the name of a folder, or of one above it.

    Raises:
        DataError: None of these bears the name of a family.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder of OpenFWI's .npy files, got none of that name")
    known = {_fold(family.name): family for family in FAMILIES.values()}
    for part in reversed(folder.resolve().parts):
        if _fold(part) in known:
            return known[_fold(part)]
    inside = [str(path) for path in sorted(folder.iterdir()) if _fold(path.name) in known]
    if inside:
        raise DataError(
            f"{folder} must be the folder of one family, got one with several in it: name one of "
            f"{', '.join(inside)}"
        )
    raise DataError(
        f"the family of {folder} must be known, as its range scales the data, and no part of the "
        "path names it: pass family='CurveFault_A' or another (--family), or rename the folder"
    )


def find_pairs(folder: Path, family: Family) -> list[Pair]:
    """Find the files of a folder, those without their other half too, in order of their numbers.

    Raises:
        DataError: There is no such folder, no such file in it, or files of several families.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder of OpenFWI's .npy files, got none of that name")
    found = {scheme: dict(_match_files(folder, scheme)) for scheme in (_NUMBERED, _LAYERED)}
    found = {scheme: files for scheme, files in found.items() if files}
    if not found:
        raise DataError(
            f"{folder} must hold pairs such as data1.npy and model1.npy, or seis2_1_0.npy and "
            "vel2_1_0.npy, got none of these: name the folder into which OpenFWI was downloaded"
        )
    _check_one_family(folder, family, found)
    (files,) = found.values()
    return [
        Pair(number, files.get((True, number)), files.get((False, number)), _split(number, family))
        for number in sorted({number for _, number in files})
    ]


def map_file(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Map a file of samples of a shape into memory.

    Raises:
        DataError: It cannot be read, or holds something else.
    """
    try:
        values = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist any more: fetch it again") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{path} must be a whole .npy file, and cannot be read, as of a download that was cut "
            f"off ({error}): fetch it again"
        ) from error
    if values.shape[1:] != shape or not len(values) or values.dtype.kind != "f":
        wanted = ", ".join(map(str, shape))
        raise DataError(
            f"{path} must hold floating-point numbers of shape (n, {wanted}), got {values.dtype} "
            f"of shape {values.shape}: it is no file of OpenFWI's"
        )
    return values


def _compress(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def _fold(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.casefold())


def _match_files(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[_Half, Path]]:
    places: Iterable[Path] = (folder, folder / "data", folder / "model")
    for path in (path for place in places if place.is_dir() for path in sorted(place.iterdir())):
        if match := pattern.fullmatch(path.name):
            number = tuple(map(int, match["number"].split("_")))
            yield (match["kind"] in _SEISMIC_KINDS, number), path


def _check_one_family(
    folder: Path, family: Family, found: Mapping[re.Pattern[str], Mapping[_Half, Path]]
) -> None:
    """Refuse what the names of the files show to be of several families, or of another."""
    halves = {half: path for files in found.values() for half, path in files.items()}
    layers = {number[0]: path.name for (_, number), path in halves.items() if len(number) > 1}
    kinds = {"A" if count <= _MOST_LAYERS_OF_A else "B": name for count, name in layers.items()}
    if len(found) > 1 or len(kinds) > 1:
        first = kinds.values() if len(kinds) > 1 else (min(f.values()).name for f in found.values())
        raise DataError(
            f"{folder} must hold files of one family, got such as {' and '.join(first)}: move each "
            "family to a folder of its own"
        )
    for kind, name in kinds.items():
        if not family.name.endswith(kind):
            raise DataError(
                f"{folder} must hold files of {family.name}, got {name}, whose number of layers is "
                f"that of a family {kind}: name that family"
            )


def _split(number: tuple[int, ...], family: Family) -> Split:
    train = number[0] <= family.train_files if len(number) == 1 else number[-1] < _LAYERED_TRAIN
    return "train" if train else "test"


def _choose(pairs: list[Pair], folder: Path, split_file: Path) -> list[Pair]:
    """Take the pairs that a split file lists, in its order."""
    if not split_file.is_file():
        raise DataError(f"the split file {split_file} does not exist")
    known = {pair.seismic.name: pair for pair in pairs if pair.seismic}
    chosen: list[Pair] = []
    for number, line in enumerate(split_file.read_text(encoding="utf-8").splitlines(), start=1):
        names = [re.split(r"[/\\]", path)[-1] for path in line.strip().split("\t")]
        if names == [""]:
            continue
        if len(names) != 2 or not names[0].endswith(".npy"):
            raise DataError(
                f"line {number} of {split_file} must be two paths with a tabulator between, got "
                f"{line!r}"
            )
        pair = known.get(names[0])
        if pair is None or pair.velocity is None or pair.velocity.name != names[1]:
            raise DataError(
                f"line {number} of {split_file} lists {names[0]} and {names[1]}, which {folder} "
                "must hold as a pair and does not: fetch them, or take the line out"
            )
        chosen.append(pair)
    return chosen
