"""Answers to questions: the difference, its interval, the verdict as text, and all that limits it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from runcard.compare import endpoints, learning_curves
from runcard.compare.arms import Arm
from runcard.compare.confounds import Factor, incomparable, length_factors, session_factors, split_factors
from runcard.compare.endpoints import Count, Units
from runcard.compare.learning_curves import RunContrast
from runcard.compare.measures import Measure, title
from runcard.compare.questions import Question
from runcard.compare.verdicts import Evidence, Verdict, format_difference, format_effect, judge, judge_networks
from runcard.console import counted, counted_each
from runcard.errors import UserError
from runcard.runs.run import Run
from runcard.stats import mrmc
from runcard.stats.mrmc import ALPHA, MIN_UNITS, Array, Effect

MATTER_TO_TIMES = ("hardware", "precision")
DECIDED = ("better", "worse", "higher", "lower", "equivalent")
HOLM = "Holm over {} questions"  # how p is adjusted, for people
HARMLESS = ("hardware", "version of")  # reported, but not an alternative explanation of a metric's difference


@dataclass(frozen=True)
class Paired:
    """Two arms image by image: each value is the mean over the arm's runs."""

    measure: Measure
    ids: tuple[str, ...]  # those with a value in all runs
    first: Array  # (I,)
    second: Array  # (I,)

    @property
    def swapped(self) -> Paired:
        """The same with the arms in the other order."""
        return replace(self, first=self.second, second=self.first)

    @property
    def numbered(self) -> Paired:
        """The same with a number in place of each image's name."""
        return replace(self, ids=tuple(f"image {i + 1}" for i in range(len(self.ids))))


@dataclass(frozen=True)
class Comparison:
    """A question with its arms and their contrast, before Holm's adjustment."""

    question: Question
    measure: Measure
    first: Arm | None  # None where the arm has no run
    second: Arm | None
    studied: tuple[Factor, ...] = ()  # the differences that are asked about
    confounds: tuple[Factor, ...] = ()  # what else differs
    incomparable: tuple[str, ...] = ()  # "another split", …: what makes the arms not comparable at all
    contrast: RunContrast | None = None  # None where an arm is missing or the two cannot be compared
    units: Units | None = None  # of measures with a value per image; None of folds

    @property
    def arms(self) -> list[Arm]:
        """The two arms; empty where one of them has no run."""
        return [self.first, self.second] if self.first and self.second else []

    @property
    def factor(self) -> str:
        """The differences that are asked about, as text: "loss (bce | dice)"; "" where there is none."""
        return ", ".join(map(str, self.studied))

    @property
    def effect(self) -> Effect | None:
        """First − second, of logarithms where the measure is a ratio; None where there is none: see contrast."""
        return self.contrast.effect if self.contrast else None

    @property
    def scores(self) -> dict[str, float]:
        """The mean of each arm by its name, of which effect is the difference, or the ratio; {} without an effect."""
        if self.effect is None:
            return {}
        names = [arm.name for arm in self.arms]
        if self.units:
            return dict(zip(names, (float(values.mean()) for values in self.units.values), strict=True))
        return dict(zip(names, (self._mean(arm) for arm in self.arms), strict=True))

    def _mean(self, arm: Arm) -> float:
        asked = self.question
        if asked.measure not in learning_curves.MEASURES:
            return endpoints.of_arm(arm, asked.measure).estimate
        threshold = math.nan if asked.threshold is None else asked.threshold
        mean = learning_curves.value(asked.measure, arm, asked.of or asked.measure, threshold).mean
        estimate = mean.estimate if mean else math.nan
        return math.exp(estimate) if self.measure.is_ratio else estimate

    @property
    def count(self) -> Count:
        """The images and patients of the compared split."""
        return Count.of(self.arms[0])

    @property
    def one_seed(self) -> bool:
        """Whether an arm has one run, or folds of one seed, so that these networks are compared, not methods."""
        if self.units is None:
            return bool(self.arms) and endpoints.in_folds(self.arms[0]) and min(len(a.seeds) for a in self.arms) < 2
        return min(len(arm.runs) for arm in self.arms) < 2

    @property
    def claimable_p(self) -> float | None:
        """The p of a test that can support a claim; None for smoke tests, searches, single seeds, too few patients."""
        if self.contrast is None or self.one_seed or self.too_few or self.smoke_test or self.chosen_by_search:
            return None
        return self.contrast.p

    @property
    def num_units(self) -> int:
        """The number of patients or images; only those with a value, where the measure has one for each."""
        return self.units.count if self.units else self.count.patients

    @property
    def too_few(self) -> bool:
        """Whether there are too few patients or images to generalize to others."""
        return self.num_units < MIN_UNITS

    @property
    def smoke_test(self) -> bool:
        """Whether any of the runs is a smoke test."""
        return any(run.smoke_test for arm in self.arms for run in arm.runs)

    @property
    def chosen_by_search(self) -> str:
        """How a search chose an arm's config such that it supports no claim; "" where none did."""
        return next((how for arm in self.arms for run in arm.runs if (how := run.chosen_by_search)), "")


@dataclass(frozen=True)
class Level:
    """At what level a question was tested, as one of a family and at one of several looks."""

    p: float | None = None  # adjusted by Holm; None: that of the comparison, of a question that is in no family
    alpha: float = ALPHA  # the level at which Holm tests p, over all looks
    correction: str = ""  # "Holm over 6 questions"; "" of a single one
    share: float = 1.0  # of alpha, that this look has


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
    cases = [
        compare_arms(question, by_name.get(question.first), by_name.get(question.second)) for question in questions
    ]
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


def metric_measure(metric: str, run: Run | None) -> Measure:
    """Describe a metric: its title and, where the run records them, which values are better and its bounds."""
    if run is None or metric not in run.metadata["better"]:
        return Measure(metric, title(metric), None, per_image=True)
    written = title(metric) + (f" ({run.units[metric]})" if metric in run.units else "")
    return Measure(metric, written, run.mode(metric), per_image=True, bounds=endpoints.bounds(run, metric))


def compare_arms(question: Question, first: Arm | None, second: Arm | None) -> Comparison:
    """Contrast two arms in what a question asks, or say why they cannot be compared."""
    metric, dynamic = question.of or question.measure, learning_curves.MEASURES.get(question.measure)
    threshold = math.nan if question.threshold is None else question.threshold
    arm = first or second
    if dynamic:
        measure = learning_curves.measure(question.measure, metric, threshold)
    else:
        measure = metric_measure(metric, arm.first if arm else None)
    if not first or not second:
        return Comparison(question, measure, first, second)
    reasons = incomparable(first, second, (dynamic.metric if dynamic else None) or metric)
    machines = session_factors(first, second)
    if dynamic and dynamic.by_clock:
        reasons += [f"seconds on another machine: {each}" for each in machines if each.key in MATTER_TO_TIMES]
    only_described = False
    if not dynamic and not endpoints.in_folds(first):
        runs = (first.first, second.first)
        lacking = [run for run in runs if metric not in endpoints.metrics(run)]
        only_described = bool(lacking) and all(endpoints.is_measured(run, metric) for run in runs)
        reasons += [f"{metric} has no value per image in {run.folder}" for run in lacking if not only_described]
    studied, others = split_factors(first.first, second.first, question.factor)
    if question.factor and not studied:
        reasons.append(f"they do not differ in {question.factor}")
    besides = (*others, *length_factors(first, second), *machines)
    case = Comparison(question, measure, first, second, tuple(studied), besides, tuple(reasons))
    if reasons:
        return case
    if only_described:
        return replace(case, contrast=RunContrast(note=endpoints.described((first, second), metric)))
    if dynamic:
        return replace(case, contrast=learning_curves.compare(question.measure, first, second, metric, threshold))
    try:
        effect = endpoints.contrast(first, second, metric)
        counted = None if endpoints.in_folds(first) else endpoints.units([first, second], metric)
    except UserError as error:  # the metric is undefined for these runs: this question has no answer
        return replace(case, incomparable=(str(error),))
    return replace(case, contrast=RunContrast(effect, effect.p, effect.estimate < 0), units=counted)


def at_look(case: Comparison, share: float) -> Comparison:
    """Return a comparison whose p and interval hold over all looks, of which this has a share of the level."""
    if case.contrast is None or case.contrast.p is None:
        return case
    effect = case.contrast.effect and case.contrast.effect.at_look(share)
    return replace(case, contrast=replace(case.contrast, effect=effect, p=min(1.0, case.contrast.p / share)))


def answered(case: Comparison, level: Level) -> Answer:
    """Return the answer to a compared question that was tested at this level."""
    if level.p is None and case.contrast:
        level = replace(level, p=case.contrast.p)
    return Answer(
        **vars(case),
        p=level.p,
        alpha=level.alpha,
        verdict=_qualified(case, _verdict(case, level)),
        scope=_scope(case),
        paired=_paired(case),
        exploratory=_explored(case),
    )


def _verdict(case: Comparison, level: Level) -> Verdict:
    """Form the verdict; of several obstacles to a conclusion, the first is reported."""
    question, measure, contrast, effect = case.question, case.measure, case.contrast, case.effect
    names = (question.first, question.second)
    if not case.arms:
        missing = [name for name, arm in zip(names, (case.first, case.second), strict=True) if not arm]
        return Verdict("not run", f"No completed run of {' and of '.join(missing)}.", "not run")
    if contrast is None:
        return Verdict("not comparable", f"Not comparable: {'; '.join(case.incomparable)}.")
    if contrast.p is None or level.p is None:
        return Verdict("no verdict", f"No verdict on {measure.title}: {contrast.note}.")
    evidence = Evidence(
        effect,
        level.p,
        level.alpha,
        level.correction,
        contrast.first_lower,
        contrast.note,
        num_runs=(len(case.arms[0].runs), len(case.arms[1].runs)),
        num_units=_can_show_failures(case),
        unit=case.count.word,
        is_rate=bool(case.units and case.units.num_trials),
        share=level.share,
    )
    units = counted(case.num_units, case.count.word[:-1])
    if case.smoke_test:
        sentence = f"Smoke test, which supports no conclusion: {format_effect(measure, evidence)}."
        return Verdict("smoke test", sentence, "smoke test")
    if case.too_few:
        between = f"{measure.title} {format_difference(measure, effect.estimate)}" if effect else contrast.note
        few = f"{units}, too few to say anything about others"
        return Verdict("no verdict", f"No verdict: {few}. Between them: {between}.")
    if case.chosen_by_search:
        arms = [arm.name for arm in case.arms if any(run.chosen_by_search for run in arm.runs)]
        how = f"{' and '.join(arms)} {'was' if len(arms) == 1 else 'were'} {case.chosen_by_search}"
        fix = "other seeds on images that chose nothing would tell (runcard study, a test split, chosen_by=…)"
        return Verdict("no verdict", f"No verdict: {how}; {fix}. Here: {format_effect(measure, evidence)}.")
    if endpoints.identical(*case.arms):
        what = ", ".join(each.key for each in case.studied) or "what differs"
        sentence = f"No verdict: both arms give the same value of every image. Does {what} reach the model?"
        return Verdict("no verdict", sentence)
    if effect and effect.se == 0:
        same = f"the difference in {measure.title} is the same in every image and seed"
        sentence = f"Cannot tell {' from '.join(names)}: {same}, which leaves nothing to measure chance by."
        return Verdict("cannot tell", sentence)
    if case.one_seed:
        networks = [(name, len(arm.runs)) for name, arm in zip(names, case.arms, strict=True)]
        return judge_networks(measure, evidence, networks, units)
    confounded = any(not each.key.startswith(HARMLESS) for each in case.confounds)
    return judge(question, measure, evidence, confounded)


def _qualified(case: Comparison, verdict: Verdict) -> Verdict:
    """Add what weakens a verdict to its sentence: images left out, curves that still change."""
    sentence = verdict.sentence
    if case.units and case.units.num_left_out:  # an arm may gain by failing on them
        left_out = counted(case.units.num_left_out, "image")
        sentence += f" Left out, without {case.measure.title} in some run: {left_out}."
    moved = [abs(learning_curves.still_rising(arm, case.measure.key)) for arm in case.arms]
    if verdict.word in DECIDED and case.measure.per_image and case.effect and max(moved) > abs(case.effect.estimate):
        sentence += f" Within the last third of the epochs the curves still moved by {max(moved):.3f}."
    claim = verdict.claim if case.question.claim else ""
    sentence += "".join(f" {arm.name}: {idle}." for arm in case.arms if (idle := arm.learnt_nothing))
    if losses := " and ".join(arm.losses for arm in case.arms if arm.losses):
        sentence += f" {losses}: this is about those that did not, and supports no claim."
        claim = "cannot tell" if claim in ("supported", "contradicted") else claim
    return replace(verdict, sentence=sentence, claim=claim)


def _can_show_failures(case: Comparison) -> int:
    """Count the units of which each could have shown a failure; 0 where the measure knows no worst value."""
    if case.units is None:
        return 0
    if case.units.num_trials:
        return case.units.num_trials
    is_bounded = math.isfinite(case.measure.largest_difference) and not case.units.is_pseudo
    return case.units.count if is_bounded else 0


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
    metric, (one, other) = case.question.of or case.question.measure, case.arms
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
                found.append((metric_measure(name, first.first), endpoints.contrast(first, second, name)))
    return tuple(found)
