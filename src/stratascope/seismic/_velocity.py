"""Velocity maps of the kind of OpenFWI's CurveFault-A: curved layers, cut by one fault."""

import numpy as np
from numpy.typing import NDArray

SIZE = 70  # cells of 10 m, down and across
SLOWEST, FASTEST = 1500.0, 4500.0  # m/s

_LAYERS = (2, 4)
_VELOCITY_STEP = 150.0
_DEPTHS = (10.0, 62.0)
_THINNEST = 6.0
_AMPLITUDES = (2.0, 9.0)
_WAVELENGTHS = (40.0, 110.0)
_DIPS = (50.0, 130.0)
_THROWS = (4.0, 16.0)
_FAULT_PLACES = (15.0, 55.0)
_FINER = 3


def draw_velocity_map(generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw a velocity map with curved layers and one fault, as in CurveFault-A of OpenFWI.

    Two to four layers, faster with depth, lie along parallel sine curves; a straight fault, of 50
    to 130 degrees, shifts what is right of it along itself by 40 to 160 m. How OpenFWI drew its own
    maps is not published; what these share with them is read from their files and pictures: Deng et
    al., OpenFWI: Large-scale Multi-structural Benchmark Datasets for Full Waveform Inversion, 2022,
    https://arxiv.org/abs/2111.02926.

    Args:
        generator: Where the random numbers come from.

    Returns:
        Velocities in m/s, from 1500 to 4500, of shape ``(70, 70)``, depth first, float32.

    >>> velocity = draw_velocity_map(np.random.default_rng(0))
    >>> velocity.shape, bool(velocity[0].mean() < velocity[-1].mean())
    ((70, 70), True)
    """
    layers = int(generator.integers(_LAYERS[0], _LAYERS[1] + 1))
    velocities = _draw_apart(generator, layers, (SLOWEST, FASTEST), _VELOCITY_STEP)
    depths = _draw_apart(generator, layers - 1, _DEPTHS, _THINNEST)
    # Cells are averaged, as interfaces seldom follow their edges.
    fine = (np.arange(SIZE * _FINER) + 0.5) / _FINER
    z, x = fine[:, None], fine[None, :]
    z, x = _undo_fault(z, x, generator)
    z = z - _draw_curve(x, generator)
    layer = sum((z > depth).astype(np.intp) for depth in depths)
    cells = velocities[layer].reshape(SIZE, _FINER, SIZE, _FINER)
    return cells.mean((1, 3)).astype(np.float32)


def _undo_fault(
    z: NDArray[np.float64], x: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the place at which each point lay before the fault."""
    dip = np.deg2rad(generator.uniform(*_DIPS))
    place = generator.uniform(*_FAULT_PLACES)
    throw = generator.uniform(*_THROWS) * generator.choice([-1, 1])
    along_z, along_x = np.sin(dip), np.cos(dip)
    is_right = (x - place) * along_z > (z - SIZE / 2) * along_x
    return z - is_right * throw * along_z, x - is_right * throw * along_x


def _draw_curve(x: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    amplitude, wavelength = generator.uniform(*_AMPLITUDES), generator.uniform(*_WAVELENGTHS)
    return amplitude * np.sin(2 * np.pi * (x / wavelength + generator.random()))


def _draw_apart(
    generator: np.random.Generator, count: int, bounds: tuple[float, float], gap: float
) -> NDArray[np.float64]:
    """Draw numbers in rising order that are at least a gap apart, uniform among all such."""
    room = bounds[1] - bounds[0] - gap * (count - 1)
    return bounds[0] + np.sort(generator.random(count)) * room + gap * np.arange(count)
