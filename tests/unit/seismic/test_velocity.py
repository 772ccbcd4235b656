import numpy as np
import pytest

from stratascope.seismic import draw_velocity_map


def draw(seed):
    return draw_velocity_map(np.random.default_rng(seed))


def test_a_seed_gives_the_same_map_again_and_another_seed_another():
    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))


@pytest.mark.parametrize("seed", range(20))
def test_a_map_has_two_to_four_layers_that_grow_faster_with_depth(seed):
    velocity = draw(seed)

    assert velocity.shape == (70, 70)
    assert velocity.dtype == np.float32
    assert velocity.min() >= 1500
    assert velocity.max() <= 4500
    # What is between two layers is an average of theirs.
    values, cells = np.unique(velocity, return_counts=True)
    assert 1 <= (cells > 30).sum() <= 4
    assert values[cells > 30].size == 1 or np.diff(values[cells > 30]).min() > 149
    assert velocity[0].mean() <= velocity[-1].mean()


def test_maps_differ_in_the_number_of_layers_and_a_fault_breaks_them():
    maps = [draw(seed) for seed in range(60)]
    layers = [(np.unique(velocity, return_counts=True)[1] > 30).sum() for velocity in maps]
    steepest = [np.abs(np.diff((velocity < 2900).sum(0))).max() for velocity in maps]

    assert set(layers) >= {2, 3, 4}
    # A curve of 90 m and 400 m wavelength falls by 14 m in 10 m; a fault by 40 to 160 m.
    assert np.mean([step >= 4 for step in steepest]) > 0.3
