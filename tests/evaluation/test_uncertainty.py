"""Intervals: against printed tables, the equation that defines them, and how often they hold."""

from statistics import NormalDist, fmean, stdev

import numpy as np
import pytest

from protodl.evaluation.uncertainty import (
    difference_error,
    images_interval,
    seeds_error,
    seeds_interval,
)


@pytest.mark.parametrize(("seeds", "t"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (31, 2.0423)])
def test_seeds_are_judged_by_student_s_t(seeds: int, t: float) -> None:
    """The quantiles stand in any printed table, by n - 1 degrees of freedom."""
    low, high = seeds_interval(0.5, 0.01, seeds)
    assert (low, high) == pytest.approx((0.5 - t * 0.01 / seeds**0.5, 0.5 + t * 0.01 / seeds**0.5))


def test_the_interval_holds_in_95_of_100_cases() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.01, (2000, 3)).tolist()
    ends = [seeds_interval(fmean(seeds), stdev(seeds), 3) for seeds in draws]
    assert 0.94 < fmean(low <= 0.7 <= high for low, high in ends) < 0.96
    errors = [seeds_error(seeds) for seeds in draws[:9]]
    assert errors == pytest.approx([(high - low) / 2 for low, high in ends[:9]])


def test_equal_groups_differ_by_more_than_the_error_in_5_of_100_cases() -> None:
    groups = np.random.default_rng(0).normal(0.7, 0.01, (2000, 10, 2)).tolist()
    beyond = [abs(fmean(g[0]) - fmean(g[1])) > difference_error(g) for g in groups]
    assert 0.04 < fmean(beyond) < 0.06
    assert difference_error([[1.0, 3.0], [5.0, 7.0]]) == pytest.approx(4.3027 * 2**0.5, rel=1e-4)


@pytest.mark.parametrize(("share", "images"), [(0.9933, 10_000), (0.5, 36), (1.0, 36), (0.0, 7)])
def test_ends_for_images_are_as_far_as_the_normal_allows(share: float, images: int) -> None:
    """Wilson's ends p solve |share - p| = z √(p (1 - p) / N)."""
    low, high = images_interval(share, images)
    assert 0 <= low <= share <= high <= 1
    assert low < high
    z = NormalDist().inv_cdf(0.975)
    for end in (low, high):
        assert abs(share - end) == pytest.approx(z * (end * (1 - end) / images) ** 0.5, abs=1e-9)


def test_no_interval_leaves_what_a_share_can_be() -> None:
    assert seeds_interval(0.99, 0.1, 3)[1] == 1.0
    assert seeds_interval(0.01, 0.1, 3)[0] == 0.0
