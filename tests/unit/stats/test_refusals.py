"""What statistics refuse, and what they say then."""

import numpy as np
import pytest
import torch

from stratascope import stats
from stratascope.errors import DataError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stats.Moments(order=3), "order must be 2 or 4, got 3"),
        (
            lambda: stats.Histogram(bins_per_octave=10),
            "bins_per_octave must be a power of two from 1 to 128, got 10",
        ),
        (lambda: stats.HalfHistogram("float32"), "must be 'float16' or 'bfloat16', got 'float32'"),
        (lambda: stats.Covariance(share=0), "share must be above 0 and at most 1, got 0"),
        (lambda: stats.TopSamples(0), "k must be at least 1, got 0"),
        (lambda: stats.Reservoir(0), "size must be at least 1, got 0"),
        (lambda: stats.MinibatchCKA(group=3), "group must be at least 4, got 3"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_part_of_the_variance_above_all_of_it():
    similarity = stats.Similarity()
    similarity.update([np.eye(5), np.eye(5)])
    with pytest.raises(ValueError, match="variance must be above 0 and at most 1, got 99"):
        similarity.compute().svcca(99)


def test_halves_of_another_kind():
    histogram = stats.HalfHistogram("float16")
    with pytest.raises(TypeError, match="the batch must be float16, got float32; use Histogram"):
        histogram.update(np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="the batch must be bfloat16, got float16; use Histogram"):
        stats.HalfHistogram("bfloat16").update(torch.zeros(3, dtype=torch.float16))


def test_float32_that_was_never_bfloat16():
    histogram = stats.HalfHistogram("bfloat16")
    with pytest.raises(DataError, match="must hold bfloat16 values, got others; use Histogram"):
        histogram.update(np.array([1.0, 0.1], np.float32))

    assert histogram.compute().total.tolist() == [0]


def test_one_array_where_a_list_of_sites_is_due():
    with pytest.raises(TypeError, match="must be a list of one array a site, got ndarray"):
        stats.Similarity().update(np.zeros((4, 2)))


def test_sites_that_did_not_see_the_same_samples():
    with pytest.raises(DataError, match="must have the same samples at every site, got 4, 5"):
        stats.Similarity().update([np.zeros((4, 2)), np.zeros((5, 2))])
    with pytest.raises(DataError, match="must have the same samples at every site, got no"):
        stats.MinibatchCKA().update([], samples=[])


def test_two_networks_of_which_one_is_empty():
    for first in (0, 2, 3):
        with pytest.raises(DataError, match=rf"more than first={first} sites, .* got 2"):
            stats.Similarity(first=first).update([np.zeros((4, 2)), np.zeros((4, 2))])


def test_a_kernel_of_too_few_samples():
    with pytest.raises(DataError, match="the batch must have at least 4 samples, got 3"):
        stats.centred_kernel(np.zeros((3, 2)))


def test_other_widths_name_what_they_are_widths_of():
    flat = stats.Similarity(flatten=True)
    flat.update([np.zeros((4, 2, 3)), np.zeros((4, 2))])
    with pytest.raises(DataError, match="must have 6 and 2 values a sample like those before, got"):
        flat.update([np.zeros((4, 2, 2)), np.zeros((4, 2))])


def test_what_is_no_state():
    with pytest.raises(ValueError, match=r"must be that of Counts\(\), got that of None"):
        stats.Counts().load_state_dict({})
