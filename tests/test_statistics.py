"""Intervals and tests, against scipy, against tables worked out by hand, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from conftest import refused
from cra_smra.statistics import crossed_interval, mcnemar, mean_and_deviation, t_interval

few_examples = settings(max_examples=50, deadline=None, database=None, derandomize=True)
# Shares of 3,000 images, as accuracies are.
shares = st.lists(st.integers(0, 3000).map(lambda right: right / 3000), min_size=2, max_size=8)


def test_mean_and_deviation_by_hand():
    assert mean_and_deviation([0.7, 0.8, 0.9]) == pytest.approx((0.8, 0.1))  # divided by n - 1, not by n
    assert mean_and_deviation([0.7]) == (0.7, None)
    refused("one finite number", mean_and_deviation, [])
    refused("one finite number", mean_and_deviation, [0.5, math.nan])


def test_t_interval_by_hand():
    # mean 2, deviation 1, t of 2 degrees of freedom 4.303: 2 -+ 4.303 / sqrt(3)
    found = t_interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert t_interval([0.25]) == (0.25, None, None, None)
    assert t_interval([0.0, 0.0, 0.0]) == (0, 0, 0, 1)
    assert t_interval([0.1] * 3)[1:] == (None, None, None)


@few_examples
@given(shares, st.randoms(use_true_random=False), st.sampled_from([0.9, 0.95, 0.99]))
def test_paired_differences_as_scipy_has_them(first, random, level):
    second = [random.randrange(3001) / 3000 for _ in first]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    if np.std(differences) < 1e-12:
        return
    found, theirs = t_interval(differences, level), stats.ttest_rel(second, first)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    interval = theirs.confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-12)


def test_a_level_outside_0_and_1_is_refused():
    refused("level must lie between 0 and 1, got 95", t_interval, [1.0, 2.0], 95)
    refused("level must lie between 0 and 1, got 1", crossed_interval, [[1, 0, 0], [0, 1, 1]], 1.0)


@few_examples
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_mcnemar_as_scipy_s_binomial_test(seed, accuracy):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 200)) < accuracy
    found = mcnemar(first, second)
    assert found.gained - found.lost == second.sum() - first.sum()
    assert found.gained + found.lost == (first != second).sum()
    disagreements = found.gained + found.lost
    expected = stats.binomtest(min(found[:2]), disagreements, 0.5).pvalue if disagreements else 1
    assert found.p == pytest.approx(expected)
    assert mcnemar(second, first) == (found.lost, found.gained, pytest.approx(found.p))


def test_mcnemar_by_hand():
    # six gained, none lost: two tails of 1/64
    assert mcnemar([False] * 6 + [True] * 4, [True] * 10) == (6, 0, pytest.approx(2 / 64))
    assert mcnemar([True, False], [True, False]) == (0, 0, 1)
    refused("the same images", mcnemar, [True], [True, False])


def test_crossed_interval_by_hand():
    # Seeds' means 1/4 and 3/4; images' means 1/2, 1, 1/2, 0; mean 1/2.
    table = [[0, 1, 0, 0], [1, 1, 1, 0]]
    # MS_seeds = 4 * 1/8 = 1/2, MS_images = 2 * (1/2)/3 = 1/3; the rest is +-1/4 everywhere: 8/16 / 3 = 1/6 = MS_both.
    total = 1 / 2 + 1 / 3 - 1 / 6  # 2/3
    error, freedom = math.sqrt(total / 8), (total / (1 / 2)) ** 2
    found = crossed_interval(table)
    half = stats.t.ppf(0.975, freedom) * error
    assert found.mean == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / error, freedom))


def test_crossed_interval_of_rows_that_are_alike():
    assert crossed_interval(np.zeros((3, 50))) == (0, 0, 0, 1)
    # equal for every seed: only the images vary, and their number decides, whatever the number of seeds
    image = np.random.default_rng(0).integers(-1, 2, 200)
    found = crossed_interval(np.tile(image, (4, 1)))
    half = stats.norm.ppf(0.975) * image.std(ddof=1) / math.sqrt(200)
    assert (found.low, found.high) == pytest.approx((image.mean() - half, image.mean() + half), rel=1e-6)


def test_crossed_interval_of_one_seed_is_that_over_the_images():
    image = np.random.default_rng(0).integers(-1, 2, 300)
    assert crossed_interval(image[None]) == t_interval(image.tolist())
    refused(r"\(seeds, images\) with two images at least, got the shape \(3, 1\)", crossed_interval, [[1], [0], [1]])
    refused(r"got the shape \(3,\)", crossed_interval, [1, 0, 1])


@few_examples
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_crossed_interval_knows_no_order_and_turns_round_with_its_rows(seed, seeds):
    rng = np.random.default_rng(seed)
    table = rng.integers(-1, 2, (seeds, 40))
    found = crossed_interval(table)
    shuffled = crossed_interval(table[rng.permutation(seeds)][:, rng.permutation(40)])
    assert shuffled == pytest.approx(found, rel=1e-9, abs=1e-12)
    turned = crossed_interval(-table)
    assert (turned.low, turned.high, turned.p) == pytest.approx((-found.high, -found.low, found.p))


def test_two_seeds_that_agree_by_chance_do_not_make_the_mean_certain():
    # Both seeds gain two images and lose two, never the same: the means of the seeds are equal, the images are not.
    table = [[1, 1, -1, -1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, -1, -1]]
    found = crossed_interval(table)
    # MS_both = 8 * (1/4) * 2 / 7 = 4/7 and MS_images is the same, so that is the variance of the 16, with one freedom.
    half = stats.t.ppf(0.975, 1) * math.sqrt(4 / 7 / 16)
    assert found.mean == 0 and (found.low, found.high) == pytest.approx((-half, half)) and found.p == 1


@pytest.mark.parametrize(
    ("of_seed", "of_image", "of_both", "most"), [(0.0, 0.3, 0.3, 0.98), (0.03, 0.3, 0.3, 0.98), (0.01, 0.05, 0.5, 1.0)]
)
def test_95_of_100_crossed_intervals_hold_the_truth_where_pooled_pairs_do_not(of_seed, of_image, of_both, most):
    rng, trials, shape = np.random.default_rng(0), 600, (5, 300)
    held = pooled = 0
    for _ in range(trials):
        table = 0.02 + of_seed * rng.normal(size=(5, 1)) + of_image * rng.normal(size=(1, 300))
        table = table + of_both * rng.normal(size=shape)
        found = crossed_interval(table)
        held += found.low < 0.02 < found.high
        pooled += abs(table.mean() - 0.02) < 1.96 * table.std() / math.sqrt(table.size)
    assert 0.92 < held / trials <= most  # three standard errors of 600 trials are 0.027
    assert pooled < held
