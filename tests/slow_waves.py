"""The acoustic wave equation by finite differences in NumPy: slow, and as OpenFWI's data were made.

Second order in time and fourth in space, one step of 1 ms a sample, a sponge of 120 cells on all
four sides: what the authors of OpenFWI say they used, the scheme of the MATLAB laboratories of
KAUST (https://csim.kaust.edu.sa, lab.FD2.8).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPONGE = 120  # cells
SPACING, INTERVAL, FREQUENCY = 10.0, 1e-3, 15.0  # m, s, Hz
NEAR, NEXT = 4 / 3, -1 / 12


def slow_shot(velocity: NDArray[Any], column: int, steps: int) -> NDArray[np.float64]:
    """Give what receivers in all cells record of a source in one, all a cell deep, `(steps, x)`."""
    padded = np.pad(velocity.astype(float), SPONGE, mode="edge")
    damping = _damp(velocity) * INTERVAL
    courant = (padded * INTERVAL / SPACING) ** 2
    row = SPONGE + 1
    before, now = np.zeros_like(padded), np.zeros_like(padded)
    records = np.zeros((steps, velocity.shape[1]))
    for step, force in enumerate(slow_ricker(steps)):
        around = sum(np.roll(now, by, axis) for axis in (0, 1) for by in (-1, 1))
        beyond = sum(np.roll(now, by, axis) for axis in (0, 1) for by in (-2, 2))
        following = (2 - 5 * courant - damping) * now - (1 - damping) * before
        following += courant * (NEAR * around + NEXT * beyond)
        place = row, SPONGE + column
        following[place] += (padded[place] * INTERVAL) ** 2 * force
        records[step] = following[row, SPONGE:-SPONGE]
        before, now = now, following
    return records


def slow_ricker(steps: int) -> NDArray[np.float64]:
    """Give a Ricker wavelet whose peak is in the middle of its first 147 samples."""
    half = math.floor(2.2 / FREQUENCY / INTERVAL / 2)
    wavelet = np.zeros(max(steps, 2 * half + 1))
    for step in range(2 * half + 1):
        square = (math.pi * FREQUENCY * (step - half) * INTERVAL) ** 2
        wavelet[step] = (1 - 2 * square) * math.exp(-square)
    return wavelet[:steps]


def _damp(velocity: NDArray[Any]) -> NDArray[np.float64]:
    width = (SPONGE - 1) * SPACING
    strength = 3 * float(velocity.min()) * math.log(1e7) / (2 * width)
    ramp = strength * (np.arange(SPONGE) * SPACING / width) ** 2
    damping = np.pad(np.zeros(velocity.shape), SPONGE)
    damping[:SPONGE], damping[-SPONGE:] = ramp[::-1, None], ramp[:, None]
    damping[:, :SPONGE], damping[:, -SPONGE:] = ramp[::-1], ramp
    return damping
