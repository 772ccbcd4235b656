"""Statistics against NumPy and SciPy on the whole array, exact fractions, and plain loops."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

from slow_similarity import (
    ratio,
    slow_hsic,
    slow_matrix,
    slow_procrustes,
    slow_rsa,
    slow_svcca,
    slow_unbiased_hsic,
)
from stratascope import stats

RNG = np.random.default_rng
MIXED = np.maximum(RNG(0).standard_normal((20, 6, 5, 7)).astype(np.float32), 0)
MIXED[:, 1] = -1.5
MIXED[:, 2] = np.minimum(MIXED[:, 2], 0.25)
MIXED[3, 3, 0, :4] = [np.nan, np.inf, -np.inf, np.nan]
MIXED[:, 4] = np.nan
MIXED[:10, 5] = 0


def measure(statistic, values, **passed):
    """What a statistic finds in two batches of unequal size."""
    for part in (slice(0, 7), slice(7, None)):
        numbers = np.arange(len(values))[part]
        statistic.update(values[part], samples=numbers, **passed)
    return statistic.compute()


def by_channel(values):
    """The finite values of each channel."""
    for channel in np.moveaxis(np.asarray(values), 1, 0):
        yield channel[np.isfinite(channel)].astype(np.float64)


def test_counts():
    found = measure(stats.Counts(), MIXED)
    for channel, values in enumerate(np.moveaxis(MIXED, 1, 0)):
        flat = values.ravel().tolist()
        assert found.values[channel] == len(flat)
        assert found.zeros[channel] == sum(value == 0 for value in flat)
        assert found.nans[channel] == sum(math.isnan(value) for value in flat)
        assert found.plus_infs[channel] == flat.count(math.inf)
        assert found.minus_infs[channel] == flat.count(-math.inf)
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
        assert found.first_nonfinite[channel] == (int(np.argmax(bad)) if bad.any() else -1)
    assert found.zero_fraction[5] > 0.5
    assert np.isnan(found.zero_fraction[4])


def test_without_the_numbers_of_samples_nobody_knows_where_nan_begins():
    counts = stats.Counts()
    counts.update([[float("nan")]])

    assert counts.compute().first_nonfinite.tolist() == [-1]


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("far", [0, 2, 1e3, 1e7])
def test_moments_keep_their_digits_wherever_the_values_lie(order, far):
    values = RNG(0).normal(size=(40, 6, 900)) + far
    # The first value is the farthest out, then the first ones differ from the others.
    values[0, 1, 0] = far + 1e4
    values[:, 2] = far + 0.1
    values[0, 3, :200] = far - 1e3
    values[5, 4, 7:9] = np.nan, np.inf
    values[:, 5] = np.abs(values[:, 5])
    found = stats.Moments(order)
    found.update(values[:20])
    found.update(values[20:])
    found = found.compute()

    for channel, wanted in enumerate(by_channel(values)):
        np.testing.assert_allclose(found.mean[channel], wanted.mean(), rtol=1e-12, atol=1e-13)
        if channel == 2:
            assert found.variance[channel] == 0
            continue
        np.testing.assert_allclose(found.variance[channel], wanted.var(), rtol=1e-11)
        if order == 4:
            apart = wanted - wanted.mean()
            skewness, kurtosis = scipy.stats.skew(apart), scipy.stats.kurtosis(apart)
            np.testing.assert_allclose(found.skewness[channel], skewness, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.kurtosis[channel], kurtosis, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.mean_abs[channel], np.abs(wanted).mean(), rtol=1e-12)


def test_extremes():
    found = measure(stats.Extremes(threshold=0.2), MIXED)
    for channel, values in enumerate(by_channel(MIXED)):
        if not values.size:
            continue
        assert (found.minimum[channel], found.maximum[channel]) == (values.min(), values.max())
        assert found.at_minimum[channel] == (values == values.min()).sum()
        assert found.at_maximum[channel] == (values == values.max()).sum()
        assert found.share_at_maximum[channel] == (values == values.max()).mean()
        assert found.share_at_minimum[channel] == (values == values.min()).mean()
        finite = np.where(np.isfinite(MIXED[:, channel]), MIXED[:, channel], -np.inf)
        assert found.active[channel] == sum(sample.max() > 0.2 for sample in finite)
    assert found.dead.tolist() == [False, True, False, False, False, False]
    assert found.constant.tolist() == [False, True, False, False, False, False]
    assert np.isnan(found.minimum[4])
    assert np.isnan(found.share_at_maximum[4])
    assert found.active_fraction[1] == 0
    assert found.active_fraction[5] == 0.5


def test_a_threshold_is_compared_as_it_is_written():
    found = measure(stats.Extremes(threshold=0.1), np.full((9, 1), 0.1, np.float32))
    # 0.1 as float32 is a little above 0.1.
    assert (found.dead.tolist(), found.active.tolist()) == ([False], [9])


def test_a_negative_zero_is_zero():
    found = measure(stats.Extremes(), np.array([-0.0, 0.0] * 5))
    assert str(found.minimum) == str(found.maximum) == "[0.]"


def test_moments():
    found = measure(stats.Moments(), MIXED)
    for channel, values in enumerate(by_channel(MIXED)):
        assert found.count[channel] == values.size
        if not values.size:
            assert np.isnan([found.mean[channel], found.variance[channel]]).all()
            continue
        np.testing.assert_allclose(found.mean[channel], values.mean(), rtol=1e-12)
        np.testing.assert_allclose(found.mean_abs[channel], np.abs(values).mean(), rtol=1e-12)
        np.testing.assert_allclose(found.variance[channel], values.var(), rtol=1e-12)
        np.testing.assert_allclose(found.std[channel], values.std(), rtol=1e-12)
        if values.std():
            skewness, kurtosis = scipy.stats.skew(values), scipy.stats.kurtosis(values)
            np.testing.assert_allclose(found.skewness[channel], skewness, rtol=1e-11)
            np.testing.assert_allclose(found.kurtosis[channel], kurtosis, rtol=1e-11)
    assert np.isnan([found.skewness[1], found.kurtosis[1]]).all()


def exact_variance(values):
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact) / len(exact)
    return float(sum((value - mean) ** 2 for value in exact) / len(exact))


@pytest.mark.parametrize(
    ("centre", "spread", "dtype"),
    [
        (100, 0.01, np.float32),
        (100, 0.01, np.float64),
        (1e8, 1e-3, np.float64),
        (1e15, 1, np.float64),
        (-3e30, 1e27, np.float32),
        (0, 1e-40, np.float32),
        (0, 1e30, np.float32),
        (0, 1e-150, np.float64),
    ],
)
@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy])
def test_the_variance_is_right_where_sums_of_squares_are_not(centre, spread, dtype, wrap):
    values = (centre + spread * RNG(1).standard_normal((40, 1, 25))).astype(dtype)
    found = measure(stats.Moments(order=2), wrap(values))

    np.testing.assert_allclose(found.variance, [exact_variance(values.ravel())], rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, -7e30, 1e-40])
def test_a_constant_has_no_variance_at_all(value):
    found = measure(stats.Moments(), np.full((50, 2, 33), value))
    assert found.variance.tolist() == [0, 0]
    assert found.mean.tolist() == [value, value]


ADVERSARIAL = {
    "normal": RNG(2).standard_normal(4000),
    "relu": np.maximum(RNG(3).standard_normal(4000), 0),
    "constant": np.full(100, 0.3),
    "constant zero": np.zeros(10),
    "cauchy": RNG(4).standard_cauchy(4000),
    "pareto": RNG(5).pareto(0.3, 4000).clip(0, 1e38),
    "denormals": RNG(6).standard_normal(1000).astype(np.float32) * np.float32(1e-40),
    "least normals": RNG(6).standard_normal(1000) * 1e-37,
    "huge": RNG(7).standard_normal(1000) * 1e30,
    "negative": -RNG(8).exponential(size=1000),
    "integers": RNG(9).integers(-50, 50, 1000),
    "two values": np.array([-1e-20, 1e20] * 50),
    "powers of two": 2.0 ** np.arange(-120, 120),
    "one": np.array([5.0]),
}


@pytest.mark.parametrize("per_octave", [1, 8, 128])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_quantiles_keep_their_bound(name, per_octave):
    values = ADVERSARIAL[name]
    values = values if values.dtype.kind == "i" else values.astype(np.float32)
    histogram = stats.Histogram(bins_per_octave=per_octave)
    histogram.update(values)
    found = histogram.compute()
    q = np.concatenate([np.linspace(0, 1, 101), [0.999, 0.9999]])
    wanted = np.quantile(values.astype(np.float64), q, method="inverted_cdf")
    low, high = found.bounds(q)
    tiny = np.finfo(np.float32).tiny
    flushed = np.where(np.abs(wanted) < tiny, 0, wanted)

    assert found.total.tolist() == [values.size]
    assert (np.abs(found.quantile(q)[:, 0] - wanted) <= np.abs(wanted) / per_octave + tiny).all()
    assert ((low[:, 0] <= flushed) & (flushed <= high[:, 0])).all()


def test_a_histogram_counts_what_lies_between_its_edges():
    values = (RNG(0).standard_normal((50, 3, 20)) * [[[0.01], [1], [100]]]).astype(np.float32)
    found = measure(stats.Histogram(bins_per_octave=4), values)
    for row, channel in enumerate(np.moveaxis(values, 1, 0)):
        for low, high, count in zip(found.low, found.high, found.counts[row], strict=True):
            inside = (channel >= low) & (channel < high) if low > 0 else (channel == 0)
            inside = (channel > low) & (channel <= high) if high < 0 else inside
            assert inside.sum() == count
    np.testing.assert_array_equal(found.layer.counts[0], found.counts.sum(0))
    layer = measure(stats.Histogram(bins_per_octave=4, per_channel=False), values)
    np.testing.assert_array_equal(layer.counts, found.layer.counts)
    assert found.layer.quantile(0.5) == layer.quantile(0.5)


def test_quantiles_have_the_shape_that_numpy_gives_them():
    found = measure(stats.Histogram(), MIXED)
    assert found.quantile(0.5).shape == (6,)
    assert found.quantile([[0.1, 0.5, 0.9]]).shape == (1, 3, 6)
    assert np.isnan(found.quantile(0.5)[4])
    assert np.isnan(found.bounds(0.5)[0][4])
    assert found.nonfinite.tolist() == [0, 0, 0, 4, 700, 0]
    with pytest.raises(ValueError, match=r"q must be from 0 to 1, got 50"):
        found.quantile(50)


def test_what_exceeds_float32_is_counted_apart():
    found = measure(stats.Histogram(), np.array([1e300, -1e300, 1.0, np.nan]))
    assert (found.total.tolist(), found.nonfinite.tolist()) == ([1], [3])


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bins", [1, 8])
def test_a_histogram_counts_long_rows_as_it_counts_short_ones(bins, per_channel):
    values = RNG(30).standard_normal((3, 5, 7001)).astype(np.float32)
    values[:, 1] = np.maximum(values[:, 1], 0)
    values[:, 2] = -np.exp(15 * np.abs(values[:, 2]))
    values[1, 3, :3] = np.nan, np.inf, -np.inf
    values[:, 4] = 0
    long, short = (stats.Histogram(bins, per_channel=per_channel) for _ in range(2))
    long.update(values)
    for start in range(0, 7001, 100):
        short.update(values[:, :, start : start + 100])

    np.testing.assert_array_equal(long.state["counts"], short.state["counts"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_histogram_of_halves_is_exact(dtype):
    values = torch.randn(30, 2, 11).mul(100).to(getattr(torch, dtype))
    values[0, 0, :3] = torch.tensor([math.inf, math.nan, -0.0])
    found = measure(stats.HalfHistogram(dtype), values)
    wide = values.double().numpy().ravel()
    wide = wide[np.isfinite(wide)]
    q = np.linspace(0, 1, 37)

    assert (found.total.tolist(), found.nonfinite.tolist()) == ([wide.size], [2])
    wanted = np.quantile(wide, q, method="inverted_cdf")
    np.testing.assert_array_equal(found.quantile(q)[:, 0], wanted)
    np.testing.assert_array_equal(found.bounds(q)[0], found.bounds(q)[1])
    given = values.numpy() if dtype == "float16" else values.float().numpy()
    again = measure(stats.HalfHistogram(dtype), given)
    np.testing.assert_array_equal(again.counts, found.counts)


def correlated(samples=300):
    rng = RNG(11)
    x = rng.standard_normal((samples, 6, 4)) * [[[3], [1], [0.5], [1], [1], [1]]] + 10
    x[:, 3] = -2 * x[:, 0] + 0.01 * x[:, 3]
    x[:, 4] = x[:, 3] + x[:, 1] * 0.01
    x[:, 5] = 0.7
    return x


def test_covariance():
    x = correlated()
    found = measure(stats.Covariance(share=1.0), x)
    rows = np.moveaxis(x, 1, 0).reshape(6, -1)
    wanted = np.cov(rows, bias=True)
    correlation = np.corrcoef(rows[:5])

    assert found.count == 1200
    np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.correlation[:5, :5], correlation, rtol=1e-10, atol=1e-12)
    assert np.isnan(found.correlation[5]).all()
    assert found.redundant_groups() == ((0, 3, 4),)
    assert found.redundant_groups(threshold=0.99999999) == ()


def test_rank_and_components():
    x = correlated()
    found = measure(stats.Covariance(share=1.0), x)
    rows = np.moveaxis(x, 1, 0).reshape(6, -1)
    centred = rows - rows.mean(1, keepdims=True)
    singular = np.linalg.svd(centred, compute_uv=False)
    p = singular[:5] / singular[:5].sum()

    np.testing.assert_allclose(
        found.eigenvalues[:5], singular[:5] ** 2 / 1200, rtol=1e-8, atol=1e-20
    )
    np.testing.assert_allclose(found.effective_rank, np.exp(scipy.stats.entropy(p)), rtol=1e-6)
    ratio = np.trace(found.covariance) ** 2 / np.trace(found.covariance @ found.covariance)
    np.testing.assert_allclose(found.participation_ratio, ratio, rtol=1e-10)
    components = found.components
    np.testing.assert_allclose(components @ components.T, np.eye(6), atol=1e-12)
    rebuilt = components.T @ np.diag(found.eigenvalues) @ components
    np.testing.assert_allclose(rebuilt, found.covariance, atol=1e-10)
    assert (components[np.arange(6), np.abs(components).argmax(1)] > 0).all()


def test_a_channel_that_is_not_finite_is_left_out_of_the_rank():
    x = correlated()
    clean = measure(stats.Covariance(), x[:, :5])
    x[2, 5, :] = np.nan
    found = measure(stats.Covariance(), x)

    assert found.effective_rank == pytest.approx(clean.effective_rank, rel=1e-12)
    assert found.participation_ratio == pytest.approx(clean.participation_ratio, rel=1e-12)
    assert found.components.shape == (5, 6)
    assert (found.components[:, 5] == 0).all()
    assert found.redundant_groups() == clean.redundant_groups()


def test_nothing_that_varies_has_rank_zero():
    found = measure(stats.Covariance(), np.full((10, 3), 0.1))
    assert (found.effective_rank, found.participation_ratio) == (0, 0)
    assert found.redundant_groups() == ()


def test_a_part_of_the_positions_tells_what_all_of_them_tell():
    rng = RNG(12)
    x = rng.standard_normal((40, 5, 32, 32)) * np.arange(1, 6)[:, None, None]
    part = measure(stats.Covariance(), x)
    whole = measure(stats.Covariance(share=1.0), x)

    assert (part.count, whole.count) == (40 * 64, 40 * 1024)
    assert part.effective_rank == pytest.approx(whole.effective_rank, rel=0.02)
    columns = {place % 32 for place in stats._covariance.choose_positions(1024, 1 / 16)}
    assert len(columns) > 20


def test_top_samples():
    values = np.round(RNG(13).standard_normal((30, 3, 9)) * 2)
    values[:, 2] = np.nan
    values[4, 2, 3] = 1
    found = measure(stats.TopSamples(5), values)
    for channel in range(3):
        for end, sign in (("highest", 1), ("lowest", -1)):
            ranked = []
            for sample in range(30):
                finite = [
                    (-sign * value, position)
                    for position, value in enumerate(values[sample, channel])
                    if math.isfinite(value)
                ]
                if finite:
                    score, position = min(finite)
                    ranked.append((score, sample, -sign * score, position))
            ranked = sorted(ranked)[:5] + [(0, -1, math.nan, -1)] * 5
            for rank, (_, sample, value, position) in enumerate(ranked[:5]):
                assert getattr(found, f"{end}_samples")[channel, rank] == sample
                assert getattr(found, f"{end}_positions")[channel, rank] == position
                np.testing.assert_equal(getattr(found, end)[channel, rank], value)


def scramble(number):
    """SplitMix64 with the whole numbers of Python."""
    z = (number + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_reservoir():
    values = RNG(14).standard_normal((100, 3, 5))
    found = measure(stats.Reservoir(12), values)
    wanted = sorted(sorted(range(100), key=scramble)[:12])

    assert found.samples.tolist() == wanted
    np.testing.assert_allclose(found.vectors, values[wanted].mean(2), rtol=1e-13)
    flat = measure(stats.Reservoir(12, flatten=True), values)
    np.testing.assert_array_equal(flat.vectors, values[wanted].reshape(12, 15))


def test_a_reservoir_takes_each_sample_with_the_same_chance():
    kept = np.zeros(200)
    for start in range(0, 200_000, 200):
        reservoir = stats.Reservoir(20)
        reservoir.update(np.zeros((200, 1)), samples=range(start, start + 200))
        kept[reservoir.compute().samples - start] += 1

    # 1000 draws of one in ten: a deviation of 9.5 is usual, five times that is not.
    assert np.abs(kept - 100).max() < 5 * 9.5


def slow_dimension(points, discard):
    """The recipe of Facco et al. step by step."""
    ratios = []
    for point in points:
        distances = sorted(math.dist(point, other) for other in points)
        ratios.append(distances[2] / distances[1])
    ratios = sorted(ratios)[: int(len(points) * (1 - discard))]
    over = [math.log(ratio) for ratio in ratios]
    up = [-math.log(1 - (rank + 1) / len(points)) for rank in range(len(ratios))]
    return sum(x * y for x, y in zip(over, up, strict=True)) / sum(x * x for x in over)


def test_the_intrinsic_dimension_follows_its_recipe():
    points = RNG(15).standard_normal((150, 4))
    found = stats.intrinsic_dimension(points)

    assert found.dimension == pytest.approx(slow_dimension(points, 0.1), rel=1e-10)
    again = stats.intrinsic_dimension(np.concatenate([points, points[:7]]))
    assert again == stats.IntrinsicDimension(found.dimension, 150, 7)
    far = stats.intrinsic_dimension(points + 1e6)
    assert far.dimension == pytest.approx(found.dimension, rel=1e-6)


@pytest.mark.parametrize(("dimension", "within"), [(1, 0.1), (2, 0.2), (5, 0.6)])
def test_the_intrinsic_dimension_of_a_curved_surface_is_found(dimension, within):
    flat = RNG(16).uniform(size=(2000, dimension))
    bent = np.concatenate([np.sin(flat), np.cos(flat), flat @ np.ones((dimension, 3))], axis=1)
    assert stats.intrinsic_dimension(bent).dimension == pytest.approx(dimension, abs=within)


def test_too_few_points_have_no_dimension():
    assert math.isnan(stats.intrinsic_dimension(np.ones((50, 3))).dimension)
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert stats.intrinsic_dimension(square).dimension == math.inf
    with pytest.raises(ValueError, match="must be finite and of shape"):
        stats.intrinsic_dimension(np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="discard must be from 0 to below 1, got 1"):
        stats.intrinsic_dimension(square, discard=1)


def sites(samples=60):
    rng = RNG(17)
    x = rng.standard_normal((samples, 7)) + 3
    y = np.tanh(x @ rng.standard_normal((7, 4))) + 0.3 * rng.standard_normal((samples, 4))
    return [x, y, rng.standard_normal((samples, 9))]


def compare(statistic, several):
    for part in (slice(0, 23), slice(23, None)):
        numbers = np.arange(len(several[0]))[part]
        statistic.update([site[part] for site in several], samples=numbers)
    return statistic.compute()


def test_cka_follows_its_definition():
    found = compare(stats.Similarity(), sites())
    np.testing.assert_allclose(found.cka(), slow_matrix(sites(), ratio(slow_hsic)), rtol=1e-10)
    wanted = slow_matrix(sites(), ratio(slow_unbiased_hsic))
    np.testing.assert_allclose(found.unbiased_cka(), wanted, rtol=1e-9, atol=1e-12)


def test_cka_gives_the_values_of_the_published_demonstration():
    # Kornblith et al.: google-research/representation_similarity/Demo.ipynb
    state = np.random.RandomState(1337)
    x = state.randn(100, 10)
    y = state.randn(100, 10) + x
    found = compare(stats.Similarity(), [x, y])

    assert round(found.cka()[0, 1], 5) == 0.55761
    assert round(found.unbiased_cka()[0, 1], 5) == 0.51346
    whole = compare(stats.MinibatchCKA(group=100), [x, y])
    assert round(whole.cka[0, 1], 5) == 0.51346


def test_the_unbiased_cka_of_unrelated_sites_is_about_zero():
    rng = RNG(18)
    wide = [rng.standard_normal((80, 300)), rng.standard_normal((80, 300))]
    found = compare(stats.Similarity(), wide)
    assert found.cka()[0, 1] > 0.7
    assert abs(found.unbiased_cka()[0, 1]) < 0.05


def test_the_procrustes_distance_is_what_turning_leaves():
    found = compare(stats.Similarity(), sites()).procrustes()
    np.testing.assert_allclose(found, slow_matrix(sites(), slow_procrustes), atol=1e-10)


@pytest.mark.parametrize("variance", [0.5, 0.99, 1.0])
def test_svcca_is_the_mean_correlation_of_the_leading_directions(variance):
    found = compare(stats.Similarity(), sites()).svcca(variance)
    np.testing.assert_allclose(found, slow_matrix(sites(), slow_svcca(variance)), atol=1e-8)


def test_similarities_do_not_see_rotation_scale_and_shift():
    x, _, other = sites()
    turn = np.linalg.qr(RNG(19).standard_normal((7, 7)))[0]
    found = compare(stats.Similarity(), [x, 5 * x @ turn - 2, other])
    for matrix in (found.cka(), found.unbiased_cka(), found.svcca(), 1 - found.procrustes()):
        np.testing.assert_allclose(matrix[0, 1], 1, rtol=1e-10)
        np.testing.assert_allclose(matrix[0, 2], matrix[1, 2], rtol=1e-9)


def test_a_site_that_is_constant_or_not_finite_is_like_no_other():
    x, y, _ = sites()
    broken = y.copy()
    broken[3, 1] = np.nan
    found = compare(stats.Similarity(), [x, y, np.ones((60, 2)), broken])
    for matrix in (found.cka(), found.unbiased_cka(), found.svcca(), found.procrustes()):
        assert np.isnan(matrix[2:]).all()
        assert np.isnan(matrix[:, 2:]).all()
        assert np.isfinite(matrix[:2, :2]).all()


def test_the_sites_of_two_networks_are_compared_across_alone():
    several = [*sites(), sites()[0] ** 2]
    whole = compare(stats.Similarity(), several)
    for first in (1, 2, 3):
        found = compare(stats.Similarity(first=first), several)
        assert found.scatter.size < whole.scatter.size
        for measure in ("cka", "unbiased_cka", "svcca", "procrustes"):
            across, all_pairs = getattr(found, measure)(), getattr(whole, measure)()
            np.testing.assert_allclose(across[:first, first:], all_pairs[:first, first:], rtol=1e-9)
            own = ~np.eye(4, dtype=bool)
            assert np.isnan(across[:first, :first][own[:first, :first]]).all()
            assert np.isnan(across[first:, first:][own[first:, first:]]).all()


def test_maps_are_compared_by_their_channel_means_or_by_all_values():
    maps = RNG(20).standard_normal((30, 3, 4, 5))
    pooled = compare(stats.Similarity(), [maps, maps[:, :2]])
    flat = compare(stats.Similarity(flatten=True), [maps, maps[:, :2]])
    means, every = maps.mean((2, 3)), maps.reshape(30, -1)

    np.testing.assert_allclose(pooled.cka()[0, 1], ratio(slow_hsic)(means, means[:, :2]))
    np.testing.assert_allclose(flat.cka()[0, 1], ratio(slow_hsic)(every, every[:, :40]))
    assert flat.widths == (60, 40)


def test_minibatch_cka_is_the_mean_over_groups_of_numbered_samples():
    several = sites(70)
    order = RNG(21).permutation(70)
    found = stats.MinibatchCKA(group=16)
    for rows in np.split(order, [9, 40]):
        found.update([site[rows] for site in several], samples=rows)
    groups = [slice(start, start + 16) for start in range(0, 70, 16)]
    sizes = [16, 16, 16, 16, 6]
    wanted = sum(
        size * slow_matrix([site[group] for site in several], slow_unbiased_hsic)
        for size, group in zip(sizes, groups, strict=True)
    )

    np.testing.assert_allclose(found.compute().hsic, wanted / 70, rtol=1e-9, atol=1e-12)
    assert found.compute().count == 70
    assert len(found.state["numbers"]) == 6


def test_a_group_of_fewer_than_four_samples_says_nothing():
    found = stats.MinibatchCKA(group=8)
    found.update(sites(11), samples=range(11))
    assert found.compute().count == 8
    few = stats.MinibatchCKA(group=8)
    few.update(sites(3), samples=range(3))
    assert np.isnan(few.compute().cka).all()
    assert np.isnan(compare(stats.Similarity(), sites(3)).unbiased_cka()).all()


def test_rsa():
    several = sites(40)
    kept = [stats.SampleVectors(np.arange(40), site) for site in several]
    wanted = slow_matrix(several, slow_rsa)

    np.testing.assert_allclose(stats.rsa(kept), wanted, rtol=1e-9, atol=1e-12)


def test_rsa_needs_the_same_samples_and_some_variation():
    x = RNG(22).standard_normal((10, 3))
    one = stats.SampleVectors(np.arange(10), x)
    with pytest.raises(
        ValueError, match=r"must have kept the same samples; use the same Reservoir"
    ):
        stats.rsa([one, stats.SampleVectors(np.arange(1, 11), x)])
    with pytest.raises(ValueError, match="rsa must have 3 samples at least, got 2"):
        stats.rsa([stats.SampleVectors(np.arange(2), x[:2])])
    flat = stats.SampleVectors(np.arange(10), np.full((10, 3), 0.1))
    found = stats.rsa([one, flat])
    assert np.isnan(found[1]).all()
    assert found[0, 0] == pytest.approx(1)
