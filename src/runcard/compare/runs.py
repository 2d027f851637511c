"""Run folders as they lie on the disk, and the arms that they form: runs that differ only by seed, or by fold."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsorted
from numpy.typing import NDArray

from runcard.errors import UserError
from runcard.facts import flatten, matters
from runcard.record import SCHEMA_VERSION, read_metrics

Array = NDArray[np.float64]
PROBABILITY = "prob_"  # of per_image.csv: the columns of the classes' probabilities


@dataclass(frozen=True)
class Images:
    """The rows of per_image.csv of one split and one checkpoint, by column."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: dict[str, Array]  # name -> (I,)
    targets: tuple[str, ...]  # class names; empty where the targets are masks

    @property
    def probs(self) -> dict[str, Array]:
        """Returns the probability (I,) of each class, by its name."""
        return {name.removeprefix(PROBABILITY): v for name, v in self.values.items() if name.startswith(PROBABILITY)}


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    facts: dict[str, Any]  # run.json

    @cached_property
    def config(self) -> dict[str, Any]:
        """Returns the leaves of the resolved config that can change the numbers, by dotted key."""
        return {key: value for key, value in flatten(self.facts["config"]).items() if matters(key)}

    @property
    def seed(self) -> int:
        """Returns the run's seed."""
        return int(self.config["seed"])

    @property
    def is_fold(self) -> bool:
        """Whether the run is one fold of a cross-validation."""
        return bool(self.config["dataset.split.kind"] == "kfold")

    @property
    def fold(self) -> int:
        """Returns the fold, 0 outside a cross-validation."""
        return int(self.config["dataset.split.fold"]) if self.is_fold else 0

    @property
    def rehearsal(self) -> bool:
        """Whether the run can support no conclusion: made at scale=quick, or on a few batches only."""
        return bool(self.config["rehearsal"] or self.config["train.limit_batches"] is not None)

    @property
    def session(self) -> dict[str, Any]:
        """Returns device, precision, hardware, versions and code of the last session."""
        return dict(self.facts["sessions"][-1])

    @property
    def split(self) -> str:
        """Returns the split that a comparison goes by: test where there is one, else val."""
        return "test" if any(name.startswith("test/") for name in self.facts["last"]["values"]) else "val"

    @cached_property
    def split_sizes(self) -> dict[str, int]:
        """Returns the number of images in train, val and test."""
        split = json.loads((self.folder / "split.json").read_text(encoding="utf-8"))
        return {part: len(members) for part, members in split.items()}

    @cached_property
    def curves(self) -> dict[str, Array]:
        """Returns the columns (E,) of metrics.csv."""
        rows = read_metrics(self.folder / "metrics.csv")
        return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]} if rows else {}

    @cached_property
    def _images(self) -> dict[tuple[str, str], Images]:
        with (self.folder / "per_image.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        parts: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in rows:
            parts.setdefault((row["split"], row["checkpoint"]), []).append(row)
        return {part: _columns(members) for part, members in parts.items()}

    def images(self, checkpoint: str = "last") -> Images:
        """Returns the values of the compared split's images, for the weights of the last or the best epoch."""
        return self._images[self.split, checkpoint]

    def better(self, name: str) -> str:
        """Returns max where larger values of a metric are better, else min."""
        return str(self.facts["better"][name])


@dataclass(frozen=True)
class Arm:
    """Runs of one card, which differ only by seed, and by fold in a cross-validation."""

    name: str
    runs: tuple[Run, ...]  # at least one; by fold, then by seed

    @property
    def first(self) -> Run:
        """Returns the run that stands for what all share: card, data, split."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Returns the seeds, in order."""
        return tuple(sorted({run.seed for run in self.runs}))


@dataclass(frozen=True)
class Found:
    """What a search for runs found: those that can be compared, and those that cannot, each with the reason."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...]


def find_runs(patterns: Sequence[str]) -> Found:
    """Returns the runs in these folders, sweeps or patterns (outputs/lab*), each once, in natural order.

    Raises UserError where a pattern names no run folder. Runs that did not complete, or cannot be read, are left out
    and named.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        here = Path(pattern)
        folders = [here] if here.exists() else sorted(Path().glob(pattern) if not here.is_absolute() else _glob(here))
        found = [file for folder in folders for file in (folder / "run.json", *folder.glob("**/run.json"))]
        found = [file for file in found if file.is_file()]
        if not found:
            raise UserError(f"{pattern}: no run folder here or below (one has a run.json). Name a run or a sweep.")
        files |= dict.fromkeys(natsorted(found, key=str))
    runs, left_out = [], []
    for file in files:
        run, reason = read_run(file.parent)
        if run is None:
            left_out.append(f"{file.parent}: {reason}")
        else:
            runs.append(run)
    return Found(tuple(runs), tuple(left_out))


def read_run(folder: Path) -> tuple[Run | None, str]:
    """Returns the completed run in folder, or None and why it cannot be compared."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return None, f"run.json cannot be read ({error})"
    if facts.get("schema") != SCHEMA_VERSION:
        return None, f"its schema is {facts.get('schema')}, this version of runcard reads {SCHEMA_VERSION}"
    if facts["status"] != "completed":
        reason = f": {str(facts['error']).splitlines()[0]}" if facts.get("error") else ""
        return None, f"{facts['status']}{reason}"
    run = Run(folder, facts)
    try:
        monitored = run.curves[facts["best"]["monitor"]]
        run.images(), run.split_sizes  # noqa: B018: what cannot be read is said here, once
    except (OSError, KeyError, ValueError) as error:
        return None, f"metrics.csv, per_image.csv or split.json is missing or damaged ({error})"
    if np.isnan(monitored[-1]):
        return None, f"{facts['best']['monitor']} is not a number in its last epoch"
    return run, ""


def same_card(run: Run) -> tuple[Any, ...]:
    """Returns what all runs of an arm share: the card but for seed and fold, the data, and their split."""
    apart = {"seed"} | ({"dataset.split.fold"} if run.is_fold else set())
    card = json.dumps({k: v for k, v in run.config.items() if k not in apart}, sort_keys=True, default=str)
    return card, run.facts["data"]["hash"], "" if run.is_fold else run.facts["data"]["split_hash"]


def _columns(rows: Sequence[dict[str, str]]) -> Images:
    texts = ("split", "checkpoint", "id", "group", "target")
    return Images(
        ids=tuple(row["id"] for row in rows),
        groups=tuple(row["group"] for row in rows),
        values={
            name: np.array([float(row[name] or math.nan) for row in rows]) for name in rows[0] if name not in texts
        },
        targets=tuple(row["target"] for row in rows) if "target" in rows[0] else (),
    )


def _glob(pattern: Path) -> Iterable[Path]:
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
