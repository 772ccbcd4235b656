import numpy as np
import pytest

from stratascope.store import StoredHistogram
from stratascope.store._bins import BINS, find_bins


def make(*rows, share=1.0):
    counts = [np.bincount(find_bins(np.array(row, "f4")), minlength=BINS) for row in rows]
    return StoredHistogram(np.array(counts), share, 10)


def test_shares_are_those_of_all_values():
    histogram = make([0, 0, np.nan, 1], [1, 2, 3, -np.inf])

    assert histogram.counted.tolist() == [4, 4]
    assert histogram.zero_share.tolist() == [0.5, 0]
    assert histogram.nan_share.tolist() == [0.25, 0]


def test_a_channel_of_which_nothing_was_counted_has_no_shares():
    histogram = make([], [np.nan])

    np.testing.assert_array_equal(histogram.zero_share, [np.nan, 0])
    np.testing.assert_array_equal(histogram.quantile(0.5), [np.nan, np.nan])


def test_quantiles_of_what_is_beyond_the_bins_are_at_their_ends():
    histogram = make([-np.inf, -1e20, 0, 1e20, np.inf, np.nan])

    expected = [[-np.inf, -(2.0**30), 0, 2.0**30, np.inf]]
    np.testing.assert_array_equal(histogram.quantile([0, 0.4, 0.6, 0.8, 1]), expected)


def test_a_site_of_single_numbers_has_one_row():
    histogram = StoredHistogram(make([0, 1, 1, 1]).counts[0], 0.5, 4)

    assert histogram.zero_share == 0.25
    assert histogram.quantile(0.9).shape == ()
    assert histogram.quantile([0.1, 0.9]).shape == (2,)
    assert repr(histogram) == (
        "StoredHistogram of 1 channels: 4 counts of 4 samples, 50 % of the values"
    )


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan"), [0.5, 2]])
def test_a_quantile_is_of_a_number_from_0_to_1(q):
    with pytest.raises(ValueError, match=r"q must be from 0 to 1, got"):
        make([1]).quantile(q)
