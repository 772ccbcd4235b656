"""A profile beside NumPy and SciPy on the loaded arrays, for every kind of site there is."""

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

import stratascope as ss
from stratascope.pipeline import SiteProfile
from stratascope.stats._covariance import choose_positions


class Kinds(nn.Module):
    """Puts out maps of every number of axes, tokens, several tensors, complex and whole numbers."""

    def __init__(self):
        super().__init__()
        names = ("volume", "image", "signal", "vector", "number", "whole", "truth", "spectrum")
        for name in names:
            setattr(self, name, nn.Identity())
        self.tokens = nn.Linear(6, 5)
        self.lstm = nn.LSTM(6, 3, batch_first=True)

    def forward(self, x):
        x = x.reshape(len(x), 4, 6, 6)
        self.volume(
            x[:, None].expand(-1, 2, -1, -1, -1) * torch.tensor([1.0, -3.0]).view(2, 1, 1, 1)
        )
        image = self.image(x + torch.arange(4.0).view(4, 1, 1) * 100)
        self.signal(x.relu()[:, :, 0])
        self.vector(image.mean((2, 3)))
        self.number(x.amax((1, 2, 3)))
        self.whole((x * 10).to(torch.int32))
        self.truth(x > 0)
        self.spectrum(torch.fft.rfft(x[:, :, 0]))
        self.tokens(x[:, 0])
        return self.lstm(x[:, 1])[0]


SITES = [
    "volume", "image", "signal", "vector", "number", "whole", "truth", "spectrum", "tokens", "lstm"
]  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).standard_t(4, size=(150, 144)).astype("float32")


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    torch.manual_seed(0)
    to = tmp_path_factory.mktemp("reference") / "acts.zarr"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "not stored")
        return ss.extract(Kinds(), data, SITES, to=to, unit_size=64, progress=False)


def list_layers(store):
    for site in store:
        value = store[site]
        parts = value if isinstance(value, dict) else {"": value}
        for place, array in parts.items():
            yield site + (f" [{place}]" if place else ""), array


def as_rows(array, size=np.abs):
    """Give the values of each channel in a row, and those of each sample in it."""
    values = array[:]
    values = size(values) if values.dtype.kind == "c" else values
    axes = [n for n, name in enumerate(array.dims) if name.partition("_")[0] == "channel"]
    values = np.moveaxis(values, axes[0], 0) if axes else values[None]
    return values.reshape(len(values), array.shape[0], -1).astype(np.float64)


def size_by_torch(values):
    # The last bit of a root may be another.
    return torch.from_numpy(values).abs().numpy()


def assert_same(found: SiteProfile, rows):
    flat = rows.reshape(len(rows), -1)
    finite = [row[np.isfinite(row)] for row in flat]

    def each(measure):
        return np.array([measure(row) for row in finite])

    assert found.samples == rows.shape[1]
    np.testing.assert_array_equal(found.count, [row.size for row in finite])
    np.testing.assert_array_equal(found.min, each(np.min))
    np.testing.assert_array_equal(found.max, each(np.max))
    np.testing.assert_array_equal(found.zero_fraction, each(lambda row: (row == 0).mean()))
    np.testing.assert_array_equal(found.nans, np.isnan(flat).sum(1))
    np.testing.assert_array_equal(found.infs, np.isinf(flat).sum(1))
    np.testing.assert_array_equal(found.dead(), each(np.max) <= 0)
    np.testing.assert_array_equal(found.constant, each(np.ptp) == 0)
    np.testing.assert_array_equal(found.active_fraction, (rows > 0).any(2).mean(1))
    np.testing.assert_array_equal(found.share_at_max, each(lambda row: (row == row.max()).mean()))
    np.testing.assert_allclose(found.mean, each(np.mean), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.variance, each(np.var), rtol=1e-12)
    np.testing.assert_allclose(found.std, each(np.std), rtol=1e-12)
    np.testing.assert_allclose(found.mean_abs, each(lambda row: np.abs(row).mean()), rtol=1e-12)
    varies = ~found.constant
    kurtosis = np.array(
        [scipy.stats.kurtosis(row) for row, v in zip(finite, varies, strict=True) if v]
    )
    np.testing.assert_allclose(found.kurtosis[varies], kurtosis, rtol=1e-9, atol=1e-9)


def assert_same_distribution(found, rows):
    flat = rows.reshape(len(rows), -1)
    for q in (0.01, 0.5, 0.99):
        exact = np.quantile(flat, q, axis=1, method="inverted_cdf")
        np.testing.assert_allclose(found.quantile(q), exact, rtol=1 / 8, atol=1.2e-38)
        whole = np.quantile(flat, q, method="inverted_cdf")
        np.testing.assert_allclose(found.quantile(q, layer=True), whole, rtol=1 / 8, atol=1.2e-38)
    assert_same_top_samples(found, rows)
    vectors = found.sample_vectors
    means = rows.mean(2).T[vectors.samples]
    np.testing.assert_allclose(vectors.vectors, means, rtol=1e-10, atol=1e-12)


def assert_same_top_samples(found, rows):
    best = rows.max(2)
    order = np.lexsort((np.arange(best.shape[1]) * np.ones((len(best), 1)), -best))[:, :8]
    np.testing.assert_array_equal(found.top_samples.highest_samples, order)
    positions = np.take_along_axis(rows.argmax(2), order, 1)
    np.testing.assert_array_equal(found.top_samples.highest_positions, positions)


def test_a_profile_of_a_store_is_what_numpy_says_of_its_arrays(store):
    found = ss.profile(store, progress=False)

    layers = dict(list_layers(store))
    assert list(found) == list(layers)
    for name, array in layers.items():
        rows = as_rows(array)
        assert_same(found[name], rows)
        assert_same_distribution(found[name], rows)


def test_the_covariance_of_a_profile_is_that_of_the_positions_it_looks_at(store):
    found = ss.profile(store, sites=["vector", "tokens"], progress=False)

    for name in found:
        # So few positions that all of them are looked at.
        rows = as_rows(store[name]).reshape(found[name].channels, -1)
        covariance = np.cov(rows, bias=True)
        np.testing.assert_allclose(found[name].covariance.covariance, covariance, rtol=1e-9)
        values = np.linalg.eigvalsh(covariance).clip(0)
        shares = np.sqrt(values) / np.sqrt(values).sum()
        rank = np.exp(scipy.stats.entropy(shares))
        assert found[name].effective_rank == pytest.approx(rank)
        ratio = values.sum() ** 2 / (values**2).sum()
        assert found[name].participation_ratio == pytest.approx(ratio)


@pytest.mark.filterwarnings("ignore:not (measured|stored)")
def test_a_profile_of_a_model_is_that_of_what_it_would_have_stored(store, data):
    torch.manual_seed(0)
    found = ss.profile(Kinds(), data, SITES, batch_size=64, share=1, progress=False)

    whole = ss.profile(store, progress=False)
    assert list(found) == list(whole)
    for name, array in list_layers(store):
        rows = as_rows(array, size_by_torch)
        assert found[name].array.dims == array.dims[1:]
        assert_same(found[name], rows)
        assert_same_distribution(found[name], rows)
        np.testing.assert_allclose(
            found[name].covariance.covariance,
            whole[name].covariance.covariance,
            rtol=1e-6,  # of numbers whose last bits differ
            atol=1e-9,
        )


@pytest.mark.filterwarnings("ignore:not (measured|stored)")
def test_by_default_a_model_has_its_ends_from_all_values_and_all_else_from_a_share(store, data):
    torch.manual_seed(0)
    found = ss.profile(Kinds(), data, SITES, batch_size=64, progress=False)

    for name, array in list_layers(store):
        rows = as_rows(array, size_by_torch)
        site, flat = found[name], rows.reshape(len(rows), -1)
        np.testing.assert_array_equal(site.count, np.isfinite(flat).sum(1))
        np.testing.assert_array_equal(site.max, flat.max(1))
        np.testing.assert_array_equal(site.min, flat.min(1))
        np.testing.assert_array_equal(site.active_fraction, (rows > 0).any(2).mean(1))
        assert_same_top_samples(site, rows)
        part = rows[:, :, choose_positions(rows.shape[2], 1 / 128)].reshape(len(rows), -1)
        np.testing.assert_array_equal(site.zero_fraction, (part == 0).mean(1))
        at_end = (part == flat.max(1, keepdims=True)).mean(1)
        np.testing.assert_array_equal(site.share_at_max, at_end)
        np.testing.assert_allclose(site.mean, part.mean(1), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(site.variance, part.var(1), rtol=1e-12)
        assert site.distribution.total[0] == part.shape[1]
    assert "all else: from 1 in 128 of the positions of a map, at least 16" in repr(found)
    assert "zeros*" in found.table()
    assert found.table().endswith("* from 1 in 128 of the positions of a map, at least 16")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_distribution_of_a_layer_of_16_bits_is_exact(tmp_path, dtype):
    data = np.random.default_rng(1).standard_t(2, size=(200, 3, 20)).astype("float32") * 1e4
    store = ss.extract(
        nn.Hardtanh(-6e4, 6e4),
        data,
        "model",
        to=tmp_path / "half.zarr",
        dtype=dtype,
        progress=False,
    )
    found = ss.profile(store, progress=False)["model"]

    rows = as_rows(store["model"])
    assert_same(found, rows)
    q = np.linspace(0, 1, 11)
    np.testing.assert_array_equal(
        found.quantile(q, layer=True), np.quantile(rows, q, method="inverted_cdf")
    )


def test_codes_of_a_byte_are_profiled_as_the_values_that_they_stand_for(tmp_path):
    data = np.random.default_rng(2).normal(size=(130, 2, 90)).astype("float32")
    store = ss.extract(
        nn.ReLU(), data, "model", to=tmp_path / "codes.zarr", dtype="uint8", progress=False
    )

    assert_same(ss.profile(store, progress=False)["model"], as_rows(store["model"]))


def test_what_stands_behind_the_end_of_a_shorter_sample_does_not_count(tmp_path):
    rng = np.random.default_rng(3)
    signals = [
        torch.from_numpy(rng.normal(size=(1, 40 + n % 5)).astype("float32")) for n in range(90)
    ]
    data = torch.utils.data.DataLoader(signals, batch_size=16)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 3, 5), nn.ReLU())
    store = ss.extract(
        model,
        data,
        "1",
        to=tmp_path / "uneven.zarr",
        length="longest",
        unit_size=64,
        progress=False,
    )
    lengths, values = store["1"].lengths[:], store["1"][:]
    expected = [
        np.concatenate([values[n, channel, : lengths[n]] for n in range(90)]).astype(float)
        for channel in range(3)
    ]

    stored = ss.profile(store, progress=False)["1"]
    flowing = ss.profile(model, data, "1", progress=False, share=1)["1"]
    for found in (stored, flowing):
        assert found.nans.tolist() == [0, 0, 0]
        np.testing.assert_array_equal(found.count, [row.size for row in expected])
        np.testing.assert_allclose(found.mean, [row.mean() for row in expected], rtol=1e-12)
        np.testing.assert_allclose(found.variance, [row.var() for row in expected], rtol=1e-12)
        np.testing.assert_array_equal(found.max, [row.max() for row in expected])
        np.testing.assert_array_equal(
            found.active_fraction, (np.nan_to_num(values) > 0).any(2).mean(0)
        )
    thin = ss.profile(model, data, "1", progress=False)["1"]
    np.testing.assert_array_equal(thin.count, stored.count)
    np.testing.assert_array_equal(thin.max, stored.max)
    # Of each signal 16 of 36 to 40 positions.
    assert thin.moments.count.tolist() == [90 * 16] * 3
