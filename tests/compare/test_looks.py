"""What a study that adds seeds says at each look, word for word, of values of known truth; and how often it errs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from folders import arms_of, simulate, write_run

from runcard.compare.answers import answer
from runcard.compare.arms import Arm
from runcard.compare.confounds import group_arms
from runcard.compare.learning_curves import RunContrast
from runcard.compare.looks import Design, answer_in_looks
from runcard.compare.questions import Question
from runcard.compare.verdicts import Level, judge
from runcard.runs.reader import find_runs
from runcard.stats.mrmc import difference
from runcard.stats.sequential import LOOKS

IMAGES = 47
SLOW = 3  # a seed of values that are not decided before the budget is spent
BOUNDS = {"bounds": {"dice": [0.0, 1.0]}}
ASKED = Question("q", "Is it better?", "one", "other", "dice", factor="loss", claim="it is", expect="higher")
CLOSE = replace(ASKED, margin=0.01)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> list[Arm]:
    folder = tmp_path_factory.mktemp("template")
    for name in ("a", "b"):
        config = {"loss._target_": f"runcard.losses.{name}"}
        write_run(
            folder / name, config=config, choices={"loss": name}, images={"dice": np.full(IMAGES, 0.9)}, metadata=BOUNDS
        )
    arms, _ = group_arms(find_runs([str(folder)]).runs)
    return [Arm(name, arm.runs) for name, arm in zip(("one", "other"), arms, strict=True)]


def looked(arms, asked=CLOSE, budget=10, tried=10, num_questions=1, looks=None):
    """Answer one question of arms of which so many seeds have ended."""
    design = Design(looks or LOOKS[budget], budget, {arm.name: tried for arm in arms})
    (one,) = answer_in_looks([asked], arms, design, num_questions)
    return one


def values(seed=1, effect=0.0, run_sd=0.006, num_images=IMAGES):
    return simulate(np.random.default_rng(seed), 10, num_images, effect, run_sd)


def test_a_large_difference_is_decided_at_the_first_look(template):
    y = values(effect=0.1)
    one = looked(arms_of(template, y))
    expected = difference(y[0][:3], y[1][:3]).at_look(3 / 25)
    low, high = expected.interval()
    assert one.verdict.sentence == (
        f"one is better than other: Dice {expected.estimate:+.3f} (95 % interval over all looks {low:+.3f} to "
        f"{high:+.3f}, p = {expected.p:.2g}). Decided after 3 of at most 10 seeds."
    )
    assert (one.verdict.claim, one.is_open, len(one.path)) == ("supported", False, 1)
    assert one.path[0].interval == pytest.approx((low, high))
    assert "3 and 3 seeds" in one.scope, "seeds that came later, for other questions, change nothing"
    assert looked(arms_of(template, [each[:3] for each in y]), tried=3).verdict == one.verdict


def test_an_interval_within_the_margin_is_equivalent_before_the_budget_is_spent(template):
    one = looked(arms_of(template, values(run_sd=0.001)), asked=replace(ASKED, margin=0.02))
    assert one.verdict.word == "equivalent"
    assert "A failure on up to 12 % of such images may be missing from these 47 by chance." in one.verdict.sentence
    assert one.verdict.sentence.endswith("Decided after 3 of at most 10 seeds.")


def test_an_open_question_says_when_it_is_looked_at_next(template):
    one = looked(arms_of(template, values(effect=0.01)), tried=3)
    assert (one.verdict.word, one.verdict.claim, one.is_open) == ("open", "open", True)
    assert one.verdict.sentence.endswith("Not decided after 3 of at most 10 seeds: the next look is at 5.")
    assert one.path[0].chance is not None


def test_a_question_without_the_first_looks_seeds_is_not_looked_at(template):
    one = looked(arms_of(template, values()), tried=2)
    assert (one.verdict.word, one.path, one.p) == ("open", (), None)
    assert one.verdict.sentence == "Not looked at: the first look takes 3 seeds of each arm; so far: 2."
    (none,) = answer_in_looks([CLOSE], [], Design(LOOKS[10], 10, {}), 1)
    assert none.verdict.word == "open"


def test_seeds_that_differ_too_much_are_given_up(template):
    one = looked(arms_of(template, values(run_sd=0.05)))
    assert (one.verdict.word, one.is_open, one.path[-1].num_seeds) == ("cannot tell", False, 5)
    assert "More seeds cannot decide it (a chance of " in one.verdict.sentence
    assert one.verdict.sentence.endswith(
        "they differ too much from each other for this budget. Given up after 5 of at most 10 seeds."
    )


def test_images_that_are_too_few_are_named_with_the_number_that_it_takes(template):
    rng = np.random.default_rng(3)
    arm_and_image = rng.normal(0, 0.05, (2, 1, 20))
    y = [0.9 + each + rng.normal(0, 0.0005, (10, 1)) + rng.normal(0, 0.0005, (10, 20)) for each in arm_and_image]
    y[0] += y[1].mean() - y[0].mean() + 0.004
    one = looked(arms_of(template, y))
    assert (one.verdict.word, one.is_open) == ("cannot tell", False)
    fewest, most = map(
        int, re.search(r"20 images are too few\. It takes roughly (\d+) to (\d+)\.", one.verdict.sentence).groups()
    )
    assert 20 < fewest < most
    without = looked(arms_of(template, y), asked=ASKED)
    assert "20 images are too few. A margin in the study would say how many it takes." in without.verdict.sentence


def test_a_spent_budget_is_said(template):
    one = looked(arms_of(template, values(seed=SLOW, effect=0.012, run_sd=0.012)), asked=ASKED)
    assert one.path[-1].num_seeds == 10
    assert one.verdict.sentence.endswith("The budget of 10 seeds is spent.")


def test_a_lowered_budget_keeps_the_levels_of_the_looks(template):
    arms = arms_of(template, [np.concatenate([y, y + 0.001]) for y in values(effect=0.012, run_sd=0.012)])
    full = looked(arms, asked=ASKED, budget=20, tried=20)
    lowered = looked(arms, asked=ASKED, budget=10, tried=20, looks=LOOKS[20])
    assert [look.interval for look in lowered.path] == [look.interval for look in full.path[: len(lowered.path)]]


def test_each_look_is_judged_by_its_own_p_and_interval(template):
    """What Holm frees for a question counts from then on: p is below 0.05 where the interval leaves out 0."""
    rng, decided = np.random.default_rng(2), 0
    asked = [replace(CLOSE, key=f"q{i}", first=f"one{i}", second=f"other{i}", margin=None) for i in range(2)]
    for effect in np.linspace(0.005, 0.03, 40):
        arms = []
        for i, own in enumerate((effect, 0.04)):
            for arm in arms_of(template, simulate(rng, 10, IMAGES, own, 0.012)):
                arms.append(Arm(f"{arm.name}{i}", arm.runs))
        for one in answer_in_looks(asked, arms, Design(LOOKS[10], 10, {arm.name: 10 for arm in arms}), 2):
            low, high = one.path[-1].interval
            assert (one.p < 0.05) == (low > 0 or high < 0)
            decided += one.verdict.word == "better"
    assert decided > 40


def test_what_supports_no_claim_lends_its_level_to_no_other(template):
    arms = arms_of(template, values(effect=0.1)) + arms_of(template, values(seed=2, effect=0.02))
    arms = [Arm(name, arm.runs) for name, arm in zip(("a", "b", "c", "d"), arms, strict=True)]
    asked = [replace(ASKED, key="sure", first="a", second="b"), replace(ASKED, key="other", first="c", second="d")]
    (_, free) = answer(asked, arms)
    lost = [replace(arms[0], failed=((0, 10),)), *arms[1:]]
    (survivors, held) = answer(asked, lost)
    (late, exploratory) = answer(asked, arms, exploratory=["sure"])
    assert held.p == exploratory.p == pytest.approx(2 * free.p)
    assert survivors.p == late.p == pytest.approx(2 * answer(asked[:1], arms)[0].p)


def test_arms_that_are_one_and_the_same_are_not_tried_again(template):
    y = values()[0]
    one = looked(arms_of(template, [y, y]), tried=3)
    assert (one.verdict.word, one.is_open) == ("no verdict", False)


def test_questions_that_are_not_asked_count_in_holms_family(template):
    arms = arms_of(template, values(effect=0.1))
    alone, of_six = looked(arms), looked(arms, num_questions=6)
    assert of_six.path[0].p == pytest.approx(6 * alone.path[0].p)
    fixed = answer([CLOSE], arms, num_questions=6)[0]
    assert fixed.p == pytest.approx(6 * answer([CLOSE], arms)[0].p)
    assert "after Holm over 6 questions" in fixed.verdict.sentence


def test_a_failed_seed_is_said_and_supports_nothing(template):
    first, second = arms_of(template, values(effect=0.1))
    first = Arm("one", tuple(run for run in first.runs if run.seed != 1), ((0, 1),))
    one = looked([first, second])
    assert one.verdict.word == "better"
    assert one.verdict.claim == "cannot tell"
    assert "1 of 5 runs of one failed: this is about those that did not, and supports no claim." in one.verdict.sentence


def test_ranks_that_could_never_tell_arms_apart_say_so(template):
    ranks = RunContrast(None, 0.1, first_lower=True, note="3 of 3 and 2 of 3 reached 0.9")
    case = replace(looked(arms_of(template, [y[:3] for y in values()])), contrast=ranks, units=None)
    said = "Ranks of 3 and 3 runs cannot tell any two arms apart (their smallest p is 0.1): it takes 4 in each."
    assert judge(case, Level(0.1)).sentence.endswith(said)
    enough = looked(arms_of(template, [y[:4] for y in values()]))
    assert "cannot tell any two arms apart" not in judge(replace(enough, contrast=ranks), Level(0.1)).sentence


@pytest.mark.parametrize(("run_sd", "least_naive"), [(0.006, 0.06), (0.012, 0.08)])
def test_how_often_a_sentence_tells_equal_arms_apart(template, run_sd, least_naive):
    rng, replicates = np.random.default_rng(0), 300
    told = naive = 0
    for _ in range(replicates):
        y = simulate(rng, 10, IMAGES, 0.0, run_sd)
        told += bool(re.search("is (better|worse) than", looked(arms_of(template, y)).verdict.sentence))
        naive += any(difference(y[0][:s], y[1][:s]).p < 0.05 for s in range(3, 11))
    assert told / replicates <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / replicates)
    assert naive / replicates > least_naive, "looking at 0.05 each time errs more"
