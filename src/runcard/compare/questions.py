"""The questions of a study, or one question per pair of arms. See study/spec.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runcard.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Question:
    """The question whether the first arm differs from the second in one measure."""

    key: str
    text: str
    first: str  # the name of the arm that a claim is about
    second: str  # and of the arm that it is compared with
    measure: str  # a metric with a value per image (dice, accuracy, …) or a key of learning_curves.MEASURES
    of: str | None = None  # the metric whose curve a dynamic is computed from; None where it needs none
    factor: str | None = None  # the only config key or group in which they should differ, such as loss, model.dropout
    claim: str | None = None  # the claim, as its authors put it
    expect: str | None = None  # higher | lower: what the claim expects of the first arm
    margin: float | None = None  # differences smaller than this do not matter
    threshold: float | None = None  # of the measures that reach one
    controlled_by: tuple[str, ...] = ()  # keys of the questions that test the claim instead: this one is confounded

    @property
    def metric(self) -> str:
        """The metric that is compared, or whose curve the measure is read from."""
        return self.of or self.measure


@dataclass(frozen=True)
class Study:
    """Questions, the arms that they compare, and how these are run."""

    name: str
    title: str
    primary: str  # the metric whose curve a dynamic is computed from, unless a question names one
    seeds: tuple[int, ...]
    arms: Mapping[str, str]  # name -> a config under experiments/ and what is set on it: "lab4/bridge/base16 loss=dice"
    questions: tuple[Question, ...]
    overrides: tuple[str, ...] = ()  # of every run: dataset.image_size_px=128
    num_questions: int = 0  # in the whole file, before select(), without those that others control


def from_json(content: Mapping[str, Any]) -> Study:
    """Rebuild the study that dataclasses.asdict converted. Raises LookupError or TypeError where it is not one."""
    questions = [Question(**each | {"controlled_by": tuple(each["controlled_by"])}) for each in content["questions"]]
    lists = {"seeds": content["seeds"], "overrides": content["overrides"], "questions": questions}
    return Study(**{**content, **{key: tuple(value) for key, value in lists.items()}})


def select(study: Study, names: Sequence[str]) -> Study:
    """Reduce the study to these questions, those that control them, and the arms that they need.

    A name is a question's key, or the beginning of several: 4b of 4b_dice. Raises UserError where none matches.
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
    """Reduce the study to the questions of these keys, those that control them, and the arms that they need."""
    wanted = {*keys, *(key for q in study.questions if q.key in keys for key in q.controlled_by)}
    questions = tuple(q for q in study.questions if q.key in wanted)
    needed = {arm for q in questions for arm in (q.first, q.second)}
    arms = {name: config for name, config in study.arms.items() if name in needed}
    return replace(study, questions=questions, arms=arms)
