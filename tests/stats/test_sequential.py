"""Levels of looks sum to the level; a forecast agrees with seeds that are really drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from folders import simulate
from scipy import stats

from runcard.stats.mrmc import difference, smallest_rank_p, welch
from runcard.stats.sequential import LOOKS, detectable_sds, forecast, forecast_runs, share_of_level


@pytest.mark.parametrize("budget", LOOKS)
def test_the_shares_of_all_looks_are_one(budget):
    assert sum(share_of_level(s, LOOKS[budget]) for s in LOOKS[budget]) == pytest.approx(1)
    assert LOOKS[budget][-1] == budget


def test_a_look_multiplies_p_and_widens_the_interval():
    a, b = simulate(np.random.default_rng(0), 5, 47, 0.02)
    effect = difference(a, b)
    look = effect.at_look(0.2)
    assert look.p == pytest.approx(min(1, effect.p / 0.2))
    assert look.interval(0.05) == effect.interval(0.01)
    assert look.detectable(0.05) == effect.detectable(0.01)
    low, high = look.interval(look.p)
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9), "p is the level at which the interval touches 0"


@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 3), (4, 4), (3, 5)])
def test_the_smallest_p_of_ranks(first, second):
    exact = stats.mannwhitneyu(np.arange(first), 10 + np.arange(second), method="exact").pvalue
    assert smallest_rank_p(first, second) == pytest.approx(exact)


@pytest.mark.parametrize(("num_seeds", "num_tests"), [(3, 1), (10, 6)])
def test_the_detectable_difference_is_found_four_times_in_five(num_seeds, num_tests):
    d = detectable_sds(num_seeds, LOOKS[10], num_tests)
    first, second = np.random.default_rng(0).standard_normal((2, 20_000, num_seeds))
    level = 0.05 / num_tests * share_of_level(num_seeds, LOOKS[10])
    assert np.mean(stats.ttest_ind(first + d, second, axis=1).pvalue < level) == pytest.approx(0.8, abs=0.01)


def test_what_is_certain_is_forecast_so():
    a, b = simulate(np.random.default_rng(0), 5, 47, 0.0, run_sd=0.001)
    looks = LOOKS[10]
    assert forecast((a + 0.2, b), looks, 10, None).chance > 0.999
    assert 0.999 < forecast((a, b), looks, 10, 0.1).chance <= 1, "equivalent"
    assert forecast((a, b), looks, 10, None).chance < 0.05
    now = welch(np.array([1.0, 2, 3, 4, 5]), np.array([1.5, 2, 3, 4, 4.5]))
    assert forecast_runs(now, 5, looks, 10, None).chance < 0.1
    assert forecast_runs(now, 5, looks, 10, None).limit == "seeds"


def test_a_forecast_agrees_with_what_more_seeds_decide():
    """Of many pilots of five seeds, the mean chance is the share that ten seeds decide, to within 8 points."""
    rng, looks = np.random.default_rng(1), LOOKS[10]
    level = share_of_level(10, looks) * 0.05
    chances, decided = [], []
    for effect, _ in itertools.product((0.0, 0.01, 0.02, 0.03), range(80)):
        a, b = simulate(rng, 10, 47, effect, 0.008)
        chances.append(forecast((a[:5], b[:5]), looks, 10, 0.01).chance)
        low, high = difference(a, b).interval(level)
        decided.append(low > 0 or high < 0 or (low > -0.01 and high < 0.01))
    assert np.mean(chances) == pytest.approx(np.mean(decided), abs=0.08)


def test_fewer_images_are_needed_where_the_margin_is_wider():
    rng = np.random.default_rng(3)
    y = [0.9 + rng.normal(0, 0.05, 20) + rng.normal(0, 0.0005, (5, 20)) for _ in range(2)]
    y[0] += y[1].mean() - y[0].mean()
    narrow, wide = (forecast((y[0], y[1]), LOOKS[10], 10, margin) for margin in (0.01, 0.02))
    assert narrow.limit == wide.limit == "images"
    assert narrow.images[0] > wide.images[0] > 20
    assert narrow.images[1] > narrow.images[0]
