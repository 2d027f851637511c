"""Inference: tables worked out by hand, scipy and scikit-learn as references, and how often it errs when simulated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from runcard.errors import UserError
from runcard.stats.mrmc import (
    ALPHA,
    Array,
    Effect,
    auroc,
    by_group,
    cohen_kappa,
    corrected_resampled_t,
    difference,
    f1,
    holm,
    jackknife,
    mean,
    mean_jaccard,
    ranks_differ,
    sensitivity,
    specificity,
    welch,
)
from runcard.stats.power import VarianceComponents

A = np.array([[1.0, 2], [3, 6]])  # run means 1.5 and 4.5, residual mean square 1
B = np.array([[3.0, 0], [4, 1]])  # run means 1.5 and 2.5, no residual


def crossed(rng: np.random.Generator, num: int, num_runs: int, num_images: int, run_sd: float) -> tuple[Array, Array]:
    """Two equal arms (num, S, I) that share their images."""
    shared = rng.normal(0.9, 0.04, (num, 1, num_images))
    first, second = (
        shared
        + rng.normal(0, 0.01, (num, 1, num_images))
        + rng.normal(0, run_sd, (num, num_runs, 1))
        + rng.normal(0, 0.015, (num, num_runs, num_images))
        for _ in range(2)
    )
    return first, second


def test_a_difference_by_hand() -> None:
    effect = replace(difference(A, B), on_these_images=None)
    runs, images, twice = (4.5 / 2, 0.5 / 2), 12.5 / 2, 1 / 4
    variance = sum(runs) + images - twice  # 8.5
    spread = images**2 + runs[0] ** 2 + runs[1] ** 2 + twice**2  # every part has one degree of freedom
    assert effect.estimate == 1
    assert effect.se == pytest.approx(math.sqrt(8.5))
    assert effect.df == pytest.approx(variance**2 / spread)
    assert effect.df_replication == pytest.approx((variance**2 + 2 * spread) / (3 * spread))
    assert effect.p == pytest.approx(2 * stats.t.sf(1 / math.sqrt(8.5), effect.df))
    opposite = difference(B, A)
    assert (opposite.estimate, opposite.se, opposite.df) == (-1, effect.se, effect.df)


def test_a_variance_is_never_below_its_larger_part_nor_its_degrees_of_freedom_below_the_fewest() -> None:
    effect = mean(np.array([[2.0, 0, 1], [0, 2, 4]]))  # runs 0.5/2, images 0.75/3, counted twice 3.5/6
    assert (effect.estimate, effect.se) == (1.5, 0.5)
    assert effect.df == 1
    assert mean(np.array([[0.0, 2], [4, 2]])).se == 1  # runs 2/2, images 0, counted twice 4/4


@pytest.mark.parametrize("images_dominate", [True, False])
def test_other_images_are_never_surer_than_these(images_dominate: bool) -> None:
    """The larger p and the wider interval of the crossed analysis and of Welch's t on the run means."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 40))
    a += 1 + (rng.normal(0, 3, 40) if images_dominate else 0)
    both, welchs = difference(a, b), stats.ttest_ind(a.mean(axis=1), b.mean(axis=1), equal_var=False)
    alone = replace(both, on_these_images=None)
    assert both.p == pytest.approx(max(alone.p, welchs.pvalue))
    assert (welchs.pvalue < alone.p) == images_dominate
    for alpha in (0.05, ALPHA / 6):
        low, high = welchs.confidence_interval(1 - alpha)
        wider = max((alone.interval(alpha), (low, high)), key=lambda ends: ends[1] - ends[0])
        assert both.interval(alpha) == pytest.approx(wider)
        assert both.detectable(alpha) >= alone.detectable(alpha)
    assert difference(a[:1], b).on_these_images is None


@pytest.mark.parametrize(
    ("run_sds", "largest_share"), [((0.006, 0.006), 0.0083), ((0.012, 0.012), 0.0083), ((0.0, 0.012), 0.0140)]
)
def test_simulated_verdicts_in_the_tail_that_holm_uses(run_sds: tuple[float, float], largest_share: float) -> None:
    """Equal arms of three runs at 0.05 / 6; where one arm scatters alone the level is not kept (simulation.json)."""
    num, alpha = 4000, ALPHA / 6
    rng = np.random.default_rng(2)
    a, _ = crossed(rng, num, 3, 47, 0.0)
    images = a.mean(axis=1, keepdims=True)
    first, second = (
        images + rng.normal(0, sd, (num, 3, 1)) + rng.normal(0, 0.01, (num, 1, 47)) + rng.normal(0, 0.015, (num, 3, 47))
        for sd in run_sds
    )
    share = np.mean([difference(x, y).p < alpha for x, y in zip(first, second, strict=True)])
    assert share <= largest_share + 2 * math.sqrt(largest_share * (1 - largest_share) / num)


@pytest.mark.parametrize("num_runs", [1, 3])
def test_with_one_run_in_an_arm_only_the_images_are_chance(num_runs: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(num_runs, 6)), rng.normal(size=(1, 6))
    ours, reference = difference(a, b), stats.ttest_rel(a.mean(axis=0), b[0])
    assert (ours.p, ours.df) == pytest.approx((reference.pvalue, 5))
    assert ours.interval() == pytest.approx(tuple(reference.confidence_interval()))
    assert mean(b).interval() == pytest.approx(tuple(stats.ttest_1samp(b[0], 0).confidence_interval()))


def test_rounding_is_no_difference_and_equal_values_are_certain() -> None:
    constant = difference(np.full((3, 10), 0.93), np.full((2, 10), 0.93))  # the mean of three 0.93 is another float
    assert (constant.estimate, constant.p, constant.interval(), constant.detectable()) == (0, 1, (0, 0), 0)
    assert difference(np.full((3, 10), 0.93), np.full((2, 10), 0.83)).p == 0
    assert welch(np.full(3, 0.1), np.full(4, 0.1)).p == 1


def test_groups_are_averaged_in_the_order_of_their_names() -> None:
    values = np.array([[1.0, 2, 6], [3, 5, 5]])
    assert by_group(values, ["p2", "p1", "p2"]).tolist() == [[2, 3.5], [5, 4]]


def test_pseudo_values_of_a_mean_are_the_values() -> None:
    values = np.array([0.2, 0.9, 0.4])
    assert jackknife(lambda kept: float(values[kept].mean()), ["a", "b", "c"]) == pytest.approx(values)


def test_pseudo_values_of_auroc_have_its_value_as_mean_and_delongs_variance() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(80) % 4 == 0
    score = rng.normal(size=80) + truth
    whole = auroc(truth, score)
    pseudo = jackknife(lambda kept: auroc(truth[kept], score[kept]), [f"{i:02}" for i in range(80)])
    assert pseudo.mean() == pytest.approx(whole)
    wins = (score[truth][:, None] > score[~truth][None, :]).astype(float)  # DeLong 1988: 20 against 60
    delong = wins.mean(axis=1).var(ddof=1) / 20 + wins.mean(axis=0).var(ddof=1) / 60
    assert pseudo.var(ddof=1) / 80 == pytest.approx(delong, rel=0.05)


def test_statistic_that_depends_on_a_single_group_is_refused_with_a_message() -> None:
    truth, score = np.array([True, False, False, True]), np.array([0.9, 0.1, 0.2, 0.8])

    def statistic(kept: np.ndarray) -> float:
        return auroc(truth[kept], score[kept])

    with pytest.raises(UserError, match=r"A class has only one image, or patient"):
        jackknife(statistic, ["p1", "p2", "p3", "p1"])
    with pytest.raises(UserError, match=r"A class has no image"):
        jackknife(lambda kept: auroc(truth[kept] | True, score[kept]), ["p1", "p2", "p3", "p4"])


def test_scores_of_classes_agree_with_scikit_learn_and_are_nan_without_a_class() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(40) < 0.3
    score = (rng.random(40) + truth).round(1)  # ties
    decided = score > 0.8
    assert auroc(truth, score) == pytest.approx(sklearn.metrics.roc_auc_score(truth, score))
    assert sensitivity(truth, decided) == pytest.approx(sklearn.metrics.recall_score(truth, decided))
    assert specificity(truth, decided) == pytest.approx(sklearn.metrics.recall_score(~truth, ~decided))
    assert f1(truth, decided) == pytest.approx(sklearn.metrics.f1_score(truth, decided))
    for one_kind in (truth | True, truth & False):
        assert math.isnan(auroc(one_kind, score))
        assert all(math.isnan(value(one_kind, decided)) for value in (sensitivity, specificity, f1))
    assert f1(truth, truth & False) == 0


def test_folds_by_hand() -> None:
    effect = corrected_resampled_t(np.array([0.01, 0.03, 0.02]), 1 / 2)
    assert effect == Effect(pytest.approx(0.02), pytest.approx(math.sqrt((1 / 3 + 1 / 2) * 1e-4)), 2, 2)


def test_welch_agrees_with_scipy() -> None:
    a, b = np.array([1.0, 2, 4]), np.array([2.0, 9, 4, 7])
    ours, reference = welch(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert (ours.estimate, ours.df, ours.p) == pytest.approx((a.mean() - b.mean(), reference.df, reference.pvalue))
    assert ours.interval(0.1) == pytest.approx(tuple(reference.confidence_interval(0.9)))


def test_ranks_by_counting() -> None:
    assert ranks_differ(np.array([1.0, 2, 3]), np.array([4, 5, np.inf])) == pytest.approx(2 / 20)
    assert ranks_differ(np.array([1.0, 2]), np.array([np.inf, np.inf])) == pytest.approx(2 / 6)
    assert ranks_differ(np.full(3, np.inf), np.full(3, np.inf)) == 1


def test_kappa_and_jaccard_agree_with_scikit_learn() -> None:
    truth, decided = np.random.default_rng(0).integers(0, 3, (2, 50))
    assert cohen_kappa(truth, decided) == pytest.approx(sklearn.metrics.cohen_kappa_score(truth, decided))
    assert mean_jaccard(truth, decided) == pytest.approx(sklearn.metrics.jaccard_score(truth, decided, average="macro"))
    assert math.isnan(cohen_kappa(truth * 0, decided * 0))


def test_holm_by_hand() -> None:
    adjusted, alphas = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert alphas == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert holm([]) == ([], [])


def test_adjusted_p_and_the_interval_at_holms_level_agree() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        effects = [Effect(rng.normal(0, 3), 1.0, rng.uniform(2, 40)) for _ in range(rng.integers(1, 9))]
        for effect, p, alpha in zip(effects, *holm([effect.p for effect in effects]), strict=True):
            low, high = effect.interval(alpha)
            assert (p < ALPHA) == (low > 0 or high < 0)
            found.append(p < ALPHA)
    assert 0.2 < np.mean(found) < 0.8  # both happened often


@pytest.mark.parametrize("num_runs", [3, 5])
@pytest.mark.parametrize("run_sd", [0.0, 0.006, 0.012])
def test_simulated_verdicts_err_as_rarely_as_they_say(num_runs: int, run_sd: float) -> None:
    num = 2000
    arms = crossed(np.random.default_rng(1), num, num_runs, 47, run_sd)
    effects = [difference(a, b) for a, b in zip(*arms, strict=True)]
    detectable = float(np.median([effect.detectable() for effect in effects]))
    estimate = np.array([effect.estimate for effect in effects])
    half = np.array([effect.interval()[1] for effect in effects]) - estimate
    false, power = (float((np.abs(estimate + d) > half).mean()) for d in (0.0, detectable))
    assert false <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / num)
    assert 1 - false >= 0.93  # the interval at zero effect
    assert power == pytest.approx(0.8, abs=0.04)
    planned = VarianceComponents((run_sd**2,) * 2, 2 * 0.01**2, (0.015**2,) * 2).planned(num_runs, 47)
    assert detectable == pytest.approx(planned.detectable(), rel=0.05)  # what is stated is what the truth would say
