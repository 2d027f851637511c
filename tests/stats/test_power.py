"""Planning: what more runs or images would show, against the runs at hand and against its own limits."""

from __future__ import annotations

import numpy as np
import pytest

from runcard.stats.mrmc import Effect, difference
from runcard.stats.power import MIN_QUANTILES, VarianceComponents, runs_cut

RUNS = VarianceComponents(runs=(0.012**2, 0.012**2), images=2 * 0.01**2, residual=(0.015**2, 0.015**2))


def test_planned_error_of_the_present_design_equals_the_observed_one() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 30)) + rng.normal(size=(2, 4, 1)) + rng.normal(size=(2, 1, 30))
    measured, planned = difference(a, b), VarianceComponents.of(a, b).planned(4, 30)
    assert (planned.se, planned.df, planned.detectable()) == pytest.approx(
        (measured.se, measured.df, measured.detectable())
    )


def test_the_scatter_by_hand() -> None:
    scatter = VarianceComponents.of(np.array([[1.0, 2], [3, 6]]), np.array([[3.0, 0], [4, 1]]))
    assert scatter.runs == pytest.approx((4.5 - 1 / 2, 0.5))
    assert scatter.images == pytest.approx(12.5 - 1 / 2)
    assert scatter.residual == pytest.approx((1, 0))


def test_single_runs_plan_images_only() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 1, 30))
    scatter = VarianceComponents.of(a, b)
    assert scatter.planned(1, 30).se == pytest.approx(difference(a, b).se)
    assert scatter.planned(1, 120).se == pytest.approx(difference(a, b).se / 2)
    assert scatter.runs_needed(0.1, 30) is None
    assert scatter.images_needed(0.1, 1) is not None


def test_one_arm_alone_stands_for_two_like_it() -> None:
    y = np.random.default_rng(0).normal(size=(3, 20)) + np.array([[0.0], [1], [2]])
    scatter = VarianceComponents.of(y, y)
    assert scatter.runs[0] == scatter.runs[1] > 0
    assert scatter.images == 0


def test_the_smallest_number_is_found_or_none_where_the_other_part_alone_is_too_large() -> None:
    num = RUNS.runs_needed(0.02, 47)
    assert num is not None
    assert RUNS.planned(num, 47).detectable() <= 0.02 < RUNS.planned(num - 1, 47).detectable()
    num = RUNS.images_needed(0.03, 5)
    assert num is not None
    assert RUNS.planned(5, num).detectable() <= 0.03 < RUNS.planned(5, num - 1).detectable()
    assert RUNS.images_needed(0.02, 5) is None
    assert RUNS.runs_needed(0.004, 47) is None


@pytest.mark.parametrize(("quantile", "factor"), [(0.1, 4 / 7.779), (0.9, 4 / 1.064), (None, 1)])
def test_what_three_runs_in_each_arm_leave_open_by_hand(quantile: float | None, factor: float) -> None:
    """χ² of 4 df is 1.064 at 0.1 and 7.779 at 0.9."""
    a = np.array([[1.0, 2], [2, 3], [3, 4]])
    scatter = VarianceComponents.of(a, a[::-1] + np.array([1, 3]), quantile=quantile)
    assert scatter.runs == pytest.approx((factor, factor), rel=1e-3)
    assert scatter.residual == pytest.approx((0, 0))


@pytest.mark.parametrize(("quantile", "factor"), [(0.1, 2 / 4.605), (0.9, 2 / 0.2107)])
def test_one_arm_and_one_arm_that_scatters_alone_leave_more_open(quantile: float, factor: float) -> None:
    """χ² of 2 df is 0.2107 at 0.1 and 4.605 at 0.9."""
    y = np.array([[1.0, 2], [2, 3], [3, 4]])
    assert VarianceComponents.of(y, y, quantile=quantile).runs == pytest.approx((factor, factor), rel=1e-3)
    assert VarianceComponents.of(y, y[[0, 0, 0]], quantile=quantile).runs == pytest.approx((factor, 0), rel=1e-3)


def test_what_eleven_images_leave_open_by_hand() -> None:
    """χ² of 10 df is 4.865 at 0.1."""
    a, b = np.arange(11.0)[None].repeat(3, axis=0), np.zeros((3, 11))
    assert VarianceComponents.of(a, b, quantile=0.9).images == pytest.approx(11 * 10 / 4.865, rel=1e-3)


def test_a_range_has_the_estimate_in_it() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.015, (2, 3, 47)) + rng.normal(0, 0.012, (2, 3, 1)) + rng.normal(0, 0.01, (2, 1, 47))
    scatters = [VarianceComponents.of(a, b, quantile=quantile) for quantile in (0.1, None, 0.9)]
    low, at, high = (scatter.runs_needed(0.03, 47) for scatter in scatters)
    assert low is not None
    assert at is not None
    assert high is not None
    assert low < at < high


def test_the_variance_of_runs_is_cut_where_their_residual_explains_it() -> None:
    """Equal run means of two runs, whose residual mean square is 2; and run means that are 10 apart."""
    y = np.array([[1.0, -1], [-1, 1]])
    assert runs_cut(y)
    assert VarianceComponents.of(y, y + 1).runs == (0, 0)
    assert not runs_cut(y + np.array([[0], [10]]))


def test_quantiles_that_the_search_takes_for_granted() -> None:
    assert MIN_QUANTILES <= Effect(0.0, 1.0, 1e9).detectable() < MIN_QUANTILES + 0.01
