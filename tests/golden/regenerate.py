"""Writes trace.json anew: `make golden`, after a change that is meant to change numbers, and only then."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import TINY, card

from runcard.record import read_metrics
from runcard.run import run

PATH = Path(__file__).with_name("trace.json")
TOLERANCE = 1e-4  # relative: another processor sums in another order, and six epochs of two steps let that grow
COLUMNS = ("train/loss", "train_eval/loss", "val/loss", "grad_norm")
SHORT = ("train.epochs=6", "train.limit_batches=2", "train.pictures=0")
CARDS = {
    "masks": (*TINY, *SHORT, "augmentation=lab", "model.dropout=0.2", "loss=bce_dice", "scheduler=cosine"),
    "classes": (*TINY, *SHORT, "dataset=phantom_bone", "model=vgg16", "loss=cross_entropy", "augmentation=strong"),
}


def trace(overrides: tuple[str, ...]) -> dict[str, list[float]]:
    """Returns the columns of metrics.csv of one card, at full precision."""
    with tempfile.TemporaryDirectory() as folder:
        run(card(*overrides), Path(folder) / "run", [], {})
        rows = read_metrics(Path(folder) / "run" / "metrics.csv")
    return {column: [row[column] for row in rows] for column in COLUMNS}


if __name__ == "__main__":
    versions = {"torch": torch.__version__, "numpy": np.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    traces = {name: trace(overrides) for name, overrides in CARDS.items()}
    PATH.write_text(json.dumps({"tolerance": TOLERANCE, "made with": versions, "traces": traces}, indent=1) + "\n")
    print(PATH)
