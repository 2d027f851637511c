"""The audit before every training, of images that are decoded anyway; the slow detectors' results are cached."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from runcard.audit.audit import audit_data
from runcard.audit.checks import augmentation as augmentation_checks
from runcard.audit.findings import Finding, by_level, stop_at_errors, summary
from runcard.audit.profiles import Profile
from runcard.config.schema import Config
from runcard.data.datamodule import Data

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from runcard.data.loaders import Augment, Batch

OF_DATA = ("dataset", "augmentation", "experiment")  # the overrides of a run that an audit depends on
OF_RUN = ("validation_augmented", "ignored_model_key")  # not checked by runcard audit, which builds no model
STYLES = {"error": "red", "warning": "yellow", "note": "default"}


def audit_before_training(
    data: Data,
    profiles: Mapping[int, Profile],
    augment: Augment,
    validation: Dataset[Batch],
    config: Config,
    mismatches: Sequence[str],
) -> list[Finding]:
    """Audit a run's data, augmentation and model.

    profiles are of the samples, by their position in the source, validation is the validation loader's dataset,
    mismatches are those of the built model. Raises UserError for errors not allowed by audit.allow.
    """
    cache = Path(config.audit.cache_dir).expanduser()
    audit = audit_data(data.source, config.dataset, profiles, data.samples.faults, cache)
    tried = augmentation_checks.take_chosen(data.samples, audit.data)
    of_augmentation = augmentation_checks.find(augment, config.augmentation, tried, cache)
    findings = by_level([*audit.findings, *of_augmentation, *_of_run(data, validation, mismatches)])
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
