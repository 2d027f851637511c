"""Verdicts as text. Every sentence states its numbers, and none claims more than the runs support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from runcard.compare.measures import Measure
from runcard.compare.questions import Question
from runcard.stats.mrmc import ALPHA, Effect, smallest_rank_p


@dataclass(frozen=True)
class Verdict:
    """A verdict in a word and in a sentence, and the outcome of the claim."""

    word: str
    sentence: str
    claim: str = "cannot tell"


@dataclass(frozen=True)
class Evidence:
    """The numbers behind a verdict on two comparable arms."""

    effect: Effect | None  # first − second; None where only ranks were compared
    p: float  # adjusted, where the question is one of a family
    alpha: float  # the level at which Holm tests p
    correction: str  # of p for several questions: "Holm over 6 questions"; "" of a single one
    first_lower: bool  # whether the first arm has the lower values
    counts: str = ""  # "5 of 5 and 2 of 5 reached 0.9", where there is no effect
    num_runs: tuple[int, int] = (0, 0)  # of each arm
    num_units: int = 0  # images or patients that could have shown a failure; 0 where the values know no failure
    unit: str = "images"
    is_rate: bool = False  # whether the values are right or wrong: then a margin must hold what was not seen too
    share: float = 1.0  # of several looks, this one's share of alpha

    @property
    def unseen(self) -> float:
        """The rate that a failure may have of which num_units show none."""
        return unseen_rate(self.alpha * self.share, self.num_units)


def unseen_rate(alpha: float, num_units: int) -> float:
    """Compute −ln(α/2) / n, the upper limit of a rate of which n units show no case; 0 without units."""
    return -math.log(alpha / 2) / num_units if num_units else 0.0


def judge(question: Question, measure: Measure, evidence: Evidence, confounded: bool) -> Verdict:
    """Judge two arms with several runs each."""
    first, second, margin = question.first, question.second, question.margin
    numbers = format_effect(measure, evidence)
    inside = _inside(evidence, margin)
    hidden = inside and evidence.is_rate and margin is not None and evidence.unseen >= margin
    if inside and not hidden:
        word, claim = "equivalent", "contradicted"
        sentence = f"{first} and {second} are equivalent within {margin:g}: {numbers}."
        if evidence.p < ALPHA:
            sentence += " The difference is real, and too small to matter."
        if evidence.num_units and not evidence.is_rate:
            sentence += f" {_capital(_hidden(evidence))}"
    elif evidence.p < ALPHA:
        word = _direction(measure, evidence.first_lower)
        verb = measure.verbs[word != "better"] if measure.better else f"has a {word} {measure.title} than"
        sentence = f"{first} {verb} {second}: {numbers}."
        expected = question.expect == ("lower" if evidence.first_lower else "higher")
        claim = "supported" if expected else "contradicted"
    else:
        word = claim = "cannot tell"
        sentence = f"Cannot tell {first} from {second}: {numbers}."
        if hidden:
            sentence += f" The interval lies within {margin:g}, but {_hidden(evidence)}"
        sentence += _detectable(measure, evidence)
    if confounded:
        claim = "confounded"
        sentence += " They differ in more than one thing, so that no single one can be given as the reason."
    return Verdict(word, sentence, claim)


def judge_networks(measure: Measure, evidence: Evidence, arms: Sequence[tuple[str, int]], images: str) -> Verdict:
    """Judge the trained networks, not the methods, where an arm (name, number of runs) has only one run."""
    first, second = (f"this {name} network" if num == 1 else f"the mean of {num} {name} networks" for name, num in arms)
    numbers = format_effect(measure, evidence)
    if evidence.p < ALPHA:
        word = _direction(measure, evidence.first_lower)
        verb = {"better": "beats", "worse": "loses to"}.get(word, f"has a {word} {measure.title} than")
        sentence = f"{_capital(first)} {verb} {second} on these {images}: {numbers}. Another seed could reverse it."
    else:
        sentence = (
            f"Cannot tell {first} from {second} on these {images}: {numbers}. "
            "And one seed says nothing of what another would do."
        )
    return Verdict("one seed", sentence)


def format_effect(measure: Measure, evidence: Evidence) -> str:
    """Format an effect: "Dice +0.012 (95 % interval +0.004 to +0.020, p = 0.003)"."""
    adjusted = f" after {evidence.correction}" if evidence.correction else ""
    p = f"p {format_p(evidence.p)}{adjusted}"
    if evidence.effect is None:
        return f"{measure.title}: {evidence.counts} (by ranks, {p})"
    interval = format_ci(measure, evidence.effect, evidence.alpha)
    return f"{measure.title} {format_difference(measure, evidence.effect.estimate)} ({interval}, {p})"


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


def _detectable(measure: Measure, evidence: Evidence) -> str:
    if evidence.effect is None:
        return _ranks_needed(evidence)
    smallest = evidence.effect.detectable(evidence.alpha)
    if smallest > measure.largest_difference:
        return " With so few runs and images, no possible difference would be found four times in five."
    text = f"×{math.exp(smallest):.2f}" if measure.is_ratio else f"{smallest:.3f}"
    return f" A true difference of {text} would be found four times in five at best, a smaller one more rarely."


def _ranks_needed(evidence: Evidence) -> str:
    """Say how many runs it takes for ranks to tell arms apart at all, where there are too few."""
    level = evidence.alpha * evidence.share
    if (smallest := smallest_rank_p(*evidence.num_runs)) < level:
        return ""
    enough = next(num for num in count(2) if smallest_rank_p(num, num) < level)
    first, second = evidence.num_runs
    return (
        f" Ranks of {first} and {second} runs cannot tell any two arms apart (their smallest p is {smallest:.2g}): it "
        f"takes {enough} in each."
    )


def _hidden(evidence: Evidence) -> str:
    rate, number = f"{100 * evidence.unseen:.2g} %", evidence.num_units
    return f"a failure on up to {rate} of such {evidence.unit} may be missing from these {number} by chance."


def _inside(evidence: Evidence, margin: float | None) -> bool:
    if evidence.effect is None or margin is None:
        return False
    low, high = evidence.effect.interval(evidence.alpha)
    return -margin < low and high < margin


def _direction(measure: Measure, first_lower: bool) -> str:
    if measure.better is None:
        return "lower" if first_lower else "higher"
    return "better" if first_lower == (measure.better == "min") else "worse"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
