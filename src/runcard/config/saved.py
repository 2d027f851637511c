"""Read the config that a run folder keeps. The folder may be another person's: its config is data and runs nothing."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runcard.errors import first_line
from runcard.fileio import check_no_aliases, inside

FOLDER = ".hydra"  # of a run folder
FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")  # in it
OF_HYDRA = ("defaults", "hydra")  # keys with which a config file chooses other files, search paths and plugins
# What conf/ refers to: other keys, a time, Runcard's own environment variables. Other resolvers could read secrets, or
# make nodes that no check of the file sees.
HARMLESS = re.compile(r"\$\{[\w.\[\]]+\}|\$\{now:[\w%:-]+\}|\$\{oc\.env:RUNCARD_\w+(,[\w.-]*)?\}")


def read_yaml(folder: Path, name: str) -> Any:
    """Return the content of a YAML file of a run folder, without resolving it. Raises OSError or ValueError."""
    text = inside(folder, f"{FOLDER}/{name}").read_text(encoding="utf-8")
    try:
        check_no_aliases(text)
        content = OmegaConf.create(text)
        return OmegaConf.to_container(content) if OmegaConf.is_config(content) else content
    except (yaml.YAMLError, OmegaConfBaseException, AssertionError, RecursionError, ValueError) as error:
        raise ValueError(f"{name} cannot be read ({first_line(error)})") from None


def read_config(folder: Path) -> DictConfig:
    """Return the config of a run folder, as composed. Raises OSError or ValueError where it is damaged or not inert."""
    config = read_yaml(folder, "config.yaml")
    if not isinstance(config, dict) or not {"dataset", "model"} <= config.keys():
        raise ValueError("config.yaml has no dataset or no model")
    if of_hydra := [key for key in OF_HYDRA if key in config]:
        raise ValueError(f"config.yaml has the key {of_hydra[0]}, which Runcard does not write there")
    if "@package" in inside(folder, f"{FOLDER}/config.yaml").read_text(encoding="utf-8"):
        raise ValueError("config.yaml names a @package, which Runcard does not write there")
    if others := sorted({path.name for path in (folder / FOLDER).iterdir()} - {*FILES}):
        raise ValueError(f"{FOLDER}/{others[0]} does not belong to a run")
    check_inert(config, HARMLESS)
    return OmegaConf.create(config)


def check_inert(content: object, allowed: re.Pattern[str] | None = None, key: str = "") -> None:
    """Raise ValueError for a text that OmegaConf would compute when it is read, but for the allowed interpolations."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            check_inert(value, allowed, f"{key}.{name}".lstrip("."))
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            check_inert(value, allowed, f"{key}[{i}]")
    elif isinstance(content, str) and "${" in (allowed.sub("", content) if allowed else content):
        raise ValueError(f"{key} is {reprlib.repr(content)}, which would be computed on this machine")
