"""What a finding of the audit was worth: a study's arms as they are, and without the images that the finding names.

The two differ in the images that they were trained on, on purpose, so that confounds.incomparable refuses them. Here
they are compared all the same, on the images that both were measured on: of the same id and the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runcard.compare import endpoints
from runcard.compare.answers import Answer
from runcard.compare.arms import Arm
from runcard.compare.confounds import session_factors
from runcard.compare.contrasts import metric_measure
from runcard.compare.measures import Measure
from runcard.console import counted
from runcard.errors import UserError
from runcard.runs.run import Run
from runcard.stats import mrmc
from runcard.stats.mrmc import Effect

OWN = "dataset.split.exclude"  # the one key in which they are to differ
NOT_COMPARED = {OWN, "seed", "train.extend"}


@dataclass(frozen=True)
class Without:
    """What study.json says of the finding whose images are left out."""

    finding: str
    of: str  # the name of the folder beside it, of the study as it is
    twins: Mapping[str, frozenset[str]]  # arm -> the images of other splits that had a copy in training

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Without:
        """Read it. Raises LookupError, TypeError or AttributeError where it is something else."""
        twins = {arm: frozenset(ids) for arm, ids in content["twins"].items()}
        return cls(str(content["finding"]), Path(content["of"]).name, twins)


@dataclass(frozen=True)
class ArmCost:
    """One arm: its score with and without the finding, the mean over the same seeds and images."""

    arm: str
    measure: Measure
    num_trained: tuple[int, int]  # training images, with and without
    num_images: int  # that both were measured on
    num_seeds: int
    scores: tuple[float, float] | None = None  # None: see note
    effect: Effect | None = None  # with − without: what the finding was worth; None of too few images or patients
    note: str = ""
    num_twins: int = 0  # of these images, those that had a copy in training
    of_twins: tuple[float, float] | None = None  # their scores, where an image has a score


@dataclass(frozen=True)
class Cost:
    """What a finding was worth to each arm, and to each verdict."""

    finding: str
    of: str  # the name of the folder of the study as it is
    arms: tuple[ArmCost, ...]
    verdicts: tuple[tuple[str, str, str], ...]  # a question's key, what was said of it with the finding, and without
    remarks: tuple[str, ...]

    @property
    def changed(self) -> list[str]:
        """The keys of the questions of which something else is said without the finding."""
        return [key for key, before, after in self.verdicts if before != after]

    @property
    def sentence(self) -> str:
        """How many verdicts depended on the finding, and which."""
        which = f": {', '.join(self.changed)}" if self.changed else ""
        return f"{len(self.changed)} of {counted(len(self.verdicts), 'verdict')} depended on {self.finding}{which}."


def cost(
    without: Without,
    metric: str,
    arms: tuple[Sequence[Arm], Sequence[Arm]],
    answers: tuple[Sequence[Answer], Sequence[Answer]],
) -> Cost:
    """Compare arms and answers, both as (with, without) the finding, in the metric or in what an arm monitors."""
    before = {arm.name: arm for arm in arms[0]}
    pairs = [(before[arm.name], arm) for arm in arms[1] if arm.name in before]
    said = {answer.question.key: _said(answer) for answer in answers[0]}
    return Cost(
        finding=without.finding,
        of=without.of,
        arms=tuple(_of_arm(*pair, metric, without.twins.get(pair[0].name, frozenset())) for pair in pairs),
        verdicts=tuple((a.question.key, said[a.question.key], _said(a)) for a in answers[1] if a.question.key in said),
        remarks=tuple(remark for pair in pairs for remark in _remarks(*pair)),
    )


def _said(answer: Answer) -> str:
    """Format what is said of a question: "better, claim supported"."""
    claim = f", claim {answer.verdict.claim}" if answer.verdict.claim else ""
    return f"{answer.verdict.word}{claim}"


def _of_arm(whole: Arm, without: Arm, metric: str, twins: frozenset[str]) -> ArmCost:
    """Compare the runs of the same seeds on the images that all of them were measured on."""
    if not endpoints.is_measured(whole.first, metric):
        metric = whole.first.monitored
    shared = sorted(whole.by_key.keys() & without.by_key.keys())
    runs = [[arm.by_key[key] for key in shared] for arm in (whole, without)]
    ids = _same_images([run for each in runs for run in each])
    found = ArmCost(
        arm=whole.name,
        measure=metric_measure(metric, whole.first),
        num_trained=(whole.first.split_sizes["train"], without.first.split_sizes["train"]),
        num_images=len(ids),
        num_seeds=len(shared),
        num_twins=len(ids & twins),
    )
    arms = [Arm(whole.name, tuple(each)) for each in runs if each]
    return _measured(found, arms, metric, ids, twins)


def _measured(found: ArmCost, arms: Sequence[Arm], metric: str, ids: set[str], twins: frozenset[str]) -> ArmCost:
    if len(arms) < 2 or found.num_images < 2 or arms[0].first.split != arms[1].first.split:
        return replace(found, note="no seed, or no two images, that both were measured with")
    try:
        before, after = endpoints.units(arms, metric, ids=ids).values
    except UserError as error:
        return replace(found, note=str(error))
    scores = (float(before.mean()), float(after.mean()))
    effect = mrmc.difference(before, after) if before.shape[1] >= mrmc.MIN_UNITS else None
    of_twins = [_of_twins(arm, metric, ids & twins) for arm in arms]
    pair = None if of_twins[0] is None or of_twins[1] is None else (of_twins[0], of_twins[1])
    return replace(found, scores=scores, effect=effect, of_twins=pair)


def _of_twins(arm: Arm, metric: str, twins: set[str]) -> float | None:
    """Average a metric over the runs and the images that had a copy in training; None where there is no value."""
    values = endpoints.of_images(arm, metric)
    if values is None:
        return None
    known = values[np.isin(arm.first.images().ids, sorted(twins)) & np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _same_images(runs: Sequence[Run]) -> set[str]:
    """Return the ids of the compared images that all runs have, with the same bytes."""
    members = [{(m["id"], m["sha256"]) for m in run.split_members[run.split] if m.get("sha256")} for run in runs]
    return {name for name, _ in set.intersection(*members)} if members else set()


def _remarks(whole: Arm, without: Arm) -> Iterator[str]:
    """Yield what else the runs of an arm differ in."""
    one, other = whole.first.config, without.first.config
    keys = [key for key in sorted({*one, *other} - NOT_COMPARED) if one.get(key) != other.get(key)]
    yield from (f"{whole.name}: {key} is {one.get(key)} with, {other.get(key)} without" for key in keys)
    for each in session_factors(whole, without):
        yield f"{whole.name}: with and without differ in {each}"
    compared = [{m["id"] for m in arm.first.split_members[arm.first.split]} for arm in (whole, without)]
    if alone := len(compared[0] - compared[1]):
        yield f"{whole.name}: {alone} of the compared images are among those left out; scores are of the others"
