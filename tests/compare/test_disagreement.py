"""Planted images stand out, equal arms show none more often than promised, and what cannot be tested says why."""

from __future__ import annotations

import io
import re
from html import unescape

import numpy as np
import pytest
from folders import BONE, of_classes, simulate, write_run
from rich.console import Console
from scipy import special, stats

from runcard.compare.analysis import Findings, ask_pairs, find
from runcard.compare.confounds import group_arms
from runcard.compare.disagreement import aligned, departures, disagreement, moderated, right_or_wrong
from runcard.compare.report.html import write_figures, write_report
from runcard.compare.report.terminal import as_json, print_findings
from runcard.runs.reader import find_runs
from runcard.stats.mrmc import ALPHA

IMAGES = 47
LOSSES = {"bce": "runcard.losses.bce.BCE", "dice": "runcard.losses.dice.DiceLoss"}
PLANTED = {3: 0.2, 30: -0.15}  # image -> what is added to its value in the first arm


def equal_arms(rng, num_runs=3, num_images=IMAGES):
    """Draws two arms (S, I) in which no image differs from the others, and one is better everywhere by 0.05."""
    shared = rng.normal(0.85, 0.05, num_images)
    scale = np.exp(rng.normal(0, 0.4, num_images)) * 0.015  # runs differ more on some images than on others
    first, second = (
        shared + rng.normal(0, 0.006, (num_runs, 1)) + scale * rng.normal(size=(num_runs, num_images)) for _ in range(2)
    )
    return first + 0.05, second


def planted_arms(num_runs=3, seed=0):
    first, second = equal_arms(np.random.default_rng(seed), num_runs)
    for image, effect in PLANTED.items():
        first[:, image] += effect
    return first, second


def write_arms(folder, arms, **special_of):
    for loss, values in zip(LOSSES, arms, strict=True):
        for seed, row in enumerate(values):
            own = {"config": {"loss._target_": LOSSES[loss]}, "choices": {"loss": loss}, "images": {"dice": row}}
            write_run(folder / f"{loss}{seed}", **({"seed": seed} | own | special_of))
    return folder


def found_in(folder, metric=None) -> Findings:
    found = find_runs([str(folder)])
    arms, again = group_arms(found.runs)
    return find(ask_pairs(arms, metric=metric), arms, left_out=[*found.left_out, *again])


def only(findings):
    (one,) = findings.answers
    return one


def printed(findings) -> str:
    screen = io.StringIO()
    print_findings(Console(file=screen, width=1000), findings)
    return screen.getvalue()


def text_of(file) -> str:
    body = re.sub(r"<(script|style).*?</\1>", "", file.read_text(), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def name_of(image: int) -> str:
    return f"CHNCXR_{image:04}_0"


# The test of one image


def test_planted_images_are_found_and_no_others():
    departure, p = departures(*planted_arms())
    assert set(np.flatnonzero(p < ALPHA)) == set(PLANTED)
    for image, effect in PLANTED.items():
        assert departure[image] == pytest.approx(effect, abs=0.05)
    assert abs(np.median(np.delete(departure, list(PLANTED)))) < 0.005


def test_equal_arms_show_an_image_no_more_often_than_promised():
    rng = np.random.default_rng(0)
    shown = [(departures(*equal_arms(rng))[1] < ALPHA).any() for _ in range(400)]
    assert np.mean(shown) <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / 400)


def test_an_arm_or_a_run_that_is_better_everywhere_changes_nothing():
    first, second = planted_arms()
    departure, p = departures(first, second)
    moved = first + np.array([[0.3], [0.1], [-0.2]])
    again, p_again = departures(moved, second - 0.4)
    np.testing.assert_allclose(again, departure, atol=1e-12)
    np.testing.assert_allclose(p_again, p, atol=1e-9)


def test_swapping_the_arms_swaps_the_sign_alone():
    first, second = planted_arms(num_runs=5)
    departure, p = departures(first, second)
    swapped, p_swapped = departures(second, first)
    np.testing.assert_allclose(swapped, -departure, atol=1e-12)
    np.testing.assert_allclose(p_swapped, p)


def test_without_a_prior_it_is_students_t_where_both_arms_scatter_alike():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.01, (4, 20))
    first, second = rng.normal(0.8, 0.05, 20) + noise, rng.normal(0.8, 0.05, 20) + noise[::-1]
    a, b = aligned(first, second)
    parts = [y.var(axis=0, ddof=1).mean() / 4 for y in (a, b)]
    df = sum(parts) ** 2 / sum(part**2 / 3 for part in parts)
    t = stats.ttest_ind(a, b).statistic
    expected = stats.false_discovery_control(2 * stats.t.sf(abs(t), df))
    np.testing.assert_allclose(departures(first, second, prior_share=0.0)[1], expected)


def test_the_prior_is_recovered_from_variances_that_were_drawn_by_it():
    """SE² ~ s₀²·d₀/χ²(d₀): a variance moves to (d₀·s₀² + d·s²) / (d₀ + d)."""
    rng = np.random.default_rng(2)
    usual, prior_df, df = 0.04, 6.0, 4
    true = usual * prior_df / rng.chisquare(prior_df, 40_000)
    variances = true * rng.chisquare(df, true.shape) / df
    moved, moved_df = moderated(variances, df, prior_share=1.0)
    assert moved_df - df == pytest.approx(prior_df, rel=0.1)
    np.testing.assert_allclose(moved, (prior_df * usual + df * variances) / (prior_df + df), rtol=0.1)


def test_variances_that_scatter_no_more_than_chance_are_taken_for_one():
    quantiles = stats.chi2.ppf((np.arange(30) + 0.5) / 30, 4) / 4
    assert np.log(quantiles).var(ddof=1) < special.polygamma(1, 2)
    moved, df = moderated(quantiles, 4)
    np.testing.assert_allclose(moved, quantiles.mean())
    assert df == 4 * 30


def test_images_that_all_runs_agree_on_are_no_fault():
    first, second = planted_arms()
    first[:, :5] = second[:, :5] = 1.0
    _, p = departures(first, second)
    assert np.isfinite(p).all()
    assert p[30] < ALPHA
    constant = np.linspace(0.5, 0.9, 8)
    _, p = departures(np.tile(constant, (3, 1)), np.tile(constant**2, (3, 1)))
    assert (p == 1).all()


def test_right_or_wrong_is_fishers_test():
    a, b = np.ones((8, 6)), np.ones((8, 6))
    a[:, 0] = 0
    a[:3, 1] = 0
    exact = [stats.fisher_exact([[0, 8], [8, 0]]).pvalue, stats.fisher_exact([[5, 3], [8, 0]]).pvalue, 1, 1, 1, 1]
    np.testing.assert_allclose(right_or_wrong(a, b), stats.false_discovery_control(exact))


# What a comparison says


def test_a_comparison_names_the_images(tmp_path):
    arms = planted_arms()
    one = only(findings := found_in(write_arms(tmp_path, arms)))
    found = disagreement(one)
    departure, p = departures(*arms)
    assert {found.paired.ids[i] for i in found.standing_out} == {name_of(image) for image in PLANTED}
    assert list(found.p[found.standing_out]) == sorted(found.p[found.standing_out])
    np.testing.assert_allclose(found.p, p)
    assert found.median == pytest.approx(np.median(found.differences - departure))
    assert found.finding.startswith("2 of 47 images stand out: each departs from the median image's difference in Dice")
    assert found.finding in printed(findings)
    assert f"{name_of(3)} +" in printed(findings)
    (pair,) = as_json(findings)["pairs"]
    named = {each["id"]: each for each in pair["images"]["beyond_seeds"]}
    assert (pair["images"]["measure"], pair["images"]["tested"]) == ("dice", 47)
    assert set(named) == {name_of(image) for image in PLANTED}
    image = named[name_of(30)]
    assert image["difference"] == pytest.approx(image["first"] - image["second"])
    assert image["difference"] == pytest.approx((arms[0] - arms[1]).mean(axis=0)[30])
    assert image["p_adjusted"] == p[30]


def test_a_comparison_says_that_no_image_stands_out(tmp_path):
    arms = equal_arms(np.random.default_rng(5))
    findings = found_in(write_arms(tmp_path, arms))
    found = disagreement(only(findings))
    assert found.standing_out == []
    assert found.finding.startswith(
        "No image stands out: none of 47 departs from the median image's difference in Dice"
    )
    assert found.sentence == found.finding
    assert found.finding in printed(findings)
    (pair,) = as_json(findings)["pairs"]
    assert pair["images"]["beyond_seeds"] == []


def test_images_without_a_value_in_some_run_are_not_tested(tmp_path):
    first, second = planted_arms()
    first[1, 3] = np.nan
    second[0, 7] = np.nan
    for loss, values in zip(LOSSES, (first, second), strict=True):
        for seed, row in enumerate(values):
            own = {"config": {"loss._target_": LOSSES[loss]}, "choices": {"loss": loss}}
            write_run(tmp_path / f"{loss}{seed}", seed=seed, images={"dice": np.full(IMAGES, 0.9), "iou": row}, **own)
    found = disagreement(only(found_in(tmp_path, "iou")))
    assert len(found.p) == len(found.paired.ids) == 45
    assert [found.paired.ids[i] for i in found.standing_out] == [name_of(30)]


@pytest.mark.parametrize("num_runs", [1, 2])
def test_with_few_runs_seeds_cannot_be_told_from_images(tmp_path, num_runs):
    findings = found_in(write_arms(tmp_path, simulate(np.random.default_rng(0), num_runs, IMAGES, 0.1)))
    said = (
        f"Images are not tested one by one: {'1 run each' if num_runs == 1 else '2 and 2 runs'} cannot tell seeds from "
        "images (that takes 3 each)."
    )
    assert said in printed(findings)
    (pair,) = as_json(findings)["pairs"]
    assert (pair["images"]["sentence"], pair["images"]["tested"], pair["images"]["beyond_seeds"]) == (said, 0, [])
    assert said in text_of(write_report(findings, tmp_path / "out"))


def test_few_images_are_not_tested(tmp_path):
    found = disagreement(only(found_in(write_arms(tmp_path, simulate(np.random.default_rng(0), 3, 5)))))
    assert found.finding == "Images are not tested one by one: that takes 6 images."


def write_classifiers(folder, num_runs, wrong_in_first=()):
    """Writes two arms that are right on all images, but that the first is wrong on some."""
    targets = ["AFF", "NFF"] * 10
    for name, wrong in (("bce", wrong_in_first), ("dice", ())):
        for seed in range(num_runs):
            true = np.array([0.1 if i in wrong else 0.9 for i in range(20)]) - 0.001 * seed
            probs = [(p, 1 - p) if target == "AFF" else (1 - p, p) for target, p in zip(targets, true, strict=True)]
            own = {"config": {"loss._target_": LOSSES[name]}, "choices": {"loss": name}, "recorded": BONE}
            images = of_classes(targets, probs)
            write_run(folder / f"{name}{seed}", seed=seed, images=images, pooled={"auroc": 0.9}, **own)
    return folder


def test_right_or_wrong_values_need_more_runs(tmp_path):
    few = disagreement(only(found_in(write_classifiers(tmp_path / "few", 3, (4,)), "accuracy")))
    assert few.standing_out == []
    assert few.finding.startswith(
        "No image stands out: none of 20 is right in more runs of one arm than chance explains"
    )
    assert few.finding.endswith("With 3 and 3 runs, right or wrong, a single image cannot stand out.")
    enough = disagreement(only(found_in(write_classifiers(tmp_path / "enough", 8, (4,)), "accuracy")))
    assert [enough.paired.ids[i] for i in enough.standing_out] == [name_of(4)]
    assert enough.median is None


def test_auroc_has_no_value_of_one_image(tmp_path):
    findings = found_in(write_classifiers(tmp_path, 3), "auroc")
    assert disagreement(only(findings)) is None
    (pair,) = as_json(findings)["pairs"]
    assert pair["images"] is None
    assert "stands out" not in printed(findings)
    assert "Where they disagree" not in text_of(write_report(findings, tmp_path / "out"))


def test_folds_have_no_images_in_common(tmp_path):
    ids = [f"image{i}" for i in range(18)]
    for fold in range(3):
        held_out = {"ids": ids[fold::3], "train_ids": [name for name in ids if name not in ids[fold::3]]}
        for loss, target in LOSSES.items():
            config = {"dataset.split.kind": "kfold", "dataset.split.fold": fold, "loss._target_": target}
            own = {"config": config, "choices": {"loss": loss}, "images": {"dice": np.linspace(0.8, 0.9, 6)}}
            write_run(tmp_path / f"{loss}{fold}", **held_out, **own)
    findings = found_in(tmp_path)
    assert disagreement(only(findings)) is None
    assert "stands out" not in printed(findings)


# The report


def test_the_report_shows_the_images_that_stand_out_apart_from_the_other_extremes(tmp_path):
    findings = found_in(write_arms(tmp_path / "runs", planted_arms(), previews=True))
    found = disagreement(only(findings))
    text = text_of(write_report(findings, tmp_path / "out"))
    block = text[text.index("Where they disagree beyond seeds") : text.index("Arms The mean")]
    shown, _, others = block.partition("Other images, better with")
    assert found.finding in shown
    assert set(re.findall(r"CHNCXR_\d+_0", shown)) == {name_of(image) for image in PLANTED}
    assert not set(re.findall(r"CHNCXR_\d+_0", others)) & {name_of(image) for image in PLANTED}
    first, second = (values[3] for values in (found.paired.first, found.paired.second))
    assert f"{name_of(3)} Dice {first:.3f} and {second:.3f} +{first - second:.3f} , p" in shown
    write_figures(findings, tmp_path / "figures")
    assert {"pair1-image4.jpg", "pair1-image31.jpg"} <= {path.name for path in (tmp_path / "figures").glob("*.jpg")}


def test_the_report_without_images_numbers_them(tmp_path):
    findings = found_in(write_arms(tmp_path / "runs", planted_arms(), previews=True))
    page = write_report(findings, tmp_path / "out", with_images=False)
    assert "data:image/" not in page.read_text().partition("</main>")[0]
    assert "CHNCXR" not in page.read_text(), "names are as private as images"
    shown = text_of(page).partition("Where they disagree beyond seeds")[2].partition("Other images")[0]
    assert set(re.findall(r"image (\d+)", shown)) == {str(image + 1) for image in PLANTED}
    assert "Images are numbered in the order of their names, which are not shown." in text_of(page)


def test_the_report_shows_six_of_many(tmp_path):
    first, second = equal_arms(np.random.default_rng(3))
    first[:, :8] += 0.3
    findings = found_in(write_arms(tmp_path / "runs", (first, second)))
    found = disagreement(only(findings))
    assert set(range(8)) <= set(found.standing_out)
    text = text_of(write_report(findings, tmp_path / "out"))
    assert f"{len(found.standing_out)} of 47 images stand out" in text
    shown = text.partition("Where they disagree beyond seeds")[2].partition("Other images")[0]
    assert "Shown are the 6 with the smallest p." in shown
    assert len(re.findall(r"CHNCXR_\d+_0", shown)) == 6


def test_the_report_says_that_no_image_stands_out(tmp_path):
    findings = found_in(write_arms(tmp_path / "runs", equal_arms(np.random.default_rng(5))))
    text = text_of(write_report(findings, tmp_path / "out"))
    block = text[text.index("Where they disagree beyond seeds") : text.index("Arms The mean")]
    assert "No image stands out: none of 47 departs" in block
    assert "Better with" in block
    assert "Other images" not in block
