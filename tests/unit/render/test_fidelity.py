import numpy as np
import pytest
from scipy.stats import spearmanr

from stratascope.render._fidelity import Fidelity, measure, rank_correlation


def test_the_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 20, 500).astype(float)
    other = one + rng.integers(0, 15, 500)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other)[0], abs=1e-4)
    assert rank_correlation(one, np.ones(500)) is None


def test_colours_that_are_the_features_are_faithful():
    rng = np.random.default_rng(0)
    lab = np.stack([rng.uniform(0.5, 0.7, 400), *rng.uniform(-0.03, 0.03, (2, 400))])
    # A step of a or b looks twice as large as one of lightness.
    found = measure(lab.T * [1, 2, 2], lab)
    assert found.shepard > 0.999
    assert found.clipped == 0


def test_red_and_green_alone_are_little_to_a_deuteranope():
    rng = np.random.default_rng(0)
    lab = np.stack([np.full(400, 0.7), rng.uniform(-0.1, 0.1, 400), np.zeros(400)])
    blue = lab[[0, 2, 1]]
    green = measure(lab.T, lab)
    assert green.shepard > 0.99
    spread = [measure(rows.T, rows).deuteranopia for rows in (lab, blue)]
    assert spread[1] > 0.97


def test_one_position_has_no_fidelity():
    assert measure(np.ones((1, 3)), np.zeros((3, 1))).shepard is None
    assert measure(np.ones((0, 3)), np.zeros((3, 0))).shepard is None


def test_the_caption_leaves_out_what_there_is_none_of():
    assert Fidelity(None, None, None, 0.0).caption == ""
    assert Fidelity(0.9, 0.8, None, 0.0).caption == "fidelity 0.90 (0.80 red-green blind)"
