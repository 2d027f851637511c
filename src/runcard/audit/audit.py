"""Audit one data set: inspect every sample once, then run every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from runcard.audit.checks import duplicates as duplicate_checks
from runcard.audit.checks import images as image_checks
from runcard.audit.checks import masks as mask_checks
from runcard.audit.checks import splits as split_checks
from runcard.audit.findings import Finding, by_level, of_faults
from runcard.audit.profiles import Inspected, Profile
from runcard.config.schema import DatasetConfig
from runcard.data.datamodule import positive_class
from runcard.data.source import Source
from runcard.data.splits import Split, make_split
from runcard.errors import DataError, UserError


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
    cache: Path | None = None,
) -> Audit:
    """Return all that is wrong with the data of a config, whose source is open.

    profiles_by_position are of the samples that could be read, faults those of the others and of the folder.
    """
    positions = sorted(profiles_by_position)
    profiles = [profiles_by_position[i] for i in positions]
    given = source.given_split and [source.given_split[i] for i in positions]
    findings = list(of_faults(faults, source.on_disk.location if source.on_disk else None))
    has_masks = any(profile.mask for profile in profiles)
    ids, labels = [p.id for p in profiles], None if has_masks else [p.target or 0 for p in profiles]
    split, groups = Split(), ids
    if profiles:
        try:
            split, groups = make_split(ids, labels, given, dataset.split)
        except UserError as error:
            fix = "Without a split nothing can be trained."
            findings.append(Finding("split", "error", str(error).rstrip("."), fix))
    data = Inspected(
        profiles=profiles,
        classes=source.classes,
        positive=positive_class(dataset, source),
        has_masks=has_masks,
        sides=split_checks.sides_of(split, len(profiles)),
        groups=groups,
        is_grouped=dataset.split.group_regex is not None,
        split_kind=dataset.split.kind,
        cache=cache,
    )
    with threadpool_limits(1):  # the tasks are small: on a busy machine, waiting threads cost 20 times as much
        for check in (image_checks, mask_checks, duplicate_checks, split_checks):
            findings += check.find(data)
    return Audit(by_level(findings), data, split)
