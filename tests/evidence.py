"""What the numbers of a run folder are: everything that must be equal bit for bit, with tensors as hashes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runcard.training.checkpoint import read_weights

TIMES = ("seconds", "images_per_second")


def numbers(folder: Path) -> dict[str, Any]:
    """Return the rows of metrics.csv without its times, per_image.csv, the best weights and the last checkpoint."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_csv(folder / "metrics.csv")]
    kept: dict[str, Any] = {}
    if (path := folder / "checkpoints" / "last.ckpt").exists():  # not in a lean record
        last = torch.load(path, weights_only=True)
        kept = {key: last[key] for key in ("model", "optimizer", "scheduler")}
        kept["state"] = {key: value for key, value in last["state"].items() if key != "rows"}
    return {
        "metrics.csv": rows,
        "per_image.csv": read_csv(folder / "per_image.csv"),
        "best.safetensors": _hashed(read_weights(folder / "checkpoints" / "best.safetensors")[0]),
        "last.ckpt": _hashed(kept),
    }


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows as text, so that the last bit of a number counts."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return {tag: [(step, value), …]} as TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def run_json(folder: Path) -> dict[str, Any]:
    """Return run.json."""
    return json.loads((folder / "run.json").read_text())


def _hashed(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        value = hashlib.sha256(content.contiguous().numpy().tobytes()).hexdigest()[:16]
        return f"{content.dtype} {tuple(content.shape)} {value}"
    if isinstance(content, Mapping):
        return {key: _hashed(value) for key, value in content.items()}
    return [_hashed(value) for value in content] if isinstance(content, (list, tuple)) else content
