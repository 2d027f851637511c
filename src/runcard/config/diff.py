"""Which keys of a config can change the numbers: its hash, and in what two configs differ."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

Config = dict[str, Any]  # nested, plain
UNKNOWN = "<derived."  # stands for a derived value until the data are read
LONGER = ("train.epochs", "train.extend")  # in which a run that is trained longer differs from its parent


NON_FUNCTIONAL_KEYS = {  # what cannot change the numbers
    "name", "run_dir", "overwrite", "trust", "record", "chosen_by", "logger", "dataset.root", "dataset.csv",
    "train.devices", "train.num_workers", "train.persistent_workers", "train.data_on_device", "train.checkpoint_every",
    "train.log_every_steps", "train.pictures", "train.explain_images", "train.cache_dir", "train.cache_gb", "audit",
    "images", "derived",
}  # fmt: skip
# Of a later version -> what a config without the key has always done.
ADDED_KEYS: dict[str, Any] = {
    "dataset.resize": "stretch",
    "dataset.ignore_value": None,
    "dataset.split.exclude": [],
    "dataset.split.seal": False,
    "train.sync_batchnorm": True,
    "train.eval_every": 1,
}


def config_hash(config: Config) -> str:
    """Return a hash over everything in a resolved config that can change the numbers."""
    return hashlib.sha256(json.dumps(functional_leaves(config), sort_keys=True, default=str).encode()).hexdigest()


def functional_leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a resolved config that can change the numbers, by dotted key."""
    return {key: value for key, value in (ADDED_KEYS | flatten(config)).items() if affects_results(key)}


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = ()) -> list[str]:
    """Return "key (this there, that here)" for every hashed key in which two resolved configs differ, but for `but`."""
    a, b = functional_leaves(one), functional_leaves(other)
    keys = [k for k in sorted(a.keys() | b.keys()) if k not in but and a.get(k) != b.get(k)]
    return [f"{key} ({a.get(key, 'absent')} there, {b.get(key, 'absent')} here)" for key in keys]


@cache
def affects_results(key: str) -> bool:
    """Whether a dotted key of the config can change the numbers."""
    return not any(key == name or key.startswith(f"{name}.") for name in NON_FUNCTIONAL_KEYS)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"model.base": 16, …}: the leaves of a nested dict under dotted keys; lists are leaves."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[sys.intern(f"{prefix}{key}")] = value  # one string for the configs of thousands of runs
    return leaves
