"""Cards composed outside of train.py, as train.py would, and the saved cards of run folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runcard.config.diff import flatten
from runcard.config.hydra_errors import in_words, is_hydras
from runcard.errors import UserError

CONF = Path("conf")
PLACES = ("run_dir=", "name=", "overwrite=", "train.extend=")  # overrides that say where a run is kept


def compose_card(overrides: Sequence[str], where: str = "") -> DictConfig:
    """Returns the card that train.py would compose of these overrides; where says whose they are, for messages.

    Raises UserError for an override that does not fit, and for a key without a value, but for what is derived.
    """
    if not CONF.is_dir():
        raise UserError(f"{CONF}/: no such folder in {Path.cwd()}. Give this command where train.py and conf/ lie.")
    try:
        with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
            card = compose("config", list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not is_hydras(error):
            raise  # a bug of ours
        raise UserError(f"{where}{in_words(error, CONF.absolute(), overrides)}") from None
    leaves: Any = OmegaConf.to_container(card, resolve=False)
    for key, value in flatten(leaves).items():
        if value == "???" and not key.startswith("derived."):
            raise UserError(f"{where}{key}: this key has no default and must be given: {key}=…")
    return card


@dataclass(frozen=True)
class SavedCard:
    """What a run folder keeps of the card it was made from."""

    card: DictConfig  # as composed, unresolved
    choices: dict[str, Any]  # the file of conf/ that each group was chosen from
    overrides: list[str]  # of the command line, without those that only say where the run is kept


def read_saved_card(folder: Path, key: str) -> SavedCard:
    """Read the card of a run folder; key is the option that names the folder. Raises UserError where there is none."""
    try:
        card = OmegaConf.load(folder / ".hydra" / "config.yaml")
        overrides: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
        choices = json.loads((folder / "run.json").read_text(encoding="utf-8"))["choices"]
    except OSError as error:
        raise UserError(f"{key}: {folder} is not a run folder: {error.filename}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{key}: {folder}: its saved config cannot be read ({str(error).splitlines()[0]}).") from None
    assert isinstance(card, DictConfig)
    kept = [each for each in overrides if not each.startswith(PLACES)]
    return SavedCard(card, choices, kept)


def extended_card(composed: DictConfig, overrides: Sequence[str]) -> SavedCard | None:
    """Return the card of the run that train.extend names, with what this command line changes of it.

    None where the command line composes the whole card again, by experiment or scale. Raises UserError where
    train.extend is no run folder.
    """
    parser = OverridesParser.create()
    given = [parser.parse_override(override) for override in overrides]
    if any(override.key_or_group in ("experiment", "scale") for override in given):
        return None
    saved = read_saved_card(Path(composed.train.extend), "train.extend")
    for override in given:
        key = override.key_or_group
        if saved.choices.get(key) != override.value():  # a group that is chosen as it was: its keys are the run's
            OmegaConf.update(saved.card, key, OmegaConf.select(composed, key), merge=False, force_add=True)
    saved.card.name, saved.card.run_dir = composed.name, composed.run_dir
    return SavedCard(saved.card, saved.choices, [*saved.overrides, *overrides])


def part(card: DictConfig, key: str) -> dict[str, Any]:
    """Returns one part of a card, resolved: dataset, augmentation, audit."""
    content: Any = OmegaConf.to_container(card[key], resolve=True)
    return content  # type: ignore[no-any-return]
