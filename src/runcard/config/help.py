"""The text of `runcard train --help`: the choices of each group, and the keys with the comments of conf/."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runcard.config.project import choices_of, config_folders

USAGE = """Train one config: a dataset, a model, a loss, an augmentation, an optimizer and a scheduler.

  runcard train model=unet loss=dice model.base=32     one run
  runcard train -m loss=bce,dice seed=0,1,2            a sweep: every combination
  runcard train experiment=first/lungs …               an experiment, named with its folder
  runcard train run_dir=<folder> …                     the same config again: resumes where it stopped
  runcard train --cfg job                              the config, without running it
  runcard train model=vgg16 --help                     the keys of this choice

In a clone, `python train.py …` is the same command."""
GROUPS = ("dataset", "model", "loss", "augmentation", "optimizer", "scheduler")
OTHER_GROUPS = ("metric", "split", "logger", "scale", "experiment")
KEY = re.compile(r"^(?P<indent> *)(?P<key>\w+):\s*(?:&\w+)?(?P<value>[^#]*?)\s*(?:#\s*(?P<comment>.*))?$")
NOT_KEYS = ("defaults", "derived", "hydra", "logger")


def help_text(arguments: Sequence[str]) -> str:
    """Return the help, with the keys of the choices among the arguments."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    lines = _file("config").read_text(encoding="utf-8").splitlines()
    defaults = {found[1]: found[2] for line in lines if (found := re.match(r"  - (\w+): (\w+)", line))}
    choices = {group: choices_of(group) for group in (*GROUPS, *OTHER_GROUPS)}
    parts = [USAGE, "\nChoices, group=choice (metric and split come with the dataset):"]
    parts += [f"  {group}: {', '.join(names)}" for group, names in choices.items()]
    parts += ["\nKeys, key=value:", *_aligned(keys_of(lines, ""))]
    for group, default in defaults.items():
        path = _file(f"{group}/{given.get(group, default)}")
        if group in GROUPS and path.exists() and (keys := list(keys_of(_whole(path), f"{group}."))):
            parts += [f"\nKeys of {group}={path.stem}:", *_aligned(keys)]
    parts += ["\nKeys of the split:", *_aligned(keys_of(_whole(_file("split/holdout")), "dataset.split."))]
    return "\n".join(parts)


def _file(name: str) -> Path:
    """Return the file of a config, from the folder that takes precedence."""
    files = [folder / f"{name}.yaml" for folder in config_folders()]
    return next((path for path in files if path.exists()), files[-1])


def _whole(path: Path) -> list[str]:
    """Return the lines of a choice's file, after those of the file that it is based on."""
    lines = path.read_text(encoding="utf-8").splitlines()
    bases = [_file(f"{path.parent.name}/{found[1]}") for line in lines if (found := re.match(r"  - (\w+)$", line))]
    return [line for base in bases if base.exists() for line in _whole(base)] + lines


def keys_of(lines: Sequence[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield the dotted key, the value ("" of a group of keys) and the comment of each key in lines of YAML."""
    parents: list[tuple[int, str]] = []
    for line in lines:
        found = KEY.match(line)
        if not found or found["key"].startswith("_"):
            continue
        indent = len(found["indent"])
        parents = [parent for parent in parents if parent[0] < indent]
        key = ".".join([*(name for _, name in parents), found["key"]])
        if found["value"] == "":
            parents.append((indent, found["key"]))
        if not found["value"].startswith("${derived."):
            yield prefix + key, found["value"], found["comment"] or ""


def _aligned(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    shown = [row for row in rows if row[1] and row[0].partition(".")[0] not in NOT_KEYS]
    return [f"  {f'{key}={value}':44}{f'  {comment}' if comment else ''}".rstrip() for key, value, comment in shown]
