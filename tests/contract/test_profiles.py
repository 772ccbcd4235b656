"""However a data set is cut, and in whatever order it is joined, the profile is the same."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import stratascope as ss
from jobs import Convnet
from stratascope.pipeline import Inline, Processes

EXACT = (
    "count", "min", "max", "zero_fraction", "nans", "infs", "active_fraction", "share_at_min",
    "share_at_max", "constant",
)  # fmt: skip
ROUNDED = ("mean", "variance", "mean_abs", "kurtosis")


def assert_same(found, whole):
    assert list(found) == list(whole)
    assert found.samples == whole.samples
    for name, site in whole.items():
        for figure in EXACT:
            np.testing.assert_array_equal(getattr(found[name], figure), getattr(site, figure))
        for figure in ROUNDED:
            np.testing.assert_allclose(
                getattr(found[name], figure), getattr(site, figure), rtol=1e-12, atol=1e-14
            )
        for exact in ("distribution", "layer_distribution"):
            mine, its = getattr(found[name], exact), getattr(site, exact)
            np.testing.assert_array_equal(mine.counts, its.counts)
            np.testing.assert_array_equal(mine.low, its.low)
        for part in ("highest_samples", "highest_positions", "highest", "lowest_samples"):
            np.testing.assert_array_equal(
                getattr(found[name].top_samples, part), getattr(site.top_samples, part)
            )
        np.testing.assert_array_equal(
            found[name].sample_vectors.samples, site.sample_vectors.samples
        )
        np.testing.assert_allclose(
            found[name].covariance.covariance, site.covariance.covariance, rtol=1e-11, atol=1e-13
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    data = np.random.default_rng(0).standard_cauchy((700, 3, 9)).astype("float32")
    data[40, 1, 3], data[650, 2] = np.nan, np.inf
    to = tmp_path_factory.mktemp("profiles") / "acts.zarr"
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    return ss.extract(model, data, "**", to=to, unit_size=64, progress=False)


@pytest.fixture(scope="module")
def whole(store):
    return ss.profile(store, progress=False)


@settings(deadline=None, max_examples=15)
@given(count=st.integers(1, 11), seed=st.integers(0, 2**16))
def test_any_shards_in_any_order_make_the_profile_of_the_whole(store, whole, count, seed):
    order = np.random.default_rng(seed).permutation(count)
    parts = [ss.profile(store, shard=(int(k), count), progress=False) for k in order]

    assert_same(functools.reduce(lambda a, b: a.merge(b), parts), whole)


def test_a_merge_leaves_both_of_its_parts_as_they_were(store):
    first, second = (ss.profile(store, shard=(k, 2), progress=False) for k in (0, 1))
    before = first["1"].mean.copy(), first.samples

    first.merge(second)

    again = ss.profile(store, shard=(0, 2), progress=False)
    np.testing.assert_array_equal(again["1"].mean, before[0])
    assert_same(first, again)


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("workers", [Inline(), Processes(2)], ids=["Inline", "Processes"])
def test_wherever_the_parts_of_a_store_are_read_the_profile_is_the_same(store, whole, workers):
    assert_same(ss.profile(store, workers=workers, progress=False), whole)


def make_signals():
    return np.random.default_rng(1).normal(size=(210, 1, 64)).astype("float32")


@pytest.mark.usefixtures("quick_workers")
def test_wherever_the_batches_of_a_model_are_run_the_profile_is_the_same():
    model, signals = Convnet().eval(), make_signals()
    whole = ss.profile(model, signals, "**", batch_size=10, progress=False)

    assert_same(ss.profile(model, signals, "**", batch_size=10, workers=2, progress=False), whole)


def test_the_shards_of_a_model_make_the_profile_of_the_whole():
    model, signals = Convnet().eval(), make_signals()
    look = functools.partial(ss.profile, model, signals, "**", batch_size=10, progress=False)

    assert_same(look(shard=(2, 3)).merge(look(shard=(0, 3))).merge(look(shard=(1, 3))), look())
