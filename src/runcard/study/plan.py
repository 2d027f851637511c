"""The configs of a study's arms, their runs that are there, and the sweeps that make those that are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runcard.config.compose import compose_config
from runcard.config.diff import affects_results, differing_keys
from runcard.config.hydra_errors import as_message
from runcard.config.schema import Config, parse_config
from runcard.config.sweep import folder_name
from runcard.errors import UserError, did_you_mean
from runcard.fileio import sha256
from runcard.runs.folders import read_metadata, run_folders
from runcard.runs.reader import read_run, weights_file
from runcard.runs.schema import StartedRun, faults

OWN = ("seeds", "questions", "name")  # the study's arguments; all others are Hydra's

Found = TypeVar("Found")
Key = tuple[str, int]  # the name of an arm, and a seed


def once_per_data(configs: Mapping[str, Config], look: Callable[[str, Config], Found]) -> dict[str, Found]:
    """Return what look finds in the data of each arm; the same data are looked at once."""
    known: dict[str, Found] = {}
    found = {}
    for arm, config in configs.items():
        key = json.dumps([config.dataset.model_dump(mode="json"), config.audit.allow], sort_keys=True, default=str)
        if key not in known:
            known[key] = look(arm, config)
        found[arm] = known[key]
    return found


@dataclass(frozen=True)
class ArmConfig:
    """What an arm's runs are started with, and the config that they will record, seed and derived apart."""

    experiment: str
    own: tuple[str, ...]  # what the arm sets on it
    common: tuple[str, ...]  # what all runs of the study are given, without what the arm sets itself
    config: DictConfig

    def is_of(self, recorded: Mapping[str, Any]) -> bool:
        """Whether the resolved config of a run is this config's, with whatever seed."""
        filled = self.config.copy()
        try:
            filled.seed, filled.derived = recorded["seed"], recorded["derived"]
            config: Any = OmegaConf.to_container(filled, resolve=True)
        except OmegaConfBaseException:  # an older run derived less than this config names
            return False
        return not differing_keys(recorded, config, but=("weights_sha256", "init_sha256"))  # known to the run alone

    def made_otherwise(self, metadata: Mapping[str, Any], code: str) -> Iterator[str]:
        """Yield how a completed run of this config differs from one made by this code now, and what to do about it."""
        there, here = metadata["config"]["dataset"].get("root"), OmegaConf.select(self.config, "dataset.root")
        if there and here and Path(str(there)).resolve() != Path(here).resolve():
            yield f"made of the images in {there}, not {here}: if these are other images, use name=…"
        weights, before = OmegaConf.select(self.config, "train.init_from"), metadata["config"].get("init_sha256")
        with suppress(UserError):  # where the file is gone, nothing can be said
            if weights and before and sha256(weights_file(weights)) != before:
                yield f"made from other weights than {weights} has now: overwrite=true runs them again"
        if {session["code"] for session in metadata["sessions"]} != {code}:
            yield "made by other code: overwrite=true runs them again"


@dataclass(frozen=True)
class ArmRun:
    """A run folder of the study."""

    folder: Path
    metadata: dict[str, Any]  # run.json
    fault: str  # why it cannot be compared; "" where it can


def sweeps(arm_configs: Mapping[str, ArmConfig], missing: Sequence[Key]) -> list[list[str]]:
    """Return the arguments of train.py: a multirun for all arms that miss the same seeds and set the same on a config.

    The seed changes slowest, so that whole seeds get finished first.
    """
    groups: dict[Any, list[str]] = {}
    for arm in dict.fromkeys(arm for arm, _ in missing):
        seeds = ",".join(str(seed) for other, seed in missing if other == arm)
        config = arm_configs[arm]
        groups.setdefault((seeds, config.own, config.common), []).append(config.experiment)
    return [
        [
            f"seed={seeds}",
            f"experiment={','.join(dict.fromkeys(experiments))}",
            *common,
            *own,
            f"hydra.sweep.subdir='{_subfolder(own)}'",
        ]
        for (seeds, own, common), experiments in groups.items()
    ]


def find(folder: Path, arm_configs: Mapping[str, ArmConfig]) -> dict[Key, ArmRun]:
    """Return the runs below folder that are an arm's, by arm and seed: one that can be compared, and the newest.

    A folder whose run.json names no config is nobody's run. What overwrite=true moved aside does not count.
    """
    runs = []
    for path in run_folders(folder):
        with suppress(ValueError):
            runs.append(ArmRun(path, read_metadata(path), read_run(path)[1]))
    found: dict[Key, ArmRun] = {}
    for run in sorted(runs, key=lambda run: (not run.fault, str(run.metadata.get("end")))):
        if not faults(run.metadata, StartedRun):
            recorded = run.metadata["config"]
            found |= {(arm, recorded["seed"]): run for arm, config in arm_configs.items() if config.is_of(recorded)}
    return found


def is_done(found: Mapping[Key, ArmRun], key: Key) -> bool:
    """Whether there is a run of this arm and seed that can be compared."""
    return key in found and not found[key].fault


def by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Return the overrides by key or group; raises UserError for what cannot be one of all runs."""
    for text in overrides:
        if "=" not in text or text.startswith("-"):
            raise UserError(f"{text}: a study takes key=value: {', '.join(f'{key}=…' for key in OWN)}, or Hydra's.")
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(as_message(error, overrides)) from None
    found = {}
    for override, text in zip(parsed, overrides, strict=True):
        key = override.key_or_group
        found[key] = text
        if key in ("experiment", "seed", "run_dir", "hydra.sweep.subdir"):
            raise UserError(f"{key}: a study sets it itself, for every run. Use seeds=… or name=…")
        if override.is_sweep_override() and not key.startswith(("hydra.", "hydra/")):
            raise UserError(f"{key}: one value, for all runs; what differs is a study's arms.{did_you_mean(key, OWN)}")
    return found


def arm_config(where: str, text: str, common: Mapping[str, str], config_dir: Path | None) -> ArmConfig:
    """Return an arm's config, composed as train.py would."""
    experiment, *own = text.split()
    rule = "must begin with a config under experiments/, then what is set on it, such as lab4/task4a loss=dice"
    if "=" in experiment:
        raise UserError(f"{where} {rule}, got {text!r}.")
    try:
        set_here = by_key(own)
    except UserError as error:
        raise UserError(f"{where} {rule}, got {text!r}.\n{error}") from None
    shared = [text for key, text in common.items() if key not in set_here]
    overrides = [f"experiment={experiment}", *shared, *own]
    config = compose_config(overrides, config_dir, f"{where}: ")
    parse_config(config, f"{where}: ")
    return ArmConfig(experiment, tuple(own), tuple(shared), config)


def _subfolder(own: Sequence[str]) -> str:
    """Return the name of a run's folder in the study's: its config, what its arm sets on it, its seed."""
    counting = [text for text in own if affects_results(text.partition("=")[0])]
    middle = f",{folder_name(','.join(counting))}" if counting else ""
    return f"experiment=${{runcard.folder:${{hydra.runtime.choices.experiment}}}}{middle},seed=${{seed}}"
