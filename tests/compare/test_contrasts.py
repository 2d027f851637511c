"""What a comparison says, word for word, of run folders whose truth is known; and what it refuses to say."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from folders import BONE, arms_of, of_classes, simulate, write_run
from rich.console import Console
from scipy import stats

from runcard.compare import endpoints
from runcard.compare.analysis import Findings, ask_pairs, find
from runcard.compare.answers import answer
from runcard.compare.confounds import group_arms
from runcard.compare.learning_curves import RunContrast
from runcard.compare.measures import Measure
from runcard.compare.questions import Question
from runcard.compare.report.tables import cell, rank, tabulate_arms
from runcard.compare.report.terminal import as_json, print_findings
from runcard.compare.verdicts import Level, judge
from runcard.runs.reader import find_runs
from runcard.stats.mrmc import Effect, difference

IMAGES = 47
POOLED = {"auroc": 0.9, "sensitivity": 0.8, "balanced_accuracy": 0.8}
DICE = {"config": {"loss._target_": "runcard.losses.dice.DiceLoss"}, "choices": {"loss": "dice"}}
BCE = {"config": {"loss._target_": "runcard.losses.bce.BCE"}, "choices": {"loss": "bce"}}
ASKED = Question("1", "Does Dice loss give a higher Dice?", "Dice loss", "BCE", "dice", factor="loss")


def write_arm(folder, name, values, **special):
    """Writes one run per row of values (S, I), seeds 0, 1, …"""
    for seed, row in enumerate(values):
        write_run(folder / f"{name}_{seed}", **({"seed": seed, "images": {"dice": row}} | special))


def write_pair(folder, num_seeds=3, effect=0.0, first=None, second=None, num_images=IMAGES, **special):
    """Writes two arms that differ in the loss: bce, better by effect, and dice."""
    values = simulate(np.random.default_rng(1), num_seeds, num_images, effect)
    for name, arm, own, y in (("a", BCE, first, values[0]), ("b", DICE, second, values[1])):
        config = arm["config"] | special.get("config", {}) | (own or {}).get("config", {})
        write_arm(folder, name, y, **(arm | special | (own or {}) | {"config": config}))
    return values


def found_in(*folders, **asked) -> Findings:
    found = find_runs([str(folder) for folder in folders])
    arms, again = group_arms(found.runs)
    return find(ask_pairs(arms, **asked), arms, left_out=[*found.left_out, *again])


def only(findings):
    (one,) = findings.answers
    return one


# The sentence


def test_a_difference(tmp_path):
    values = write_pair(tmp_path, effect=0.03)
    one = only(found_in(tmp_path))
    expected = difference(*values)
    low, high = expected.interval()
    assert one.verdict.word == "better"
    assert one.verdict.sentence == (
        f"loss=bce is better than loss=dice: Dice {expected.estimate:+.3f} "
        f"(95 % interval {low:+.3f} to {high:+.3f}, p = {expected.p:.2g})."
    )
    assert one.scope == "on this split of these data: 47 validation images of 128 px, after 60 epochs, 3 and 3 seeds"
    assert (one.factor, one.confounds, one.incomparable) == ("loss (bce | dice)", (), ())


def test_curves_that_move_by_more_than_the_difference(tmp_path):
    write_pair(tmp_path, effect=0.03, curves={"val/dice": np.linspace(0.1, 0.9, 60)})
    sentence = only(found_in(tmp_path)).verdict.sentence
    assert sentence.endswith("Within the last third of the epochs the curves still moved by 0.271.")


def test_no_difference_says_what_would_have_been_found(tmp_path):
    values = write_pair(tmp_path)
    one = only(found_in(tmp_path))
    assert one.verdict.word == "cannot tell"
    assert one.verdict.sentence.startswith("Cannot tell loss=bce from loss=dice: Dice ")
    smallest = f"{difference(*values).detectable():.3f}"
    assert f"A true difference of {smallest} would be found four times in five" in one.verdict.sentence


def test_equivalent_within_the_margin(tmp_path):
    write_pair(tmp_path)
    assert "and loss=dice are equivalent within 0.05: " in only(found_in(tmp_path, margin=0.05)).verdict.sentence
    assert only(found_in(tmp_path, margin=0.001)).verdict.word == "cannot tell"


def test_a_real_difference_within_the_margin(tmp_path):
    write_pair(tmp_path, effect=0.03)
    findings = found_in(tmp_path, margin=0.1)
    assert only(findings).verdict.word == "equivalent"
    assert only(findings).verdict.sentence.endswith("The difference is real, and too small to matter.")
    claimed = replace(ASKED, first="loss=bce", second="loss=dice", margin=0.1, claim="BCE is better", expect="higher")
    assert answer([claimed], findings.arms)[0].verdict.claim == "contradicted", "a difference that does not matter"


def test_one_seed_is_never_a_claim_about_a_method(tmp_path):
    write_pair(tmp_path, num_seeds=1, effect=0.03)
    one = only(found_in(tmp_path))
    assert one.verdict.word == "one seed"
    assert one.verdict.sentence.startswith("This loss=bce network beats this loss=dice network on these 47 images: ")
    assert one.verdict.sentence.endswith("Another seed could reverse it.")
    assert (
        answer(
            [replace(ASKED, first="loss=dice", second="loss=bce", claim="better", expect="higher")],
            found_in(tmp_path).arms,
        )[0].verdict.claim
        == "cannot tell"
    )


def test_one_seed_without_a_difference(tmp_path):
    write_pair(tmp_path, num_seeds=1, effect=-0.004)
    sentence = only(found_in(tmp_path)).verdict.sentence
    assert sentence.startswith("Cannot tell this loss=bce network from this loss=dice network on these 47 images: ")


@pytest.mark.parametrize(
    ("effect", "expect", "margin", "fate"),
    [
        (0.03, "higher", None, "supported"),
        (0.03, "lower", None, "contradicted"),
        (-0.03, "higher", None, "contradicted"),
        (0.0, "higher", None, "cannot tell"),
        (0.0, "higher", 0.05, "contradicted"),
    ],
)
def test_what_becomes_of_a_claim(tmp_path, effect, expect, margin, fate):
    write_pair(tmp_path, effect=effect)
    arms = found_in(tmp_path).arms
    asked = replace(ASKED, first="loss=bce", second="loss=dice", claim="…", expect=expect, margin=margin)
    assert answer([asked], arms)[0].verdict.claim == fate


def test_holm_counts_every_question_that_is_asked(tmp_path):
    write_pair(tmp_path, effect=0.1)
    arms = found_in(tmp_path).arms
    asked = replace(ASKED, first="loss=bce", second="loss=dice")
    several = [asked, replace(asked, key="2", measure="bce"), replace(asked, key="3", controlled_by=("1",))]
    answers = answer([*several, replace(asked, key="4", second="not run")], arms)
    assert "after Holm over 3 questions" in answers[0].verdict.sentence, "one not run counts, one controlled does not"
    assert sorted(a.alpha for a in answers[:2]) == [0.05 / 3, 0.025]
    assert "Holm" not in answers[2].verdict.sentence
    assert answers[3].verdict.sentence == "No completed run of not run."


# Rates, of the sentences themselves


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    write_pair(folder, num_seeds=1)
    return [replace(arm, name=name) for arm, name in zip(found_in(folder).arms, ("BCE", "Dice loss"), strict=True)]


@pytest.mark.parametrize("run_sd", [0, 0.006, 0.012])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_how_often_a_sentence_is_wrong(template, num_seeds, run_sd):
    """At no effect, at most 5 % better or worse and at least 93 % coverage; at the stated difference, 80 % found."""
    rng, replicates = np.random.default_rng(0), 500
    reported, covered, stated, naive = 0, 0, [], 0
    for _ in range(replicates):
        values = simulate(rng, num_seeds, IMAGES, 0.0, run_sd)
        (one,) = answer([ASKED], arms_of(template, values))
        reported += bool(re.search("is (better|worse) than", one.verdict.sentence))
        low, high = one.effect.interval()
        covered += low <= 0 <= high
        stated.append(one.effect.detectable())
        naive += stats.wilcoxon(values[0].mean(axis=0), values[1].mean(axis=0)).pvalue < 0.05
    sampling = 2 * np.sqrt(0.05 * 0.95 / replicates)
    assert reported / replicates <= 0.05 + sampling
    assert covered / replicates >= 0.93 - sampling
    assert naive / replicates > (0.05 + sampling if run_sd else 0), "Wilcoxon on the images errs where runs differ"
    found = 0
    for _ in range(replicates):
        values = simulate(rng, num_seeds, IMAGES, float(np.median(stated)), run_sd)
        (one,) = answer([replace(ASKED, first="BCE", second="Dice loss")], arms_of(template, values))
        found += one.verdict.word == "better"
    assert 0.7 <= found / replicates <= 0.9


# What is refused, and reported for what it is


def test_another_split(tmp_path):
    ids = [f"CHNCXR_{i:04}_0" for i in range(IMAGES)]
    train = [f"t{i}" for i in range(8)]
    moved = {"ids": [*ids[:-1], train[0]], "train_ids": [ids[-1], *train[1:]]}
    write_pair(tmp_path, first={"ids": ids, "train_ids": train}, second=moved)
    one = only(found_in(tmp_path))
    assert one.verdict.word == "not comparable"
    assert one.verdict.sentence == "Not comparable: another split: they were not measured on the same images."
    assert one.effect is None


def test_other_bytes(tmp_path):
    write_pair(tmp_path, second={"files": "brighter"})
    assert only(found_in(tmp_path)).incomparable == ("other data: the files differ in names or bytes",)


def test_another_split_within_one_config_is_another_arm(tmp_path):
    values = simulate(np.random.default_rng(0), 2, IMAGES)[0]
    write_arm(tmp_path, "a", values)
    write_arm(tmp_path, "b", values, files="brighter")
    findings = found_in(tmp_path)
    assert [len(arm.runs) for arm in findings.arms] == [2, 2]
    assert only(findings).verdict.word == "not comparable"


def test_another_definition_of_the_metric(tmp_path):
    write_pair(tmp_path, second={"config": {"metric.scores.dice.num_classes": 3}})
    one = only(found_in(tmp_path))
    assert one.incomparable == ("another definition of dice",)
    assert only(found_in(tmp_path, metric="bce")).effect is not None


def test_another_unit_of_the_metric(tmp_path):
    write_pair(tmp_path / "two", first={"metadata": {"units": {"dice": "mm"}}}, second={"metadata": {"units": {}}})
    assert only(found_in(tmp_path / "two")).incomparable == ("another unit of dice: mm and no unit",)
    write_pair(tmp_path / "one", metadata={"units": {"dice": "mm"}})
    one = only(found_in(tmp_path / "one"))
    assert one.effect is not None
    assert one.measure.title == "Dice (mm)"


def test_the_losses_of_two_losses(tmp_path):
    write_pair(tmp_path)
    (reason,) = only(found_in(tmp_path, metric="loss")).incomparable
    assert reason == ("the loss of each is its own: compare bce and soft_dice_loss, or log_loss, which all runs have")


def test_an_error_of_the_data_that_was_allowed_is_told(tmp_path):
    copies = {"check": "duplicates_across", "what": "3 images in two splits"}
    found = [copies | {"allowed": True}, {"check": "imbalance", "what": "24 and 1", "allowed": False}]
    write_pair(tmp_path, first={"metadata": {"audit": found}})
    remarks = [remark for remark in map(str, found_in(tmp_path).remarks) if "audit" in remark]
    what = "duplicates_across: 3 images in two splits"
    assert remarks == [f"loss=bce: the audit found an error, which was allowed: {what}"]


def test_a_missing_seed_is_named(tmp_path):
    write_pair(tmp_path)
    (tmp_path / "b_1" / "run.json").unlink()
    findings = found_in(tmp_path)
    assert "loss=dice: no run of seed 1, which other arms have" in map(str, findings.remarks)
    assert only(findings).scope.endswith("3 and 2 seeds")


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_a_run_that_did_not_complete_is_left_out(tmp_path, status):
    write_pair(tmp_path)
    write_run(tmp_path / "b_3", seed=3, status=status, metadata={"error": "val/loss is nan\nin step 3"}, **DICE)
    findings = found_in(tmp_path)
    assert findings.left_out == (f"{tmp_path / 'b_3'}: {status}: val/loss is nan",)
    assert [len(arm.runs) for arm in findings.arms] == [3, 3]


def test_a_run_that_ends_in_nan_is_left_out(tmp_path):
    write_pair(tmp_path)
    dice = np.linspace(0.5, 0.9, 60)
    dice[-1] = np.nan
    write_run(tmp_path / "b_3", seed=3, images={"dice": np.full(IMAGES, 0.9)}, curves={"val/dice": dice}, **DICE)
    assert found_in(tmp_path).left_out == (f"{tmp_path / 'b_3'}: val/dice is not a number in its last epoch",)


def test_nan_epochs_before_the_end_are_told_where_a_curve_is_read(tmp_path):
    dice = np.linspace(0.5, 0.9, 60)
    dice[50] = np.nan
    write_pair(tmp_path, second={"curves": {"val/dice": dice}})
    findings = found_in(tmp_path, threshold=0.8)
    note = findings.values["loss=dice"]["fluctuation of Dice"].note
    assert "val/dice is NaN in epoch 51" in note
    assert findings.values["loss=dice"]["fluctuation of Dice"].mean is None


def test_images_without_a_value_are_left_out_of_all_arms_and_counted(tmp_path):
    values = write_pair(tmp_path, num_images=IMAGES)
    broken = values[1][0].copy()
    broken[:2] = np.nan
    write_run(tmp_path / "b_0", images={"dice": broken}, curves={"val/dice": 0.9}, **DICE)
    one = only(found_in(tmp_path))
    assert one.verdict.sentence.endswith("Left out, without Dice in some run: 2 images.")
    assert one.effect == difference(values[0][:, 2:], values[1][:, 2:])


@pytest.mark.parametrize("num_patients", [5, 6])
def test_five_patients_are_five_patients(tmp_path, num_patients):
    groups = [f"p{i % num_patients}" for i in range(IMAGES)]
    write_pair(tmp_path, effect=0.03, groups=groups)
    one = only(found_in(tmp_path))
    assert f"47 validation images of 128 px of {num_patients} patients" in one.scope
    if num_patients == 5:
        assert one.verdict.word == "no verdict"
        assert one.verdict.sentence.startswith("No verdict: 5 patients, too few to say anything about others. ")
    else:
        assert one.verdict.word == "better"


def test_a_smoke_test_supports_nothing(tmp_path):
    write_pair(tmp_path, effect=0.03, config={"smoke_test": True})
    findings = found_in(tmp_path)
    assert only(findings).verdict.sentence.startswith("Smoke test, which supports no conclusion: Dice +0.0")
    asked = replace(ASKED, first="loss=bce", second="loss=dice", claim="…", expect="higher")
    assert answer([asked], findings.arms)[0].verdict.claim == "smoke test"
    assert any("a smoke test" in remark.text for remark in findings.remarks)


def test_a_verdict_at_a_reduced_scale_says_so(tmp_path):
    write_pair(tmp_path, choices={"scale": "laptop"})
    assert only(found_in(tmp_path)).scope.startswith("on this split of these data, at scale=laptop only: 47 validation")


def test_the_same_config_and_seed_twice_is_no_second_sample(tmp_path):
    write_pair(tmp_path)
    values = simulate(np.random.default_rng(5), 1, IMAGES)[0]
    write_run(tmp_path / "again", images={"dice": values[0]}, metadata={"end": "2020-01-01T00:00:00+00:00"}, **DICE)
    findings = found_in(tmp_path)
    assert findings.left_out == (
        f"{tmp_path / 'again'}: the same config and seed as {tmp_path / 'b_0'}, which is newer",
    )


def test_confounds_are_listed_and_no_claim_is_decided(tmp_path):
    write_pair(tmp_path, effect=0.03, second={"config": {"model.dropout": 0.2, "train.epochs": 60}})
    findings = found_in(tmp_path)
    one = only(findings)
    assert list(map(str, one.confounds)) == ["loss (bce | dice)", "model.dropout (0.0 | 0.2)"]
    assert one.verdict.sentence.endswith("no single one can be given as the reason.")
    asked = replace(ASKED, first=one.question.first, second=one.question.second, claim="…", expect="higher")
    (named,) = answer([asked], findings.arms)
    assert (named.factor, *map(str, named.confounds)) == ("loss (bce | dice)", "model.dropout (0.0 | 0.2)")
    assert named.verdict.claim == "confounded"


def test_a_factor_that_does_not_differ(tmp_path):
    """LAB 5, item 7: a cell called dice that still used BCE."""
    write_pair(tmp_path, effect=0.03)
    arms = found_in(tmp_path).arms
    asked = replace(ASKED, first="loss=bce", second="loss=dice", factor="model.dropout")
    assert answer([asked], arms)[0].verdict.sentence == "Not comparable: they do not differ in model.dropout."


def test_seconds_compare_on_one_machine_only(tmp_path):
    gpu = {"hardware": {"cpu": "AMD EPYC", "cores": 2, "threads": 2, "gpu": "H200", "cuda": "13"}}
    write_pair(tmp_path, effect=0.03, second={"session": gpu})
    arms = found_in(tmp_path).arms
    asked = replace(ASKED, first="loss=bce", second="loss=dice", measure="seconds", of="dice")
    assert "seconds on another machine: hardware" in answer([asked], arms)[0].verdict.sentence
    (dice,) = answer([replace(asked, measure="dice", of=None, claim="…", expect="higher")], arms)
    assert dice.verdict.claim == "supported", "another machine is reported, and is no other explanation of a Dice"
    assert dice.confounds[0].key == "hardware"


def test_another_precision_is_a_confound(tmp_path):
    write_pair(tmp_path, effect=0.03, second={"session": {"precision": "32-true"}})
    asked = replace(ASKED, first="loss=bce", second="loss=dice", claim="…", expect="higher")
    assert answer([asked], found_in(tmp_path).arms)[0].verdict.claim == "confounded"


# Classes, and folds


def test_auroc_goes_by_pseudo_values(tmp_path):
    rng = np.random.default_rng(0)
    targets = np.array(["AFF", "NFF"] * 20)
    for name, arm, skill in (("a", BCE, 2.0), ("b", DICE, 0.2)):
        for seed in range(3):
            score = rng.normal(np.where(targets == "AFF", skill, 0), 1)
            prob = 1 / (1 + np.exp(-score))
            images = of_classes(targets, np.stack([prob, 1 - prob], axis=1))
            pooled = POOLED | {"auroc": sklearn.metrics.roc_auc_score(targets == "AFF", prob)}
            write_run(tmp_path / f"{name}{seed}", seed=seed, images=images, recorded=BONE, pooled=pooled, **arm)
    findings = found_in(tmp_path, metric="auroc")
    one = only(findings)
    assert one.verdict.word == "better"
    assert one.verdict.sentence.startswith("loss=bce is better than loss=dice: AUROC +0.")
    assert one.scope.startswith("on this split of these data: 40 validation images of ")


def test_folds_go_by_the_corrected_t(tmp_path):
    values = simulate(np.random.default_rng(0), 5, 20, effect=0.03)
    names = [f"n{i}" for i in range(100)]
    kfold = {"dataset.split.kind": "kfold"}
    for name, arm, y in (("a", BCE, values[0]), ("b", DICE, values[1])):
        for fold, row in enumerate(y):
            ids = names[20 * fold : 20 * fold + 20]
            config = arm["config"] | kfold | {"dataset.split.fold": fold}
            others = [n for n in names if n not in ids]
            special = {"ids": ids, "train_ids": others, "choices": arm["choices"], "config": config}
            write_run(tmp_path / f"{name}{fold}", images={"dice": row}, **special)
    one = only(found_in(tmp_path))
    means = values[0].mean(axis=1) - values[1].mean(axis=1)
    assert one.effect.estimate == pytest.approx(means.mean())
    assert one.effect.se == pytest.approx(np.sqrt((1 / 5 + 20 / 80) * means.var(ddof=1)))
    assert (one.effect.df, one.verdict.word) == (4, "one seed")
    assert one.verdict.sentence.startswith("The mean of 5 loss=bce networks beats the mean of 5 loss=dice networks on ")
    assert one.verdict.sentence.endswith("Another seed could reverse it.")
    assert one.claimable_p is None
    assert one.scope == "on these 5 folds of these data: 100 validation images of 128 px, after 60 epochs, 1 seed each"


def write_folds(folder, values):
    """Write two arms of values (S, K, I): seeds, folds, images."""
    names = [f"n{i}" for i in range(values[0].shape[1] * values[0].shape[2])]
    for name, arm, y in (("a", BCE, values[0]), ("b", DICE, values[1])):
        for (seed, fold), row in ((place, y[place]) for place in np.ndindex(*y.shape[:2])):
            ids = names[len(row) * fold : len(row) * (fold + 1)]
            special = {"ids": ids, "train_ids": [n for n in names if n not in ids], "choices": arm["choices"]}
            config = arm["config"] | {"dataset.split.kind": "kfold", "dataset.split.fold": fold}
            write_run(folder / f"{name}{seed}{fold}", seed=seed, images={"dice": row}, config=config, **special)


def test_what_all_folds_of_a_seed_share_is_no_difference_of_the_arms(tmp_path):
    """All folds of a seed start from the same weights, and here these decide everything."""
    rng = np.random.default_rng(0)
    of_seeds = np.array([[0.80, 0.94], [0.70, 0.78]])
    values = [s[:, None, None] + rng.normal(0, 0.002, (2, 5, 12)) for s in of_seeds]
    write_folds(tmp_path, values)
    findings = found_in(tmp_path)
    one = only(findings)
    welch = stats.ttest_ind(*(y.mean(axis=(1, 2)) for y in values), equal_var=False)
    assert one.verdict.word == "cannot tell"
    assert one.p == pytest.approx(welch.pvalue)
    assert one.effect.interval() == pytest.approx(tuple(welch.confidence_interval()))
    low, high = findings.values["loss=bce"]["Dice"].mean.interval()
    assert low < 0.80 < 0.94 < high


def test_out_of_fold_is_the_metric_of_all_folds_images_as_one_set(tmp_path):
    rng = np.random.default_rng(0)
    sizes, targets, scores = (20, 20, 12), [], []
    names = [f"n{i}" for i in range(sum(sizes))]
    for fold, size in enumerate(sizes):
        start = sum(sizes[:fold])
        ids = names[start : start + size]
        truth = np.array(["AFF", "NFF", "NFF", "NFF"] * (size // 4))
        score = rng.normal(np.where(truth == "AFF", 1.0, 0.0) + fold, 1)  # each fold has its own scale
        prob = 1 / (1 + np.exp(-score))
        targets, scores = [*targets, *truth], [*scores, *prob]
        pooled = POOLED | {"auroc": sklearn.metrics.roc_auc_score(truth == "AFF", prob)}
        special = {"ids": ids, "train_ids": [n for n in names if n not in ids], "pooled": pooled, "recorded": BONE}
        config = {"dataset.split.kind": "kfold", "dataset.split.num_folds": 3, "dataset.split.fold": fold}
        images = of_classes(truth, np.stack([prob, 1 - prob], axis=1))
        write_run(tmp_path / f"{fold}", images=images, config=config, **special)
    findings = found_in(tmp_path)
    (arm,) = findings.arms
    values = findings.out_of_fold[arm.name]
    is_aff, decided = np.array(targets) == "AFF", np.array(scores) > 0.5
    assert values["accuracy"] == pytest.approx((is_aff == decided).mean())
    assert values["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(is_aff, scores))
    assert values["auroc"] != pytest.approx(findings.values[arm.name]["AUROC"].mean.estimate, abs=0.01)
    shown = {words: cell(measure, found) for words, measure, (found,) in tabulate_arms(findings, [arm])}
    assert shown["AUROC, out of fold"] == f"{values['auroc']:.3f} (52 images)"
    assert as_json(findings)["arms"][0]["out_of_fold"] == values


def test_no_row_is_out_of_fold_where_there_are_no_folds(tmp_path):
    write_pair(tmp_path)
    findings = found_in(tmp_path)
    assert list(findings.out_of_fold.values()) == [{}, {}]
    assert not [words for words, *_ in tabulate_arms(findings, findings.arms) if "out of fold" in words]


def test_folds_measured_on_one_test_split_are_readers_of_its_images(tmp_path):
    """No test image counts once per fold, nor is an image called a patient."""
    values = simulate(np.random.default_rng(0), 5, 20, effect=0.03)
    test = [f"t{i}" for i in range(20)]
    for name, arm, y in (("a", BCE, values[0]), ("b", DICE, values[1])):
        for fold, row in enumerate(y):
            config = arm["config"] | {"dataset.split.kind": "kfold", "dataset.split.fold": fold}
            special = {"ids": test, "split": "test", "choices": arm["choices"], "config": config}
            write_run(tmp_path / f"{name}{fold}", images={"dice": row}, **special)
    one = only(found_in(tmp_path))
    assert one.effect.interval() == pytest.approx(difference(*values).interval())
    assert one.scope.startswith("on this split of these data: 20 test images of 128 px, after 60 epochs, 5 and 5 runs")


def test_folds_of_five_patients_are_five_patients(tmp_path):
    values = simulate(np.random.default_rng(0), 5, 20, effect=0.03)
    names = [f"n{i}" for i in range(100)]
    for name, arm, y in (("a", BCE, values[0]), ("b", DICE, values[1])):
        for fold, row in enumerate(y):
            ids = names[20 * fold : 20 * fold + 20]
            config = arm["config"] | {"dataset.split.kind": "kfold", "dataset.split.fold": fold}
            special = {"ids": ids, "groups": [f"p{fold}"] * 20, "train_ids": [n for n in names if n not in ids]}
            write_run(
                tmp_path / f"{name}{fold}", images={"dice": row}, choices=arm["choices"], config=config, **special
            )
    assert only(found_in(tmp_path)).verdict.sentence.startswith("No verdict: 5 patients, ")


# What looks like evidence and is none


def test_a_knob_that_changes_nothing(tmp_path):
    """LAB 5, item 4: a setting that was never passed on."""
    y = simulate(np.random.default_rng(0), 3, IMAGES)[0]
    write_arm(tmp_path, "a", y)
    write_arm(tmp_path, "b", y, config={"model.batchnorm": True})
    sentence = "No verdict: both arms give the same value of every image. Does model.batchnorm reach the model?"
    assert only(found_in(tmp_path, margin=0.02)).verdict.sentence == sentence


def test_a_seed_that_changes_nothing_is_no_second_sample(tmp_path):
    a, b = simulate(np.random.default_rng(0), 1, IMAGES, effect=0.03)
    write_arm(tmp_path, "a", np.repeat(a, 3, axis=0), **BCE)
    write_arm(tmp_path, "b", np.repeat(b, 3, axis=0), **DICE)
    findings = found_in(tmp_path)
    assert len(findings.left_out) == 4
    assert only(findings).verdict.word == "one seed"


def test_stopped_early_is_another_length_of_training(tmp_path):
    write_pair(tmp_path, effect=0.03, second={"epochs": 20, "config": {"train.epochs": 60}})
    one = only(found_in(tmp_path))
    assert "epochs run (60 | 20)" in map(str, one.confounds)
    asked = replace(ASKED, first="loss=bce", second="loss=dice", claim="…", expect="higher")
    assert answer([asked], found_in(tmp_path).arms)[0].verdict.claim == "confounded"


def test_other_code_is_a_confound(tmp_path):
    write_pair(tmp_path, effect=0.03, second={"session": {"code": "f" * 64}})
    asked = replace(ASKED, first="loss=bce", second="loss=dice", claim="…", expect="higher")
    assert answer([asked], found_in(tmp_path).arms)[0].verdict.claim == "confounded"


def test_right_or_wrong_is_not_equivalent_because_nothing_was_seen(tmp_path):
    """In 60 images an error of 6 % may stay unseen."""
    targets = ["AFF", "NFF"] * 30
    for name, arm in (("a", BCE), ("b", DICE)):
        for seed in range(3):
            sure = np.full(60, 0.9 - 0.01 * seed)
            sure[seed if name == "a" else 5] = 0.3
            right = np.array(targets) == "AFF"
            prob = np.where(right, sure, 1 - sure)
            images = of_classes(targets, np.stack([prob, 1 - prob], axis=1))
            write_run(tmp_path / f"{name}{seed}", seed=seed, images=images, recorded=BONE, pooled=POOLED, **arm)
    assert only(found_in(tmp_path, metric="accuracy", margin=0.05)).verdict.word == "cannot tell"
    assert only(found_in(tmp_path, metric="accuracy", margin=0.2)).verdict.word == "equivalent"


def test_the_same_right_and_wrong_answers_everywhere_tell_nothing(tmp_path):
    """Two networks that always say AFF: the accuracy is equal in each image, which is no proof of equivalence."""
    for name, arm in (("a", BCE), ("b", DICE)):
        for seed in range(3):
            prob = np.full(40, 0.6 + 0.01 * seed + 0.1 * (name == "b"))
            images = of_classes(["AFF", "NFF"] * 20, np.stack([prob, 1 - prob], axis=1))
            write_run(tmp_path / f"{name}{seed}", seed=seed, images=images, recorded=BONE, pooled=POOLED, **arm)
    one = only(found_in(tmp_path, metric="accuracy", margin=0.2))
    assert one.verdict.word == "cannot tell"
    said = "no sign of learning in 3 of 3 runs (every image is called AFF)"
    assert "which leaves nothing to measure chance by. " in one.verdict.sentence
    assert one.verdict.sentence.endswith(f"loss=bce: {said}. loss=dice: {said}.")


def test_an_arm_that_learnt_nothing_is_named_beside_the_verdict(tmp_path):
    """Dice is 1 where neither the truth nor the prediction has anything, and so says nothing of learning."""
    flat = {"train/loss": np.linspace(0.6, 0.61, 60)}
    for seed in range(2):
        empty = {"images": {"dice": np.eye(12)[3]}} if seed else {"curves": flat}
        write_run(tmp_path / f"a{seed}", seed=seed, **empty, **BCE)
        write_run(tmp_path / f"b{seed}", seed=seed, **DICE)
    findings = found_in(tmp_path)
    why = "its training loss did not fall, dice is 0 wherever there is something to find"
    said = f"loss=bce: no sign of learning in 2 of 2 runs ({why})"
    assert only(findings).verdict.sentence.endswith(f" {said}.")
    assert [remark for remark in map(str, findings.remarks) if "learning" in remark] == [said]


@pytest.mark.parametrize("num_left", [1, 5])
def test_a_metric_of_a_few_images_is_no_verdict(tmp_path, num_left):
    """As a distance to an outline that most images do not have."""
    values = write_pair(tmp_path, effect=0.03)
    broken = values[1][0].copy()
    broken[num_left:] = np.nan
    write_run(tmp_path / "b_0", images={"dice": broken}, curves={"val/dice": 0.9}, **DICE)
    sentence = only(found_in(tmp_path)).verdict.sentence
    if num_left == 1:
        assert "dice is a number in fewer than two images" in sentence
    else:
        assert sentence.startswith("No verdict: 5 images, too few to say anything about others.")


def test_right_or_wrong_is_of_images_also_where_patients_are_the_unit(tmp_path):
    groups = [f"p{i // 2}" for i in range(60)]
    for name, arm in (("a", BCE), ("b", DICE)):
        for seed in range(3):
            sure = np.full(60, 0.9 - 0.01 * seed)
            sure[seed if name == "a" else 5] = 0.3
            images = of_classes(["AFF"] * 60, np.stack([sure, 1 - sure], axis=1))
            special = {"seed": seed, "images": images, "groups": groups, "recorded": BONE, "pooled": POOLED}
            write_run(tmp_path / f"{name}{seed}", **special, **arm)
    assert only(found_in(tmp_path, metric="accuracy", margin=0.05)).verdict.word == "cannot tell"


# Metrics that count all images together


def of_skill(rng, skill):
    """Targets of two classes and columns of a classifier that is right more often the larger skill is."""
    targets = np.array(["AFF", "NFF"] * 30)
    prob = 1 / (1 + np.exp(-rng.normal(np.where(targets == "AFF", skill, -skill), 1)))
    return targets, of_classes(targets, np.stack([prob, 1 - prob], axis=1))


def write_kappas(folder, weights):
    """Writes three runs each of a good and of a poor classifier, which monitor torchmetrics' Cohen's kappa."""
    rng = np.random.default_rng(0)
    kappa = {"_target_": "torchmetrics.classification.MulticlassCohenKappa", "num_classes": 2, "weights": weights}
    config = {f"metric.scores.kappa.{key}": value for key, value in kappa.items()} | {"metric.monitor": "val/kappa"}
    for name, arm, skill in (("a", BCE, 2.0), ("b", DICE, 0.3)):
        for seed in range(3):
            targets, images = of_skill(rng, skill)
            decided = np.where(images["prob_AFF"] >= 0.5, "AFF", "NFF")
            value = sklearn.metrics.cohen_kappa_score(targets, decided) / (2 if weights else 1)
            special = {"config": arm["config"] | config, "pooled": POOLED | {"kappa": value}}
            write_run(folder / f"{name}{seed}", seed=seed, images=images, recorded=BONE, **(arm | special))


def test_kappa_as_the_monitor_is_compared_by_pseudo_values(tmp_path):
    write_kappas(tmp_path, weights=None)
    findings = found_in(tmp_path)
    one = only(findings)
    assert (one.measure.key, one.measure.bounds, one.verdict.word) == ("kappa", (-1, 1), "better")
    first, second = (np.mean(findings.values[arm.name]["kappa"].runs) for arm in findings.arms)
    assert one.effect.estimate == pytest.approx(first - second, abs=0.02)  # pseudo-values remove the bias


def test_kappa_that_per_image_values_do_not_reproduce_is_described(tmp_path):
    """Weights make it another metric; run.json, not a guess, says what it was."""
    write_kappas(tmp_path, weights="quadratic")
    one = only(found_in(tmp_path))
    assert (one.verdict.word, one.p, one.effect) == ("no verdict", None, None)
    assert one.verdict.sentence.startswith("No verdict on kappa: it counts all images together, without a value per")
    assert "accuracy" in one.verdict.sentence.partition("--metric")[2]
    assert only(found_in(tmp_path, metric="accuracy")).verdict.word == "better"


def test_pooled_dice_as_the_monitor_is_described_and_another_metric_compared(tmp_path):
    config = {"metric.monitor": "val/dice_pooled"}
    write_pair(tmp_path, effect=0.05, config=config, pooled={"dice_pooled": 0.95})
    findings = found_in(tmp_path)
    one = only(findings)
    assert "loss=bce 0.950 (runs 0.950 to 0.950); loss=dice 0.950" in one.verdict.sentence
    assert findings.values["loss=bce"]["pooled Dice"].note == "(no value per image)"
    assert only(found_in(tmp_path, metric="dice")).verdict.word == "better"


# The table of arms


def test_arms_that_monitor_different_metrics_share_the_rows_of_one(tmp_path):
    y = simulate(np.random.default_rng(1), 1, IMAGES)[0][0]
    images = {"dice": y, "iou": y / (2 - y)}
    for name, arm, monitor in (("a", BCE, "val/dice"), ("b", DICE, "val/iou")):
        write_run(tmp_path / name, images=images, **(arm | {"config": arm["config"] | {"metric.monitor": monitor}}))
    findings = found_in(tmp_path)
    rows = {words: values for words, _, values in tabulate_arms(findings, findings.arms)}
    assert len(rows) == len(tabulate_arms(findings, findings.arms)), "no title stands twice"
    assert [words for words in rows if "IoU" in words and "best epoch" not in words] == ["IoU"]
    assert all(rows["gap of Dice, validation − training"])
    assert [bool(value) for value in rows["IoU, best epoch (chosen on these same images)"]] == [False, True]


def test_a_measure_of_two_tasks_stands_once_and_a_dynamic_with_its_own_arm(tmp_path):
    rng = np.random.default_rng(0)
    write_run(tmp_path / "a", images={"dice": rng.random(12), "accuracy": rng.random(12)})
    _, images = of_skill(rng, 2.0)
    write_run(tmp_path / "b", images=images, recorded=BONE, metadata={"bounds": {"accuracy": [0, 1]}})
    findings = found_in(tmp_path)
    rows = [(words, [bool(value) for value in values]) for words, _, values in tabulate_arms(findings, findings.arms)]
    assert len({words for words, _ in rows}) == len(rows)
    shown = dict(rows)
    assert shown["accuracy"] == [True, True]
    assert shown["gap of Dice, validation − training"] == [True, False]
    assert shown["gap of accuracy, validation − training"] == [False, True]
    last = as_json(findings)["arms"][1]["last"]
    assert last["gap"]["title"] == "gap of accuracy, validation − training"


def test_equal_values_have_no_interval(tmp_path):
    write_arm(tmp_path, "a", np.ones((2, 12)))
    findings = found_in(tmp_path)
    (measure,) = (each for each in findings.measures if each.key == "dice")
    assert cell(measure, findings.values[findings.arms[0].name]["Dice"]) == "1.000"


# Bounds


def test_intervals_end_where_a_metric_does(tmp_path):
    values = np.array([[0.99, 0.2, 0.99, 0.3, 0.98, 0.99, 0.97, 0.99], [0.99, 0.9, 0.1, 0.3, 0.98, 0.99, 0.97, 0.99]])
    for name, arm, y in (("a", BCE, values), ("b", DICE, values[:, ::-1] / 50)):
        write_arm(tmp_path, name, y, metadata={"bounds": {"dice": [0, 1]}}, **arm)
    findings = found_in(tmp_path)
    one = only(findings)
    assert one.effect.interval()[1] > 1, "what is clipped reaches beyond"
    assert max(one.measure.difference_interval(one.effect)) == 1
    for arm in findings.arms:
        measure = next(m for m in findings.measures if m.key == "dice")
        assert measure.mean_interval(findings.values[arm.name]["Dice"].mean)[0] >= 0
    content = as_json(findings)
    assert content["pairs"][0]["difference"]["interval"][1] == 1
    assert all(0 <= x <= 1 for arm in content["arms"] for x in arm["last"]["dice"]["mean"]["interval"])


def test_a_difference_that_cannot_be_is_not_called_detectable(tmp_path):
    write_pair(tmp_path)
    measure = Measure("dice", "Dice", "max", per_image=True, bounds=(0.0, 1.0))
    case = replace(only(found_in(tmp_path)), measure=measure, contrast=RunContrast(Effect(0.1, 0.3, 3), 0.8))
    sentence = judge(case, Level(0.8)).sentence
    assert "no possible difference would be found four times in five" in sentence
    assert "to +1.000" in sentence


def test_a_detectable_ratio_of_few_runs_is_not_written_out(tmp_path):
    write_pair(tmp_path)
    measure = Measure("epochs_to_threshold", "epochs to Dice 0.9", "min", per_image=False, is_ratio=True)
    contrast = RunContrast(Effect(0.1, 2.0, 2), 0.8)
    case = replace(only(found_in(tmp_path)), measure=measure, contrast=contrast)
    assert "A true difference of over ×10 would be found four times in five" in judge(case, Level(0.8)).sentence


def test_a_metric_of_all_images_is_computed_of_some(tmp_path):
    """Its value of these is not the recorded one, which is that of all."""
    truth = np.array(["AFF", "NFF"] * 20)
    for seed in range(2):
        prob = np.random.default_rng(seed).random(40)
        images = of_classes(truth, np.stack([prob, 1 - prob], axis=1))
        pooled = POOLED | {"auroc": sklearn.metrics.roc_auc_score(truth == "AFF", prob)}
        write_run(tmp_path / f"{seed}", seed=seed, images=images, recorded=BONE, pooled=pooled)
    (arm,) = found_in(tmp_path).arms
    some = arm.first.images().ids[:24]
    assert endpoints.units([arm], "auroc").count == 40
    assert endpoints.units([arm], "auroc", ids=some).count == 24


def test_of_few_evaluated_epochs_no_curve_is_called_flat(tmp_path):
    write_pair(tmp_path, config={"train.eval_every": 5})
    said = "too few evaluated epochs (12) to say whether its curve is flat at the end"
    assert [remark.text for remark in found_in(tmp_path).remarks if "evaluated epochs" in remark.text] == [said] * 2


# Many arms


@pytest.fixture
def many(tmp_path):
    """Six arms of three seeds: five that differ in the loss's smoothing, of which the third is best; a smoke test."""
    for i, effect in enumerate((0.0, -0.05, 0.05, 0.01, -0.01)):
        (values, _) = simulate(np.random.default_rng(1), 3, IMAGES, effect)
        write_arm(tmp_path, f"a{i}", values, **(DICE | {"config": DICE["config"] | {"loss.smooth": float(i)}}))
    write_arm(tmp_path, "quick", values[:1], **(BCE | {"config": BCE["config"] | {"smoke_test": True}}))
    return tmp_path


BASELINE = "loss.smooth=0.0, loss=dice"


def test_arms_are_ranked_with_smoke_tests_last(many):
    found = found_in(many, baseline=BASELINE)
    columns, groups = rank(found)
    assert columns == ["arm", "seeds", "Dice, last epoch", "best epoch", f"against {BASELINE}"]
    assert [title.partition(", data ")[0] for title, _ in groups] == [
        "lungs, 47 val images",
        "smoke tests: lungs, 47 val images",
    ]
    (real, quick) = ([name.partition(",")[0] for name, _ in rows] for _, rows in groups)
    assert real == [f"loss.smooth={i}.0" for i in (2, 3, 0, 4, 1)]
    assert len(quick) == 1
    verdicts = {name.partition(",")[0]: cells[-1] for name, cells in groups[0][1]}
    assert (verdicts["loss.smooth=2.0"], verdicts["loss.smooth=1.0"]) == ("better", "worse")
    assert verdicts["loss.smooth=0.0"] == "–"
    assert {answer.question.second for answer in found.answers} == {BASELINE}
    assert len(found.answers) == 5


def test_many_arms_fit_on_a_screen(many):
    console = Console(file=io.StringIO(), width=300)
    print_findings(console, found_in(many, baseline=BASELINE))
    brief = console.file.getvalue()
    print_findings(console, found_in(many, baseline=BASELINE), details=True)
    assert len(brief.splitlines()) < 40 < len(console.file.getvalue().splitlines()) / 2
    assert "note  6 arms make 15 pairs: each is compared with loss.smooth=0.0" in brief
    assert ": a smoke test" in brief


def test_arms_of_other_data_are_ranked_by_the_metric_that_they_have(tmp_path):
    for i in range(2):
        write_arm(tmp_path, f"a{i}", simulate(np.random.default_rng(i), 3, IMAGES)[0], **(DICE, BCE)[i])
        for seed in range(3):
            probs = np.random.default_rng([i, seed]).dirichlet([1, 1], 40)
            own = {"images": of_classes(["AFF", "NFF"] * 20, probs), "recorded": BONE, "pooled": POOLED}
            write_run(tmp_path / f"b{i}{seed}", seed=seed, config={"optimizer.lr": 10.0**-i}, **own)
    for metric in (None, "dice"):
        columns, groups = rank(found_in(tmp_path, metric=metric))
        assert columns[2:4] == ["last epoch", "best epoch"]
        assert {title.rpartition(": ")[2] for title, _ in groups} == {"Dice", "accuracy"}
        assert all(cells[1] != "–" for _, rows in groups for _, cells in rows)


def test_with_all_pairs_the_verdict_is_that_against_the_best(tmp_path):
    for i, effect in enumerate((0.0, -0.05, 0.05)):
        (values, _) = simulate(np.random.default_rng(1), 3, IMAGES, effect)
        write_arm(tmp_path, f"a{i}", values, **(DICE | {"config": DICE["config"] | {"loss.smooth": float(i)}}))
    columns, ((_, rows),) = rank(found_in(tmp_path))
    assert columns[-1] == "against the first here"
    assert [(name, cells[-1]) for name, cells in rows] == [
        ("loss.smooth=2.0", "–"),
        ("loss.smooth=0.0", "worse"),
        ("loss.smooth=1.0", "worse"),
    ]
