"""The judgement on two rows of a published table, in sentences and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from runcard.stats.published import Case, Claim, Judgement, Verdict, needed, too_few_images

WHATEVER = {"dice": "whatever the correlation", "accuracy": "however few images they disagree on"}
RELATION = {"rho": ">"}  # all other assumptions are favourable where they are small
TAKEN_FOR_GRANTED = {
    "dice": "Taken for granted: both rows on the same images, no epoch chosen on them, Dice per image, then the mean.",
    "accuracy": "Taken for granted: both rows on the same images, no epoch chosen on them.",
}


def describe(claim: Claim, judgement: Judgement) -> list[str]:
    """Return the lines that `runcard check-claim` prints."""
    return [
        _subject(claim),
        f"Verdict: {_verdict(claim, judgement)}",
        f"  least favourable: {_case(judgement.worst)}",
        f"  most favourable:  {_case(judgement.best)}",
        TAKEN_FOR_GRANTED[claim.metric],
    ]


def as_json(claim: Claim, judgement: Judgement) -> dict[str, Any]:
    """Return the claim, the verdict with what would have to be true, and both tests."""
    content = {"claim": asdict(claim), **asdict(judgement), "sentences": describe(claim, judgement)}
    if judgement.verdict is Verdict.DEPENDS:
        content["needs_one_of"] = needed(claim, others=0)
        content["needs_all_of"] = needed(claim, others=1)
    return content


def _subject(claim: Claim) -> str:
    seeds = "one seed a row" if claim.num_seeds == 1 else f"{claim.num_seeds} seeds a row"
    picked = f", picked from {claim.num_rows} rows: p × {claim.num_rows - 1}" if claim.num_rows > 2 else ""
    a, b = claim.means
    difference = f"{claim.difference:+.4g}".replace("-", "−")
    name = "Dice" if claim.metric == "dice" else "Accuracy"
    return f"{name} {a:g} against {b:g}: {difference} on {claim.num_images} images, {seeds}{picked}."


def _verdict(claim: Claim, judgement: Judgement) -> str:
    if judgement.verdict is Verdict.HOLDS:
        return "holds under the least favourable of these assumptions."
    if judgement.verdict is Verdict.DEPENDS:
        return f"depends: {_needs(claim)}."
    why = f"cannot be concluded, {WHATEVER[claim.metric]}"
    if too_few_images(claim):
        num = round(claim.num_images * abs(claim.difference), 1)
        images = f"{num:g} image{'' if num == 1 else 's'}"
        return f"{why}: the rows differ by {images}, and no fewer than {claim.min_images} can be significant."
    if claim.metric == "accuracy":  # its variance changes with the difference: no single smallest one
        return f"{why}."
    best, worst = judgement.best.detectable, judgement.worst.detectable
    return f"{why}: that takes a difference above {best:.2g} at best, and above {worst:.2g} to hold at worst."


def _needs(claim: Claim) -> str:
    if alone := needed(claim, others=0):
        bounds = " or ".join(_bound(name, value) for name, value in alone.items())
        return f"needs {bounds}, all else at its least favourable"
    together = needed(claim, others=1)
    if not together:  # of three assumptions, any two suffice
        names = ", ".join(name.replace("_", " ") for name in claim.ranges)
        return f"needs two of {names} near their most favourable; none of them is enough alone"
    bounds = " and ".join(_bound(name, value) for name, value in together.items())
    return f"needs {bounds}; none of them is enough alone"


def _bound(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {RELATION.get(name, '<')} {value:.2g}"


def _case(case: Case) -> str:
    assumed = ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in case.assumed.items())
    return f"{assumed}: p {'< 0.001' if case.p < 0.001 else f'= {case.p:.3f}'}"
