"""Answers of a study that adds seeds until its questions are decided: the runs are looked at again and again.

Each look tests at its own share of the level, so that an answer may stop at any of them: see stats/sequential.py. What
was said of a question when it was decided stays, although its arms may get more seeds for another one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from runcard.compare import endpoints
from runcard.compare.answers import HOLM, Answer, Look, answered, levels
from runcard.compare.arms import Arm
from runcard.compare.contrasts import Comparison, at_look, compare_arms
from runcard.compare.questions import Question
from runcard.compare.verdicts import DECIDED, Level, Verdict, unseen_rate
from runcard.stats.sequential import FUTILE, MIN_SEEDS, Forecast, forecast, forecast_runs, share_of_level

OPEN = "open"  # the word of a verdict that more seeds may change


@dataclass(frozen=True)
class Design:
    """How a study adds seeds."""

    looks: tuple[int, ...]  # the seeds of each arm after which it looks at the runs, as they were registered
    budget: int  # of seeds in each arm: the last look that is made
    tried: Mapping[str, int]  # name of an arm -> the number S of its seeds 0 to S − 1 that have ended, failed ones too

    @property
    def within_budget(self) -> tuple[int, ...]:
        """The looks that the budget pays for."""
        return tuple(seeds for seeds in self.looks if seeds <= self.budget)

    def seeds_of(self, question: Question) -> int:
        """Return the number of seeds that have ended in both arms of a question."""
        return min(self.tried.get(arm, 0) for arm in (question.first, question.second))


def answer_in_looks(
    questions: Sequence[Question],
    arms: Sequence[Arm],
    design: Design,
    num_questions: int,
    exploratory: Collection[str] = (),
    correction: str = HOLM,
) -> list[Answer]:
    """Answer each question at the first look that decides it, or else at the newest; see levels.

    A look is made of the questions of which both arms have its seeds. A question that others control stops after its
    first look. Each look is judged by its own p, though the smallest so far would be valid too: so the interval leaves
    out 0 exactly where the adjusted p is below 0.05.
    """
    by_name = {arm.name: arm for arm in arms}
    seen = {q.key: _compare(q, by_name, design.looks[0]) for q in questions}
    newest: dict[str, float | None] = {}  # p of each, at the look that decided it or else the newest
    answers: dict[str, Answer] = {}
    still_open = {q.key: q for q in questions}
    for num_seeds in design.within_budget:
        share = share_of_level(num_seeds, design.looks)
        now = [question for question in still_open.values() if design.seeds_of(question) >= num_seeds]
        for question in now:
            seen[question.key] = at_look(_compare(question, by_name, num_seeds), share)
            newest[question.key] = seen[question.key].claimable_p
        held = levels(list(seen.values()), newest, num_questions, exploratory, correction)
        for question in now:
            level = replace(held.get(question.key, Level()), share=share)
            before = answers[question.key].path if question.key in answers else ()
            answers[question.key] = _looked(seen[question.key], level, num_seeds, design, before)
            if not answers[question.key].is_open:
                del still_open[question.key]
    return [answers.get(q.key) or _not_looked(seen[q.key], design) for q in questions]


def _compare(question: Question, arms: Mapping[str, Arm], num_seeds: int) -> Comparison:
    first, second = (
        (arm := arms.get(name)) and arm.first_seeds(num_seeds) for name in (question.first, question.second)
    )
    return compare_arms(question, first, second)


def _looked(case: Comparison, level: Level, num_seeds: int, design: Design, before: tuple[Look, ...]) -> Answer:
    """Answer one question at one look: decided, given up, or open."""
    answer, effect = answered(case, level), case.effect
    if answer.p is None:
        return replace(answer, path=before)
    word = answer.verdict.word
    is_settled = word in DECIDED or num_seeds == design.budget or case.question.controlled_by or not _can_change(case)
    expected = None if is_settled else _forecast(case, num_seeds, design, level.alpha)
    is_futile = expected is not None and num_seeds >= MIN_SEEDS and expected.chance < FUTILE
    is_open = not is_settled and not is_futile
    verdict = replace(answer.verdict, word=OPEN, claim=answer.verdict.claim and OPEN) if is_open else answer.verdict
    if status := _status(case, word, expected if is_futile else None, is_open, num_seeds, design):
        verdict = replace(verdict, sentence=f"{verdict.sentence} {status}")
    interval = effect.interval(level.alpha) if effect else (math.nan, math.nan)
    look = Look(num_seeds, answer.p, effect, interval, expected.chance if expected else None)
    return replace(answer, verdict=verdict, path=(*before, look), is_open=is_open)


def _status(case: Comparison, word: str, futile: Forecast | None, is_open: bool, num_seeds: int, design: Design) -> str:
    """Say where a question stands after a look: decided, open, or given up, and why."""
    of_budget = f"{num_seeds} of at most {design.budget} seeds"
    if word in DECIDED:
        return f"Decided after {of_budget}."
    if num_seeds == design.budget:
        return f"The budget of {design.budget} seeds is spent."
    if is_open:
        following = design.within_budget[design.within_budget.index(num_seeds) + 1]
        return f"Not decided after {of_budget}: the next look is at {following}."
    return f"{_why_not(futile, case)} Given up after {of_budget}." if futile else ""


def _can_change(case: Comparison) -> bool:
    """Whether more seeds could change the answer."""
    if endpoints.identical(*case.arms) or case.is_constant:
        return False
    return case.claimable_p is not None or case.one_seed


def _forecast(case: Comparison, num_seeds: int, design: Design, alpha: float) -> Forecast | None:
    """Forecast what the budget would decide; None where only ranks are compared, or where runs failed."""
    looks, budget, margin = design.looks, design.budget, case.question.margin
    if case.effect is None or case.one_seed:
        return None
    if case.units:
        unseen = unseen_rate(alpha * share_of_level(budget, looks), case.units.num_trials or 0)
        margin = None if margin is None or unseen >= margin else margin  # out of reach, however many seeds there are
        first, second = case.units.values
        return forecast((first, second), looks, budget, margin, alpha)
    return forecast_runs(case.effect, num_seeds, looks, budget, margin, alpha)


def _not_looked(case: Comparison, design: Design) -> Answer:
    """Answer a question whose arms do not have the seeds of the first look yet."""
    answer = answered(case, Level())
    num_seeds = design.seeds_of(case.question)
    text = f"Not looked at: the first look takes {design.looks[0]} seeds of each arm; so far: {num_seeds}."
    claim = OPEN if case.question.claim else ""
    return replace(answer, p=None, verdict=Verdict(OPEN, text, claim), exploratory=(), is_open=True)


def _why_not(expected: Forecast, case: Comparison) -> str:
    """Say why more seeds would not decide a question, and what would."""
    text = f"More seeds cannot decide it (a chance of {100 * expected.chance:.0f} %)"
    if expected.limit == "seeds":
        return f"{text}: they differ too much from each other for this budget."
    have, word = case.num_units, case.count.word
    if case.question.margin is None:
        return f"{text}: {have} {word} are too few. A margin in the study would say how many it takes."
    if expected.images is None:
        return f"{text}: {have} {word} are too few, and so are these seeds."
    fewest, most = (round(number, 2 - len(str(number))) for number in expected.images)  # to two digits
    return f"{text}: {have} {word} are too few. It takes roughly {fewest} to {most}."
