"""Two arms in what a question asks: their difference, and what keeps it from being a conclusion."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from runcard.compare import endpoints, learning_curves
from runcard.compare.arms import Arm
from runcard.compare.confounds import Factor, incomparable, length_factors, session_factors, split_factors
from runcard.compare.endpoints import Count, Units
from runcard.compare.learning_curves import RunContrast
from runcard.compare.measures import Measure, title
from runcard.compare.questions import Question
from runcard.errors import UserError
from runcard.runs.run import Run
from runcard.stats.mrmc import MIN_UNITS, Array, Effect

MATTER_TO_TIMES = ("hardware", "precision")


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
    def is_constant(self) -> bool:
        """Whether the difference is the same in every image and seed, which leaves nothing to measure chance by."""
        return self.effect is not None and self.effect.se == 0

    @property
    def scores(self) -> dict[str, float]:
        """The mean of each arm by its name, of which effect is the difference, or the ratio; {} without an effect."""
        if self.effect is None:
            return {}
        if self.units:
            means = [float(values.mean()) for values in self.units.values]
        elif self.measure.per_image:
            means = [endpoints.of_arm(arm, self.measure.key).estimate for arm in self.arms]
        else:
            key, metric, threshold = self.measure.key, self.question.of or "", self.question.threshold
            read = [learning_curves.value(key, arm, metric, threshold).mean for arm in self.arms]
            means = [mean.estimate if mean else math.nan for mean in read]
        back = math.exp if self.measure.is_ratio else float
        return dict(zip((arm.name for arm in self.arms), map(back, means), strict=True))

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


def metric_measure(metric: str, run: Run | None) -> Measure:
    """Describe a metric: its title and, where the run records them, which values are better and its bounds."""
    if run is None or metric not in run.metadata["better"]:
        return Measure(metric, title(metric), None, per_image=True)
    written = title(metric) + (f" ({run.units[metric]})" if metric in run.units else "")
    return Measure(metric, written, run.mode(metric), per_image=True, bounds=endpoints.bounds(run, metric))


def compare_arms(question: Question, first: Arm | None, second: Arm | None) -> Comparison:
    """Contrast two arms in what a question asks, or say why they cannot be compared."""
    metric, dynamic = question.metric, learning_curves.MEASURES.get(question.measure)
    arm = first or second
    if dynamic:
        measure = learning_curves.measure(question.measure, metric, question.threshold)
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
        return replace(case, contrast=learning_curves.compare(measure.key, first, second, metric, question.threshold))
    try:
        effect, compared = endpoints.contrast(first, second, metric)
    except UserError as error:  # the metric is undefined for these runs: this question has no answer
        return replace(case, incomparable=(str(error),))
    return replace(case, contrast=RunContrast(effect, effect.p, effect.estimate < 0), units=compared)


def at_look(case: Comparison, share: float) -> Comparison:
    """Return a comparison whose p and interval hold over all looks, of which this has a share of the level."""
    if case.contrast is None or case.contrast.p is None:
        return case
    effect = case.contrast.effect and case.contrast.effect.at_look(share)
    return replace(case, contrast=replace(case.contrast, effect=effect, p=min(1.0, case.contrast.p / share)))
