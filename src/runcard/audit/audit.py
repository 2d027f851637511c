"""Audit one data set: inspect every sample once, then run every check; on its own, or before a training.

Before a training the images are inspected while they are decoded for it, and the slow detectors' results are cached.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from threadpoolctl import threadpool_limits

from runcard.audit.checks import augmentation as augmentation_checks
from runcard.audit.checks import duplicates as duplicate_checks
from runcard.audit.checks import images as image_checks
from runcard.audit.checks import masks as mask_checks
from runcard.audit.checks import splits as split_checks
from runcard.audit.findings import STYLES, Finding, by_level, of_faults, stop_at_errors, summary
from runcard.audit.profiles import Inspected, Profile
from runcard.caching import Cache, open_cache
from runcard.config.schema import Config, DatasetConfig
from runcard.data.datamodule import Data, own_split, positive_class
from runcard.data.source import Source
from runcard.data.splits import Split, make_split, split_kind
from runcard.errors import DataError, UserError

if TYPE_CHECKING:
    from runcard.data.loaders import Augment, BatchLoader

OF_DATA = ("dataset", "augmentation", "experiment")  # the overrides of a run that an audit depends on
OF_RUN = ("validation_augmented", "ignored_model_key")  # not checked by runcard audit, which builds no model
NUM_VALIDATION = 4  # validation images that are compared with those on disk


@dataclass(frozen=True)
class Audit:
    """The findings of an audit, with the inspected data and their split."""

    findings: list[Finding]  # errors first
    data: Inspected
    split: Split


def audit_data(
    source: Source,
    dataset: DatasetConfig,
    profiles_by_position: Mapping[int, Profile],
    faults: Sequence[DataError],
    cache: Cache | None = None,
) -> Audit:
    """Return all that is wrong with the data of a config, whose source is open.

    profiles_by_position are of the samples that could be read, faults those of the others and of the folder.
    """
    profiles = [profile for _, profile in sorted(profiles_by_position.items())]
    given, patients = own_split(source, [profile.position for profile in profiles])
    findings = list(of_faults(faults, source.on_disk.location if source.on_disk else None))
    has_masks = any(profile.mask for profile in profiles)
    ids, labels = [p.id for p in profiles], None if has_masks else [p.target or 0 for p in profiles]
    split, groups = Split(), ids
    if profiles:
        try:
            split, groups = make_split(ids, labels, given, dataset.split, patients)
        except UserError as error:
            fix = "Without a split nothing can be trained."
            findings.append(Finding("split", "error", str(error).rstrip("."), fix))
    out = set(dataset.split.exclude)
    kept = [i for i, name in enumerate(ids) if name not in out]
    profiles, groups, row = [profiles[i] for i in kept], [groups[i] for i in kept], {i: k for k, i in enumerate(kept)}
    split = {side: [row[i] for i in members] for side, members in split.items()}
    sides = {i: side for side, members in split.items() for i in members}
    data = Inspected(
        profiles=profiles,
        classes=source.classes,
        positive=positive_class(dataset, source),
        has_masks=has_masks,
        sides=[sides.get(i, "") for i in range(len(profiles))],
        groups=groups,
        is_grouped=dataset.split.group_regex is not None or patients is not None,
        split_kind=split_kind(dataset.split, given),
        cache=cache,
    )
    with threadpool_limits(1):  # the tasks are small: on a busy machine, waiting threads cost 20 times as much
        for check in (image_checks, mask_checks, duplicate_checks, split_checks):
            findings += check.find(data)
    return Audit(by_level(findings), data, split)


def audit_before_training(
    data: Data,
    profiles: Mapping[int, Profile],
    augment: Augment,
    validation: BatchLoader,
    config: Config,
    mismatches: Sequence[str],
) -> list[Finding]:
    """Audit a run's data, augmentation and model.

    profiles are of the samples, by their position in the source, validation is the validation loader,
    mismatches are those of the built model. Raises UserError for errors not allowed by audit.allow.
    """
    cache = open_cache("audit", config.audit.cache_dir, config.audit.cache_gb)
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
            level = f"{finding.level}, allowed" if finding.is_allowed(allowed) else finding.level
            fix = f". {finding.fix}" if finding.check in OF_RUN else ""
            console.print(f"{level}  {finding.check}: {finding.what}{fix}", style=STYLES[finding.level])
    if any(finding.check not in OF_RUN for finding in findings):
        command = ["runcard", "audit", *(each for each in overrides if each.lstrip("+~").startswith(OF_DATA))]
        console.print(f"{summary(findings)} Files and fixes: {shlex.join(command)}")


def _of_run(data: Data, validation: BatchLoader, mismatches: Sequence[str]) -> Iterator[Finding]:
    """Find faults in how this run uses its data and model."""
    from runcard.data.loaders import unaugmented  # imports torch, which `runcard audit` does without

    if not unaugmented(validation, data.samples, data.normalization, data.split["val"][:NUM_VALIDATION]):
        what = "validation images are not as they are on disk"
        yield Finding("validation_augmented", "error", what, "Only the training loader may be given the augmentation.")
    for mismatch in mismatches:
        yield Finding("ignored_model_key", "warning", mismatch, "Does the model pass it on?")
