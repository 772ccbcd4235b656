"""Whole stores compared, against slow definitions on whole arrays and what others published."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import stratascope as ss
from slow_similarity import (
    ratio,
    slow_hsic,
    slow_matrix,
    slow_procrustes,
    slow_rsa,
    slow_svcca,
    slow_unbiased_hsic,
)
from tables import write_table

N = 90
RNG = np.random.default_rng
SLOW = {
    "cka": ratio(slow_hsic),
    "unbiased_cka": ratio(slow_unbiased_hsic),
    "svcca": slow_svcca(0.99),
    "procrustes": slow_procrustes,
    "rsa": slow_rsa,
}


def make_values(seed):
    """Sites of several shapes and types that have to do with each other."""
    first = RNG(0).standard_normal((N, 5, 4, 3))
    mixed = np.einsum("ncyx,cd->ndyx", first, RNG(seed).standard_normal((5, 4)))
    return {
        "maps": mixed + 2,
        "curves": np.tanh(mixed[:, :, 0]).astype("float32"),
        "vectors": np.maximum(mixed.mean((2, 3)), 0),
        "counts": np.round(3 * mixed[:, :3, 0, :2]).astype("int32"),
    }


ONE, OTHER = make_values(1), make_values(2)


def as_rows(values, *, flatten):
    values = np.asarray(values, np.float64).reshape(N, values.shape[1], -1)
    return values.reshape(N, -1) if flatten else values.mean(-1)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    shuffled = RNG(3).permutation(N)
    return (
        write_table(root / "one.zarr", ONE),
        write_table(root / "other.zarr", OTHER),
        write_table(root / "shuffled.zarr", OTHER, order=shuffled.tolist()),
    )


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("method", SLOW)
def test_each_method_follows_its_definition(stores, method, flatten):
    rows, columns = (
        [as_rows(values, flatten=flatten) for values in each.values()] for each in (ONE, OTHER)
    )
    for second in stores[1:]:
        found = ss.compare(stores[0], second, method=method, flatten=flatten)
        wanted = slow_matrix(rows, SLOW[method], columns)
        # Of dissimilarities that are equal but for rounding, ranks depend on the rounding.
        np.testing.assert_allclose(found.matrix, wanted, atol=3e-4 if method == "rsa" else 1e-7)
        assert found.sites_a == found.sites_b == tuple(f"sites.{name}" for name in ONE)
    alone = ss.compare(stores[0], method=method, flatten=flatten).matrix
    wanted = slow_matrix(rows, SLOW[method])
    np.testing.assert_allclose(alone, wanted, atol=3e-4 if method == "rsa" else 1e-7)


def slow_minibatch(rows, columns):
    """The groups' estimates, each by the number of its samples."""

    def measure(x, y):
        parts = [slice(start, start + 32) for start in range(0, N, 32)]
        return sum(len(x[part]) * slow_unbiased_hsic(x[part], y[part]) for part in parts)

    return slow_matrix(rows, ratio(measure), columns)


def test_minibatch_cka_follows_its_definition(stores):
    rows, columns = (
        [as_rows(values, flatten=True) for values in each.values()] for each in (ONE, OTHER)
    )
    for second in stores[1:]:
        found = ss.compare(stores[0], second).matrix
        np.testing.assert_allclose(found, slow_minibatch(rows, columns), rtol=1e-9, atol=1e-12)
    alone = ss.compare(stores[0]).matrix
    np.testing.assert_allclose(alone, slow_minibatch(rows, rows), rtol=1e-9, atol=1e-12)


def build_network(factor):
    """Give a network with parameters from whole numbers, the same everywhere."""
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Conv1d(3, 2, 3, stride=2), nn.Tanh())
    with torch.no_grad():
        for parameter in model.parameters():
            steps = torch.arange(parameter.numel()) * factor % 7 - 3
            parameter.copy_(steps.reshape(parameter.shape) / 4)
    return model


def test_minibatch_cka_gives_what_torch_cka_gives(tmp_path):
    # CKA(build_network(3), build_network(5), ["0", "1", "2", "3"], ["0", "1", "2", "3"]) of
    # torch-cka 0.21 from PyPI, on these signals in batches of 32.
    signals = (np.arange(96 * 10) * 37 % 101 / 50 - 1).reshape(96, 1, 10).astype("float32")
    stores = [
        ss.extract(build_network(factor), signals, "**", to=tmp_path / f"{factor}.zarr")
        for factor in (3, 5)
    ]
    published = [
        [0.9976, 0.9944, 0.9041, 0.8779],
        [0.9983, 0.9864, 0.8876, 0.8541],
        [0.9340, 0.9047, 0.8332, 0.7661],
        [0.9553, 0.9419, 0.8101, 0.7744],
    ]
    np.testing.assert_allclose(ss.compare(*stores).matrix, published, atol=6e-5)


def test_cka_gives_the_values_of_the_published_demonstration(tmp_path):
    # Kornblith et al.: google-research/representation_similarity/Demo.ipynb
    state = np.random.RandomState(1337)
    x = state.randn(100, 10)
    y = state.randn(100, 10) + x
    a, b = write_table(tmp_path / "x.zarr", {"x": x}), write_table(tmp_path / "y.zarr", {"y": y})
    assert ss.compare(a, b, method="cka").matrix.round(5) == 0.55761
    assert ss.compare(a, b, method="unbiased_cka").matrix.round(5) == 0.51346


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_no_method_but_rsa_sees_a_rotation_a_scale_or_a_shift(seed, scale, shift, tmp_path_factory):
    root = tmp_path_factory.mktemp("turned")
    values = RNG(seed).standard_normal((40, 6))
    turn = np.linalg.qr(RNG(seed + 1).standard_normal((6, 6)))[0]
    other = RNG(seed + 2).standard_normal((40, 6))
    one = write_table(root / "a.zarr", {"it": values, "other": other})
    turned = write_table(root / "b.zarr", {"it": scale * values @ turn + shift, "other": other})
    for method, alike in [*((name, 1) for name in SLOW if name != "rsa"), ("minibatch_cka", 1)]:
        found = ss.compare(one, turned, method=method).matrix
        # A distance is the square of what rounding leaves.
        wanted = 0 if method == "procrustes" else alike
        np.testing.assert_allclose(found[0, 0], wanted, atol=1e-6)
        np.testing.assert_allclose(found[0, 1], found[1, 0], atol=1e-6)


def test_unrelated_networks_are_less_alike_than_a_network_and_itself(tmp_path):
    signals = RNG(5).standard_normal((200, 1, 24)).astype("float32")
    stores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        layers = [nn.Conv1d(1, 8, 5), nn.Tanh(), nn.Flatten(), nn.Linear(160, 6), nn.Tanh()]
        stores.append(ss.extract(nn.Sequential(*layers), signals, "**", to=tmp_path / f"{seed}"))
    same, apart = ss.compare(stores[0], stores[0]), ss.compare(*stores)
    np.testing.assert_allclose(same.matrix.diagonal(), 1)
    assert same.first_divergence() is None
    assert all(difference.identical for difference in same.differences.values())
    assert (apart.matrix.diagonal() < 0.999).all()
    assert apart.matrix[4, 4] < 0.8
    assert apart.first_divergence().site == "0"
    np.testing.assert_allclose(ss.compare(*stores[::-1]).matrix, apart.matrix.T)


def test_channel_differences_are_those_of_the_whole_arrays(stores):
    order = {"relative": np.argmax, "cosine": np.argmin, "largest": np.argmax}
    for second in stores[1:]:
        found = ss.compare(stores[0], second, method="cka").differences
        for name in ONE:
            difference = found[f"sites.{name}"]
            x, y = (
                np.asarray(values[name], np.float64).reshape(N, values[name].shape[1], -1)
                for values in (ONE, OTHER)
            )
            channels = [x.transpose(1, 0, 2), y.transpose(1, 0, 2)]
            rows = [channel.reshape(len(channel), -1) for channel in channels]
            norm = np.linalg.norm
            wanted = {
                "relative": norm(rows[0] - rows[1], axis=1) / norm(rows[0], axis=1),
                "cosine": (rows[0] * rows[1]).sum(1)
                / (norm(rows[0], axis=1) * norm(rows[1], axis=1)),
                "largest": np.abs(rows[0] - rows[1]).max(1),
            }
            with np.errstate(invalid="ignore", divide="ignore"):
                each = {
                    "relative": norm(x - y, axis=2) / norm(x, axis=2),
                    "cosine": (x * y).sum(2) / (norm(x, axis=2) * norm(y, axis=2)),
                    "largest": np.abs(x - y).max(2),
                }
            for measure, figures in wanted.items():
                got = getattr(difference.channels, measure)
                np.testing.assert_allclose(got, figures, rtol=1e-12)
                samples = getattr(difference.channels, f"{measure}_sample")
                worst = [order[measure](column[~np.isnan(column)]) for column in each[measure].T]
                numbers = [np.flatnonzero(~np.isnan(column)) for column in each[measure].T]
                best = [column[place] for column, place in zip(numbers, worst, strict=True)]
                for channel, (sample, place) in enumerate(zip(samples, best, strict=True)):
                    column = each[measure][:, channel]
                    np.testing.assert_allclose(column[sample], column[place], rtol=1e-9)
            assert difference.changed == np.count_nonzero(x != y)
            assert difference.values == x.size
            whole = norm(x - y) / norm(x)
            np.testing.assert_allclose(difference.relative, whole, rtol=1e-12)
            assert difference.largest == np.abs(x - y).max()
            channel, sample = difference.worst("largest")
            assert np.abs(x - y)[sample, channel].max() == difference.largest
