"""Which images a finding of the audit names, and the config of an arm without them.

What has a copy, or its patient, in another split leaves the training images: the images that are compared stay the
same. What may be labelled wrongly takes part in nothing, neither in training nor in what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from runcard.audit.audit import Audit, audit_data
from runcard.audit.decoded import decode
from runcard.caching import open_cache
from runcard.config.schema import Config, parse_config
from runcard.data.datamodule import open_source
from runcard.errors import UserError, did_you_mean
from runcard.study.plan import ArmConfig

LEAKS = ("duplicates_across", "near_duplicates_across", "group_on_both_sides")  # leave the training images
DOUBTS = ("label_against_name", "contradicting_labels", "near_duplicates_labels", "mask_misfit", "mask_repeated")
KEY = "dataset.split.exclude"
MAX_CHARACTERS = 100_000  # of an argument: Linux takes 131,072


@dataclass(frozen=True)
class Flagged:
    """The images that a finding names, and that take part in nothing without it."""

    what: str  # the finding, as the audit puts it
    ids: tuple[str, ...]
    twins: tuple[str, ...] = ()  # of a leak, the images of other splits that had a copy, or their patient, in training


def check_finding(finding: str) -> None:
    """Raise UserError for a finding that names no images to leave out."""
    known = (*LEAKS, *DOUBTS)
    if finding not in known:
        raise UserError(
            f"--without {finding}: must be a check of the audit that names images to leave out: {', '.join(known)}."
            f"{did_you_mean(finding, known)}"
        )


def flagged(arm_configs: Mapping[str, ArmConfig], finding: str) -> dict[str, Flagged]:
    """Audit the data of each arm, and return the images to leave out. Raises UserError where an arm has none."""
    known: dict[str, Flagged] = {}  # arms of the same data are audited once
    found = {}
    for arm, arm_config in arm_configs.items():
        config, _ = parse_config(arm_config.config, f"{arm}: ")
        key = json.dumps([config.dataset.model_dump(mode="json"), config.audit.allow], sort_keys=True, default=str)
        if key not in known:
            known[key] = _flagged(arm, config, finding)
        found[arm] = known[key]
    return found


def without(config: ArmConfig, ids: Sequence[str]) -> ArmConfig:
    """Return the config of an arm without these images, and without those that it leaves out anyway."""
    changed = config.config.copy()
    names = list(dict.fromkeys([*(OmegaConf.select(changed, KEY) or ()), *ids]))
    OmegaConf.update(changed, KEY, names, force_add=True)
    text = f"++{KEY}=[{','.join(QuotedString(name, Quote.single).with_quotes() for name in names)}]"
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"--without: names {len(ids)} images, too many for a command line. Take them out of the data.")
    own, common = (
        tuple(each for each in texts if each.lstrip("+").partition("=")[0] != KEY)
        for texts in (config.own, config.common)
    )
    return replace(config, own=own, common=(*common, text), config=changed)


def _flagged(arm: str, config: Config, finding: str) -> Flagged:
    source = open_source(config.dataset, config.trust)
    decoded = decode(config, source)
    cache = open_cache("audit", config.audit.cache_dir, config.audit.cache_gb)
    audit = audit_data(source, config.dataset, decoded.profiles, decoded.samples.faults, cache)
    whats = [each.what for each in audit.findings if each.check == finding]
    if not whats:
        has = dict.fromkeys(each.check for each in audit.findings if each.check in (*LEAKS, *DOUBTS))
        others = f"They have {', '.join(has)}." if has else "They have none that names images to leave out."
        raise UserError(f"--without {finding}: the audit does not find it in the data of {arm}. {others}")
    named, sides, what = _named(audit, finding), audit.data.sides, "; ".join(whats)
    positions = {i for i in named if sides[i] == "train"} if finding in LEAKS else named
    if not positions:
        kind = "training image" if finding in LEAKS else "single image"
        raise UserError(f"--without {finding}: names no {kind} that could be left out ({what}).")
    if emptied := [part for part, members in audit.split.items() if members and positions.issuperset(members)]:
        raise UserError(f"--without {finding}: names every image of {emptied[0]}, so that none would be left ({what}).")
    ids, twins = (tuple(audit.data.profiles[i].id for i in sorted(each)) for each in (positions, named - positions))
    return Flagged(what, ids, twins)


def _named(audit: Audit, finding: str) -> set[int]:
    """Return the positions of all images that a finding names."""
    data = audit.data
    if finding == "group_on_both_sides":
        held = {group for group, side in zip(data.groups, data.sides, strict=True) if side != "train"}
        taught = {group for group, side in zip(data.groups, data.sides, strict=True) if side == "train"}
        return {i for i, group in enumerate(data.groups) if group in held & taught}
    named = {i for each in audit.findings if each.check == finding for i in each.samples}
    if finding == "near_duplicates_across":  # which looks at one image only of those with the same pixels
        pixels = {data.profiles[i].pixel_hash for i in named}
        named = {i for i, profile in enumerate(data.profiles) if profile.pixel_hash in pixels}
    return named
