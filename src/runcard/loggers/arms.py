"""A log folder of TensorBoard with an entry per arm, and the single runs below.

arms.json                 what the links below link to
arms/loss=bce             the mean of its runs
arms/loss=bce/highest     the highest run of each epoch, and below it the lowest, where there are several runs
no_arm/…                  links to the runs in no arm: not completed, damaged, or left out
runs/loss=bce/seed=0      links to the runs of the arms
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from runcard.compare.arms import Arm
from runcard.compare.learning_curves import band
from runcard.config.sweep import folder_name
from runcard.errors import UserError
from runcard.fileio import write_json
from runcard.loggers.tensorboard import write_curves, write_hparams
from runcard.runs.folders import read_metadata
from runcard.runs.run import Run

RECORD = "arms.json"  # also marks a folder that may be replaced
EVENTS = "events.out.tfevents.*"


def write_log_folder(folder: Path, arms: Sequence[Arm], run_folders: Sequence[Path]) -> int:
    """Write the log folder of these arms, whole or not at all, in place of an older one; return its number of runs.

    run_folders: of all runs to show, in arms or not. A run without an event file cannot be shown, nor any where the
    system allows no links. Raises UserError where the folder is something else, or would lie in one of a run.
    """
    if folder.exists() and not (folder / RECORD).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists, and was not written by runcard tensorboard. Name a new folder.")
    here = folder.resolve()
    if around := [each for each in run_folders if here.is_relative_to(each.resolve())]:
        raise UserError(f"{folder}: lies in the folder of a run, {around[0]}. Name a folder outside it.")
    half_written = here.with_name(f".{here.name}.tmp")
    shutil.rmtree(half_written, ignore_errors=True)  # of a killed process
    try:
        half_written.mkdir(parents=True)
        num_runs = _write(half_written, arms, [each.resolve() for each in run_folders if any(each.glob(EVENTS))])
        shutil.rmtree(here, ignore_errors=True)
        half_written.rename(here)
    except BaseException:
        shutil.rmtree(half_written, ignore_errors=True)
        raise
    return num_runs


def view(arms: Sequence[Arm]) -> str:
    """Return the query of TensorBoard's address that shows the arms alone, each in a colour.

    On top are the monitored metric, and the loss where all arms have the same. Without the filter ^arms/ (a field of
    the page), the single runs show too, in the colours of their arms.
    """
    shared = ["val/loss"] if all(arm.first.loss == arms[0].first.loss for arm in arms) else []
    first = dict.fromkeys([*_monitors(arms), *shared])
    options = {
        "runFilter": "^arms/",
        "runColorGroup": "regex:/([^/]*)",  # one colour for arms/NAME, arms/NAME/highest and runs/NAME/seed=0
        "pinnedCards": json.dumps([{"plugin": "scalars", "tag": tag} for tag in first], separators=(",", ":")),
        "smoothing": "0",
    }
    return f"?{urlencode(options, safe='/:,*()')}#timeseries"


def _write(folder: Path, arms: Sequence[Arm], run_folders: Sequence[Path]) -> int:
    """Write the log folder; run_folders, absolute, have event files."""
    names = [folder_name(arm.name.replace(", ", ",").replace(" ", "_")) for arm in arms]
    runs: dict[Path, str] = {}
    for name, arm in zip(names, arms, strict=True):
        _write_arm(folder / "arms" / name, arm)
        runs |= {run.folder.resolve(): f"runs/{name}/{_member(run)}" for run in arm.runs}
    write_hparams(folder / "arms" / names[0], _monitors(arms), [m for each in run_folders if (m := _metadata(each))])
    above = os.path.commonpath([each.parent for each in run_folders]) if run_folders else ""
    links = {runs.get(each, f"no_arm/{each.relative_to(above)}"): each for each in run_folders}
    write_json(folder / RECORD, {link: str(target) for link, target in links.items()})
    return sum(_link(folder / link, target) for link, target in links.items())


def _write_arm(entry: Path, arm: Arm) -> None:
    columns = dict.fromkeys(column for run in arm.runs for column in run.curves if column != "epoch")
    bands = {column: of_runs for column in columns if (of_runs := band(arm, column))}
    for name in ("mean", "highest", "lowest") if len(arm.runs) > 1 else ("mean",):
        curves = {
            column: dict(zip(each.epochs.astype(int).tolist(), getattr(each, name).tolist(), strict=True))
            for column, each in bands.items()
        }
        write_curves(entry if name == "mean" else entry / name, curves)


def _member(run: Run) -> str:
    """Name a run within its arm."""
    return f"fold={run.fold},seed={run.seed}" if run.is_fold else f"seed={run.seed}"


def _link(link: Path, target: Path) -> bool:
    """Link to a run folder; TensorBoard follows the link. Returns whether the system allows it."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        return False
    return True


def _monitors(arms: Sequence[Arm]) -> list[str]:
    """List the columns that select the best epochs of these arms: val/dice."""
    return list(dict.fromkeys(str(arm.first.metadata["best"]["monitor"]) for arm in arms))


def _metadata(folder: Path) -> dict[str, Any]:
    """Return run.json, or nothing where it is damaged."""
    try:
        metadata = read_metadata(folder)
    except ValueError:
        return {}
    return metadata if {"config", "num_parameters", "choices"} <= metadata.keys() else {}
