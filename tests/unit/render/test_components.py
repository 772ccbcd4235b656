import numpy as np
import pytest

from stratascope.render import _components
from stratascope.render._components import (
    analyse,
    analyse_covariance,
    leading,
    on_lattice,
    scaled,
    tame,
    usual_exponent,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def layer(rng, rows=2000, channels=40):
    """Rows whose variances fall off, and of which few are strong."""
    hidden = rng.gamma(0.8, size=(rows, 6)) * [5, 3, 2, 1, 0.5, 0.2]
    return hidden @ rng.normal(size=(6, channels)) + 0.05 * rng.normal(size=(rows, channels))


def test_the_first_component_grows_with_the_strength(rng):
    for sign in (1, -1):
        rows = sign * layer(rng)
        strength = np.linalg.norm(rows, axis=1)
        assert np.corrcoef(analyse(rows).projections[:, 0], strength)[0, 1] > 0


def test_the_other_components_have_their_heavier_side_up(rng):
    points = analyse(layer(rng)).projections[:, 1:]
    assert (np.mean(np.sign(points) * points**2, axis=0) > 0).all()


def test_signs_survive_any_rotation_of_the_channels(rng):
    rows = layer(rng)
    rotation = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    plain, turned = analyse(rows), analyse(rows @ rotation)
    np.testing.assert_allclose(plain.projections, turned.projections, atol=2e-3)


def test_a_few_leading_vectors_are_those_of_all(rng, monkeypatch):
    rows = layer(rng)
    covariance = np.cov(rows.T, bias=True)
    exact = np.linalg.eigh(covariance)[1][:, ::-1][:, :3]
    monkeypatch.setattr(_components, "_EXACT", 8)
    for given in (covariance, covariance.__matmul__):
        found = leading(given, 40, 3)
        np.testing.assert_allclose(np.abs((found * exact).sum(0)), 1, atol=1e-9)
    np.testing.assert_allclose(np.abs((analyse(rows).loadings * exact).sum(0)), 1, atol=1e-6)


def test_more_channels_than_rows_are_no_trouble(rng):
    rows = rng.normal(size=(50, 3)) * [3, 2, 1] @ rng.normal(size=(3, 2000))
    found = analyse(rows)
    assert found.rank == 3
    assert found.explained == 1
    exact = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:3].T
    np.testing.assert_allclose(np.abs((found.loadings * exact).sum(0)), 1, atol=1e-5)


@pytest.mark.parametrize(("rank", "channels"), [(0, 4), (1, 1), (1, 5), (2, 2), (2, 9)])
def test_it_says_how_many_components_there_are(rng, rank, channels):
    rows = rng.normal(size=(100, rank)) @ rng.normal(size=(rank, channels)) + 7
    assert analyse(rows).rank == rank


def test_components_of_equal_strength_are_called_ambiguous(rng):
    assert analyse(rng.normal(size=(5000, 3))).ambiguous
    assert not analyse(rng.gamma(1, size=(5000, 3)) * [3, 2, 1]).ambiguous
    # Nothing tells one side of these from the other.
    assert analyse(rng.normal(size=(5000, 3)) * [3, 2, 1]).ambiguous
    # With few rows, chance alone makes so much of a difference.
    assert analyse(rng.gamma(1, size=(30, 3)) * [1.5, 1.2, 1]).ambiguous


def test_a_known_covariance_gives_the_same_components(rng):
    rows = layer(rng)
    own = analyse(rows)
    other = analyse_covariance(rows.mean(0), np.cov(rows.T, bias=True), rows)
    np.testing.assert_allclose(own.loadings, other.loadings, atol=1e-5)
    assert own.total == pytest.approx(other.total, rel=1e-4)


def test_a_wreck_weighs_nothing_and_the_rest_is_left_as_it_is(rng):
    rows = layer(rng)
    wrecked = np.concatenate([rows, np.full((1, 40), 1e9)])
    tamed = tame(wrecked)
    assert (tamed[:-1] == rows).all()
    assert np.abs(tamed[-1]).max() < np.abs(rows).max()
    assert tame(rows) is rows


def test_a_layer_that_is_mostly_zero_keeps_its_few_answers(rng):
    rows = np.zeros((1000, 5))
    rows[:30] = rng.random((30, 5))
    assert (tame(rows) == rows).all()


def test_huge_and_tiny_rows_are_scaled_by_a_power_of_two(rng):
    for size in (1e300, 1e-300, 5e-320):
        rows = rng.normal(size=(50, 4)) * size
        moderate = scaled(rows, usual_exponent(rows))
        assert 0.1 < np.abs(moderate).max() < 10
    assert usual_exponent(np.zeros((3, 4))) == 0


def test_the_lattice_is_fine_and_makes_sums_exact(rng):
    rows = rng.normal(size=(16_384, 64))
    rounded = on_lattice(rows, 19)
    assert np.abs(rounded - rows).max() <= np.abs(rows).max() * 2.0**-18
    product = rounded.T @ rounded
    order = rng.permutation(len(rows))
    assert (product == rounded[order].T @ rounded[order]).all()
    parts = sum(block.T @ block for block in np.array_split(rounded, 7))
    assert (product == parts).all()
