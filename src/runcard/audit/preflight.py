"""The audit before every training. Its findings are cached by the data's fingerprint, so that repeats cost nothing."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from runcard.audit.audit import audit_data
from runcard.audit.checks import augmentation as augmentation_checks
from runcard.audit.findings import Finding, as_json, below, by_level, from_json, stop_at_errors, summary
from runcard.audit.profiles import name_of
from runcard.config.schema import Config
from runcard.data.datamodule import Data
from runcard.fileio import exclusive_lock, write_json
from runcard.runs.environment import code_hash

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from runcard.data.loaders import Augment, Batch

AUDIT_CODE = ("audit", "config", "data", "datasets", "stats", "transforms.py")  # what findings depend on
WAITING = "audit: another run audits the same data, waiting for it"
OF_DATA = ("dataset", "augmentation", "experiment")  # the overrides of a run that an audit depends on
OF_RUN = ("validation_augmented", "ignored_model_key")  # not checked by runcard audit, which builds no model
STYLES = {"error": "red", "warning": "yellow", "note": "default"}


def audit_before_training(
    data: Data,
    augment: Augment,
    validation: Dataset[Batch],
    config: Config,
    fingerprint: Mapping[str, str],
    mismatches: Sequence[str],
    console: Console,
) -> list[Finding]:
    """Audit a run's data, augmentation and model; mismatches are those of the built model.

    validation is the validation loader's dataset. Raises UserError for errors not allowed by audit.allow.
    """
    path = Path(config.audit.cache_dir).expanduser() / f"{_key(data, config, fingerprint)}.json"
    with exclusive_lock(path, "audit.cache_dir", "Choose another folder.", lambda: console.print(WAITING)):
        found = _read(path)
        if found is None:
            audit = audit_data(data.source, config.dataset, console)
            tried = augmentation_checks.picked(data.source, audit.data, config.dataset)
            found = [*audit.findings, *augmentation_checks.find(augment, config.augmentation, tried)]
            write_json(path, as_json(found, ()))
    findings = by_level([*found, *_of_run(data, validation, mismatches)])
    stop_at_errors(findings, config.audit.allow)
    return findings


def print_findings(
    findings: Sequence[Finding], allowed: Sequence[str], overrides: Sequence[str], console: Console
) -> None:
    """Print allowed errors and warnings, a line each, and the command that shows all details."""
    for finding in findings:
        if finding.level != "note":
            level = f"{finding.level}, allowed" if finding.check in allowed else finding.level
            fix = f". {finding.fix}" if finding.check in OF_RUN else ""
            console.print(f"{level}  {finding.check}: {finding.what}{fix}", style=STYLES[finding.level])
    if any(finding.check not in OF_RUN for finding in findings):
        command = ["runcard", "audit", *(each for each in overrides if each.lstrip("+~").startswith(OF_DATA))]
        console.print(f"{summary(findings)} Files and fixes: {shlex.join(command)}")


def _of_run(data: Data, validation: Dataset[Batch], mismatches: Sequence[str]) -> Iterator[Finding]:
    """Find faults in how this run uses its data and model."""
    if not augmentation_checks.is_unaugmented(data, validation):
        what = "validation images are not as they are on disk"
        yield Finding("validation_augmented", "error", what, "Only the training loader may be given the augmentation.")
    for mismatch in mismatches:
        yield Finding("ignored_model_key", "warning", mismatch, "Does the model pass it on?")


def _key(data: Data, config: Config, fingerprint: Mapping[str, str]) -> str:
    """Return a hash over all that an audit depends on: names and bytes, faults, split, config, and our code."""
    source, faults = data.source, data.samples.faults
    location = source.on_disk.location if source.on_disk else None
    names = [[name_of(source, i, k) for k in range(len(files))] for i, files in enumerate(source.files)]
    reported = [[fault.check, below(fault, location), fault.what, fault.detail] for fault in faults]
    keys = [config.dataset.model_dump() | {"root": None}, config.augmentation]
    everything = [dict(fingerprint), names, reported, data.groups, keys, code_hash(AUDIT_CODE)]
    return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read(path: Path) -> list[Finding] | None:
    """Read cached findings; None if there are none or they are unreadable."""
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
