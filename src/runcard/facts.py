"""What is recorded of a run so that another can be compared with it: config and data as hashes, code and machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Config = dict[str, Any]  # nested, plain
UNHASHED = {  # what cannot change the numbers
    "name", "run_dir", "overwrite", "dataset.root", "train.num_workers", "train.persistent_workers",
    "train.log_every_steps", "train.pictures", "train.explain_images", "train.cache_dir", "audit", "derived",
}  # fmt: skip
READERS = ("compare/", "audit/", "cli.py", "cards.py", "study")  # they cannot change a run's numbers
PACKAGES = (
    *("torch", "torchvision", "torchmetrics", "lightning-fabric", "hydra-core", "albumentations"),
    *("numpy", "scipy", "scikit-learn", "opencv-python-headless", "pillow"),
)


def config_hash(config: Config) -> str:
    """Returns a hash over everything in a resolved config that can change the numbers."""
    kept = {key: value for key, value in flatten(config).items() if matters(key)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], but: Sequence[str] = ()) -> list[str]:
    """Returns "key (this, that)" for every hashed key in which two resolved configs differ, leaving out `but`."""
    a, b = flatten(one), flatten(other)
    keys = [k for k in sorted(a.keys() | b.keys()) if matters(k) and k not in but and a.get(k) != b.get(k)]
    return [f"{key} ({a.get(key, 'absent')} there, {b.get(key, 'absent')} here)" for key in keys]


def matters(key: str) -> bool:
    """Whether a dotted key of the card can change the numbers."""
    return not any(key == name or key.startswith(f"{name}.") for name in UNHASHED)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"model.base": 16, …}: the leaves of a nested dict under dotted keys; lists are leaves."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
        )
    return leaves


def data_fingerprint(split: Mapping[str, Sequence[int]], ids: Sequence[str], digests: Sequence[str]) -> dict[str, str]:
    """Returns a hash over names and bytes of all files, in all ("hash"), per split, and of the split's ids alone."""
    parts = {part: _hash(f"{ids[i]} {digests[i]}" for i in members) for part, members in split.items()}
    everything = _hash(sorted(f"{name} {digest}" for name, digest in zip(ids, digests, strict=True)))
    ids_alone = _hash(f"{part} {ids[i]}" for part, members in split.items() for i in members)
    return {"hash": everything, **parts, "split_hash": ids_alone}


def code_hash(but: tuple[str, ...] = READERS) -> str:
    """Returns a hash over the package's own source, leaving out the files whose paths start so."""
    root = Path(__file__).parent
    names = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*.py"))}
    return _hash(f"{name} {p.read_text(encoding='utf-8')}" for name, p in names.items() if not name.startswith(but))


def commit() -> str | None:
    """Returns the commit that the source stands at, with "+" where it was changed; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def hardware() -> dict[str, Any]:
    """Returns the machine: processor, cores, torch's threads, GPU."""
    import torch  # here, so that comparing runs does not wait for it

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
