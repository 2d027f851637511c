"""What is asked of the runs: the questions of a study, or one question per pair of arms. See study/spec.py.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from runcard.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Question:
    """Does the first arm differ from the second in one measure?"""

    key: str
    text: str
    first: str  # the name of the arm that a claim speaks of
    second: str  # and of the arm that it is compared with
    measure: str  # a metric with a value per image (dice, accuracy, …) or a key of learning_curves.MEASURES
    of: str | None = None  # the metric whose curve a dynamic is read from; None where it is from none
    factor: str | None = None  # the config key or group in which alone they should differ, such as loss, model.dropout
    claim: str | None = None  # what is claimed, in the words of who did
    expect: str | None = None  # higher | lower: what the claim expects of the first arm
    margin: float | None = None  # differences smaller than this do not matter
    threshold: float | None = None  # of the measures that reach one
    settled_by: tuple[str, ...] = ()  # keys of the questions that the ledger cites instead: this one is confounded


@dataclass(frozen=True)
class Unasked:
    """A claim that no measure here can answer, and why."""

    claim: str
    why: str


@dataclass(frozen=True)
class Study:
    """Questions, the arms they are asked of, and how these are run."""

    name: str
    title: str
    primary: str  # the metric whose curve a dynamic is read from, where a question does not say
    seeds: tuple[int, ...]
    arms: Mapping[str, str]  # name -> a config under experiments/ and what is set on it: "lab4/bridge/base16 loss=dice"
    questions: tuple[Question, ...]
    unasked: tuple[Unasked, ...] = ()
    overrides: tuple[str, ...] = ()  # of every run: dataset.image_size_px=128
    num_questions: int = 0  # of the whole file, those that another one settles apart: what select() chose from


def to_json(study: Study) -> dict[str, Any]:
    """Returns the study as study.json keeps it."""
    return asdict(study)


def from_json(content: Mapping[str, Any]) -> Study:
    """Returns the study that to_json gave. One that was written before num_questions was had all of its questions."""
    lists = {key: tuple(content[key]) for key in ("seeds", "overrides")}
    questions = tuple(Question(**q | {"settled_by": tuple(q["settled_by"])}) for q in content["questions"])
    unasked = tuple(Unasked(**each) for each in content["unasked"])
    whole = {"num_questions": sum(not question.settled_by for question in questions)}
    return Study(**{**whole, **content, **lists, "questions": questions, "unasked": unasked})


def select(study: Study, names: Sequence[str]) -> Study:
    """Returns the study with these questions alone, those that settle them, and the arms that they need.

    A name is a question's key, or the beginning of several: 4b of 4b_dice. Raises UserError where none has it.
    """
    wanted: set[str] = set()
    for name in names:
        chosen = {q.key for q in study.questions if f"{q.key}_".startswith(f"{name}_")}
        if not chosen:
            keys = [q.key for q in study.questions]
            raise UserError(f"questions: none is called {name}.{did_you_mean(name, keys)} There are {', '.join(keys)}.")
        wanted |= chosen
    return keep(study, wanted)


def keep(study: Study, keys: Collection[str]) -> Study:
    """Returns the study with the questions of these keys, those that settle them, and the arms that they need."""
    wanted = {*keys, *(key for q in study.questions if q.key in keys for key in q.settled_by)}
    questions = tuple(q for q in study.questions if q.key in wanted)
    needed = {arm for q in questions for arm in (q.first, q.second)}
    arms = {name: config for name, config in study.arms.items() if name in needed}
    return replace(study, questions=questions, arms=arms)
