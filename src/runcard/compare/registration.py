"""What a study registered before its first run, and how its questions stand to that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runcard.compare.answers import Answer
from runcard.compare.arms import Arm
from runcard.compare.confounds import derived_keys
from runcard.compare.questions import Question, Study
from runcard.config.diff import ADDED_KEYS, UNKNOWN
from runcard.errors import UserError
from runcard.fileio import inside, read_json, sha256

FILE = "preregistration.json"
ASKED = ("first", "second", "measure", "of", "factor", "expect", "margin", "threshold")  # of a question
BEFORE = "before its runs"
# Of a config: what each run has of its own, or what it alone knows.
APART = {"seed", "weights_sha256", "init_sha256", "trained_on"}
EXPLORATORY = "exploratory"  # in place of a claim's outcome that was asked for once runs could be seen


@dataclass(frozen=True)
class Registration:
    """The content of preregistration.json, and what has been changed since."""

    time: str
    sha256: str  # the one that study.json knows
    design: Mapping[str, Any] | None  # the looks and the budget of a study that adds seeds
    questions: Mapping[str, Mapping[str, Any]]
    configs: Mapping[str, Mapping[str, Any]]  # of each arm, the leaves that can change results
    data: Mapping[str, Mapping[str, str] | None]  # of each arm: hashes of its data and split; None: not read then
    seeds: Sequence[int]
    is_genuine: bool = True  # whether the file is the one that study.json knows


def read_registration(folder: Path, known: str) -> Registration:
    """Read a study's registration, of which this SHA-256 is known. Raises UserError where it is gone or damaged."""
    try:
        registered = read_json(folder, FILE)
        study = registered["study"]
        return Registration(
            time=str(registered["time"]),
            sha256=known,
            design=registered["design"],
            questions={each["key"]: each for each in study["questions"]},
            configs=registered["configs"],
            data=registered["data"],
            seeds=study["seeds"],
            is_genuine=sha256(inside(folder, FILE)) == known,
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder / FILE}: missing or damaged ({error}), SHA-256 {str(known)[:16]}…: what was asked before the "
            "runs is not known any more. Restore it; name=… starts the study anew."
        ) from None


def settled(answers: Sequence[Answer], asked: Mapping[str, str]) -> list[Answer]:
    """Say of each answer when it was asked, see how_asked; claims that were asked after their runs stay open."""
    found = []
    for answer in answers:
        verdict, how = answer.verdict, asked[answer.question.key]
        if how != BEFORE and verdict.claim in ("supported", "contradicted"):
            sentence = f"{verdict.sentence} This was asked {how}: it suggests, and supports no claim."
            verdict = replace(verdict, sentence=sentence, claim=EXPLORATORY)
        found.append(replace(answer, asked=how, verdict=verdict))
    return found


def how_asked(registration: Registration, study: Study, arms: Sequence[Arm]) -> dict[str, str]:
    """Say of each question when it was asked: "before its runs", "after a change: margin 0.01 → 0.05", …"""
    by_name = {arm.name: arm for arm in arms}
    return {
        question.key: _how_asked(
            registration, study, question, [by_name[n] for n in (question.first, question.second) if n in by_name]
        )
        for question in study.questions
    }


def _how_asked(registration: Registration, study: Study, question: Question, arms: Sequence[Arm]) -> str:
    if not registration.is_genuine:
        return f"after a change of {FILE}, whose SHA-256 is not the one in study.json"
    if question.key not in registration.questions:
        return f"after {registration.time[:10]}, when the study was registered without it"
    changes = list(changes_of_question(registration, question))
    for arm in arms:
        changes += _changes_of_arm(registration, arm)
    if changes := [*changes, *_other_seeds(registration, study)]:
        return f"after a change: {'; '.join(changes)}"
    starts = [run.metadata["start"] for arm in arms for run in arm.runs]
    if starts and min(starts) < registration.time:
        return f"after its first run, which is of {min(starts)[:10]}"
    return BEFORE


def changes_of_question(registration: Registration, question: Question) -> Iterator[str]:
    """Yield what a question asks otherwise than it was registered; all that it asks, where it was not."""
    before, now = registration.questions.get(question.key, {}), asdict(question)
    yield from (f"{key} {before.get(key)} → {now[key]}" for key in ASKED if before.get(key) != now[key])


def _changes_of_arm(registration: Registration, arm: Arm) -> Iterator[str]:
    config = arm.first.config
    if registered := registration.configs.get(arm.name):
        before = ADDED_KEYS | dict(registered)
        for key in sorted({*before, *config} - APART - derived_keys(arm.first.folder)):
            if UNKNOWN not in str(before.get(key)) and config.get(key) != before.get(key):
                yield f"{arm.name}: {key} {before.get(key)} → {config.get(key)}"
    if arm.first.is_evaluation:  # of images that took no part in training
        return
    if (data := registration.data.get(arm.name)) and data["hash"] != arm.first.metadata["data"]["hash"]:
        yield f"{arm.name}: other images"
    elif data and not arm.first.is_fold and data["split_hash"] != arm.first.metadata["data"]["split_hash"]:
        yield f"{arm.name}: another split"


def _other_seeds(registration: Registration, study: Study) -> Iterator[str]:
    """Yield how the seeds are others than those that were registered: an unguarded look at more, or at fewer."""
    if registration.design is None and set(study.seeds) != set(registration.seeds):
        before, now = (", ".join(map(str, sorted(seeds))) for seeds in (registration.seeds, study.seeds))
        yield f"seeds {before} → {now} (--until-decided may add seeds)"
