"""Verdicts as text. Every sentence states its numbers, and none claims more than the runs support."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

from runcard.compare import endpoints, learning_curves
from runcard.compare.contrasts import Comparison
from runcard.compare.measures import Measure
from runcard.console import counted
from runcard.stats.mrmc import ALPHA, Effect, smallest_rank_p

DECIDED = ("better", "worse", "higher", "lower", "equivalent")
MAX_RATIO = 10  # a detectable ratio beyond it is not written out
HARMLESS = ("hardware", "version of")  # reported, but not an alternative explanation of a metric's difference


@dataclass(frozen=True)
class Verdict:
    """A verdict in a word and in a sentence, and the outcome of the claim."""

    word: str
    sentence: str
    claim: str = "cannot tell"


@dataclass(frozen=True)
class Level:
    """At what level a question was tested, as one of a family and at one of several looks."""

    p: float | None = None  # adjusted by Holm; None: that of the comparison, of a question that is in no family
    alpha: float = ALPHA  # the level at which Holm tests p, over all looks
    correction: str = ""  # "Holm over 6 questions"; "" of a single one
    share: float = 1.0  # of alpha, that this look has


def judge(case: Comparison, level: Level) -> Verdict:
    """Form the verdict, and add what weakens it: images left out, runs that failed, curves that still change."""
    verdict = _verdict(case, level)
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
    return Verdict(verdict.word, sentence, claim)


def _verdict(case: Comparison, level: Level) -> Verdict:
    """Form the verdict alone; of several obstacles to a conclusion, the first is reported."""
    question, measure, contrast, effect = case.question, case.measure, case.contrast, case.effect
    names = (question.first, question.second)
    if not case.arms:
        missing = [name for name, arm in zip(names, (case.first, case.second), strict=True) if not arm]
        return Verdict("not run", f"No completed run of {' and of '.join(missing)}.", "not run")
    if contrast is None:
        return Verdict("not comparable", f"Not comparable: {'; '.join(case.incomparable)}.")
    if contrast.p is None or level.p is None:
        return Verdict("no verdict", f"No verdict on {measure.title}: {contrast.note}.")
    numbers = format_effect(case, level.p, level.alpha, level.correction)
    if case.smoke_test:
        sentence = f"Smoke test, which supports no conclusion: {numbers}."
        return Verdict("smoke test", sentence, "smoke test")
    units = counted(case.num_units, case.count.word[:-1])
    if case.too_few:
        between = f"{measure.title} {format_difference(measure, effect.estimate)}" if effect else contrast.note
        few = f"{units}, too few to say anything about others"
        return Verdict("no verdict", f"No verdict: {few}. Between them: {between}.")
    if case.chosen_by_search:
        arms = [arm.name for arm in case.arms if any(run.chosen_by_search for run in arm.runs)]
        how = f"{' and '.join(arms)} {'was' if len(arms) == 1 else 'were'} {case.chosen_by_search}"
        fix = "other seeds on images that chose nothing would tell (runcard study, a test split, chosen_by=…)"
        return Verdict("no verdict", f"No verdict: {how}; {fix}. Here: {numbers}.")
    if endpoints.identical(*case.arms):
        what = ", ".join(each.key for each in case.studied) or "what differs"
        sentence = f"No verdict: both arms give the same value of every image. Does {what} reach the model?"
        return Verdict("no verdict", sentence)
    if case.is_constant:
        same = f"the difference in {measure.title} is the same in every image and seed"
        sentence = f"Cannot tell {' from '.join(names)}: {same}, which leaves nothing to measure chance by."
        return Verdict("cannot tell", sentence)
    if case.one_seed:
        return _judge_networks(case, f"on these {units}: {numbers}", level.p < ALPHA)
    return _judge_methods(case, level, numbers, level.p < ALPHA)


def _judge_networks(case: Comparison, numbers: str, is_significant: bool) -> Verdict:
    """Judge the trained networks, not the methods, where an arm has only one run."""
    first, second = (
        f"this {arm.name} network" if len(arm.runs) == 1 else f"the mean of {len(arm.runs)} {arm.name} networks"
        for arm in case.arms
    )
    if not is_significant:
        text = f"Cannot tell {first} from {second} {numbers}. And one seed says nothing of what another would do."
        return Verdict("one seed", text)
    word = _direction(case)
    verb = {"better": "beats", "worse": "loses to"}.get(word, f"has a {word} {case.measure.title} than")
    text = f"{first} {verb} {second} {numbers}. Another seed could reverse it."
    return Verdict("one seed", text[0].upper() + text[1:])


def _judge_methods(case: Comparison, level: Level, numbers: str, is_significant: bool) -> Verdict:
    """Judge two arms with several runs each."""
    question, measure, num_units = case.question, case.measure, _can_show_failures(case)
    first, second, margin = question.first, question.second, question.margin or 0.0
    low, high = case.effect.interval(level.alpha) if case.effect else (-math.inf, math.inf)
    is_inside = -margin < low and high < margin
    unseen = unseen_rate(level.alpha * level.share, num_units)
    failures = f"failure on up to {100 * unseen:.2g} % of such {case.count.word} may be missing from these {num_units}"
    is_rate = bool(case.units and case.units.num_trials)
    is_hidden = is_inside and is_rate and unseen >= margin
    if is_inside and not is_hidden:
        word, claim = "equivalent", "contradicted"
        sentence = f"{first} and {second} are equivalent within {margin:g}: {numbers}."
        if is_significant:
            sentence += " The difference is real, and too small to matter."
        if num_units and not is_rate:
            sentence += f" A {failures} by chance."
    elif is_significant:
        word = _direction(case)
        verb = measure.verbs[word != "better"] if measure.better else f"has a {word} {measure.title} than"
        sentence = f"{first} {verb} {second}: {numbers}."
        is_lower = case.contrast is not None and case.contrast.first_lower
        claim = "supported" if question.expect == ("lower" if is_lower else "higher") else "contradicted"
    else:
        word = claim = "cannot tell"
        sentence = f"Cannot tell {first} from {second}: {numbers}."
        if is_hidden:
            sentence += f" The interval lies within {margin:g}, but a {failures} by chance."
        sentence += _detectable(measure, case.effect, level.alpha) if case.effect else _ranks_needed(case, level)
    if any(not each.key.startswith(HARMLESS) for each in case.confounds):
        claim = "confounded"
        sentence += " They differ in more than one thing, so that no single one can be given as the reason."
    return Verdict(word, sentence, claim)


def _can_show_failures(case: Comparison) -> int:
    """Count the units of which each could have shown a failure; 0 where the measure knows no worst value."""
    if case.units is None:
        return 0
    if case.units.num_trials:
        return case.units.num_trials
    is_bounded = math.isfinite(case.measure.largest_difference) and not case.units.is_pseudo
    return case.units.count if is_bounded else 0


def unseen_rate(alpha: float, num_units: int) -> float:
    """Compute −ln(α/2) / n, the upper limit of a rate of which n units show no case; 0 without units."""
    return -math.log(alpha / 2) / num_units if num_units else 0.0


def _direction(case: Comparison) -> str:
    is_lower = case.contrast is not None and case.contrast.first_lower
    if case.measure.better is None:
        return "lower" if is_lower else "higher"
    return "better" if is_lower == (case.measure.better == "min") else "worse"


def _detectable(measure: Measure, effect: Effect, alpha: float) -> str:
    smallest = format_detectable(measure, effect, alpha)
    if smallest == "none":
        return " With so few runs and images, no possible difference would be found four times in five."
    return f" A true difference of {smallest} would be found four times in five at best, a smaller one more rarely."


def _ranks_needed(case: Comparison, level: Level) -> str:
    """Say how many runs it takes for ranks to tell arms apart at all, where there are too few."""
    first, second = (len(arm.runs) for arm in case.arms)
    if (smallest := smallest_rank_p(first, second)) < level.alpha * level.share:
        return ""
    enough = next(num for num in count(2) if smallest_rank_p(num, num) < level.alpha * level.share)
    return (
        f" Ranks of {first} and {second} runs cannot tell any two arms apart (their smallest p is {smallest:.2g}): it "
        f"takes {enough} in each."
    )


def format_effect(case: Comparison, p: float, alpha: float, correction: str = "") -> str:
    """Format the effect: "Dice +0.012 (95 % interval +0.004 to +0.020, p = 0.003 after Holm over 6 questions)"."""
    tested = f"p {format_p(p)}{f' after {correction}' if correction else ''}"
    if case.effect is None:
        return f"{case.measure.title}: {case.contrast.note if case.contrast else ''} (by ranks, {tested})"
    difference = format_difference(case.measure, case.effect.estimate)
    return f"{case.measure.title} {difference} ({format_ci(case.measure, case.effect, alpha)}, {tested})"


def format_detectable(measure: Measure, effect: Effect, alpha: float = ALPHA) -> str:
    """Format the smallest difference that is found four times in five: "0.061", "×1.93", "over ×10", or "none"."""
    smallest = effect.detectable(alpha)
    if smallest > measure.largest_difference:
        return "none"
    if measure.is_ratio and smallest > math.log(MAX_RATIO):  # of few runs it is ×5991, which nobody takes for a number
        return f"over ×{MAX_RATIO}"
    return format_difference(measure, smallest).lstrip("+")


def format_ci(measure: Measure, effect: Effect, alpha: float = ALPHA) -> str:
    """Format an interval with its level: "95 % interval +0.004 to +0.020"."""
    over = " over all looks" if effect.share < 1 else ""
    return (
        f"{100 * (1 - alpha):.4g} % interval{over} {format_range(measure, measure.difference_interval(effect, alpha))}"
    )


def format_range(measure: Measure, bounds: tuple[float, float]) -> str:
    """Format an interval: "+0.004 to +0.020"."""
    low, high = (format_difference(measure, bound) for bound in bounds)
    return f"{low} to {high}"


def format_p(p: float) -> str:
    """Format a p-value: "= 0.012", or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def format_difference(measure: Measure, value: float) -> str:
    """Format a difference: "+0.012", or "×0.62" where the measure is compared by ratio."""
    if measure.is_ratio:
        return f"×{math.exp(value):.2f}"
    digits = ".3f" if abs(value) >= 0.0005 or value == 0 else ".1g"  # a nonzero difference is never written +0.000
    return f"{value:+{digits}}".replace("-", "−")
