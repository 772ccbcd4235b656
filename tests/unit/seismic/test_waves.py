import numpy as np
import pytest
import torch

from stratascope.errors import DataError, MissingExtraError
from stratascope.seismic import draw_velocity_map, simulate_shots


def test_a_map_gives_gathers_in_the_range_that_openfwi_publishes():
    # The range is that of the direct waves, which grow with the velocity at the surface.
    shots = [simulate_shots(np.full((1, 70, 70), velocity), shots=1) for velocity in (1500, 4450)]

    assert shots[0].shape == (1, 1000, 70)
    assert shots[0].dtype == np.float32
    assert shots[0].max() < shots[1].max() == pytest.approx(52.32, rel=0.05)
    assert shots[1].min() == pytest.approx(-26.48, rel=0.05)


def test_sources_stand_evenly_from_side_to_side():
    shots = simulate_shots(np.full((20, 70), 2000.0), steps=100)

    assert np.abs(shots).max(1).argmax(1).tolist() == [0, 17, 34, 52, 69]


def test_the_number_of_threads_changes_no_bit():
    velocity = draw_velocity_map(np.random.default_rng(0))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(simulate_shots(velocity, shots=2, steps=50))
    finally:
        torch.set_num_threads(before)

    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("velocity", "message"),
    [
        (np.ones((2, 70, 70)), r"shape \(depth, x\), with at least 2 rows, got \(2, 70, 70\)"),
        (np.ones((1, 70)), r"with at least 2 rows, got \(1, 70\)"),
        (np.linspace(-1, 1, 4900).reshape(70, 70), "got -1 to 1: undo the scaling"),
        (np.full((70, 70), np.nan), "positive and finite, in m/s, got nan"),
    ],
)
def test_what_is_no_velocity_map_is_refused(velocity, message):
    with pytest.raises(DataError, match=message):
        simulate_shots(velocity)


def test_without_deepwave_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "deepwave", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'stratascope\[seismic\]'"):
        simulate_shots(np.full((20, 20), 2000.0))
