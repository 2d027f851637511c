"""Writes down what a study asks, before its first run: preregistration.json, which is never written again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runcard import __version__
from runcard.audit.decoded import decode
from runcard.compare.questions import Study
from runcard.compare.registration import FILE, Registration, read_registration
from runcard.config.diff import functional_leaves
from runcard.config.schema import Config, parse_config
from runcard.data.datamodule import make_data, open_source
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.fileio import read_json, sha256, write_json
from runcard.runs.environment import code_hash, commit, now
from runcard.stats.sequential import LOOKS
from runcard.study.plan import ArmConfig, once_per_data


def register(
    folder: Path,
    study: Study,
    arm_configs: Mapping[str, ArmConfig],
    others: Mapping[str, ArmConfig],
    budget: int | None,
    has_runs: bool,
) -> Registration:
    """Write preregistration.json into a study's folder unless it is there, and read it.

    study is the whole of its file, with the seeds that are asked for; arm_configs are those of the arms that are asked
    for now, whose data are hashed, others those of the remaining arms. Raises UserError where the study was registered
    with a smaller budget, or without one, where its registration is not the one that study.json knows, and before its
    first run where its images cannot be read.
    """
    try:
        known = read_json(folder, "study.json").get("preregistration")
    except (OSError, ValueError, AttributeError):
        known = None
    if known or (folder / FILE).exists():
        registration = read_registration(folder, known or sha256(folder / FILE))
        if not registration.is_genuine:
            raise UserError(
                f"{folder / FILE}: was changed: study.json names one with the SHA-256 {known[:16]}…. What was asked "
                "before the runs is not known any more. Restore it; name=… starts the study anew."
            )
        _check_budget(folder, registration.design, budget)
        return registration
    if budget and has_runs:
        raise UserError(
            f"{folder}: has runs from before --until-decided. To add seeds to a result that was seen errs more than "
            "5 % of the time; name=… starts the study in a folder of its own."
        )
    parsed = {arm: parse_config(config.config, f"{arm}: ") for arm, config in arm_configs.items()}
    hashed = {} if has_runs else {arm: config for arm, (config, _) in parsed.items()}  # else too late: runs were made
    data = once_per_data(hashed, lambda _, config: _hash_data(config))
    configs = {arm: config for arm, (_, config) in parsed.items()}
    for arm, other in others.items():
        with suppress(UserError):  # what is wrong with one that is not asked for yet is told when it is
            configs[arm] = parse_config(other.config)[1]
    content = {
        "time": now(),
        "runcard": __version__,
        "code": code_hash(),
        "commit": commit(),
        "study": asdict(study),
        "design": {"looks": LOOKS[budget], "budget": budget} if budget else None,
        "configs": {arm: _leaves(config) for arm, config in configs.items()},
        "data": data,
    }
    if not (folder / FILE).exists():  # another process may have begun the same study while the data were read
        write_json(folder / FILE, content)
    return read_registration(folder, sha256(folder / FILE))


def _check_budget(folder: Path, design: Mapping[str, Any] | None, budget: int | None) -> None:
    if budget and design is None:
        raise UserError(
            f"{folder}: was registered with its seeds, without --until-decided. To add seeds to a result that was seen "
            "errs more than 5 % of the time; name=… starts the study in a folder of its own."
        )
    if design and budget is None:
        raise UserError(
            f"{folder}: was registered with --until-decided --budget {design['budget']}: ask it so, or start anew with "
            "name=…"
        )
    if design and budget and budget > design["budget"]:
        raise UserError(
            f"--budget {budget}: {folder} was registered with {design['budget']}. A budget may be lowered, never "
            "raised: the levels of its looks were shared out over it. name=… starts the study anew."
        )


def _hash_data(config: Config) -> Mapping[str, str]:
    """Hash the images of a config and how they are split; images that cannot be read refuse the study."""
    source = open_source(config.dataset, config.trust)
    samples = decode(config, source).samples
    return data_fingerprint(make_data(source, config.dataset, samples).split, samples.ids, samples.digests)


def _leaves(config: dict[str, Any]) -> dict[str, Any]:
    """Return the leaves that can change results, but for the seed; UNKNOWN stands for what the data will tell."""
    return {key: value for key, value in functional_leaves(config).items() if key != "seed"}
