"""Run folders as they lie on the disk, and the arms that they form: runs that differ only by seed, or by fold."""

from __future__ import annotations

import csv
import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsorted
from numpy.typing import NDArray

from runcard.errors import UserError
from runcard.facts import flatten, matters
from runcard.record import SCHEMA_VERSION

Array = NDArray[np.float64]
Types = Mapping[str, type | tuple[type, ...]]  # by dotted key
PROBABILITY = "prob_"  # of per_image.csv: the columns of the classes' probabilities
ASIDE = re.compile(r"\.old\d+$")  # the end of a folder's name that overwrite=true has moved aside

ABSENT = object()
NUMBER, NOTHING = (int, float), type(None)
OF_RUN: Types = {  # what a comparison asks of run.json
    "choices.dataset": str,
    "config.seed": int,
    "config.rehearsal": bool,
    "config.dataset.split.kind": str,
    "config.dataset.split.fold": int,
    "config.train.epochs": int,
    "config.train.limit_batches": (int, NOTHING),
    "config.derived.classes": list,
    "config.derived.image_size_px": int,
    "data.hash": str,
    "data.split_hash": str,
    "num_parameters": int,
    "sessions": list,
    "end": str,
    "epochs": int,
    "seconds.total": NUMBER,
    "seconds.per_epoch": NUMBER,
    "seconds.caching": NUMBER,
    "last.values": dict,
    "best.values": dict,
    "best.epoch": int,
    "best.monitor": str,
    "better": dict,
}
OF_FEATURES: Types = {"features.seconds_when_made": NUMBER}  # of a run that trained on cached features
OF_SESSION: Types = {
    "precision": str,
    "code": str,
    "hardware.cpu": str,
    "hardware.gpu": (str, NOTHING),
    "hardware.threads": int,
    "versions": dict,
}


@dataclass(frozen=True)
class Images:
    """The rows of per_image.csv of one split and one checkpoint, by column."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: dict[str, Array]  # name -> (I,); NaN where an image has no value, or an infinite one
    targets: tuple[str, ...]  # class names; empty where the targets are masks

    @property
    def probs(self) -> dict[str, Array]:
        """Returns the probability (I,) of each class, by its name."""
        return {name.removeprefix(PROBABILITY): v for name, v in self.values.items() if name.startswith(PROBABILITY)}

    def equals(self, other: Images) -> bool:
        """Whether all values of all images are the same."""
        same = [np.array_equal(v, other.values.get(name, []), equal_nan=True) for name, v in self.values.items()]
        return self.ids == other.ids and all(same)


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
    def sessions(self) -> tuple[dict[str, Any], ...]:
        """Returns device, precision, hardware, versions and code of each session: the epochs may be of several."""
        return tuple(self.facts["sessions"])

    @property
    def session(self) -> dict[str, Any]:
        """Returns the same of the last session."""
        return self.sessions[-1]

    @property
    def split(self) -> str:
        """Returns the split that a comparison goes by: test where there is one, else val."""
        return "test" if any(name.startswith("test/") for name in self.facts["last"]["values"]) else "val"

    @cached_property
    def split_ids(self) -> dict[str, tuple[str, ...]]:
        """Returns the ids of the images in train, val and test."""
        split = json.loads((self.folder / "split.json").read_text(encoding="utf-8"))
        return {part: tuple(member["id"] for member in split[part]) for part in ("train", "val", "test")}

    @property
    def split_sizes(self) -> dict[str, int]:
        """Returns the number of images in train, val and test."""
        return {part: len(ids) for part, ids in self.split_ids.items()}

    @cached_property
    def curves(self) -> dict[str, Array]:
        """Returns the columns (E,) of metrics.csv."""
        header, rows = _read_csv(self.folder / "metrics.csv")
        return dict(zip(header, np.array([[_number(cell) for cell in row] for row in rows]).T, strict=True))

    @cached_property
    def tables(self) -> dict[tuple[str, str], Images]:
        """Returns per_image.csv by split (val, test) and checkpoint (last, best)."""
        header, rows = _read_csv(self.folder / "per_image.csv")
        parts: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in (dict(zip(header, cells, strict=True)) for cells in rows):
            parts.setdefault((row["split"], row["checkpoint"]), []).append(row)
        return {part: _columns(members) for part, members in parts.items()}

    def images(self, checkpoint: str = "last") -> Images:
        """Returns the values of the compared split's images, for the weights of the last or the best epoch."""
        return self.tables[self.split, checkpoint]

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
    and named; those that overwrite=true moved aside count only where they are named themselves.
    """
    folders: dict[Path, None] = {}
    for pattern in patterns:
        here = Path(pattern)
        matches = [here] if here.exists() else [path for path in _glob(here) if not ASIDE.search(path.name)]
        found = [folder for match in matches for folder in run_folders(match)]
        if not found:
            raise UserError(f"{pattern}: no run folder here or below (one has a run.json). Name a run or a sweep.")
        folders |= dict.fromkeys(natsorted(found, key=str))
    runs, left_out = [], []
    for folder in folders:
        run, reason = read_run(folder)
        if run is None:
            left_out.append(f"{folder}: {reason}")
        else:
            runs.append(run)
    return Found(tuple(runs), tuple(left_out))


def run_folders(folder: Path) -> list[Path]:
    """Returns folder where it is a run's, and the run folders below it that overwrite=true has not moved aside."""
    found = [file.parent for file in folder.glob("**/run.json") if file.is_file()]
    return natsorted([each for each in found if each == folder or not ASIDE.search(each.name)], key=str)


def read_facts(folder: Path) -> dict[str, Any]:
    """Returns run.json, as it stands there. Raises ValueError where it cannot be read."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"run.json cannot be read ({error})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"run.json cannot be read (it holds {reprlib.repr(facts)}, no keys)")
    return facts


def read_run(folder: Path) -> tuple[Run | None, str]:
    """Returns the completed run in folder, or None and why it cannot be compared.

    All that comparisons ask of a run is looked at here, so that a damaged folder is told here and breaks nothing later.
    """
    try:
        run = Run(folder, read_facts(folder))
    except ValueError as error:
        return None, str(error)
    try:
        fault = next(chain(_faults_of_facts(run.facts), _faults_of_files(run)), "")
    except (OSError, LookupError, TypeError, ValueError, csv.Error) as error:
        fault = f"metrics.csv, per_image.csv or split.json is missing or damaged ({error})"
    return (None, fault) if fault else (run, "")


def faults(content: object, needed: Types) -> Iterator[str]:
    """Yields each dotted key that content lacks, or under which another type stands, with what stands there."""
    for key, types in needed.items():
        found = content
        for step in key.split("."):
            found = found.get(step, ABSENT) if isinstance(found, Mapping) else ABSENT
        if not isinstance(found, types):
            yield f"{key} is {'missing' if found is ABSENT else f'damaged: {reprlib.repr(found)}'}"


def _faults_of_facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yields why run.json is none of a run to compare. Each check relies on those before it: the first one counts."""
    if facts.get("schema") != SCHEMA_VERSION:
        yield f"its schema is {facts.get('schema')}, this version of runcard reads {SCHEMA_VERSION}"
    if facts.get("status") != "completed":
        reason = f": {str(facts['error']).splitlines()[0]}" if facts.get("error") else ""
        yield f"{facts.get('status', 'run.json: status is missing')}{reason}"
    needed = {**OF_RUN, **OF_FEATURES} if facts.get("features") else OF_RUN
    yield from (f"run.json: {fault}" for fault in faults(facts, needed))
    if not facts["sessions"]:
        yield "run.json: sessions is empty"
    for session in facts["sessions"]:
        yield from (f"run.json: sessions: {fault}" for fault in faults(session, OF_SESSION))
        versions = dict.fromkeys(session["versions"], str)
        yield from (f"run.json: sessions: version of {fault}" for fault in faults(session["versions"], versions))
    for epoch in ("last", "best"):
        for name, value in facts[epoch]["values"].items():
            if not isinstance(value, (*NUMBER, NOTHING)):
                yield f"run.json: {name} of the {epoch} epoch is damaged: {reprlib.repr(value)}"


def _faults_of_files(run: Run) -> Iterator[str]:
    """Yields why the files beside run.json do not fit it, or each other. Again only the first one counts."""
    facts, monitor = run.facts, run.facts["best"]["monitor"]
    epochs = run.curves["epoch"]
    if len(epochs) != facts["epochs"] or (np.diff(epochs, prepend=0) != 1).any():
        yield f"metrics.csv has {len(epochs)} epochs, or not in order; run.json says {facts['epochs']}"
    if not np.isfinite(run.curves[monitor][-1]):
        yield f"{monitor} is not a number in its last epoch"
    ids = sorted(run.split_ids[run.split])
    for checkpoint in ("last", "best"):
        rows = images.ids if (images := run.tables.get((run.split, checkpoint))) else ()
        if not rows or sorted(rows) != ids:
            yield (
                f"per_image.csv, {checkpoint} epoch: {len(rows)} rows, which are not the {len(ids)} {run.split} images "
                "of split.json, each once"
            )
    if strange := sorted({*run.images().targets} - {*run.images().probs}):
        yield f"per_image.csv: {strange[0]} is a target without a column {PROBABILITY}{strange[0]}"
    measured = {name.partition("/")[2] for name in (monitor, *facts["last"]["values"])}
    measured |= {name for name in run.images().values if not name.startswith(PROBABILITY)}
    if unknown := sorted(name for name in measured if facts["better"].get(name) not in ("max", "min")):
        yield f"run.json: better says neither max nor min of {unknown[0]}"


def same_card(run: Run) -> tuple[Any, ...]:
    """Returns what all runs of an arm share: the card but for seed and fold, the data, and their split."""
    apart = {"seed", "train.extend"} | ({"dataset.split.fold"} if run.is_fold else set())
    card = json.dumps({k: v for k, v in run.config.items() if k not in apart}, sort_keys=True, default=str)
    return card, run.facts["data"]["hash"], "" if run.is_fold else run.facts["data"]["split_hash"]


def _columns(rows: Sequence[dict[str, str]]) -> Images:
    texts = ("split", "checkpoint", "id", "group", "target")
    values = {name: np.array([_number(row[name]) for row in rows]) for name in rows[0] if name not in texts}
    return Images(
        ids=tuple(row["id"] for row in rows),
        groups=tuple(row["group"] for row in rows),
        values={name: np.where(np.isfinite(column), column, np.nan) for name, column in values.items()},
        targets=tuple(row["target"] for row in rows) if "target" in rows[0] else (),
    )


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows; raises ValueError where there is none, or where a row is cut."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if not rows:
        raise ValueError(f"{path.name} is empty")
    if cut := [i for i, row in enumerate(rows, start=2) if len(row) != len(header)]:
        raise ValueError(f"{path.name}: line {cut[0]} has {len(rows[cut[0] - 2])} values, not {len(header)}")
    return header, rows


def _number(cell: str) -> float:
    return float(cell or math.nan)


def _glob(pattern: Path) -> Iterable[Path]:
    return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
