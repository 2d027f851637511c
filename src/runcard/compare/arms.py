"""Arms: groups of runs that differ only by seed, or by fold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from runcard.console import counted
from runcard.runs.run import Run

WEIGHTS = {"weights_sha256": "model.weights", "init_sha256": "train.init_from"}  # hash of a file -> key that names it


@dataclass(frozen=True)
class Arm:
    """Runs of one config, which differ only by seed, and by fold in a cross-validation."""

    name: str
    runs: tuple[Run, ...]  # at least one; by fold, then by seed
    failed: tuple[tuple[int, int], ...] = ()  # fold and seed of its runs that ended without a value

    @property
    def first(self) -> Run:
        """The run that represents what all runs share: config, data, split."""
        return self.runs[0]

    @cached_property
    def by_key(self) -> dict[tuple[int, int], Run]:
        """The runs by fold and seed."""
        return {(run.fold, run.seed): run for run in self.runs}

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, each once, in ascending order."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def losses(self) -> str:
        """How many of its runs failed: "2 of 5 runs of A failed"; "" where none did."""
        num_runs = len(self.runs) + len(self.failed)
        return f"{len(self.failed)} of {num_runs} runs of {self.name} failed" if self.failed else ""

    @cached_property
    def learnt_nothing(self) -> str:
        """How many of its runs show no sign of learning, and what shows it; "" where all learnt something."""
        signs = [sign for run in self.runs if (sign := _no_learning(run))]
        where = f"no sign of learning in {len(signs)} of {counted(len(self.runs), 'run')}"
        return f"{where} ({', '.join(dict.fromkeys(signs))})" if signs else ""

    def first_seeds(self, num_seeds: int) -> Arm | None:
        """Return the arm with its runs of the seeds 0 to num_seeds − 1 alone; None where there is no such run."""
        runs = tuple(run for run in self.runs if run.seed < num_seeds)
        return Arm(self.name, runs, tuple(key for key in self.failed if key[1] < num_seeds)) if runs else None

    @property
    def allowed(self) -> tuple[str, ...]:
        """The data errors that training was allowed to ignore (audit.allow), as text."""
        found = (finding for run in self.runs for finding in run.metadata["audit"])
        return tuple(dict.fromkeys(f"{each['check']}: {each['what']}" for each in found if each["allowed"]))


def _no_learning(run: Run) -> str:
    """Return what shows that a run learnt nothing: one answer for all images, or a training loss that did not fall."""
    images, loss = run.images(), run.curves["train/loss"]
    if images.targets:
        called = np.unique(np.argmax(list(images.probs.values()), axis=0))
        if len(called) == 1 < len(set(images.targets)):
            return f"every image is called {list(images.probs)[called[0]]}"
    elif run.mode(run.monitored) == "max" and set(images.values.get(run.monitored, ())) in ({0.0}, {0.0, 1.0}):
        return f"{run.monitored} is 0 wherever there is something to find"
    return "its training loss did not fall" if len(loss) > 1 and loss[-1] >= loss[0] else ""


def same_config(run: Run) -> tuple[Any, ...]:
    """Return what an arm's runs share: config (except seed, fold, train.extend), data and, without folds, split.

    A key that is null is as good as absent: in runs from before there was such a key. Weights are known by their hash,
    wherever the file lies.
    """
    apart = {"seed", "train.extend"} | ({"dataset.split.fold"} if run.is_fold else set())
    apart |= {key for hashed, key in WEIGHTS.items() if hashed in run.config}
    config = {k: v for k, v in run.config.items() if k not in apart and v is not None}
    shared = json.dumps(config, sort_keys=True, default=str)
    return shared, run.metadata["data"]["hash"], "" if run.is_fold else run.metadata["data"]["split_hash"]
