"""The judgement on two rows of a published table: its formulas by hand, its limits, and what makes it stricter."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from scipy import stats

from runcard.stats.published import Claim, Verdict, judge, needed, too_few_images

DICE = Claim("dice", (0.95, 0.90), 100, image_sds=(0.05, 0.06))
ACCURACY = Claim("accuracy", (0.90, 0.80), 200)


def test_variance_of_dice_by_hand() -> None:
    """(0.0025 + 0.0036 − 2·0.5·0.003)/100 + 2·0.0001/1 = 0.000031 + 0.0002; three seeds divide only the second."""
    assumed = {"rho": 0.5, "run_sd": 0.01}
    assert DICE.se(assumed) == pytest.approx(math.sqrt(0.000231))
    assert replace(DICE, num_seeds=4).se(assumed) == pytest.approx(math.sqrt(0.000031 + 0.00005))


def test_variance_of_accuracy_by_hand() -> None:
    """(0.3 − 0.01)/200 + 2·0.0001."""
    assert ACCURACY.se({"discordance": 0.3, "run_sd": 0.01}) == pytest.approx(math.sqrt(0.00145 + 0.0002))


def test_assumptions_of_a_table_that_gives_means_alone() -> None:
    claim = replace(DICE, image_sds=None)
    assert claim.ranges == {
        "rho": (0.5, 0.95),
        "image_sd": pytest.approx((0.3, 0.02)),  # √(0.9·0.1) and 0.4·0.05
        "run_sd": (0.012, 0.001),
    }
    assert ACCURACY.ranges == {"discordance": pytest.approx((0.3, 0.1)), "run_sd": (0.012, 0.001)}
    assert replace(ACCURACY, means=(0.3, 0.2)).ranges["discordance"] == pytest.approx((0.5, 0.1))


def test_what_is_known_is_not_assumed() -> None:
    known = replace(DICE, rho=0.7, run_sd=0.003)
    assert known.ranges == {"rho": (0.7, 0.7), "run_sd": (0.003, 0.003)}
    judgement = judge(known)
    assert judgement.worst == judgement.best
    assert needed(known, others=0) == {}


def test_p_is_that_of_students_t_times_the_rows_but_one() -> None:
    claim = Claim("dice", (0.91, 0.90), 50, num_seeds=3, image_sds=(0.05, 0.05), rho=0.9, run_sd=0.0)
    t = 0.01 / math.sqrt(2 * 0.0025 * 0.1 / 50)
    p = 2 * float(stats.t.sf(t, 49))
    assert judge(claim).worst.p == pytest.approx(p)
    assert judge(replace(claim, num_rows=6)).worst.p == pytest.approx(5 * p)
    assert judge(replace(claim, means=(0.90, 0.91))).worst.p == pytest.approx(p)
    assert judge(replace(claim, means=(0.90, 0.90), num_rows=6)).worst.p == 1


def test_seed_sds_widen_by_their_few_degrees_of_freedom() -> None:
    """Their pooled value at best, √((0.01² + 0.02²)/2); t of S − 1 for that of n − 1 at worst."""
    claim = replace(DICE, image_sds=None, seed_sds=(0.01, 0.02), num_seeds=3)
    pooled = math.sqrt(0.00025)
    ratio = 4.302653 / 1.984217  # t₀.₉₇₅ with 2 and with 99 degrees of freedom
    assert claim.ranges["run_sd"] == pytest.approx((pooled * ratio, pooled), rel=1e-5)


@pytest.mark.parametrize(("rows", "fewest"), [(2, 6), (3, 7), (6, 8)])
def test_fewest_images_are_those_of_the_exact_sign_test(rows: int, fewest: int) -> None:
    claim = replace(ACCURACY, num_rows=rows)
    assert claim.min_images == fewest
    exact = [stats.binomtest(num, num).pvalue * (rows - 1) for num in (fewest - 1, fewest)]
    assert exact[0] >= 0.05 > exact[1]
    assert not too_few_images(replace(claim, means=((100 + fewest) / 200, 0.5)))
    assert too_few_images(replace(claim, means=((99 + fewest) / 200, 0.5)))


def test_accuracies_five_images_apart_cannot_differ_even_without_a_run_sd() -> None:
    claim = Claim("accuracy", (1.0, 95 / 100), 100, run_sd=0.0)
    assert judge(claim).best.p < 0.05  # the normal approximation alone would let it pass
    assert judge(claim).verdict is Verdict.CANNOT


@pytest.mark.parametrize(
    ("means", "verdict"),
    [((0.96, 0.90), Verdict.HOLDS), ((0.92, 0.90), Verdict.DEPENDS), ((0.902, 0.90), Verdict.CANNOT)],
)
def test_larger_differences_support_more(means: tuple[float, float], verdict: Verdict) -> None:
    assert judge(replace(DICE, means=means)).verdict is verdict


@pytest.mark.parametrize("claim", [DICE, replace(DICE, image_sds=None), ACCURACY])
def test_each_assumption_only_ever_costs(claim: Claim) -> None:
    """Between the two ends of every range the standard error falls, whatever the others are."""
    ranges = claim.ranges
    for end in (0, 1):
        for name, (worst, best) in ranges.items():
            rest = {other: ends[end] for other, ends in ranges.items()}
            steps = [claim.se({**rest, name: worst + (best - worst) * i / 10}) for i in range(11)]
            assert all(a > b for a, b in pairwise(steps)), name


@pytest.mark.parametrize("claim", [DICE, replace(DICE, image_sds=None), ACCURACY])
def test_more_images_and_seeds_help_and_more_rows_harm(claim: Claim) -> None:
    p = judge(claim).worst.p
    assert judge(replace(claim, num_images=4 * claim.num_images)).worst.p < p
    assert judge(replace(claim, num_seeds=3)).worst.p < p
    assert judge(replace(claim, num_rows=4)).worst.p > p


def test_what_is_needed_is_where_the_claim_begins_to_hold() -> None:
    claim = replace(DICE, means=(0.93, 0.90))
    assert judge(claim).verdict is Verdict.DEPENDS
    bounds = needed(claim, others=0)
    assert set(bounds) == {"run_sd"}  # no correlation makes up for 0.012 from run to run
    for factor, verdict in ((0.999, Verdict.HOLDS), (1.001, Verdict.DEPENDS)):
        known = replace(claim, run_sd=bounds["run_sd"] * factor)
        assert judge(known).verdict is verdict


def test_what_is_needed_of_all_is_where_the_claim_becomes_impossible() -> None:
    claim = replace(DICE, means=(0.91, 0.90), num_images=47)
    assert needed(claim, others=0) == {}
    rho = needed(claim, others=1)["rho"]
    assert judge(replace(claim, rho=rho - 0.001)).verdict is Verdict.CANNOT
    assert judge(replace(claim, rho=rho + 0.001)).verdict is Verdict.DEPENDS
