"""A study.yml is read as it is meant, and every mistake in it is reported with file, dotted key and fix."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from runcard.compare.questions import Question, Study, from_json, select
from runcard.errors import UserError
from runcard.fileio import write_json
from runcard.study.spec import read_study

STUDY = """
name: little
title: Which is better?
primary: dice
margin: 0.01
threshold: 0.9
seeds: [0, 2]
overrides: [train.epochs=5]
arms:
  one: a/config
  other: a/config loss=bce
  narrow: a/bridge
  wide: a/bridge model.base=32
questions:
  1a_dice:
    text: "One against other: is it better?"
    compare: &pair [one, other]
    factor: loss
    measure: dice
    claim: it is better
    expect: higher
    controlled_by:
      base: {compare: [wide, narrow], factor: model.base}
  1a_sooner: &sooner
    text: "Is it sooner?"
    compare: *pair
    measure: epochs_to_threshold
    of: iou
    threshold: 0.5
  1a_time:
    text: "Is it quicker?"
    compare: *pair
    measure: caching
    margin: 3
"""
DICE = Question(
    key="1a_dice",
    text="One against other: is it better?",
    first="one",
    second="other",
    measure="dice",
    factor="loss",
    claim="it is better",
    expect="higher",
    margin=0.01,
    threshold=0.9,
    controlled_by=("1a_dice_base",),
)
READ = Study(
    name="little",
    title="Which is better?",
    primary="dice",
    seeds=(0, 2),
    arms={"one": "a/config", "other": "a/config loss=bce", "narrow": "a/bridge", "wide": "a/bridge model.base=32"},
    questions=(
        DICE,
        Question(
            key="1a_dice_base",
            text="One against other: is it better? (base alone)",
            first="wide",
            second="narrow",
            measure="dice",
            factor="model.base",
            claim="it is better",
            expect="higher",
            margin=0.01,
            threshold=0.9,
        ),
        Question(
            key="1a_sooner",
            text="Is it sooner?",
            first="one",
            second="other",
            measure="epochs_to_threshold",
            of="iou",
            threshold=0.5,
        ),
        Question("1a_time", "Is it quicker?", "one", "other", "caching", margin=3),
    ),
    overrides=("train.epochs=5",),
    num_questions=3,
)


@pytest.fixture
def read(tmp_path):
    def read_it(text: str = STUDY) -> Study:
        (tmp_path / "study.yml").write_text(text, encoding="utf-8")
        return read_study(tmp_path / "study.yml")

    return read_it


def test_a_study_is_read(read):
    assert read() == READ


def test_a_study_survives_its_json(tmp_path):
    write_json(tmp_path / "study.json", asdict(READ))
    assert from_json(json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))) == READ


def test_a_question_that_merges_another_keeps_its_own_keys(read):
    """YAML's << takes what is not written; a key that stands there twice is still a mistake."""
    merged = "  1b: {<<: [{of: dice}, *sooner], text: again}"
    question = read(f"{STUDY}{merged}\n").questions[-1]
    assert question == replace(READ.questions[2], key="1b", text="again", of="dice")
    with pytest.raises(UserError, match="the key text stands there twice"):
        read(STUDY + merged.replace("}", ", text: no}").replace("dice, text: no}", "dice}") + "\n")


def test_margin_and_threshold_are_of_the_primary_metric(read):
    """0.01 of Dice means nothing for a loss, 0.9 nothing for an accuracy."""
    other = read(STUDY.replace("primary: dice", "primary: iou"))
    assert [(q.margin, q.threshold) for q in other.questions] == [(None, None), (None, None), (None, 0.5), (3, None)]
    with pytest.raises(UserError, match=r"margin: it is one of accuracy \(primary\), which no question is about"):
        read(STUDY.replace("primary: dice", "primary: accuracy"))


def test_selected_questions_bring_what_controls_them_and_what_they_need():
    dice = select(READ, ["1a_dice"])
    assert [q.key for q in dice.questions] == ["1a_dice", "1a_dice_base"]
    assert list(dice.arms) == ["one", "other", "narrow", "wide"]
    assert dice.num_questions == 3, "of the whole file"
    assert list(select(READ, ["1a_time"]).arms) == ["one", "other"]
    assert select(READ, ["1a"]) == READ
    with pytest.raises(UserError, match=r"questions: none is called 1a_tme\. Did you mean '1a_time'\?"):
        select(READ, ["1a_tme"])


MISTAKES = [
    ("title: Which", "titel: Which", r"titel: nothing reads this key\. Did you mean 'title'\?"),
    ("primary: dice", "", "primary: this key is needed."),
    ("seeds: [0, 2]", "seeds: [0, a]", "seeds.1 must be an integer >= 0, got 'a'"),
    ("seeds: [0, 2]", "seeds: [1, 1]", r"seeds must be a list of different integers, at least one, got \[1, 1\]"),
    ("seeds: [0, 2]", "seeds: 3", r"seeds must be a list of different integers, at least one, got 3"),
    (
        "overrides: [train.epochs=5]",
        "overrides: train.epochs=5",
        r"overrides must be a list, got 'train.epochs=5'. Write \[train.epochs=5\].",
    ),
    ("margin: 0.01", "margin: 0", "margin must be a number > 0, got 0"),
    ("margin: 0.01", "margin: a little", "margin must be a number > 0, got 'a little'"),
    ("one: a/config", "one: 5", "arms.one must be text, got 5"),
    ("one: a/config", "one: ''", "arms.one must be text, got ''"),
    ("name: little", "name: \x07", "not YAML: unacceptable character #x0007: special characters are not allowed."),
    ("name: little", "name: 2026-13-01", "not YAML: month must be in 1..12."),
    ("  1a_dice:", "  1:", "questions.1 is no name. Put it in quotes: '1'"),
    ("title: Which", "1: Which", "1 is no name. Put it in quotes: '1'"),
    ("name: little", "- little", "not YAML in line "),
    ("  other: a/config", "  one: a/config", "not YAML in line 11: the key one stands there twice."),
    ("[one, other]", "[one, othr]", "questions.1a_dice.compare must be one of .*, got 'othr'. Did you mean 'other'"),
    ("[wide, ", "[wid, ", "questions.1a_dice.controlled_by.base.compare must be one of .* Did you mean 'wide'"),
    ("[one, other]", "[one, one]", r"questions.1a_dice.compare must be two different arms, \[one, other\], got"),
    ("[wide, narrow]", "[wide]", "questions.1a_dice.controlled_by.base.compare must be two different arms"),
    (", factor: model.base}", "}", "questions.1a_dice.controlled_by.base.factor: this key is needed."),
    (", factor:", ", facto:", "questions.1a_dice.controlled_by.base.facto: nothing .* Did you mean 'factor'"),
    ("expect: higher", "expect: more", "questions.1a_dice.expect must be one of higher, lower, got 'more'"),
    ("    expect: higher", "", "questions.1a_dice: claim and expect .* go together"),
    ('    text: "Is it sooner?"', "", "questions.1a_sooner.text: this key is needed."),
    ("    threshold: 0.5", "", "questions.1a_sooner.threshold: epochs_to_threshold of iou needs one"),
    ("measure: caching", "of: dice\n    measure: caching", "questions.1a_time.of: caching is read from no curve"),
    ("measure: caching", "measure: seconds", "questions.1a_time.margin: seconds is compared as a ratio"),
    ("measure: dice", "of: iou\n    measure: dice", "questions.1a_dice.of: dice is read from no curve"),
    ("1a_sooner:", "1a_dice_base:", "questions: two of them would be called 1a_dice_base"),
    ("margin: 3", "margin:", "questions.1a_time.margin: nothing stands below this key. Fill it, or leave it out."),
    ("seeds: [0, 2]", "seeds:", "seeds: nothing stands below this key."),
]


@pytest.mark.parametrize(("right", "wrong", "words"), MISTAKES)
def test_a_mistake_gives_a_message(read, right, wrong, words):
    assert right in STUDY
    with pytest.raises(UserError, match=rf"study\.yml: {words}") as caught:
        read(STUDY.replace(right, wrong, 1))
    assert len(str(caught.value).splitlines()) <= 4


def test_all_mistakes_are_reported_together(read):
    with pytest.raises(UserError) as caught:
        read(STUDY.replace("title:", "titel:").replace("factor: loss", "facto: loss").replace("[0, 2]", "[]"))
    assert len(str(caught.value).splitlines()) == 4
    with pytest.raises(UserError) as caught:
        read(STUDY.replace("    expect: higher\n", "").replace("narrow]", "broad]").replace("    threshold: 0.5\n", ""))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("questions", ["", " {}"])
def test_a_study_without_questions(read, questions):
    with pytest.raises(UserError, match=r"study\.yml: questions: nothing stands below this key"):
        read(STUDY.partition("questions:")[0] + f"questions:{questions}\n")


@pytest.mark.parametrize("text", ["", "[1, 2]", "questions: 3"])
def test_a_file_that_is_no_study(read, text):
    with pytest.raises(UserError, match=r"study\.yml: \S"):
        read(text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.yml: cannot be read: No such file"):
        read_study(tmp_path / "none.yml")
