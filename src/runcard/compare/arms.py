"""The arms that runs form: runs that differ only by seed, or by fold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runcard.runs.run import Run


@dataclass(frozen=True)
class Arm:
    """Runs of one config, which differ only by seed, and by fold in a cross-validation."""

    name: str
    runs: tuple[Run, ...]  # at least one; by fold, then by seed

    @property
    def first(self) -> Run:
        """Returns the run that stands for what all share: config, data, split."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Returns the seeds, in order."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def allowed(self) -> tuple[str, ...]:
        """Returns the errors of the data that training went on with (audit.allow), as text."""
        found = (finding for run in self.runs for finding in run.metadata["audit"])
        return tuple(dict.fromkeys(f"{each['check']}: {each['what']}" for each in found if each["allowed"]))


def same_config(run: Run) -> tuple[Any, ...]:
    """Returns what all runs of an arm share: the config but for seed and fold, the data, and their split."""
    apart = {"seed", "train.extend"} | ({"dataset.split.fold"} if run.is_fold else set())
    shared = json.dumps({k: v for k, v in run.config.items() if k not in apart}, sort_keys=True, default=str)
    return shared, run.metadata["data"]["hash"], "" if run.is_fold else run.metadata["data"]["split_hash"]
