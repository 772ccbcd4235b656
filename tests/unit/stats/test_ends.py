from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from stratascope import stats
from stratascope.stats._batch import Batch
from stratascope.stats._statistic import SiteStatistic

CHOSEN = np.array([0, 7, 11])


def spoil(values):
    """Put in what is not finite: one of a map, both ends of one, a whole one."""
    values[2, 1, 5] = np.nan
    values[3, 0, 2], values[3, 0, 9] = np.inf, -np.inf
    values[4, 2] = np.nan
    return values


def measure(batch, run=map):
    found = [stats.Counts(), stats.Extremes(0.5), stats.TopSamples(4)]
    SiteStatistic.update_together(found, batch, run)
    return [statistic.compute() for statistic in found]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("library", ["numpy", "device"])
def test_what_rests_on_the_ends_is_that_of_all_values(dtype, library, monkeypatch):
    if library == "device":
        monkeypatch.setattr(stats._arrays, "lies_on_device", lambda tensor: True)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 3, 40)) * 3)
    values = values.round() if dtype in ("int64", "bool") else spoil(values)
    batch = Batch(values.to(getattr(torch, dtype)), np.arange(20))
    chosen = CHOSEN if library == "numpy" else torch.from_numpy(CHOSEN)
    whole, thin = measure(batch), measure(batch.thin_out(chosen))

    for names, one, other in zip(
        (
            ("values", "nans", "plus_infs", "minus_infs", "first_nonfinite", "finite"),
            ("minimum", "maximum", "samples", "active", "constant", "dead"),
            stats.ChannelSamples.__slots__,
        ),
        whole,
        thin,
        strict=True,
    ):
        for name in names:
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name), name)


def test_zeros_and_values_at_the_ends_are_counted_among_the_chosen():
    values = np.maximum(spoil(np.random.default_rng(1).normal(size=(20, 3, 40))), 0)
    part = values[:, :, CHOSEN]
    counts, extremes, _ = measure(Batch(values, np.arange(20)).thin_out(CHOSEN))

    assert counts.zeros.tolist() == (part == 0).sum((0, 2)).tolist()
    assert counts.compared.tolist() == np.isfinite(part).sum((0, 2)).tolist()
    assert extremes.at_minimum.tolist() == counts.zeros.tolist()


def test_large_maps_are_cut_and_threads_that_share_them_find_the_same():
    values = spoil(np.random.default_rng(2).normal(size=(9, 5, 30_000)).astype("float32"))
    batch = Batch(values, np.arange(9))
    with ThreadPoolExecutor(3) as crew:
        parallel = batch.thin_out(CHOSEN, crew.map)

    for name, end in batch.thin_out(CHOSEN).ends.items():
        np.testing.assert_array_equal(parallel.ends[name], end)
    np.testing.assert_array_equal(parallel.array, values[:, :, CHOSEN])
    assert parallel.ends["maxima_at"][0].tolist() == values[0].argmax(1).tolist()


def test_a_network_that_has_diverged_everywhere_has_no_ends():
    counts, extremes, top = measure(
        Batch(np.full((3, 2, 40), np.nan), np.arange(3)).thin_out(CHOSEN)
    )

    assert counts.nans.tolist() == [120, 120]
    assert np.isnan(extremes.maximum).all()
    assert (top.highest_samples == -1).all()
