"""Differences between arms, read from the resolved configs, data and machines of their runs, never from names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from runcard.compare.arms import WEIGHTS, Arm, same_config
from runcard.config.diff import flatten
from runcard.console import counted
from runcard.fileio import check_no_aliases
from runcard.runs.folders import has_file
from runcard.runs.run import Run

OF_RUNS = ("seed", "dataset.split.fold", "train.extend")  # what runs of one arm may differ in
CONFIG = ".hydra/config.yaml"  # in a run folder
DERIVED = "${derived."  # begins a config's reference to a value that follows from data and loss


@dataclass(frozen=True)
class Factor:
    """One difference between two arms: a config key, a group of keys, or a property of their runs."""

    key: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.key} ({self.first} | {self.second})"

    @property
    def swapped(self) -> Factor:
        """The same with the arms in the other order."""
        return Factor(self.key, self.second, self.first)

    def belongs_to(self, factor: str) -> bool:
        """Whether this is the named factor or part of it: model.base belongs to model.base and to model."""
        return f"{self.key}.".startswith(f"{factor}.")


def factors(first: Run, second: Run) -> list[Factor]:
    """List what differs between the configs of two runs, except OF_RUNS and the choice of metrics.

    A group whose file or _target_ differs is one factor, not one per key: loss (bce | dice). Values derived from data
    and loss (config's derived) are not factors.
    """
    a, b = first.config, second.config
    keys = [k for k in sorted(a.keys() | b.keys()) if k not in OF_RUNS and a.get(k) != b.get(k)]
    derived = derived_keys(first.folder) & derived_keys(second.folder)
    keys = [k for k in keys if not k.startswith("metric.scores.") and k not in derived]
    for hashed, name in WEIGHTS.items():
        if hashed in a and a[hashed] == b.get(hashed):
            keys = [key for key in keys if key != name]  # the same weights at another path
        elif name in keys or _replaced(name, first, second):
            keys = [key for key in keys if key != hashed]
    found: dict[str, Factor] = {}
    for key in keys:
        name = _replaced(key, first, second) or key
        found.setdefault(name, Factor(name, *_values(name, (first, second))))
    return list(found.values())


def split_factors(first: Run, second: Run, factor: str | None) -> tuple[list[Factor], list[Factor]]:
    """Split what differs between the configs into what belongs to the named factor, and the rest, the confounds.

    Without a named factor, a single difference is the factor, and several are confounds of each other.
    """
    found = factors(first, second)
    if factor is None:
        return (found, []) if len(found) == 1 else ([], found)
    studied = [each for each in found if each.belongs_to(factor)]
    return studied, [each for each in found if each not in studied]


def session_factors(first: Arm, second: Arm) -> list[Factor]:
    """List the differences in hardware, precision, code and package versions among the runs of two arms."""
    metadata = [[_of_session(each) for run in arm.runs for each in run.sessions] for arm in (first, second)]
    found = []
    for key in dict.fromkeys(key for arm in metadata for each in arm for key in each):
        a, b = (sorted({each.get(key, "absent") for each in arm}) for arm in metadata)
        if len({*a, *b}) > 1:
            found.append(Factor(key, ", ".join(a), ", ".join(b)))
    return found


def length_factors(first: Arm, second: Arm) -> list[Factor]:
    """List a difference in epochs run that comes from early stopping, not from the configs."""
    ran = [sorted({int(run.metadata["epochs"]) for run in arm.runs}) for arm in (first, second)]
    if ran[0] == ran[1] or _differ(first.first, second.first, "train.epochs"):
        return []
    return [Factor("epochs run", *(", ".join(map(str, lengths)) for lengths in ran))]


def incomparable(first: Arm, second: Arm, metric: str) -> list[str]:
    """List the reasons why a metric of two arms cannot be compared at all; empty where it can."""
    a, b = first.first, second.first
    reasons = []
    if a.metadata["data"]["hash"] != b.metadata["data"]["hash"]:
        reasons.append("other data: the files differ in names or bytes")
    elif lone := _lone_folds(first, second):
        reasons.append(f"only one of them has {', '.join(lone)}")
    elif _splits(first) != _splits(second):
        reasons.append("another split: they were not measured on the same images")
    if _differ(a, b, "dataset.classes") or a.split != b.split:
        reasons.append("other classes" if a.split == b.split else "one has a test split, the other has none")
    if metric == "loss" and a.loss != b.loss:
        reasons.append("the loss of each is its own: compare bce and soft_dice_loss, or log_loss, which all runs have")
    if metric != "loss" and any(_differ(a, b, scores) for scores in _definitions(a, metric)):
        reasons.append(f"another definition of {metric}")
    if (units := [run.units.get(metric, "no unit") for run in (a, b)])[0] != units[1]:
        reasons.append(f"another unit of {metric}: {' and '.join(units)}")
    return reasons


def group_arms(runs: Sequence[Run], failed: Sequence[Run] = ()) -> tuple[list[Arm], list[str]]:
    """Group runs into arms, named by what distinguishes them; also return the runs left out, with the reason.

    Of the runs that failed, an arm remembers those of its config, unless the same seed completed.

    A second run of the same config and seed is not another sample: the run that ended last counts; before it, one of a
    search, whose mark another run of the same config may lack.
    """
    configs: dict[Any, dict[tuple[int, int], Run]] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: (bool(run.metadata.get("search")), run.metadata["end"]), reverse=True):
        arm = configs.setdefault(same_config(run), {})
        if (known := arm.setdefault((run.fold, run.seed), run)) is not run:
            is_newer = bool(known.metadata.get("search")) == bool(run.metadata.get("search"))
            why = "which is newer" if is_newer else "of which a search is recorded"
            left_out.append(f"{run.folder}: the same config and seed as {known.folder}, {why}")
    place = {run.folder: i for i, run in enumerate(runs)}
    members = []
    for each in configs.values():
        kept, copies = distinct([run for _, run in sorted(each.items())])
        members.append(kept)
        left_out += copies
    members.sort(key=lambda arm: min(place[run.folder] for run in arm))
    lost = []
    for run in failed:
        with suppress(LookupError, TypeError):  # it failed before it knew its data
            lost.append((same_config(run), (run.fold, run.seed)))
    arms = []
    for name, kept in zip(_names([each[0] for each in members]), members, strict=True):
        config, done = same_config(kept[0]), {(run.fold, run.seed) for run in kept}
        arms.append(Arm(name, kept, tuple(sorted({key for own, key in lost if own == config and key not in done}))))
    return arms, left_out


def distinct(runs: Sequence[Run]) -> tuple[tuple[Run, ...], list[str]]:
    """Separate distinct runs from those left out, which have the same values although another seed gives others."""
    kept: list[Run] = []
    left_out = []
    alike: dict[tuple[int, bytes], list[Run]] = {}  # runs with the same first column, of which few can be twins
    for run in runs:
        images = run.images()
        first_column = next(iter(images.values.values()), np.empty(0)) + 0.0  # -0.0 becomes 0.0
        candidates = alike.setdefault((run.fold, first_column.tobytes()), [])
        twin = next((each for each in candidates if each.images().equals(images)), None)
        if twin is None:
            kept.append(run)
            candidates.append(run)
        else:
            left_out.append(f"{run.folder}: all values are those of {twin.folder}: a copy, or a seed without effect")
    return tuple(kept), left_out


def _names(runs: Sequence[Run]) -> list[str]:
    """Name each arm, given one run of each: by its experiment, or else by what distinguishes it from the others."""
    configs = [str(run.metadata["choices"].get("experiment") or "") for run in runs]
    if all(configs) and len(set(configs)) == len(configs):
        return configs
    keys = list(dict.fromkeys(f.key for pair in pairwise(runs) for f in factors(*pair)))
    keys += [f.key for f in factors(runs[0], runs[-1]) if f.key not in keys]
    labels = {key: [f"{key}={value}" for value in _values(key, runs)] for key in keys}
    named = [labels[key] for key in keys if key != "smoke_test"]  # of which tables say it anyway
    names = [", ".join(label) for label in zip(*named, strict=True)]
    if len(set(names)) < len(runs):
        names = [", ".join(label) for label in zip(*labels.values(), strict=True)] or ["this config"] * len(runs)
    data = [f"data {run.metadata['data']['hash'][:6]}, split {run.metadata['data']['split_hash'][:6]}" for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({of})" for name, of in zip(names, data, strict=True)]


@cache
def derived_keys(folder: Path) -> frozenset[str]:
    """Return the keys of a run's config that refer to derived values, such as model.out_channels."""
    if not has_file(folder, CONFIG):
        return frozenset()
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        check_no_aliases(text)
        config = yaml.load(text, Loader=yaml.CSafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # damaged: then they all count
        return frozenset()
    if not isinstance(config, dict):
        return frozenset()
    return frozenset(key for key, value in flatten(config).items() if isinstance(value, str) and DERIVED in value)


def _definitions(run: Run, metric: str) -> list[str]:
    """Return the prefixes of config keys that define a metric; a column (dice_left) may belong to any metric."""
    own = f"metric.scores.{metric}."
    return [own] if any(key.startswith(own) for key in run.config) else ["metric.scores.", "dataset.classes"]


def _replaced(key: str, first: Run, second: Run) -> str | None:
    """Return the shortest part of the config above key whose file or class differs; None where none does."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        above = ".".join(parts[:end])
        choices = [run.metadata["choices"].get(above) for run in (first, second)]
        if choices[0] != choices[1] or _differ(first, second, f"{above}._target_"):
            return above
    return None


def _values(key: str, runs: Sequence[Run]) -> list[str]:
    """Format a factor's value in each config; of a group, the chosen files where these differ, else the classes."""
    if any(key in run.config for run in runs):
        return [str(run.config.get(key, "absent")) for run in runs]
    chosen = [str(run.metadata["choices"].get(key)) for run in runs]
    classes = [str(run.config.get(f"{key}._target_", "none")).rpartition(".")[2] for run in runs]
    return chosen if len(set(chosen)) > 1 else classes


def _differ(first: Run, second: Run, prefix: str) -> bool:
    keys = {key for run in (first, second) for key in run.config if key.startswith(prefix)}
    return any(first.config.get(key) != second.config.get(key) for key in keys)


def _lone_folds(first: Arm, second: Arm) -> list[str]:
    """List the folds and seeds of a cross-validation that only one of the arms has."""
    if not (first.first.is_fold and second.first.is_fold):
        return []
    a, b = ({(run.fold, run.seed) for run in arm.runs} for arm in (first, second))
    lone = [(arm.name, each) for arm, own in ((first, a - b), (second, b - a)) for each in sorted(own)]
    return [f"fold {fold} seed {seed} of {name}" for name, (fold, seed) in lone]


def _splits(arm: Arm) -> set[tuple[int, str]]:
    return {(run.fold, str(run.metadata["data"]["split_hash"])) for run in arm.runs}


def _of_session(session: Mapping[str, Any]) -> dict[str, str]:
    hardware = session["hardware"]
    return {
        "precision": session["precision"],
        "hardware": f"{hardware['gpu'] or hardware['cpu']}, {counted(hardware['threads'], 'thread')}",
        "code": str(session["code"])[:8],
        **{f"version of {name}": version for name, version in session["versions"].items()},
    }
