"""Whether a candidate is kept in place of a baseline: one answer for scripts and research loops.

Every candidate that is held against a baseline is one more chance to be better by luck. Their number is set at the
first call, and recorded in gate.json beside the baseline's runs: each is tested at α / number, at each of its looks at
its share of that. So all calls together keep a candidate that is no better in at most α of the cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from runcard.compare.answers import Answer
from runcard.compare.arms import Arm, same_config
from runcard.compare.looks import OPEN, Design, answer_in_looks
from runcard.compare.questions import Question
from runcard.console import counted
from runcard.errors import UserError
from runcard.fileio import read_json, write_json
from runcard.runs.environment import now
from runcard.stats.sequential import LOOKS

FILE = "gate.json"
BUDGET = 10  # of seeds
BONFERRONI = "Bonferroni over {} candidates"  # a family of one question, and of the candidates that are planned
KEEP, DISCARD, MORE_SEEDS = "keep", "discard", "more seeds"
EXIT_CODES = {KEEP: 0, DISCARD: 1, MORE_SEEDS: 3}


@dataclass(frozen=True)
class Decision:
    """What becomes of a candidate, and why."""

    word: str  # keep | discard | more seeds
    num_seeds: int  # that each arm needs for the next look; 0 where none is needed
    place: int  # of this candidate among those of the baseline, from 1 on
    num_candidates: int  # that were planned
    answer: Answer

    @property
    def sentence(self) -> str:
        """What is said to people."""
        more = f" Run seeds 0 to {self.num_seeds - 1} of both." if self.num_seeds else ""
        said = f"{self.word}: {self.answer.verdict.sentence}{more}"
        return f"{said} Candidate {self.place} of {self.num_candidates} of this baseline."


def decide(
    baseline: Arm, candidate: Arm, folder: Path, metric: str, margin: float | None, num_candidates: int | None
) -> Decision:
    """Hold a candidate against a baseline, and record it in gate.json in the baseline's folder.

    num_candidates is the number that will be held against it in all; None: as recorded, or 20. Raises UserError where
    they cannot be compared, or where as many candidates were tried already.
    """
    ledger = _ledger(folder, baseline, metric, margin, num_candidates)
    key = _key(candidate)
    tried: dict[str, Any] = ledger["tried"]
    if key not in tried and len(tried) >= ledger["candidates"]:
        raise UserError(
            f"{folder / FILE}: {counted(len(tried), 'candidate')} held against this baseline, as many as planned. Take "
            "the best one that was kept as the new baseline; or run new seeds of this one in another folder."
        )
    question = Question("gate", "Is the candidate better?", candidate.name, baseline.name, metric, margin=margin)
    design = Design(LOOKS[BUDGET], BUDGET, {arm.name: _num_tried(arm) for arm in (baseline, candidate)})
    planned = ledger["candidates"]
    (answer,) = answer_in_looks([question], [baseline, candidate], design, planned, correction=BONFERRONI)
    if answer.verdict.word not in ("better", "worse", "equivalent", "cannot tell", OPEN) or answer.is_constant:
        raise UserError(f"{candidate.name}, {baseline.name}: {answer.verdict.sentence}")
    word = {"better": KEEP, OPEN: MORE_SEEDS}.get(answer.verdict.word, DISCARD)
    reached = answer.path[-1].num_seeds if answer.path else 0
    more = next(seeds for seeds in design.within_budget if seeds > reached) if word == MORE_SEEDS else 0
    looks = [*tried.get(key, {}).get("answers", []), {"time": now(), "answer": word, "seeds": reached}]
    tried[key] = {"name": candidate.name, "answers": looks}
    write_json(folder / FILE, ledger)
    return Decision(word, more, list(tried).index(key) + 1, ledger["candidates"], answer)


def as_json(decision: Decision) -> Mapping[str, Any]:
    """Convert a decision to JSON types."""
    answer = decision.answer
    look = answer.path[-1] if answer.path else None
    return {
        "answer": decision.word,
        "more_seeds": decision.num_seeds,
        "seeds": look.num_seeds if look else 0,
        "metric": answer.measure.key,
        "difference": look.effect.estimate if look and look.effect else None,
        "interval": list(look.interval) if look and look.effect else None,
        "p_adjusted": answer.p,
        "candidate": decision.place,
        "candidates": decision.num_candidates,
        "sentence": decision.sentence,
    }


def _ledger(
    folder: Path, baseline: Arm, metric: str, margin: float | None, num_candidates: int | None
) -> dict[str, Any]:
    """Read gate.json, or begin it. Raises UserError where it is of another baseline, or another plan."""
    asked = {"baseline": _key(baseline), "metric": metric, "margin": margin}
    if not (folder / FILE).exists():
        return {**asked, "candidates": num_candidates or 20, "tried": {}}
    try:
        ledger: dict[str, Any] = read_json(folder, FILE)
        known = {key: ledger[key] for key in asked}
        if int(ledger["candidates"]) < 1 or not all("answers" in each for each in ledger["tried"].values()):
            raise ValueError("candidates or tried")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / FILE}: damaged ({error}): how many candidates were tried is not known any more. Restore it, or "
            "run new seeds of the baseline in another folder."
        ) from None
    if num_candidates not in (None, ledger["candidates"]):
        asked["candidates"], known["candidates"] = num_candidates, ledger["candidates"]
    if changed := [f"{key} {known[key]}, now {asked[key]}" for key in asked if known[key] != asked[key]]:
        raise UserError(
            f"{folder / FILE}: was begun with {'; '.join(changed)}. All calls on one baseline share one plan: ask as "
            "before, or take a baseline in another folder."
        )
    return ledger


def _key(arm: Arm) -> str:
    """Return a hash of an arm's config and of its first run's values, whatever its folders are called.

    More seeds leave it as it is; other code that changes a number makes another candidate of it.
    """
    digest = hashlib.sha256("\n".join(map(str, same_config(arm.first))).encode())
    for name, values in sorted(arm.first.images().values.items()):
        digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def _num_tried(arm: Arm) -> int:
    seeds = {*arm.seeds, *(seed for _, seed in arm.failed)}
    return next(seed for seed in count() if seed not in seeds)
