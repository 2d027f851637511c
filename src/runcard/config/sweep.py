"""How the command line of a sweep is read, and how the folders of its runs are named."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from runcard.config.diff import affects_results
from runcard.errors import UserError
from runcard.fileio import MAX_NAME_BYTES

GROUPS = ("dataset", "model", "loss", "augmentation", "optimizer", "scheduler", "metric", "experiment", "scale")
RUN_NAME = "name a folder in outputs/, such as first or lungs/first"
MAX_FOLDER_NAME = 120  # characters; a longer name ends in a hash


def sweep_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the command line's arguments as Hydra needs them for a sweep; those of a single run as they are."""
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    parser = OverridesParser.create()
    parsed: dict[str, Override] = {}
    for argument in arguments:
        with suppress(HydraException):  # an option, or a mistake that Hydra tells
            parsed[argument] = parser.parse_override(argument)
    for override in parsed.values():  # before the sweep's folder is made, which may not lie outside outputs/
        if override.key_or_group == "name" and not override.is_sweep_override() and not is_run_name(override.value()):
            raise UserError(f"name must {RUN_NAME}, got {override.value()!r}.")
    return [*_add_or_override(arguments, parsed), *_folders(parsed)]


def is_run_name(name: object) -> bool:
    """Whether outputs/<name> is a folder in outputs/ or deeper."""
    parts = str(name).split("/")
    is_folder = all(part not in ("", ".", "..") and len(os.fsencode(part)) <= MAX_NAME_BYTES for part in parts)
    return type(name) in (str, int, float) and is_folder and str(name).isprintable()


def _add_or_override(arguments: Sequence[str], parsed: Mapping[str, Override]) -> list[str]:
    """Put ++ before keys that only some jobs of the sweep may have.

    Before it starts the jobs of -m experiment=a,b dataset.root=x, Hydra composes the config without what is swept, and
    would refuse dataset.root where the default dataset has none. RunSweeper takes the ++ away again: each job must have
    the key.
    """
    swept = {o.key_or_group for o in parsed.values() if o.is_sweep_override() and "." not in o.key_or_group}

    def unsure(argument: str) -> bool:
        group = parsed[argument].key_or_group.partition(".")[0] if argument in parsed else ""
        return "." in argument.partition("=")[0] and bool(swept & {group, "experiment"}) and group != "hydra"

    return [f"++{argument}" if unsure(argument) and argument[0] not in "+~" else argument for argument in arguments]


def _folders(parsed: Mapping[str, Override]) -> list[str]:
    """Name the folders of a sweep: what all its jobs share in the name of the sweep's, what is swept in those of runs.

    outputs/<name>/<shared>/<swept>; without the middle where nothing that affects results is shared.
    """
    own = {text: override for text, override in parsed.items() if not override.key_or_group.startswith("hydra")}
    if any(override.key_or_group.startswith("hydra.sweep.") for override in parsed.values()):
        return []
    fixed = {text: override.key_or_group for text, override in own.items() if not override.is_sweep_override()}
    counting = sorted(text for text, key in fixed.items() if affects_results(key))
    folder = f"/{folder_name(','.join(counting))}" if counting else ""
    return [
        f"hydra.sweep.dir='outputs/${{name}}{folder}'",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(dict.fromkeys(fixed.values()))}]",
    ]


def chosen_files(choices: Mapping[Any, Any]) -> dict[str, str]:
    """Return the file chosen per config group, of Hydra's choices."""
    return {str(group): choice for group, choice in choices.items() if group in GROUPS}


def folder_name(overrides: str) -> str:
    """Return a sweep's sub-folder: the job's overrides, . for /; a hash stands for what else is replaced or cut."""
    plain = re.sub(r"(^|,)\+\+", r"\1", overrides).replace("/", ".")
    name = re.sub(r"[^\w.,=+-]+", "_", plain) or "defaults"
    if len(name) <= MAX_FOLDER_NAME and name in (plain, "defaults"):
        return name
    return f"{name[: MAX_FOLDER_NAME - 9]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def relative(folder: str) -> Path:
    """Return folder as a path from here, where it lies below."""
    path = Path(folder)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def remove_if_empty(folder: Path) -> None:
    """Remove folder, and the one above it, where nothing is in them."""
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return
