"""A study that adds seeds: which runs it starts, when it stops, what it registers first, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, compose_config
from folders import RecordedConfig, write_run
from omegaconf import OmegaConf
from typer.testing import CliRunner

from runcard.cli import app
from runcard.compare.analysis import of_study
from runcard.errors import UserError
from runcard.study import register, runner
from runcard.study.runner import run_study

STUDY = """
name: little
title: Which is better?
primary: dice
margin: 0.01
seeds: [0, 1, 2]
arms:
  plain: phantoms/chest
  slow: phantoms/chest optimizer.lr=1e-5
  other: phantoms/chest optimizer.eps=1e-7
questions:
  slow_dice:
    {text: is it worse, compare: [slow, plain], measure: dice, factor: optimizer.lr, claim: it is, expect: lower}
  other_dice: {text: is it better, compare: [other, plain], measure: dice, claim: it is, expect: higher}
"""
DERIVED = ("derived.in_channels=1", "derived.out_channels=1", "derived.num_classes=2", "derived.classes=[a,b]")
DERIVED += ("derived.positive=1", "derived.image_size_px=64", "derived.steps=30")
DICE = {"plain": 0.9, "slow": 0.6, "other": 0.9005}  # the true means
START = "2100-01-01T00:00:00+00:00"  # after the registration


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with train.py, conf/ and a study whose data nobody reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(register, "_hash_data", lambda _: None)
    for name in ("train.py", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "study.yml").write_text(STUDY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def launched(house: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, int]]]:
    """Return a function that runs the study and lists the (arm, seed) that it started; each leaves its run folder."""

    def ask(*arguments: str, budget: int | None = 10, fails: Sequence[tuple[str, int]] = (), start: str = START):
        started: list[tuple[str, int]] = []

        def launch(command: Sequence[str]) -> None:
            own = [each for each in command if each.startswith("optimizer.")]
            arm = "plain" if not own else "slow" if own[0] == "optimizer.lr=1e-5" else "other"
            for seed in map(int, command[0].removeprefix("seed=").split(",")):
                started.append((arm, seed))
                write(house / f"outputs/little/{arm}{seed}", arm, own, seed, (arm, seed) in fails, start)

        monkeypatch.setattr(runner, "_launch", launch)
        ask.result = run_study(Path("study.yml"), arguments, budget=budget)  # type: ignore[attr-defined]
        return started

    return ask


@cache
def recorded_config(*own: str) -> dict:
    return OmegaConf.to_container(compose_config("experiment=phantoms/chest", *own, *DERIVED), resolve=True)


def write(folder: Path, arm: str, own: Sequence[str], seed: int, fails: bool, start: str) -> None:
    plain = recorded_config(*own)
    rng = np.random.default_rng([seed, *arm.encode()])
    shared = np.random.default_rng(0).normal(0, 0.03, 47)
    dice = DICE[arm] + shared + rng.normal(0, 0.02) + rng.normal(0, 0.01, 47)
    epochs = plain["train"]["epochs"]
    special = {"status": "failed", "metadata": {"error": "loss is NaN", "start": start}} if fails else {}
    recorded = RecordedConfig(plain, {"dataset": "phantom_chest"})
    write_run(
        folder,
        seed=seed,
        epochs=epochs,
        recorded=recorded,
        images={"dice": dice},
        **{"metadata": {"start": start}} | special,
    )


def content(house: Path) -> dict:
    return json.loads((house / "outputs/little/study.json").read_text())


def test_seeds_are_added_to_what_is_open(launched, house, capsys):
    started = launched()
    arms = ("plain", "slow", "other")
    assert set(started[:9]) == {(arm, seed) for arm in arms for seed in (0, 1, 2)}
    assert not [seed for arm, seed in started if arm == "slow" and seed > 2], "decided at the first look"
    answers = {answer.question.key: answer for answer in of_study(house / "outputs/little").answers}
    assert answers["slow_dice"].verdict.claim == "supported"
    assert answers["slow_dice"].asked == "before its runs"
    last = answers["other_dice"].path[-1].num_seeds
    assert last > 3
    assert sorted(seed for arm, seed in started if arm == "other") == list(range(last))
    assert content(house)["design"] == {
        "looks": [3, 5, 7, 10],
        "budget": 10,
        "tried": {"plain": last, "slow": 3, "other": last},
    }
    assert content(house)["command"] == "runcard study study.yml --until-decided --budget 10"
    assert launched.result.missing == ()
    printed = capsys.readouterr().out
    assert "registered on 2" in printed
    assert "in SDs from run to run: 6.6 after 3, 3.1 after 5, 2.2 after 7, 1.7 after 10 seeds, with 2 " in printed
    assert "After 3 seeds of each arm that is asked for, look 1 of at most 4: 9 runs, " in printed
    assert launched() == [], "the same command has nothing left to do"


def test_interrupted_between_runs_it_goes_on(launched, house):
    whole = launched()
    reached = of_study(house / "outputs/little").answers
    for name in ("other4", "plain3"):
        (house / "outputs/little" / name / "run.json").unlink()
    assert sorted(launched()) == [("other", 4), ("plain", 3)]
    assert [a.verdict for a in of_study(house / "outputs/little").answers] == [a.verdict for a in reached]
    assert len(whole) > 9


def test_a_run_that_does_not_end_stops_the_looks(launched, house, monkeypatch):
    launched()
    monkeypatch.setattr(runner, "_launch", lambda _: None)
    (house / "outputs/little/other1/run.json").unlink()
    done = run_study(Path("study.yml"), [], budget=10)
    assert done.missing == ("other, seed 1: not started",)
    (_, other) = of_study(house / "outputs/little").answers
    assert other.verdict.sentence.startswith("Not looked at: the first look takes 3 seeds of each arm; so far: 1.")


def test_a_failed_seed_counts_as_tried_and_is_said(launched, house):
    launched(fails=[("slow", 1)])
    (slow, _) = of_study(house / "outputs/little").answers
    assert content(house)["failed"] == {"slow": [1]}
    assert content(house)["design"]["tried"]["slow"] >= 3
    assert "of slow failed" in slow.verdict.sentence
    assert slow.verdict.claim == "cannot tell"


def test_a_budget_may_be_lowered_and_never_raised(launched, house):
    launched(budget=20)
    assert content(house)["design"]["looks"] == [3, 5, 7, 10, 14, 20]
    launched(budget=10)
    assert (content(house)["design"]["looks"], content(house)["design"]["budget"]) == ([3, 5, 7, 10, 14, 20], 10)
    (house / "outputs").rename(house / "before")
    launched()
    with pytest.raises(
        UserError, match=r"^--budget 20: outputs/little was registered with 10\. A budget may be lowered"
    ):
        launched(budget=20)
    with pytest.raises(UserError, match=r"was registered with --until-decided --budget 10: ask it so"):
        launched(budget=None)


def test_what_the_looks_cannot_keep_is_refused(launched, house):
    with pytest.raises(UserError, match=r"^seeds=0,1: --until-decided takes seeds from 0 on"):
        launched("seeds=0,1")
    with pytest.raises(UserError, match=r"^--budget must be one of 10, 20, got 7\."):
        launched(budget=7)
    launched(budget=None)
    with pytest.raises(UserError, match=r"was registered with its seeds, without --until-decided"):
        launched()
    for name in ("preregistration.json", "study.json"):
        (house / "outputs/little" / name).unlink()
    with pytest.raises(UserError, match=r"has runs from before --until-decided"):
        launched()


def claims(house: Path) -> dict[str, tuple[str, str]]:
    return {a.question.key: (a.verdict.claim, a.asked) for a in of_study(house / "outputs/little").answers}


def test_what_is_asked_after_its_runs_supports_nothing(launched, house):
    launched(budget=None, start="2000-01-01T00:00:00+00:00")
    assert claims(house)["slow_dice"] == ("exploratory", "after its first run, which is of 2000-01-01")


def test_what_is_added_or_changed_later_is_exploratory(launched, house):
    launched(budget=None)
    registered = (house / "outputs/little/preregistration.json").read_bytes()
    assert claims(house)["slow_dice"] == ("supported", "before its runs")
    later = STUDY.replace("margin: 0.01", "margin: 0.05") + (
        "  late_bce:\n"
        "    {text: is it, compare: [slow, plain], measure: bce, factor: optimizer.lr, claim: it is, expect: higher}\n"
    )
    (house / "study.yml").write_text(later, encoding="utf-8")
    launched(budget=None)
    assert (house / "outputs/little/preregistration.json").read_bytes() == registered
    assert claims(house)["slow_dice"] == ("exploratory", "after a change: margin 0.01 → 0.05")
    assert claims(house)["late_bce"][0] == "exploratory"
    assert "when the study was registered without it" in claims(house)["late_bce"][1]


@pytest.mark.parametrize(("other", "said"), [("hash", "other images"), ("split_hash", "another split")])
def test_runs_of_other_data_than_were_registered_are_exploratory(launched, house, monkeypatch, other, said):
    write(house / "known", "plain", (), 0, False, START)
    made_of = json.loads((house / "known" / "run.json").read_text())["data"]
    monkeypatch.setattr(register, "_hash_data", lambda _: made_of)
    launched(budget=None)
    assert claims(house)["slow_dice"] == ("supported", "before its runs")
    shutil.rmtree(house / "outputs")
    monkeypatch.setattr(register, "_hash_data", lambda _: made_of | {other: "of something else"})
    launched(budget=None)
    assert claims(house)["slow_dice"] == ("exploratory", f"after a change: slow: {said}; plain: {said}")


def test_added_seeds_are_a_change_of_a_study_with_fixed_seeds(launched, house):
    launched(budget=None)
    launched("seeds=0,1,2,3", budget=None)
    assert claims(house)["slow_dice"] == (
        "exploratory",
        "after a change: seeds 0, 1, 2 → 0, 1, 2, 3 (--until-decided may add seeds)",
    )


def test_a_registration_that_was_edited_is_no_registration(launched, house):
    launched(budget=None)
    file = house / "outputs/little/preregistration.json"
    file.write_text(file.read_text().replace('"margin": 0.01', '"margin": 0.05'))
    assert claims(house)["slow_dice"][0] == "exploratory"
    assert "whose SHA-256 is not the one in study.json" in claims(house)["slow_dice"][1]
    with pytest.raises(UserError, match=r"preregistration\.json: was changed: study\.json names one with the SHA-256"):
        launched(budget=None)
    file.unlink()
    with pytest.raises(UserError, match=r"preregistration\.json: missing or damaged .* No such file"):
        launched(budget=None)
    with pytest.raises(UserError, match=r"preregistration\.json: missing or damaged .* Restore it; name=… starts"):
        of_study(house / "outputs/little")


def test_a_registration_that_is_thrown_away_is_later_than_the_runs(launched, house, monkeypatch):
    launched(budget=None, start="2020-01-01T00:00:00+00:00")
    for name in ("preregistration.json", "study.json"):
        (house / "outputs/little" / name).unlink()
    assert launched(budget=None) == []
    assert claims(house)["slow_dice"][0] == "exploratory"


def test_a_question_that_is_dropped_stays_in_holms_family(launched, house):
    launched(budget=None)
    (before, _) = of_study(house / "outputs/little").answers
    (house / "study.yml").write_text(STUDY[: STUDY.index("  other_dice:")], encoding="utf-8")
    launched(budget=None)
    found = of_study(house / "outputs/little")
    assert found.answers[0].p == before.p
    assert "registered, and not asked here: other_dice; Holm counts them" in map(str, found.remarks)


def test_seeds_of_the_first_call_are_those_that_are_registered(launched, house):
    launched("seeds=0,1,2,3", budget=None)
    assert claims(house)["slow_dice"] == ("supported", "before its runs")


def test_an_arm_that_is_asked_later_is_registered_with_its_config(launched, house):
    launched("questions=slow_dice", budget=None)
    (house / "study.yml").write_text(STUDY.replace("optimizer.eps=1e-7", "optimizer.eps=1e-3"), encoding="utf-8")
    launched(budget=None)
    assert claims(house)["other_dice"][1] == "after a change: other: optimizer.eps 1e-07 → 0.001"


def test_a_comparison_of_all_arms_points_to_the_report(launched, house):
    launched()
    refused = CliRunner().invoke(app, ["report", "outputs/little", "--margin", "0.2"])
    assert "--margin: a study is answered as its plan says. Name its runs: outputs/little/*" in str(refused.exception)
    result = CliRunner().invoke(app, ["compare", "outputs/little"])
    assert "outputs/little added seeds until it was decided: its own report alone keeps to 5 %" in result.stdout
