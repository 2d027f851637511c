"""What a study registered before its first run, and how its questions stand to that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runcard.compare.arms import Arm
from runcard.compare.contrasts import Answer
from runcard.compare.questions import Study
from runcard.fileio import inside, read_json, sha256

FILE = "preregistration.json"
ASKED = ("first", "second", "measure", "of", "factor", "expect", "margin", "threshold")  # of a question
EXPLORATORY = "exploratory"  # in place of a claim's outcome that was asked for once runs could be seen


@dataclass(frozen=True)
class Registration:
    """The content of preregistration.json, and what has been changed since."""

    time: str
    sha256: str
    code: str
    design: Mapping[str, Any] | None  # the looks and the budget of a study that adds seeds
    questions: Mapping[str, Mapping[str, Any]]
    configs: Mapping[str, Mapping[str, Any]]  # of each arm, the leaves that can change results
    data: Mapping[str, Mapping[str, str] | None]  # of each arm: hashes of its data and split; None: not read then
    seeds: Sequence[int]
    is_genuine: bool = True  # whether the file is the one that study.json knows


def read_registration(folder: Path, content: Mapping[str, Any]) -> Registration | None:
    """Read a study's registration, whose SHA-256 its study.json has; None where it was never registered.

    Raises OSError, LookupError, TypeError or ValueError where study.json knows one that is not there, or is damaged.
    """
    if not (known := content.get("preregistration")):
        return None
    registered = read_json(folder, FILE)
    study = registered["study"]
    return Registration(
        time=str(registered["time"]),
        sha256=known,
        code=str(registered["code"]),
        design=registered["design"],
        questions={each["key"]: each for each in study["questions"]},
        configs=registered["configs"],
        data=registered["data"],
        seeds=study["seeds"],
        is_genuine=sha256(inside(folder, FILE)) == known,
    )


def settled(registration: Registration | None, study: Study, answers: Sequence[Answer]) -> list[Answer]:
    """Say of each answer when it was asked; claims that were asked after their runs, or since changed, stay open."""
    if registration is None:
        return list(answers)
    return [_settled(registration, study, answer) for answer in answers]


def _settled(registration: Registration, study: Study, answer: Answer) -> Answer:
    asked = how_asked(registration, study, answer)
    if asked.startswith("before"):
        return replace(answer, asked=asked)
    verdict = answer.verdict
    if verdict.claim in ("supported", "contradicted"):
        sentence = f"{verdict.sentence} This was asked {asked}: it suggests, and supports no claim."
        verdict = replace(verdict, sentence=sentence, claim=EXPLORATORY)
    return replace(answer, asked=asked, verdict=verdict)


def how_asked(registration: Registration, study: Study, answer: Answer) -> str:
    """Say when a question was asked: "before its runs", "after its runs", "after a change: margin 0.01 → 0.05"."""
    if not registration.is_genuine:
        return f"after a change of {FILE}, whose SHA-256 is not the one in study.json"
    if answer.question.key not in registration.questions:
        return f"after {registration.time[:10]}, when the study was registered without it"
    if changes := [*_changes(registration, answer), *_more_seeds(registration, study)]:
        return f"after a change: {'; '.join(changes)}"
    starts = [run.metadata["start"] for arm in answer.arms for run in arm.runs]
    if starts and min(starts) < registration.time:
        return f"after its first run, which is of {min(starts)[:10]}"
    return "before its runs"


def _changes(registration: Registration, answer: Answer) -> Iterator[str]:
    """Yield what is different from what was registered: of the question, and of its arms' configs and data."""
    before, now = registration.questions[answer.question.key], asdict(answer.question)
    yield from (f"{key} {before.get(key)} → {now[key]}" for key in ASKED if before.get(key) != now[key])
    for arm in answer.arms:
        yield from _changes_of_arm(registration, arm)


def _changes_of_arm(registration: Registration, arm: Arm) -> Iterator[str]:
    config = arm.first.config
    for key, value in registration.configs.get(arm.name, {}).items():
        if config.get(key) != value:
            yield f"{arm.name}: {key} {value} → {config.get(key)}"
    if arm.first.is_evaluation:  # of images that took no part in training
        return
    if (data := registration.data.get(arm.name)) and data["hash"] != arm.first.metadata["data"]["hash"]:
        yield f"{arm.name}: other images"
    elif data and not arm.first.is_fold and data["split_hash"] != arm.first.metadata["data"]["split_hash"]:
        yield f"{arm.name}: another split"


def _more_seeds(registration: Registration, study: Study) -> Iterator[str]:
    """Yield the seeds that were added to a study whose number of seeds was registered: an unguarded look."""
    if registration.design is None and (more := sorted(set(study.seeds) - set(registration.seeds))):
        yield f"seeds {', '.join(map(str, more))} were added (--until-decided may add seeds)"
