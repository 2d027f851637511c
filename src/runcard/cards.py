"""Cards composed outside of train.py, as train.py would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runcard.errors import UserError
from runcard.facts import flatten
from runcard.hydra_errors import in_words, is_hydras

CONF = Path("conf")


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


def part(card: DictConfig, key: str) -> dict[str, Any]:
    """Returns one part of a card, resolved: dataset, augmentation, audit."""
    content: Any = OmegaConf.to_container(card[key], resolve=True)
    return content  # type: ignore[no-any-return]
