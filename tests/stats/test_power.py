"""Planning: what more runs or images would show, against the runs at hand and against its own limits."""

from __future__ import annotations

import numpy as np
import pytest

from runcard.stats.mrmc import difference
from runcard.stats.power import VarianceComponents

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
