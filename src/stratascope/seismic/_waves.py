"""Shot gathers of a velocity map, as those of OpenFWI were made, with deepwave."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stratascope._optional import require
from stratascope.errors import DataError

SHOTS, STEPS = 5, 1000

_SPACING, _INTERVAL, _FREQUENCY = 10.0, 1e-3, 15.0  # m, s, Hz
_DEPTH = 1  # cells, of sources and receivers
# Faster waves than these need more steps a sample, where OpenFWI has one.
_FASTEST = 4500.0
SOLVER: dict[str, Any] = {"accuracy": 4, "pml_width": 20, "courant_number": 0.65}


def simulate_shots(
    velocity: NDArray[Any], *, shots: int = SHOTS, steps: int = STEPS
) -> NDArray[np.float32]:
    """Simulate the shot gathers of a velocity map with OpenFWI's survey, by deepwave.

    Sources of a 15 Hz Ricker wavelet stand evenly from the first column to the last, receivers in
    every column, both 10 m deep; cells are 10 m and steps 1 ms, and waves leave on all four sides.
    The wave equation is acoustic: of second order in time and of fourth in space, as OpenFWI's
    authors solved it. From their scheme the values differ by about 0.2 % (relative L2 norm).

    Args:
        velocity: Velocities in m/s, of shape ``(depth, x)`` or ``(1, depth, x)``.
        shots: Number of sources.
        steps: Number of samples in time.

    Returns:
        What the receivers record, of shape ``(shots, steps, x)``.

    Raises:
        DataError: The map has another shape, or a velocity that is not positive and finite.
        MissingExtraError: deepwave is not installed.

    >>> simulate_shots(np.full((20, 30), 2000.0), shots=2, steps=100).shape
    (2, 100, 30)
    """
    deepwave = require("deepwave", extra="seismic")
    values = _check_velocity(velocity)
    width = values.shape[1]
    columns = torch.from_numpy(np.rint(np.linspace(0, width - 1, shots)).astype(np.int64))
    sources = torch.stack([torch.full_like(columns, _DEPTH), columns], 1)[:, None]
    receivers = torch.stack([torch.full((width,), _DEPTH), torch.arange(width)], 1)
    # The first of deepwave's samples is from before the first step, and OpenFWI has none of it.
    force = torch.from_numpy(make_ricker(steps + 1)).expand(shots, 1, -1)
    *_, records = deepwave.scalar(
        torch.from_numpy(values),
        _SPACING,
        _INTERVAL,
        # deepwave takes the wave equation with the other sign before its source.
        source_amplitudes=-force,
        source_locations=sources,
        receiver_locations=receivers.expand(shots, -1, -1),
        pml_freq=_FREQUENCY,
        max_vel=max(_FASTEST, float(values.max())),
        **SOLVER,
    )
    return np.ascontiguousarray(records[..., 1:].movedim(-1, -2).numpy())


def make_ricker(steps: int) -> NDArray[np.float32]:
    """Make a Ricker wavelet of 15 Hz whose peak of 1 is at sample 73.

    >>> wavelet = make_ricker(1001)
    >>> int(wavelet.argmax()), float(wavelet.max())
    (73, 1.0)
    """
    half = int(2.2 / _FREQUENCY / _INTERVAL / 2)
    square = (np.pi * _FREQUENCY * _INTERVAL * np.arange(-half, half + 1)) ** 2
    wavelet = np.zeros(max(steps, 2 * half + 1))
    wavelet[: 2 * half + 1] = (1 - 2 * square) * np.exp(-square)
    return wavelet[:steps].astype(np.float32)


def _check_velocity(velocity: NDArray[Any]) -> NDArray[np.float32]:
    values = np.asarray(velocity, np.float32)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or values.shape[0] <= _DEPTH or not values.shape[1]:
        raise DataError(
            f"velocity must have shape (depth, x), with at least {_DEPTH + 1} rows, got "
            f"{np.shape(velocity)}: pass one map at a time"
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise DataError(
            f"velocity must be positive and finite, in m/s, got {values.min():g} to "
            f"{values.max():g}: undo the scaling of normalised maps"
        )
    return np.ascontiguousarray(values)
