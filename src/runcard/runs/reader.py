"""Which run folders there are, and which are whole: what is damaged is reported here and breaks nothing later."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsorted

from runcard.errors import UserError, did_you_mean, runs_below
from runcard.fileio import inside, sha256
from runcard.runs.folders import ASIDE, BEST, read_metadata, run_folders
from runcard.runs.run import PROBABILITY, Run
from runcard.runs.schema import SCHEMA_VERSION, CompletedRun, faults

NO_NUMBER = "is not a number in its last epoch"


@dataclass(frozen=True)
class RunSearch:
    """What a search for runs found: those that can be compared, and those that cannot, each with the reason."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...]
    failed: tuple[Run, ...] = ()  # of those left out, the ones that ended without a value


def find_folders(patterns: Sequence[str]) -> list[Path]:
    """Return the run folders in these folders, sweeps or patterns (outputs/lab*), each once, in natural order.

    Raises UserError where a pattern names none. Those that overwrite=true moved aside count only where they are named
    themselves.
    """
    folders: list[Path] = []
    for pattern in patterns:
        here = Path(pattern)
        matches = [here] if here.exists() else [path for path in _glob(here) if not ASIDE.search(path.name)]
        found = {folder for match in matches for folder in run_folders(match)}
        if not matches:
            others = here.parent.iterdir() if here.parent.is_dir() else ()
            raise UserError(f"{pattern}: no such folder.{did_you_mean(here, others) or ' Name a run or a sweep.'}")
        if not found:
            raise UserError(f"{pattern}: no run folder here or below (one has a run.json). Name a run or a sweep.")
        folders += natsorted(found, key=str)
    return list(dict.fromkeys(folders))


def find_runs(patterns: Sequence[str]) -> RunSearch:
    """Read the runs in the folders that find_folders finds.

    Runs that did not complete, or cannot be read, are left out and named.
    """
    runs, left_out, failed = [], [], []
    for folder in find_folders(patterns):
        run, reason = read_run(folder)
        if run is None:
            left_out.append(f"{folder}: {reason}")
            failed += [Run(folder, read_metadata(folder))] if has_failed(folder, reason) else []
        else:
            runs.append(run)
    if not all(run.is_evaluation for run in runs):  # evaluations count where nothing else is named
        runs = [run for run in runs if not run.is_evaluation]
    return RunSearch(tuple(runs), tuple(left_out), tuple(failed))


def has_failed(folder: Path, reason: str) -> bool:
    """Whether a run that cannot be compared, for this reason, was tried and ended without a value."""
    try:
        return read_metadata(folder).get("status") == "failed" or reason.endswith(NO_NUMBER)
    except ValueError:  # damaged
        return False


def evaluations_of(found: RunSearch, folder: Path) -> RunSearch:
    """Return the evaluations of these runs in a folder that `runcard evaluate` wrote; those without one are named."""
    evaluations = [run for run in find_runs([str(folder)]).runs if run.is_evaluation]
    by_run = {Path(run.metadata["evaluation"]["run"]).resolve(): run for run in evaluations}
    if not by_run:
        raise UserError(f"--on={folder}: holds no evaluation. Make one: runcard evaluate RUN... -o {folder}")
    pairs = [(run, by_run.get(run.folder.resolve())) for run in found.runs]
    missing = [f"{run.folder}: not evaluated in {folder}" for run, evaluation in pairs if evaluation is None]
    return RunSearch(tuple(each for _, each in pairs if each), (*found.left_out, *missing), found.failed)


def weights_file(name: str) -> Path:
    """Return the file of weights that train.init_from names: itself, or of a run folder that of the best epoch."""
    path = Path(name).expanduser()
    try:
        file = inside(path, BEST) if path.is_dir() else path
    except ValueError as error:
        raise UserError(f"train.init_from: {path}: {error}.") from None
    if file.suffix != ".safetensors" or not file.is_file():
        fault = "not a .safetensors file" if file.is_file() else "no such file"
        fix = runs_below(path) or " Name a run folder, or a file of weights in that format."
        raise UserError(f"train.init_from: {file}: {fault}.{fix}")
    return file


def read_run(folder: Path) -> tuple[Run | None, str]:
    """Return the completed run in folder, or None and why it cannot be compared.

    All that comparisons ask of a run is looked at here, so that a damaged folder breaks nothing later.
    """
    try:
        run = Run(folder, read_metadata(folder))
    except ValueError as error:
        return None, str(error)
    try:
        fault = next(chain(_faults_of_metadata(run.metadata), _faults_of_files(run)), "")
    except (OSError, LookupError, TypeError, ValueError, csv.Error) as error:
        fault = f"metrics.csv, per_image.csv or split.json is missing or damaged ({error})"
    return (None, fault) if fault else (run, "")


def _faults_of_metadata(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield why run.json is none of a run to compare. The first one counts."""
    if metadata.get("schema") != SCHEMA_VERSION:
        yield f"its schema is {metadata.get('schema')}, this version of runcard reads {SCHEMA_VERSION}"
    if metadata.get("status") != "completed":
        reason = f": {str(metadata['error']).partition(chr(10))[0]}" if metadata.get("error") else ""
        yield f"{metadata.get('status', 'run.json: status is missing')!s:.200}{reason}"
    yield from (f"run.json: {fault}" for fault in faults(metadata, CompletedRun))


def _faults_of_files(run: Run) -> Iterator[str]:
    """Yield why the files beside run.json do not fit it, or each other. Again only the first one counts."""
    metadata, monitor = run.metadata, run.metadata["best"]["monitor"]
    epochs = run.curves["epoch"]
    if len(epochs) != metadata["epochs"] or (np.diff(epochs, prepend=0) != 1).any():
        yield f"metrics.csv has {len(epochs)} epochs, or not in order; run.json says {metadata['epochs']}"
    if not 1 <= metadata["best"]["epoch"] <= len(epochs):
        yield f"run.json: best.epoch is damaged: {metadata['best']['epoch']}"
    if not np.isfinite(run.curves[monitor][-1]):
        yield f"{monitor} {NO_NUMBER}"
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
    measured = {name.partition("/")[2] for name in (monitor, *metadata["last"]["values"])}
    measured |= {name for name in run.images().values if not name.startswith(PROBABILITY)}
    if unknown := sorted(name for name in measured if metadata["better"].get(name) not in ("max", "min")):
        yield f"run.json: better says neither max nor min of {unknown[0]}"
    for name in ("metrics.csv", "per_image.csv", "split.json"):
        recorded = metadata.get("sha256", {}).get(name)  # absent in runs of older versions
        if recorded and sha256(inside(run.folder, name)) != recorded:
            yield f"{name}: damaged or replaced: its SHA-256 is not the one in run.json"


def _glob(pattern: Path) -> Iterable[Path]:
    return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
