"""The run folder: whose it is, what ran in it, on which data, with which result.

A folder belongs to one card on one data set. Naming it again resumes the run; a completed run gives its recorded
value. Anything else that stands there is refused or, with overwrite=true, moved aside.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from runcard.atomic import replacing, write_json, write_text
from runcard.errors import UserError

SCHEMA_VERSION = 1
Config = dict[str, Any]  # nested, plain
UNHASHED = {  # what cannot change the numbers
    "name", "run_dir", "overwrite", "dataset.root", "train.num_workers", "train.persistent_workers",
    "train.log_every_steps", "train.pictures", "derived",
}  # fmt: skip
PACKAGES = ("torch", "torchvision", "numpy", "albumentations", "torchmetrics", "hydra-core", "lightning-fabric")


class Record:
    """run.json and what stands beside it, of one run folder, locked while this process runs in it."""

    def __init__(self, folder: Path, content: dict[str, Any], lock: FileLock) -> None:
        self.folder = folder
        self.content = content
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, config: Config, data: Mapping[str, str], overwrite: bool) -> Record:
        """Returns the record of folder: an empty one where it is free, the one found where it is this card's.

        Raises UserError where another card, other data or something else stands there, or another process runs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{folder}: another process runs in this folder. Wait for it, or use another name."
            ) from None
        path = folder / "run.json"
        content: Config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if content:
            differing = differing_keys(content["config"], config) + ["the data"] * (content["data"] != data)
            fault = f"holds another run, which differs in {', '.join(differing)}" if differing else ""
        else:
            others = sorted(p.name for p in folder.iterdir() if p.name != ".lock")
            fault = f"is not empty and not a run folder: it has {', '.join(others[:5])}" if others else ""
        record = cls(folder, content, lock)
        if fault:
            record.release()
            if not overwrite:
                raise UserError(
                    f"{folder}: {fault}.\n"
                    "Use another name (name=… or run_dir=…), or overwrite=true, which moves the old folder aside."
                )
            folder.rename(_free_name(folder))
            return cls.open(folder, config, data, overwrite=False)
        return record

    def start(self, card: str, overrides: Sequence[str], session: Mapping[str, Any], **facts: Any) -> None:
        """Writes .hydra/ and run.json with status running; session is what may differ when the run is resumed."""
        write_text(self.folder / ".hydra" / "config.yaml", card)
        write_text(self.folder / ".hydra" / "overrides.yaml", "".join(f"- {json.dumps(o)}\n" for o in overrides))
        if not self.content:
            self.content = {"schema": SCHEMA_VERSION, "start": _now(), "sessions": [], **facts}
        machine = {"start": _now(), "code": code_hash(), "commit": commit(), "hardware": hardware()}
        self.content["sessions"].append({**machine, "versions": versions(), **session})
        self.update(status="running", error=None)

    def update(self, **facts: Any) -> None:
        """Writes run.json with these facts added."""
        self.content |= facts
        write_json(self.folder / "run.json", self.content)

    def finish(self, session_seconds: float, status: str, error: str | None = None, **facts: Any) -> None:
        """Writes how this session ended: completed, failed or interrupted."""
        self.content["sessions"][-1] |= {"end": _now(), "seconds": session_seconds}
        self.update(status=status, error=error, end=_now(), **facts)

    def release(self) -> None:
        """Lets another process open the folder."""
        self._lock.release()
        (self.folder / ".lock").unlink(missing_ok=True)

    def write_split(self, split: Mapping[str, Sequence[int]], ids: Sequence[str], groups: Sequence[str]) -> None:
        """Writes split.json: the ids, and their groups, of train, val and test."""
        write_json(
            self.folder / "split.json",
            {part: [{"id": ids[i], "group": groups[i]} for i in members] for part, members in split.items()},
        )

    def write_per_image(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes per_image.csv: a row per image of validation (and test), for the last and the best weights."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / "per_image.csv", text.getvalue())


def extend(parent: Path, folder: Path, config: Config, data: Mapping[str, str], total_matters: bool) -> None:
    """Copies parent's last epoch into folder, so that training goes on from there (train.extend).

    The result equals a run that long from the start; therefore only train.epochs may differ, and the scheduler must
    not depend on the total number of steps.
    """
    path = parent / "run.json"
    if not path.exists() or not (parent / "checkpoints" / "last.ckpt").exists():
        raise UserError(f"train.extend: {parent} is not a run folder with a checkpoint.")
    if total_matters:
        raise UserError(
            "train.extend: this scheduler depends on the total number of steps. Use scheduler=none or plateau."
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    differing = differing_keys(content["config"], config, but=("train.epochs", "train.extend"))
    differing += ["the data"] * (content["data"] != data)
    if differing:
        raise UserError(
            f"train.extend: the card may differ from {parent} only in train.epochs, not in {', '.join(differing)}."
        )
    if config["train"]["epochs"] < content["config"]["train"]["epochs"]:
        raise UserError(
            f"train.extend: train.epochs must exceed the {content['config']['train']['epochs']} of {parent}."
        )
    for name in ("checkpoints/best.safetensors", "metrics.csv", "checkpoints/last.ckpt"):  # last: it marks the start
        with replacing(folder / name) as temporary:
            shutil.copyfile(parent / name, temporary)


def config_hash(config: Config) -> str:
    """Returns a hash over everything in a resolved config that can change the numbers."""
    kept = {key: value for key, value in flatten(config).items() if not _unhashed(key)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], but: Sequence[str] = ()) -> list[str]:
    """Returns "key (this, that)" for every hashed key in which two resolved configs differ, leaving out `but`."""
    a, b = flatten(one), flatten(other)
    keys = [k for k in sorted(a.keys() | b.keys()) if not _unhashed(k) and k not in but and a.get(k) != b.get(k)]
    return [f"{key} ({a.get(key, 'absent')} there, {b.get(key, 'absent')} here)" for key in keys]


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


def code_hash() -> str:
    """Returns a hash over the package's own source."""
    root = Path(__file__).parent
    return _hash(f"{p.relative_to(root)} {p.read_text(encoding='utf-8')}" for p in sorted(root.rglob("*.py")))


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
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _unhashed(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in UNHASHED)


def _hash(lines: Any) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _free_name(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return aside
