"""The text of `python train.py --help`: the choices of each group, and the keys with the comments of conf/."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

USAGE = """Train one config: a dataset, a model, a loss, an augmentation, an optimizer and a scheduler.

  python train.py model=unet loss=dice model.base=32     one run
  python train.py -m loss=bce,dice seed=0,1,2            a sweep: every combination
  python train.py experiment=first/lungs …               an experiment, named with its folder
  python train.py run_dir=<folder> …                     the same config again: resumes where it stopped
  python train.py --cfg job                              the config, without running it
  python train.py model=vgg16 --help                     the keys of this choice"""
GROUPS = ("dataset", "model", "loss", "augmentation", "optimizer", "scheduler")
OTHER_GROUPS = ("metric", "split", "scale", "experiment")
KEY = re.compile(r"^(?P<indent> *)(?P<key>\w+):\s*(?P<value>[^#]*?)\s*(?:#\s*(?P<comment>.*))?$")
NOT_KEYS = ("defaults", "derived", "hydra")


def help_text(conf: Path, arguments: Sequence[str]) -> str:
    """Return the help for the config files in conf, with the keys of the choices among the arguments."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    lines = (conf / "config.yaml").read_text(encoding="utf-8").splitlines()
    defaults = {found[1]: found[2] for line in lines if (found := re.match(r"  - (\w+): (\w+)", line))}
    choices = {group: _choices(conf / group) for group in (*GROUPS, *OTHER_GROUPS)}
    parts = [USAGE, "\nChoices, group=choice (metric and split come with the dataset):"]
    parts += [f"  {group}: {', '.join(names)}" for group, names in choices.items()]
    parts += ["\nKeys, key=value:", *_aligned(_keys(lines, ""))]
    for group, default in defaults.items():
        path = conf / group / f"{given.get(group, default)}.yaml"
        if group in GROUPS and path.exists() and (keys := list(_keys(_whole(path), f"{group}."))):
            parts += [f"\nKeys of {group}={path.stem}:", *_aligned(keys)]
    parts += ["\nKeys of the split:", *_aligned(_keys(_whole(conf / "split" / "holdout.yaml"), "dataset.split."))]
    return "\n".join(parts)


def _choices(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def _whole(path: Path) -> list[str]:
    """Return the lines of a choice's file, after those of the file that it is based on."""
    lines = path.read_text(encoding="utf-8").splitlines()
    bases = [path.with_name(f"{found[1]}.yaml") for line in lines if (found := re.match(r"  - (\w+)$", line))]
    return [line for base in bases if base.exists() for line in _whole(base)] + lines


def _keys(lines: Sequence[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield the dotted key, the value and the comment of each key in lines of YAML."""
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
        elif key.partition(".")[0] not in NOT_KEYS and "${derived." not in found["value"]:
            yield prefix + key, found["value"], found["comment"] or ""


def _aligned(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    return [f"  {f'{key}={value}':44}{f'  {comment}' if comment else ''}".rstrip() for key, value, comment in rows]
