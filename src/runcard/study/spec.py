"""Reads a study.yml: which arms are compared, what is asked of two of them, and what was claimed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from runcard.compare.learning_curves import MEASURES
from runcard.compare.questions import Question, Study
from runcard.config.schema import NonNegativeInt, PositiveFloat, Section, parse_section, rule
from runcard.errors import UserError, did_you_mean

NonEmptyText = Annotated[str, rule("be text", lambda value: isinstance(value, str) and value.strip() != "")]
Pair = Annotated[
    list[str],
    rule(
        "be two different arms, [one, other]",
        lambda value: isinstance(value, list) and len(value) == 2 and value[0] != value[1],
    ),
]
Seeds = Annotated[
    list[NonNegativeInt],
    rule(
        "be a list of different integers, at least one",
        lambda value: isinstance(value, list) and value and all(value.count(seed) == 1 for seed in value),
    ),
]


class ControlConfig(Section):
    """A pair of arms that differ in one factor alone."""

    compare: Pair
    factor: NonEmptyText


class QuestionConfig(Section):
    """What is asked of a pair of arms, and of each pair that controls it; see compare.questions.Question."""

    text: NonEmptyText
    compare: Pair
    measure: NonEmptyText
    of: NonEmptyText | None = None
    factor: NonEmptyText | None = None
    claim: NonEmptyText | None = None
    expect: Literal["higher", "lower"] | None = None
    margin: PositiveFloat | None = None
    threshold: PositiveFloat | None = None
    controlled_by: dict[str, ControlConfig] = Field(default_factory=dict)


class StudyConfig(Section):
    """A study.yml. Its margin and threshold are the primary metric's: of another they mean nothing."""

    name: NonEmptyText
    title: NonEmptyText
    primary: NonEmptyText
    seeds: Seeds
    arms: dict[str, NonEmptyText]
    questions: dict[str, QuestionConfig]
    margin: PositiveFloat | None = None
    threshold: PositiveFloat | None = None
    overrides: list[str] = Field(default_factory=list)


def read_study(file: Path) -> Study:
    """Return the study of a YAML file. Raises UserError with every fault: the file, the dotted key, rule and value."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read: {error.strerror}. Name a study such as experiments/lab4/study.yml."
        ) from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}: not YAML{line}: {error.problem}.") from None
    except (yaml.YAMLError, ValueError) as error:  # a character that no text has, a day that no month has
        raise UserError(f"{file}: not YAML: {str(error).splitlines()[0]}.") from None
    if faults := list(_empty_keys(content)):
        raise UserError("\n".join(f"{file}: {fault}" for fault in faults))
    config = parse_section(StudyConfig, content, f"{file}: ")
    questions = tuple(_questions(config))
    if faults := list(_faults(config, questions)):
        raise UserError("\n".join(f"{file}: {fault}" for fault in faults))
    return Study(
        **config.model_dump(include={"name", "title", "primary", "arms"}),
        seeds=tuple(config.seeds),
        questions=questions,
        overrides=tuple(config.overrides),
        num_questions=sum(not question.controlled_by for question in questions),
    )


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice in one place is a mistake: PyYAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the mapping as written, before other mappings are merged into it by <<."""
        node = super().compose_mapping_node(anchor)
        seen: list[object] = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value} stands there twice", problem_mark=key.start_mark
                )
            seen.append(key.value)
        return node


def _empty_keys(content: object, above: str = "") -> Iterator[str]:
    """Yield a fault for each key below which nothing stands: null, or an empty mapping."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if value is None or value == {}:
            yield f"{above}{key}: nothing stands below this key. Fill it, or leave it out."
        yield from _empty_keys(value, f"{above}{key}.")


def _questions(config: StudyConfig) -> Iterator[Question]:
    """Yield each question, and after it the same question of each pair that controls it."""
    for key, asked in config.questions.items():
        of = asked.of or _curve(asked.measure, config.primary)
        first, second = asked.compare
        written = asked.model_dump(exclude={"compare", "controlled_by"})
        written |= {
            "of": of,
            "margin": asked.margin or (config.margin if asked.measure == config.primary else None),
            "threshold": asked.threshold or (config.threshold if (of or asked.measure) == config.primary else None),
        }
        controls = tuple(f"{key}_{name}" for name in asked.controlled_by)
        question = Question(key=key, first=first, second=second, controlled_by=controls, **written)
        yield question
        for name, control in asked.controlled_by.items():
            first, second = control.compare
            yield replace(
                question,
                key=f"{key}_{name}",
                text=f"{asked.text} ({name} alone)",
                first=first,
                second=second,
                factor=control.factor,
                controlled_by=(),
            )


def _curve(measure: str, primary: str) -> str | None:
    """Return the metric from whose curve a dynamic is read where a question does not say, if it is from any."""
    dynamic = MEASURES.get(measure)
    return None if dynamic is None or "{metric}" not in dynamic.title else dynamic.metric or primary


def _faults(config: StudyConfig, questions: tuple[Question, ...]) -> Iterator[str]:
    """Yield what does not fit together: arms that there are not, keys that two questions would have, and measures."""
    for key, asked in config.questions.items():
        where = f"questions.{key}"
        pairs = {f"{where}.controlled_by.{name}": control.compare for name, control in asked.controlled_by.items()}
        for place, pair in {where: asked.compare, **pairs}.items():
            for arm in pair:
                if arm not in config.arms:
                    known = f"{', '.join(config.arms)}, got {arm!r}.{did_you_mean(arm, config.arms)}"
                    yield f"{place}.compare must be one of {known}"
        if (asked.claim is None) != (asked.expect is None):
            yield f"{where}: claim and expect (higher | lower, of the first arm) go together."
        if asked.margin and asked.measure in MEASURES and MEASURES[asked.measure].is_ratio:
            yield f"{where}.margin: {asked.measure} is compared as a ratio, which no difference bounds. Leave it out."
        if asked.of and not _curve(asked.measure, config.primary):
            able = ", ".join(measure for measure in MEASURES if _curve(measure, config.primary))
            yield f"{where}.of: {asked.measure} is read from no curve, as {able} are."
    metrics = dict.fromkeys(question.metric for question in questions)
    for name in ("margin", "threshold"):
        if getattr(config, name) and config.primary not in metrics:
            yield (
                f"{name}: it is one of {config.primary} (primary), which no question is about; they are about "
                f"{', '.join(metrics)}.{did_you_mean(config.primary, metrics)}"
            )
    keys = [question.key for question in questions]
    if twice := [key for key in keys if keys.count(key) > 1]:
        yield f"questions: two of them would be called {twice[0]}. Rename one."
    for question in questions:
        if question.key in config.questions and question.measure.endswith("_to_threshold") and not question.threshold:
            yield f"questions.{question.key}.threshold: {question.measure} of {question.of} needs one, such as 0.9."
