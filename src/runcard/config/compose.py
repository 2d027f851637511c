"""Configs composed for other commands as `runcard train` composes them, and the saved configs of run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runcard.config.diff import flatten
from runcard.config.hydra_errors import as_message, is_hydras
from runcard.config.project import CONF
from runcard.config.saved import read_config, read_yaml
from runcard.config.search_path import use_project
from runcard.errors import UserError, runs_below
from runcard.fileio import read_json

PLACES = ("run_dir=", "name=", "overwrite=", "train.extend=")  # overrides that say where a run is kept


def compose_config(overrides: Sequence[str], config_dir: Path | None = None, where: str = "") -> DictConfig:
    """Compose the config that `runcard train` would compose of these overrides; config_dir comes before conf/.

    where says whose overrides they are, for messages. Raises UserError for an override that does not fit.
    """
    use_project()
    if config_dir and not config_dir.is_dir():
        raise UserError(f"--config-dir: {config_dir}: no such folder.")
    path = [f"hydra.searchpath=['file://{config_dir.absolute()}']"] if config_dir else []
    try:
        with initialize_config_dir(str(CONF)):
            return compose("config", [*overrides, *path])
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if not is_hydras(error):
            raise  # a bug of ours
        raise UserError(f"{where}{as_message(error, overrides)}") from None


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of overrides by their keys or groups. Raises UserError for one that cannot be read."""
    try:
        return {str(o.key_or_group): o.value() for o in OverridesParser.create().parse_overrides(list(overrides))}
    except HydraException as error:
        raise UserError(as_message(error, overrides)) from None


def replaced(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved config with other values, by dotted keys. Raises UserError for a key that it does not have."""
    content = OmegaConf.create(dict(config))
    OmegaConf.set_struct(content, True)
    for key, value in values.items():
        try:
            OmegaConf.update(content, key, value)
        except OmegaConfBaseException:
            known = [name for name in flatten(config) if "._" not in name]
            raise UserError(f"{key}: the run has no such key, only {', '.join(known)}.") from None
    return OmegaConf.to_container(content)  # type: ignore[return-value]


@dataclass(frozen=True)
class SavedConfig:
    """What a run folder keeps of the config it was made from."""

    config: DictConfig  # as composed, unresolved
    choices: dict[str, Any]  # the file of conf/ that each group was chosen from
    overrides: list[str]  # of the command line, without those that only say where the run is kept


def read_saved_config(folder: Path, key: str) -> SavedConfig:
    """Read the config of a run folder; key is the option that names the folder. Raises UserError if there is none."""
    setup_globals()  # the resolver of ${now:…}, which Hydra registers only where it composes
    try:
        config, overrides = read_config(folder), read_yaml(folder, "overrides.yaml")
        metadata = read_json(folder, "run.json")
        choices = metadata.get("choices") if isinstance(metadata, dict) else None
        if not isinstance(overrides, list) or not all(isinstance(each, str) for each in overrides):
            raise ValueError("overrides.yaml is no list of overrides")
        if not isinstance(choices, dict):
            raise ValueError("run.json has no choices")
    except OSError as error:
        what = f"{folder} is not a run folder: {error.filename}: {error.strerror}."
        raise UserError(f"{key}: {what}{runs_below(folder)}") from None
    except ValueError as error:
        raise UserError(f"{key}: {folder}: its saved config cannot be used: {error}.") from None
    kept = [each for each in overrides if not each.startswith(PLACES)]
    return SavedConfig(config, choices, kept)


def extended_config(composed: DictConfig, overrides: Sequence[str]) -> SavedConfig | None:
    """Return the config of the run that train.extend names, with what this command line changes of it.

    None where the command line composes the whole config again, by experiment or scale. Raises UserError where
    train.extend is no run folder.
    """
    parser = OverridesParser.create()
    given = [parser.parse_override(override) for override in overrides]
    if any(override.key_or_group in ("experiment", "scale") for override in given):
        return None
    saved = read_saved_config(Path(composed.train.extend), "train.extend")
    for override in given:
        key = override.key_or_group
        if saved.choices.get(key) != override.value():  # a group that is chosen as it was: its keys are the run's
            OmegaConf.update(saved.config, key, OmegaConf.select(composed, key), merge=False, force_add=True)
    for key in ("name", "run_dir", "trust", "logger", "overwrite"):  # what a folder may not decide
        saved.config[key] = composed[key]
    return SavedConfig(saved.config, saved.choices, [*saved.overrides, *overrides])
