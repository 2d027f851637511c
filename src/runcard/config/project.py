"""Where config files are found: in Runcard's own conf/, and before it in the project of the working directory.

A project is a folder with a conf/ that adds choices (conf/dataset/mine.yaml), an experiments/, or both.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runcard.errors import UserError

_PACKAGE = Path(__file__).parents[1]
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir())  # of a wheel, a clone


def use_own_modules() -> None:
    """Let Python find the modules of the working directory, after all that is installed."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def config_folders() -> list[Path]:
    """Return the folders of config files, the one that takes precedence first and Runcard's own last."""
    conf = Path.cwd() / "conf"
    if not conf.is_dir() or conf.resolve() == CONF.resolve():
        return [CONF]
    if (conf / "config.yaml").exists() and not (conf / "dataset").is_dir():
        raise UserError(
            f"{conf / 'config.yaml'}: not Runcard's, and it would replace Runcard's own config.yaml. Work in another "
            "folder; or, if this is your project, put its settings into experiments/<name>.yaml: experiment=<name>."
        )
    return [conf, CONF]


def choices_of(group: str) -> list[str]:
    """Return the names of a group's choices, a folder's with / (lab4/task4a), in alphabetic order."""
    folders = [conf / group for conf in config_folders()]
    if group.split("/")[0] == "experiment":
        folders.append(Path("experiments", *group.split("/")[1:]))
    files = [(path, folder) for folder in folders for path in folder.rglob("*.yaml")]
    return sorted({path.relative_to(folder).with_suffix("").as_posix() for path, folder in files})
