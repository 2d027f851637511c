"""A study without a finding of the audit: which images it names, and the arms that are run again without them.

What has a copy, or its patient, in another split leaves the training images: the images that are compared stay the
same. What may be labelled wrongly takes part in nothing, neither in training nor in what is compared.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from runcard.audit.audit import Audit, audit_data
from runcard.audit.decoded import decode
from runcard.audit.findings import MAX_PLACES_SHOWN
from runcard.caching import open_cache
from runcard.compare.questions import Study, from_json, keep
from runcard.config.schema import Config, parse_config
from runcard.console import counted, plain_console
from runcard.data.datamodule import open_source
from runcard.errors import UserError, did_you_mean, join_first
from runcard.fileio import read_json
from runcard.study.plan import ArmConfig, Key, find, is_done, once_per_data
from runcard.study.runner import Plan, StudyRun, make_plan, register_plan, run_plan

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


def run_without(file: Path, arguments: Sequence[str], finding: str, config_dir: Path | None = None) -> StudyRun:
    """Run a study's arms again without the images that a finding of the audit names; see run_study.

    The study must have runs: each arm gets the seeds that it has there. They lie in a folder of their own beside it,
    <study>,without=<finding>. Raises UserError where the audit does not find it in the data of every arm.
    """
    if finding not in (known := (*LEAKS, *DOUBTS)):
        raise UserError(
            f"--without {finding}: must be a check of the audit that names images to leave out: {', '.join(known)}."
            f"{did_you_mean(finding, known)}"
        )
    if own := [each for each in arguments if each.partition("=")[0] in ("seeds", "questions")]:
        raise UserError(f"{own[0]}: --without takes the seeds and questions that the study was run with. Leave it out.")
    plan = make_plan(file, arguments, config_dir, None)
    study, keys, design = _made(plan)
    of_arms = flagged({arm: plan.arm_configs[arm] for arm in study.arms}, finding)
    for each in dict.fromkeys(of_arms.values()):
        left_out = f"{counted(len(each.ids), 'image')} left out: {join_first(each.ids, MAX_PLACES_SHOWN)}"
        plain_console().print(f"without {finding} ({each.what}), {left_out}")
    folder = plan.folder.with_name(f"{plan.folder.name},without={finding}")
    whole = replace(
        plan,
        folder=folder,
        asked=study,
        study=study,
        whole=study,
        arm_configs={arm: without(plan.arm_configs[arm], each.ids) for arm, each in of_arms.items()},
        others={},
        of_hydra=(f"name='{folder.name}'", *plan.of_hydra[1:]),
        command=(plan.command[0], "--without", finding, *plan.command[1:]),
        budget=design["looks"][-1] if design else None,
        without={
            "finding": finding,
            "of": plan.folder.name,
            "excluded": {arm: list(each.ids) for arm, each in of_arms.items()},
            "twins": {arm: list(each.twins) for arm, each in of_arms.items()},
        },
    )
    plan = replace(register_plan(whole), budget=design["budget"] if design else None)
    return StudyRun(folder, run_plan(plan, study, keys))


def _made(plan: Plan) -> tuple[Study, list[Key], Mapping[str, Any] | None]:
    """Return what of a study has been run as its file is now: questions, arms and seeds, its runs, and its looks."""
    try:
        content = read_json(plan.folder, "study.json")
        earlier, design = from_json(content["study"]), content.get("design")
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{plan.folder}: has no study.json, with whose runs --without compares. Run the study as it is first: "
            f"runcard study {shlex.join(plan.command)}"
        ) from None
    found = find(plan.folder, plan.arm_configs)
    keys = [(arm, s) for arm in earlier.arms for s in earlier.seeds if is_done(found, (arm, s))]
    if not keys:
        raise UserError(
            f"{plan.folder}: has no completed run of the arms as they are now, with which --without compares. Run the "
            f"study as it is first: runcard study {shlex.join(plan.command)}"
        )
    asked = keep(plan.whole, {question.key for question in earlier.questions})
    arms = {arm: config for arm, config in plan.whole.arms.items() if arm in dict(keys)}
    seeds = tuple(sorted({seed for _, seed in keys}))
    return replace(asked, arms=arms, seeds=seeds), keys, design


def flagged(arm_configs: Mapping[str, ArmConfig], finding: str) -> dict[str, Flagged]:
    """Audit the data of each arm, and return the images to leave out. Raises UserError where an arm has none."""
    configs = {arm: parse_config(each.config, f"{arm}: ")[0] for arm, each in arm_configs.items()}
    return once_per_data(configs, lambda arm, config: _flagged(arm, config, finding))


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
