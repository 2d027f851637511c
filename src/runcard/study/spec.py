"""Reads a study.yml: which arms are compared, what is asked of them, and what was claimed.

Questions are grouped as a report groups them: two arms are compared, and several things are asked of them. Where the
two differ in more than one thing, one_at_a_time names pairs that do not; each is asked the same, and settles it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from runcard.compare.learning_curves import MEASURES
from runcard.compare.questions import Question, Study, Unasked
from runcard.errors import UserError, check_choice, check_integer, check_number, did_you_mean

EXPECTED = ("higher", "lower")


def read_study(file: Path) -> Study:
    """Return the study of a YAML file. Raises UserError that names the file, the dotted key, rule and value."""
    try:
        return _study(yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader))
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read: {error.strerror}. Name a study such as experiments/lab4/study.yml."
        ) from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}: not YAML{line}: {error.problem}.") from None
    except yaml.YAMLError as error:  # a character that no text has
        raise UserError(f"{file}: not YAML: {str(error).splitlines()[0]}.") from None
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice in one place is a mistake: PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping, whose keys are all different."""
        seen: list[object] = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value} stands there twice", problem_mark=key.start_mark
                )
            seen.append(key.value)
        return super().construct_mapping(node, deep)


def check_seeds(name: str, seeds: Sequence[object]) -> tuple[int, ...]:
    """Return the seeds, or raises ValueError where they are not different integers >= 0, at least one."""
    checked = tuple(check_integer(name, seed, minimum=0) for seed in seeds)
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(f"{name} must be different integers, at least one, got {list(seeds)}")
    return checked


def _study(content: object) -> Study:
    needed = ("name", "title", "primary", "seeds", "arms", "questions")
    top = _Node.of("", content, needed, ("margin", "threshold", "overrides", "unasked"))
    arms, comparisons = top.node("arms"), top.node("questions")
    reader = _Reader(
        arms={name: arms.text(name) for name in arms.content},
        primary=top.text("primary"),
        margin=top.above_zero("margin"),
        threshold=top.above_zero("threshold"),
    )
    questions = [question for key in comparisons.content for question in reader.questions(key, comparisons)]
    keys = [question.key for question in questions]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"questions: two of them would be called {twice[0]}. Rename one.")
    unasked = [_Node.of(f"unasked.{i}", each, ("claim", "why")) for i, each in enumerate(top.list("unasked"))]
    return Study(
        name=top.text("name"),
        title=top.text("title"),
        primary=reader.primary,
        seeds=check_seeds("seeds", top.list("seeds")),
        arms=reader.arms,
        questions=tuple(questions),
        unasked=tuple(Unasked(each.text("claim"), each.text("why")) for each in unasked),
        overrides=tuple(map(str, top.list("overrides"))),
        num_questions=sum(not question.settled_by for question in questions),
    )


@dataclass(frozen=True)
class _Reader:
    """Makes questions of comparisons. margin and threshold are the primary metric's: of another they mean nothing."""

    arms: Mapping[str, str]
    primary: str
    margin: float | None
    threshold: float | None

    def questions(self, key: str, comparisons: _Node) -> Iterator[Question]:
        """Yield what is asked of two arms, and after each question those that settle it."""
        comparison = comparisons.node(key, ("compare", "ask"), ("title", "factor", "one_at_a_time"))
        title = comparison.optional("title") or key
        pair, single, asked = self.pair(comparison), comparison.node("one_at_a_time"), comparison.node("ask")
        pairs = {name: self.pair(single.node(name, ("compare", "factor"))) for name in single.content}
        for name in asked.content:
            node = asked.node(name, ("text", "measure"), ("of", "claim", "expect", "margin", "threshold", "settled_by"))
            names = node.list("settled_by") if "settled_by" in node.content else list(pairs)
            settling = {f"{key}_{name}_{check_choice(node.key('settled_by'), each, pairs)}": each for each in names}
            own = self.question(f"{key}_{name}", node, pair)
            yield replace(own, text=f"{title}: {own.text}", settled_by=tuple(settling))
            for settling_key, each in settling.items():
                text = f"{title}, {each} alone: {own.text}"
                yield replace(own, key=settling_key, text=text, **pairs[each])

    def pair(self, node: _Node) -> dict[str, Any]:
        """Return those fields of a Question that say what is compared."""
        arms = node.list("compare")
        if len(arms) != 2 or arms[0] == arms[1]:
            raise ValueError(f"{node.key('compare')} must be two different arms, [one, other], got {arms!r}")
        first, second = (check_choice(node.key("compare"), arm, self.arms) for arm in arms)
        return {"first": first, "second": second, "factor": node.optional("factor")}

    def curve(self, measure: str) -> str | None:
        """Return the metric from whose curve a dynamic is read where a question does not say, if it is from any."""
        dynamic = MEASURES.get(measure)
        return None if dynamic is None or "{metric}" not in dynamic.title else dynamic.metric or self.primary

    def question(self, key: str, node: _Node, pair: Mapping[str, Any]) -> Question:
        """Return one question of a pair."""
        measure = node.text("measure")
        of = self.curve(measure)
        if "of" in node.content and of is None:
            able = ", ".join(each for each in MEASURES if self.curve(each))
            raise ValueError(f"{node.key('of')}: {measure} is read from no curve, as {able} are.")
        of = node.optional("of") or of
        metric = of or measure
        claim, expect = node.optional("claim"), node.optional("expect")
        if (claim is None) != (expect is None):
            raise ValueError(f"{node.where}: claim and expect (higher | lower, of the first arm) go together.")
        threshold = node.above_zero("threshold", self.threshold if metric == self.primary else None)
        if measure.endswith("_to_threshold") and threshold is None:
            raise ValueError(f"{node.key('threshold')}: {measure} of {metric} needs one, such as 0.9.")
        return Question(
            key=key,
            text=node.text("text"),
            measure=measure,
            of=of,
            claim=claim,
            expect=expect and check_choice(node.key("expect"), expect, EXPECTED),
            margin=node.above_zero("margin", self.margin if measure == self.primary else None),
            threshold=threshold,
            **pair,
        )


@dataclass(frozen=True)
class _Node:
    """A mapping of the file, and the dotted key that it stands under. Raises ValueError for what does not belong."""

    where: str
    content: Mapping[str, Any]

    @classmethod
    def of(cls, where: str, value: object, needed: Sequence[str] = (), optional: Sequence[str] = ()) -> _Node:
        """Return the node: with all the needed keys and none but the two kinds, or with any where neither is given."""
        if not isinstance(value, Mapping):
            raise ValueError(f"{where or 'the file'} must have keys of its own, got {value!r}")
        if numbers := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{where or 'the file'}: {numbers[0]!r} is no name. Put it in quotes: '{numbers[0]}'.")
        prefix = f"{where}." if where else ""
        known = [*needed, *optional]
        for key in value if known else ():
            if key not in known:
                raise ValueError(
                    f"{prefix}{key}: no such key. It may be one of {', '.join(known)}.{did_you_mean(key, known)}"
                )
        for key in needed:
            if key not in value:
                raise ValueError(f"{prefix}{key}: this key is needed.")
        return cls(where, value)

    def key(self, name: str) -> str:
        """Return the dotted name of one of this node's keys."""
        return f"{self.where}.{name}" if self.where else name

    def node(self, name: str, needed: Sequence[str] = (), optional: Sequence[str] = ()) -> _Node:
        """Return the mapping under a key; an empty one where the key is absent."""
        return _Node.of(self.key(name), self.content.get(name, {}), needed, optional)

    def text(self, name: str) -> str:
        """Return the text under a key."""
        value = self.content[name]
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{self.key(name)} must be text, got {value!r}")
        return value.strip()

    def optional(self, name: str) -> str | None:
        """Return the text under a key, or None where the key is absent."""
        return self.text(name) if name in self.content else None

    def above_zero(self, name: str, default: float | None = None) -> float | None:
        """Return the number > 0 under a key, or default where the key is absent."""
        if name not in self.content:
            return default
        value = check_number(self.key(name), self.content[name], 0)
        if value == 0:
            raise ValueError(f"{self.key(name)} must be above 0, got 0")
        return value

    def list(self, name: str) -> list[Any]:
        """Return the list under a key; an empty one where the key is absent."""
        value = self.content.get(name, [])
        if not isinstance(value, list):
            raise ValueError(f"{self.key(name)} must be a list, [a, b], got {value!r}")
        return value
