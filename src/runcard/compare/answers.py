"""Answers to questions: the verdict with all that limits it, and the p that Holm adjusts over a study."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from runcard.compare import endpoints
from runcard.compare.arms import Arm
from runcard.compare.confounds import incomparable
from runcard.compare.contrasts import Comparison, Paired, compare_arms, metric_measure
from runcard.compare.measures import Measure
from runcard.compare.questions import Question
from runcard.compare.verdicts import Level, Verdict, judge
from runcard.console import counted, counted_each
from runcard.errors import UserError
from runcard.stats import mrmc
from runcard.stats.mrmc import ALPHA, Effect

HOLM = "Holm over {} questions"  # how p is adjusted, for people


@dataclass(frozen=True)
class Look:
    """What was known of a question after so many seeds."""

    num_seeds: int
    p: float  # adjusted
    effect: Effect | None  # None where only ranks were compared
    interval: tuple[float, float]  # over all looks, at the level that Holm held it to; NaN without an effect
    chance: float | None = None  # that the budget decides; None where it is decided, or too early to say


@dataclass(frozen=True, kw_only=True)
class Answer(Comparison):
    """The answer to one question."""

    p: float | None  # adjusted by Holm where the question is one of a family
    alpha: float  # the level at which Holm tests p: the printed interval is at 1 − alpha
    path: tuple[Look, ...] = ()  # of a study that adds seeds until it is decided
    asked: str = ""  # "before its runs", or why it supports no claim; "" where nothing was registered
    is_open: bool = False  # whether such a study goes on with this question
    verdict: Verdict
    scope: str  # "on this split of these data: 47 validation images, last epoch, 5 and 5 seeds"
    paired: Paired | None  # of the measure, or of the metric whose curve it is read from
    exploratory: tuple[tuple[Measure, Effect], ...]  # the other measures of the same pair, not adjusted


def answer(
    questions: Sequence[Question], arms: Sequence[Arm], num_questions: int = 0, exploratory: Collection[str] = ()
) -> list[Answer]:
    """Answer all questions, with p adjusted by Holm; see levels. num_questions is that of the whole study."""
    by_name = {arm.name: arm for arm in arms}
    cases = [compare_arms(each, by_name.get(each.first), by_name.get(each.second)) for each in questions]
    ps = {case.question.key: case.claimable_p for case in cases}
    held = levels(cases, ps, num_questions, exploratory)
    return [answered(case, held.get(case.question.key, Level())) for case in cases]


def levels(
    cases: Sequence[Comparison],
    ps: Mapping[str, float | None],
    num_questions: int,
    exploratory: Collection[str] = (),
    correction: str = HOLM,
) -> dict[str, Level]:
    """Adjust the p of these questions' keys by Holm; keys without a p that can support a claim are left out.

    The family is all questions of the study, num_questions, except those that others control (controlled_by) and those
    whose arms cannot be compared. It depends neither on what was asked nor on what has been run: what has no p counts
    with p = 1. So does what supports no claim, exploratory questions and arms of which runs failed, that it lends its
    level to no other; its own p is multiplied by the size of the family.
    """
    own = [case for case in cases if not case.question.controlled_by]
    family = [case for case in own if not case.incomparable]
    size = len(family) + max(0, num_questions - len(own))
    strong = {
        key: p
        for case in family
        if (p := ps.get(key := case.question.key)) is not None
        and key not in exploratory
        and not any(arm.failed for arm in case.arms)
    }
    held = zip(strong, *mrmc.holm([*strong.values()] + [1.0] * (size - len(strong))), strict=False)
    written = correction.format(size) if size > 1 else ""
    found = {key: Level(p, alpha, written) for key, p, alpha in held}
    for case in family:
        if (p := ps.get(key := case.question.key)) is not None and key not in strong:
            found[key] = Level(min(1.0, p * size), ALPHA / size, written)
    return found


def answered(case: Comparison, level: Level) -> Answer:
    """Return the answer to a compared question that was tested at this level."""
    if level.p is None and case.contrast:
        level = replace(level, p=case.contrast.p)
    return Answer(
        **vars(case),
        p=level.p,
        alpha=level.alpha,
        verdict=judge(case, level),
        scope=_scope(case),
        paired=_paired(case),
        exploratory=_explored(case),
    )


def _scope(case: Comparison) -> str:
    """Describe what a verdict is about: data and split, images, length of training, seeds."""
    if case.contrast is None:
        return ""
    first, run = case.arms[0], case.arms[0].first
    size = run.metadata["config"]["derived"]["image_size_px"]
    images = f"{counted(case.count.images, 'validation image' if run.split == 'val' else 'test image')} of {size} px"
    images += f" of {counted(case.count.patients, 'patient')}" if case.count.word == "patients" else ""
    epochs = " and ".join(dict.fromkeys(str(arm.first.metadata["epochs"]) for arm in case.arms))
    length = f"{'after' if case.measure.per_image else 'over'} {epochs} epoch{'s' * (epochs != '1')}"
    seeds = counted_each([len(arm.seeds) for arm in case.arms], "seed")
    if first.first.is_fold and not endpoints.in_folds(first):
        seeds = f"{counted_each([len(arm.runs) for arm in case.arms], 'run')} (folds and seeds)"
    where = f"these {len({r.fold for r in first.runs})} folds" if endpoints.in_folds(first) else "this split"
    scales = {scale for arm in case.arms if (scale := arm.first.metadata["choices"].get("scale", "full")) != "full"}
    reduced = f", at scale={' and '.join(sorted(scales))} only" if scales else ""
    return f"on {where} of these data{reduced}: {images}, {length}, {seeds}"


def _paired(case: Comparison) -> Paired | None:
    """Pair the values of two arms image by image; None where images have none or the arms cannot be compared."""
    if not case.arms or case.incomparable:
        return None
    metric, (one, other) = case.question.metric, case.arms
    if endpoints.in_folds(one) or incomparable(one, other, metric):
        return None
    first, second = (endpoints.of_images(arm, metric) for arm in case.arms)
    if first is None or second is None:
        return None
    kept = np.isfinite(first + second)
    known = tuple(name for name, is_kept in zip(one.first.images().ids, kept, strict=True) if is_kept)
    return Paired(metric_measure(metric, one.first), known, first[kept], second[kept])


def _explored(case: Comparison) -> tuple[tuple[Measure, Effect], ...]:
    """Contrast two arms in the metrics that the question does not ask for; their p is not adjusted."""
    if not case.arms or case.incomparable:
        return ()
    first, second = case.arms
    found = []
    for name in endpoints.metrics(first.first):
        is_shared = name in endpoints.metrics(second.first)
        if is_shared and name != case.measure.key and not incomparable(first, second, name):
            with suppress(UserError):  # the metric is undefined for these runs
                found.append((metric_measure(name, first.first), endpoints.contrast(first, second, name)[0]))
    return tuple(found)
