"""A study.yml is read as it is meant, and every mistake in it is reported with file, dotted key and fix."""

from __future__ import annotations

import json

import pytest

from runcard.compare.questions import Question, Study, Unasked, from_json, select, to_json
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
  1a:
    title: One against other
    compare: [one, other]
    factor: loss
    one_at_a_time:
      base: {compare: [wide, narrow], factor: model.base}
    ask:
      dice: {text: "is it better?", measure: dice, claim: it is better, expect: higher}
      sooner: {text: "is it sooner?", measure: epochs_to_threshold, of: iou, threshold: 0.5, settled_by: []}
      time: {text: "is it quicker?", measure: seconds, margin: 3, settled_by: []}
unasked:
  - {claim: it is nicer, why: nobody measures that}
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
    settled_by=("1a_dice_base",),
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
            text="One against other, base alone: is it better?",
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
            text="One against other: is it sooner?",
            first="one",
            second="other",
            measure="epochs_to_threshold",
            of="iou",
            factor="loss",
            threshold=0.5,
        ),
        Question("1a_time", "One against other: is it quicker?", "one", "other", "seconds", factor="loss", margin=3),
    ),
    unasked=(Unasked("it is nicer", "nobody measures that"),),
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
    write_json(tmp_path / "study.json", to_json(READ))
    content = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert from_json(content) == READ
    del content["num_questions"]  # as it was written before
    assert from_json(content) == READ


def test_margin_and_threshold_are_of_the_primary_metric(read):
    """0.01 of Dice means nothing for a loss, 0.9 nothing for an accuracy."""
    other = read(STUDY.replace("primary: dice", "primary: accuracy"))
    assert [(q.margin, q.threshold) for q in other.questions] == [(None, None), (None, None), (None, 0.5), (3, None)]


def test_selected_questions_bring_what_settles_them_and_what_they_need():
    dice = select(READ, ["1a_dice"])
    assert [q.key for q in dice.questions] == ["1a_dice", "1a_dice_base"]
    assert list(dice.arms) == ["one", "other", "narrow", "wide"]
    assert dice.num_questions == 3, "of the whole file"
    assert list(select(READ, ["1a_time"]).arms) == ["one", "other"]
    assert select(READ, ["1a"]) == READ
    with pytest.raises(UserError, match=r"questions: none is called 1a_tme\. Did you mean '1a_time'\?"):
        select(READ, ["1a_tme"])


MISTAKES = [
    ("title: Which", "titel: Which", "titel: no such key. It may be one of name, title, .* Did you mean 'title'"),
    ("primary: dice", "", "primary: this key is needed."),
    ("seeds: [0, 2]", "seeds: [0, a]", "seeds must be an integer >= 0, got 'a'"),
    ("seeds: [0, 2]", "seeds: [1, 1]", r"seeds must be different integers, at least one, got \[1, 1\]"),
    ("seeds: [0, 2]", "seeds: 3", r"seeds must be a list, \[a, b\], got 3"),
    ("margin: 0.01", "margin: 0", "margin must be above 0, got 0"),
    ("margin: 0.01", "margin: a little", "margin must be a number >= 0, got 'a little'"),
    ("one: a/config", "one: 5", "arms.one must be text, got 5"),
    ("name: little", "name: \x07", "not YAML: unacceptable character #x0007: special characters are not allowed."),
    ("  1a:", "  1:", "questions: 1 is no name. Put it in quotes: '1'"),
    ("name: little", "- little", "not YAML in line "),
    ("  other: a/config", "  one: a/config", "not YAML in line 11: the key one stands there twice."),
    ("[one, other]", "[one, othr]", "questions.1a.compare must be one of .*, got 'othr'. Did you mean 'other'"),
    ("[one, other]", "[one, one]", r"questions.1a.compare must be two different arms, \[one, other\], got"),
    ("[wide, narrow]", "[wide]", "questions.1a.one_at_a_time.base.compare must be two different arms"),
    (", factor: model.base}", "}", "questions.1a.one_at_a_time.base.factor: this key is needed."),
    ("expect: higher", "expect: more", "questions.1a.ask.dice.expect must be one of higher, lower, got 'more'"),
    (", expect: higher", "", "questions.1a.ask.dice: claim and expect .* go together"),
    ('text: "is it better?", ', "", "questions.1a.ask.dice.text: this key is needed."),
    ("settled_by: []", "settled_by: [bas]", "questions.1a.ask.sooner.settled_by must be one of base, got 'bas'"),
    (", threshold: 0.5", "", "questions.1a.ask.sooner.threshold: epochs_to_threshold of iou needs one"),
    ("measure: seconds", "measure: seconds, of: dice", "questions.1a.ask.time.of: seconds is read from no curve"),
    ("measure: dice", "measure: dice, of: iou", "questions.1a.ask.dice.of: dice is read from no curve"),
    ("sooner:", "dice_base:", "questions: two of them would be called 1a_dice_base"),
    ("why: nobody", "because: nobody", "unasked.0.because: no such key"),
]


@pytest.mark.parametrize(("right", "wrong", "words"), MISTAKES)
def test_a_mistake_is_told(read, right, wrong, words):
    assert right in STUDY
    with pytest.raises(UserError, match=rf"study\.yml: {words}") as caught:
        read(STUDY.replace(right, wrong, 1))
    assert len(str(caught.value).splitlines()) <= 4


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.yml: cannot be read: No such file"):
        read_study(tmp_path / "none.yml")
