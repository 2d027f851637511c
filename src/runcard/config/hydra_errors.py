"""Hydra's and OmegaConf's errors as text: the dotted key, the rule, and the nearest valid choices.

Answers in well under a second: nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from runcard.config.project import CONF, choices_of
from runcard.errors import did_you_mean

MAX_LISTED = 15  # keys: all at the top of the config
RENAMED = {  # former name -> its name now
    "dataset=labelled": "dataset=image_folder",
    "augmentation=lab": "augmentation=light",
    "rehearsal": "smoke_test",
}


def is_hydras(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised an error of theirs: some of Hydra's are plain ValueErrors."""
    own = (HydraException, OmegaConfBaseException)
    return isinstance(error, own) or str(error).startswith("Config group override")


def as_message(error: HydraException | OmegaConfBaseException | ValueError, arguments: Sequence[str]) -> str:
    """Return one to four lines for an error of composing a config from the command line's arguments."""
    message = str(error)
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)'", message)):
        return _no_such_choice(*found[1].rpartition("/")[::2])
    if isinstance(error, ValueError):
        given = [a.partition("=") for a in arguments]
        wrong = [f"{group}={value}" for group, _, value in given if "." not in group and not value[:1].isalpha()]
        wrong += [f"{group}={value}" for group, _, value in given if value in ("null", "true", "false")]
        return f"{', '.join(wrong)}: a group needs one of its choices. Some have none: scheduler=none."
    if message.startswith("Ambiguous value") and (found := re.search(r"'(.+?)'", message)):
        return f"{found[1]}: several values are a sweep, which needs -m in front; a list is written key=[a,b]."
    if message.startswith("Could not append") and (found := re.search(r"'(.+?)'", message)):
        return f"+{found[1]}: this key is there already. Leave out the +: {found[1]}=…"
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"'([^']+)'", message)):
        return _no_such_key(found[1], arguments)
    if isinstance(error, MissingMandatoryValue) and (found := re.search(r"[\w.]+$", message.splitlines()[0])):
        return f"{found[0]}: this key has no default and must be given: {found[0]}=…"
    if isinstance(error, InterpolationResolutionError):
        return f"{getattr(error, 'full_key', None) or 'config'}: {message.splitlines()[0]}"
    said = message.partition("\nSee https")[0]
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {said}.\nA value with = , [ ( or a space in it is quoted twice: key='\"value\"'."
    return said


def _no_such_choice(group: str, choice: str) -> str:
    if renamed := RENAMED.get(f"{group}={choice}"):
        return f"{group}={choice} is now called {renamed}."
    choices = choices_of(group)
    known = f"The choices are {', '.join(choices)}." if choices else "There are none yet."
    file = f"conf/{group}/{choice}.yaml".replace("conf/experiment/", "experiments/")
    return f"{group}={choice}: no such file {file}. {known}{did_you_mean(choice, choices)}"


def _no_such_key(key: str, arguments: Sequence[str]) -> str:
    if renamed := RENAMED.get(key):
        return f"{key} is now called {renamed}."
    config, choices = _composed_without(key, arguments)
    group, _, rest = key.partition(".")
    keys = list(_dotted(config))
    where = f" of {group}={choices[group]}" if rest and group in choices else ""
    siblings = [k for k in keys if k.startswith(f"{group}.")] if group in config else [*map(str, config), *keys]
    return f"{key}: no such option{where}.{did_you_mean(key, siblings) or _listed(siblings)}"


def _listed(keys: Sequence[str]) -> str:
    return f" There are {', '.join(keys[:MAX_LISTED])}{', …' if len(keys) > MAX_LISTED else '.'}"


def _composed_without(key: str, arguments: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the config composed from all group choices among the arguments, and the choices."""
    given = [a for a in arguments if "=" in a and not a.startswith("-")]
    groups = [o.input_line for o in OverridesParser.create().parse_overrides(given) if "." not in o.key_or_group]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF)):
        try:
            config = compose("config", [g for g in groups if g and not g.startswith(key)], return_hydra_config=True)
        except HydraException:
            config = compose("config", return_hydra_config=True)
    choices = {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), choices


def _dotted(config: DictConfig, prefix: str = "") -> list[str]:
    """Return all keys, dotted, in the order of the files; values are not looked at, they may be missing."""
    keys = []
    for key in map(str, config):
        keys.append(prefix + key)
        node = config._get_node(key)
        if isinstance(node, DictConfig) and node:
            keys += _dotted(node, f"{prefix}{key}.")
    return keys
