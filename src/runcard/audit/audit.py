"""Audit one data set: inspect every sample once, then run every check."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

from runcard.audit.checks import duplicates as duplicate_checks
from runcard.audit.checks import images as image_checks
from runcard.audit.checks import masks as mask_checks
from runcard.audit.checks import splits as split_checks
from runcard.audit.findings import Finding, by_level, of_faults
from runcard.audit.profiles import Inspected, Profile, look_at
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


def audit_data(source: Source, dataset: DatasetConfig, console: Console) -> Audit:
    """Return all that is wrong with the data of a config, whose source is open."""
    looks = track(
        look_at(source), "audit", len(source), console=console, transient=True, disable=not console.is_terminal
    )
    seen = list(looks)
    profiles = [look for look in seen if isinstance(look, Profile)]
    given = source.given_split and [
        side for side, look in zip(source.given_split, seen, strict=True) if isinstance(look, Profile)
    ]
    faults = [*source.faults, *(look for look in seen if isinstance(look, DataError))]
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
    )
    with threadpool_limits(1):  # the tasks are small: on a busy machine, waiting threads cost 20 times as much
        for check in (image_checks, mask_checks, duplicate_checks, split_checks):
            findings += check.find(data)
    return Audit(by_level(findings), data, split)
