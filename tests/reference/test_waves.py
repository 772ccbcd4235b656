"""Simulated shot gathers against OpenFWI's own scheme in NumPy, and against the closed form."""

import numpy as np
import pytest

from slow_waves import INTERVAL, SPACING, slow_ricker, slow_shot
from stratascope.seismic import draw_velocity_map, simulate_shots

SLOW, FAST = 2000.0, 3000.0


def analytic_wave(distance, steps):
    """What a source in a homogeneous medium does at a distance, by the 2-D Green's function."""
    ends = np.maximum(1, SLOW * INTERVAL * (np.arange(steps + 2) - 0.5) / distance)
    response = SPACING**2 / (2 * np.pi) * np.diff(np.arccosh(ends))
    # The first of the samples is that of the end of the first step.
    return np.convolve(slow_ricker(steps), response)[1 : steps + 1]


def lag(found, meant):
    """By how many samples one trace comes after another."""
    return int(np.correlate(found, meant, "full").argmax()) - (len(meant) - 1)


@pytest.mark.parametrize(("seed", "shot", "column"), [(1, 0, 0), (2, 1, 16)])
def test_gathers_are_those_of_the_scheme_that_made_openfwi(seed, shot, column):
    velocity = draw_velocity_map(np.random.default_rng(seed))[20:50, 20:54]

    found = simulate_shots(velocity, shots=3, steps=400)

    meant = slow_shot(velocity, column, 400)
    assert np.linalg.norm(found[shot] - meant) < 0.002 * np.linalg.norm(meant)


def test_the_direct_wave_is_that_of_the_closed_form():
    shots = simulate_shots(np.full((40, 70), SLOW), shots=2, steps=600)

    for column in (10, 40, 69):
        found, meant = shots[0, :, column], analytic_wave(column * SPACING, 600)
        assert lag(found, meant) == 0
        np.testing.assert_allclose(found, meant, atol=0.03 * np.abs(meant).max())


def test_a_flat_layer_reflects_where_and_as_much_as_it_should():
    layered = np.full((60, 61), SLOW)
    layered[30:] = FAST
    depth = (29.5 - 1) * SPACING  # half way between the cells, below the source
    found, without = (
        simulate_shots(velocity, shots=3, steps=500)[1, :, 30]
        for velocity in (layered, np.full_like(layered, SLOW))
    )

    reflected, meant = found - without, analytic_wave(2 * depth, 500)

    assert abs(lag(reflected, meant)) <= 1
    strength = np.abs(reflected).max() / np.abs(meant).max()
    assert strength == pytest.approx((FAST - SLOW) / (FAST + SLOW), rel=0.1)
