import numpy as np

from stratascope._scramble import mix


def test_no_two_numbers_are_scrambled_to_one():
    assert len(np.unique(mix(np.arange(100_000)))) == 100_000


def test_what_is_chosen_is_spread_evenly():
    chosen = np.argsort(mix(np.arange(10_000)))[:1000]
    counts = np.histogram(chosen, 10, (0, 10_000))[0]
    assert counts.min() > 70
    assert counts.max() < 130
