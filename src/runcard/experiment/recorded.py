"""A completed run gives its recorded value, without training and without torch."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from runcard.data.preprocessing import digest_or_none, unpaired
from runcard.data.source import Source
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.runs.environment import code_hash
from runcard.runs.folders import fault_of_weights, lost_files
from runcard.runs.run import read_split


def report_recorded(folder: Path, recorded: dict[str, Any], console: Console) -> float:
    """Print the value that a completed run recorded, and return it. Raises UserError where its record is not whole."""
    if lost := lost_files(folder):
        raise UserError(f"{folder}: completed before, but {lost} is missing or empty. overwrite=true runs it again.")
    best = recorded["best"]
    console.print(f"{folder}: completed before, {best['monitor']} {best['value']:.4f} (epoch {best['epoch']})")
    if fault := fault_of_weights(folder, recorded):
        console.print(f"warning: its best weights are {fault}; overwrite=true trains them.", style="yellow")
    if recorded["sessions"][-1]["code"] != code_hash():
        console.print("warning: runcard's code has changed since; overwrite=true runs it again.", style="yellow")
    return float(best["value"])


def is_run_of(recorded: dict[str, Any], source: Source, folder: Path) -> bool:
    """Whether a completed run certainly saw the data of source, and no file of weights that may have changed.

    False where an older or damaged folder does not say: then the data are read and compared as for any other run.
    """
    try:
        left_out, excluded = recorded["left_out"], recorded["config"]["dataset"]["split"].get("exclude", [])
        ids = {part: [member["id"] for member in members] for part, members in read_split(folder).items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    digests = {name: digest_or_none(source, i) for i, name in enumerate(source.ids)} | unpaired(source)
    kept = [name for name in digests if name not in left_out]
    positions = {name: i for i, name in enumerate(kept)}
    if "weights_sha256" in recorded["config"] or {*chain(*ids.values(), excluded), *left_out} != {*digests}:
        return False
    if any(digests[name] != left_out[name] for name in left_out):
        return False
    split = {part: [positions[name] for name in names] for part, names in ids.items()}
    fingerprint = data_fingerprint(split, kept, [digests[name] or "" for name in kept])
    return bool(fingerprint == recorded["data"])
