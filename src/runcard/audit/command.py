"""The command runcard audit: all findings, in a table, as JSON and as figures; or how data differ from a run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from runcard.audit.audit import Audit, audit_data
from runcard.audit.checks import augmentation as augmentation_checks
from runcard.audit.contact_sheet import MAX_TILES, NUM_COLUMNS, Tile, contact_sheet
from runcard.audit.decoded import decoded_before
from runcard.audit.detectors.augmentation_probe import draws
from runcard.audit.findings import (
    MAX_PLACES_SHOWN,
    STYLES,
    Finding,
    as_json,
    by_level,
    check_allowed,
    errors_that_stop,
    of_faults,
    summary,
)
from runcard.audit.profiles import Inspected, inspect
from runcard.caching import open_cache
from runcard.config.compose import compose_config
from runcard.config.instantiate import build
from runcard.config.schema import DatasetConfig, check_recorded, parse_config, parse_recorded
from runcard.console import counted, print_table
from runcard.data.datamodule import open_source
from runcard.data.preprocessing import digest_or_none, read_sample, unpaired
from runcard.data.source import Source, name_of
from runcard.data.splits import data_fingerprint
from runcard.data.summary import summary_rows
from runcard.errors import DataError, UserError, join_first
from runcard.fileio import write_figure, write_json
from runcard.runs.folders import read_metadata
from runcard.runs.run import read_split
from runcard.runs.schema import AuditedRun, faults

AUDITS = Path("outputs") / "audit"
MIN_OTHERS = 20  # images without findings on the contact sheet
MAX_DIFFERENCES_SHOWN = 20  # images of each kind
INDENT = 9  # columns: a finding's further lines are indented past its level


def audit_config(
    overrides: Sequence[str], output: Path | None, console: Console, config_dir: Path | None = None
) -> bool:
    """Audit the data and augmentation of a config, write what it finds, and return whether training may begin."""
    config, _ = parse_config(compose_config(overrides, config_dir))
    dataset, augmentation, allowed = config.dataset, config.augmentation, config.audit.allow
    check_allowed(allowed)
    augment = build("augmentation", augmentation, config.trust)
    try:
        source = open_source(dataset, config.trust)
    except DataError as fault:
        findings = list(of_faults([fault]))
        _print(findings, allowed, console)
        folder = _emptied(output or AUDITS / Path(str(dataset.node["root"])).name)
        write_json(folder / "audit.json", {"dataset": dataset.model_dump(), "findings": as_json(findings, allowed)})
        console.print(f"{summary(findings)} See {folder}/")
        return False
    name = name_of(source)
    folder = _emptied(output or AUDITS / name)
    cache = open_cache("audit", config.audit.cache_dir, config.audit.cache_gb)
    before = decoded_before(
        source, dataset, allowed, open_cache("images", config.images.cache_dir, config.images.cache_gb)
    )
    profiles, faults = (before.profiles, before.samples.faults) if before else inspect(source, console)
    audit = audit_data(source, dataset, profiles, faults, cache)
    data, tried = audit.data, augmentation_checks.read_chosen(source, audit.data, dataset)
    findings = by_level([*audit.findings, *augmentation_checks.find(augment, augmentation, tried, cache)])
    originals = [profile.original for profile in data.profiles]
    labels = None if data.has_masks else [profile.target or 0 for profile in data.profiles]
    if rows := summary_rows(source, originals, labels, audit.split, data.groups if data.is_grouped else None):
        print_table(console, rows[0], rows[1:])
    _print(findings, allowed, console)
    write_json(folder / "audit.json", _content(audit, findings, allowed, dataset, augmentation))
    if data.profiles:
        tiles = _tiles(source, data, findings)
        some = f" ({len(tiles)} of them)" if len(tiles) < len(data.profiles) else ""
        title = f"{name}: {counted(len(data.profiles), 'image')}{some}"
        write_figure(folder / "contact_sheet.png", contact_sheet(tiles, title))
    if tried and not getattr(augment, "is_identity", False):
        drawn, _ = draws(augment, tried[:1] * (2 * NUM_COLUMNS - 1))
        tiles = [Tile(tried[0].image, tried[0].mask, "as it is")]
        tiles += [Tile(sample.image, sample.mask, f"draw {i + 1}") for i, sample in enumerate(drawn)]
        write_figure(folder / "augmentation.png", contact_sheet(tiles, "The augmentation of one image"))
    console.print(f"{summary(findings)} See {folder}/")
    return not errors_that_stop(findings, allowed)


def audit_against(
    run: Path, overrides: Sequence[str], console: Console, trust: Sequence[str] = (), config_dir: Path | None = None
) -> bool:
    """Print how the data of a config, by default the run's own, differ from the run's; return whether they do not."""
    metadata = _run_metadata(run)
    if overrides:
        config, _ = parse_config(compose_config(overrides, config_dir))
        dataset, trust = config.dataset, [*config.trust, *trust]
    else:
        check_recorded({"dataset": metadata["config"]["dataset"]}, trust, str(run))
        dataset = parse_recorded(DatasetConfig, metadata["config"]["dataset"], f"{run}: dataset.")
    source = open_source(dataset, trust)
    recorded = _recorded(run) | metadata.get("left_out", {})
    excluded = set(dataset.split.exclude)
    position = {name: i for i, name in enumerate(source.ids)}
    shared = [name for name in source.ids if name in recorded]
    alone = unpaired(source)
    differing = {
        "added": [name for name in source.ids if name not in recorded and name not in excluded],
        "removed": [name for name in recorded if name not in position and name not in alone],
        "changed": [
            *(name for name in shared if recorded[name] not in (None, digest_or_none(source, position[name]))),
            *(name for name in alone if recorded.get(name) not in (None, alone[name])),
        ],
    }
    lines = [
        f"{kind:<8} {counted(len(ids), 'image')}: {join_first(ids, MAX_DIFFERENCES_SHOWN)}"
        for kind, ids in differing.items()
        if ids
    ]
    for line in lines or ["The same images, byte for byte."]:
        console.print(line)
    return not any(differing.values())


def _run_metadata(run: Path) -> dict[str, Any]:
    """Read run.json of a run folder. Raise UserError unless it holds at least the dataset of its config."""
    try:
        metadata = read_metadata(run)
        wrong = "; ".join(faults(metadata, AuditedRun))
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise UserError(f"--against: {run} is not a run folder ({wrong}). Name a folder outputs/<name>/<stamp>.")
    return metadata


def _recorded(run: Path) -> dict[str, str | None]:
    """Read the hash of each image that a run used, by id; None if it recorded none."""
    try:
        split = read_split(run)
    except (OSError, ValueError) as error:
        raise UserError(f"{run}: split.json is missing or damaged ({error}).") from None
    return {member["id"]: member.get("sha256") for members in split.values() for member in members}


def _emptied(folder: Path) -> Path:
    """Create folder, or delete the files of an earlier audit in it. Raise UserError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("audit.json", "contact_sheet.png", "augmentation.png"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be written: {error.strerror}. Choose another folder.") from None
    return folder


def _print(findings: Sequence[Finding], allowed: Sequence[str], console: Console) -> None:
    for finding in findings:
        level = "allowed" if finding.is_allowed(allowed) else finding.level
        console.print(f"{level:<{INDENT}}{finding.check}: {finding.what}", style=STYLES[finding.level])
        lines = list(finding.places[:MAX_PLACES_SHOWN])
        if len(finding.places) > MAX_PLACES_SHOWN:
            lines.append(f"and {len(finding.places) - MAX_PLACES_SHOWN} more")
        for line in [*lines, finding.fix]:
            console.print(f"{'':{INDENT}}{line}")


def _content(
    audit: Audit,
    findings: Sequence[Finding],
    allowed: Sequence[str],
    dataset: DatasetConfig,
    augmentation: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the content of audit.json; its data is the fingerprint that a run's run.json contains too."""
    ids, digests = ([getattr(profile, key) for profile in audit.data.profiles] for key in ("id", "digest"))
    return {
        "dataset": dataset.model_dump(),
        "augmentation": augmentation,
        "data": data_fingerprint(audit.split, ids, digests),
        "images": len(ids),
        "findings": as_json(findings, allowed),
    }


def _tiles(source: Source, data: Inspected, findings: Sequence[Finding]) -> list[Tile]:
    """Build the tiles of the contact sheet: samples with findings, then others spread over the data."""
    flags: dict[int, tuple[str, str]] = {}
    for finding in findings:
        for i in finding.samples:
            flags.setdefault(i, (finding.check, finding.level))
    others = [i for i in range(len(data.profiles)) if i not in flags]
    spread = np.linspace(0, len(others) - 1, min(len(others), max(MIN_OTHERS, MAX_TILES - len(flags)))).astype(int)
    shown = [*list(flags)[: MAX_TILES - len(spread)], *(others[i] for i in spread)]
    tiles = []
    for i in shown:
        profile, (check, level) = data.profiles[i], flags.get(i, (None, None))
        image, target, *_ = read_sample(source, profile.position)
        mask = target if isinstance(target, np.ndarray) else None
        label = "" if profile.target is None else data.classes[profile.target]
        caption = " · ".join(filter(None, [label, data.sides[i]]))
        tiles.append(Tile(np.atleast_3d(image), mask, f"{profile.id}\n{caption}", check, level))
    return tiles
