import numpy as np
import pytest
import scipy.stats

from stratascope.diagnose._ranks import bound_median, compare_ranks, correlate_ranks, rank


def test_equal_values_share_their_mean_rank_and_nan_has_none():
    values = np.array([3.0, 1.0, 3.0, np.nan, np.inf])

    np.testing.assert_array_equal(rank(values), [2.5, 1.0, 2.5, np.nan, 4.0])


def test_correlations_are_those_of_scipy():
    rows = np.random.default_rng(0).integers(0, 9, (3, 12)).astype(float)

    expected = scipy.stats.spearmanr(rows, axis=1).statistic

    np.testing.assert_allclose(correlate_ranks(rows), expected, atol=1e-12)


def test_too_few_or_equal_values_have_no_correlation():
    rows = np.array([[1.0, 2.0, np.nan], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])

    found = correlate_ranks(rows)

    assert np.isnan(found).tolist() == [[True, True, True], [True, False, True], [True] * 3]


@pytest.mark.parametrize(("first", "second"), [(5, 5), (4, 7), (3, 3)])
def test_the_rank_sum_test_is_that_of_scipy(first, second):
    values = np.random.default_rng(1).normal(size=first + second)

    expected = scipy.stats.mannwhitneyu(values[:first], values[first:], method="exact").pvalue

    assert compare_ranks(values[:first], values[first:]) == pytest.approx(expected)


def test_the_rank_sum_test_counts_ties_exactly():
    first, second = np.array([1.0, 2, 2, 3]), np.array([2.0, 3, 4, 4])
    test = scipy.stats.permutation_test(
        (scipy.stats.rankdata([*first, *second])[:4], scipy.stats.rankdata([*first, *second])[4:]),
        lambda a, b: abs(a.sum() - 18),
        alternative="greater",
        n_resamples=np.inf,
    )

    assert compare_ranks(first, second) == pytest.approx(test.pvalue)


def test_many_values_are_compared_by_draws():
    values = np.random.default_rng(2).normal(size=40)
    values[20:] += 0.6

    expected = scipy.stats.mannwhitneyu(values[:20], values[20:], method="exact").pvalue

    assert compare_ranks(values[:20], values[20:]) == pytest.approx(expected, rel=0.15)


def test_all_that_is_worse_gives_the_least_p_value():
    assert compare_ranks(np.arange(3.0), np.array([np.inf, np.inf, 9])) == pytest.approx(0.1)


def test_the_interval_of_the_median_has_its_coverage():
    rng = np.random.default_rng(3)
    for count in (3, 6, 12):
        bounds = [bound_median(rng.exponential(size=count)) for _ in range(4000)]
        hit = np.mean([low <= np.log(2) <= high for low, high, _ in bounds])

        assert hit == pytest.approx(bounds[0][2], abs=0.025)


def test_the_interval_is_the_narrowest_that_covers_enough():
    assert bound_median(np.arange(12.0))[:2] == (2.0, 9.0)
    assert bound_median(np.arange(12.0))[2] >= 0.95
    assert bound_median(np.array([4.0])) == (4.0, 4.0, 0.0)
