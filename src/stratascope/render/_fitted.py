"""What a method is fitted with, and what its fit gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Parameters = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What a fit depends on beside the rows; None where the method is to choose."""

    vividness: float | None = None
    parts: int | None = None
    bands: Sequence[str] | None = None
    target: Floats | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What fitting gives: parameters by name, and what a caption and a legend have to say.

    Attributes:
        parameters: All that the colours depend on.
        notes: What else a reader of the picture must know.
        explained: Share of the variance that the components have, if there are any.
        legend: Names, each with an sRGB colour in 0..1.
    """

    parameters: Parameters
    notes: Sequence[str] = ()
    explained: float | None = None
    legend: Sequence[tuple[str, Any]] = ()
