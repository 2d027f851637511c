"""Which run folders there are, and which of them are whole: what is damaged is told here and breaks nothing later."""

from __future__ import annotations

import csv
import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsorted

from runcard.errors import UserError
from runcard.runs.run import PROBABILITY, Run, is_audited

Row = dict[str, Any]  # of metrics.csv


SCHEMA_VERSION = (
    5  # 2 features, shortcut, num_trained_parameters, seconds.caching; 3 better; 4 audit, model, sha256; 5 bounds
)


def read_metrics(path: Path) -> list[Row]:
    """Returns the rows of a metrics.csv, epoch and step as int and the rest as float; none where it is absent."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: int(v) if k in ("epoch", "step") else float(v or math.nan) for k, v in row.items()} for row in rows]


Types = Mapping[str, type | tuple[type, ...]]  # by dotted key
ASIDE = re.compile(r"\.old\d+$")  # the end of a folder's name that overwrite=true has moved aside

SCHEMAS = (3, 4, SCHEMA_VERSION)  # a run of schema 3 was not audited; one of schema 4 does not know bounds
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
OF_AUDITED: Types = {"audit": list}
OF_FINDING: Types = {"check": str, "what": str, "allowed": bool}
OF_SESSION: Types = {
    "precision": str,
    "code": str,
    "hardware.cpu": str,
    "hardware.gpu": (str, NOTHING),
    "hardware.threads": int,
    "versions": dict,
}


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
    if facts.get("schema") not in SCHEMAS:
        yield f"its schema is {facts.get('schema')}, this version of runcard reads {', '.join(map(str, SCHEMAS))}"
    if facts.get("status") != "completed":
        reason = f": {str(facts['error']).splitlines()[0]}" if facts.get("error") else ""
        yield f"{facts.get('status', 'run.json: status is missing')}{reason}"
    needed = {**OF_RUN, **(OF_FEATURES if facts.get("features") else {}), **(OF_AUDITED if is_audited(facts) else {})}
    yield from (f"run.json: {fault}" for fault in faults(facts, needed))
    if not facts["sessions"]:
        yield "run.json: sessions is empty"
    for session in facts["sessions"]:
        yield from (f"run.json: sessions: {fault}" for fault in faults(session, OF_SESSION))
        versions = dict.fromkeys(session["versions"], str)
        yield from (f"run.json: sessions: version of {fault}" for fault in faults(session["versions"], versions))
    for finding in facts["audit"] if is_audited(facts) else ():
        yield from (f"run.json: audit: {fault}" for fault in faults(finding, OF_FINDING))
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


def _glob(pattern: Path) -> Iterable[Path]:
    return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
