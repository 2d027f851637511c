"""Measures a frozen VGG16, run once, and its head trained on the features, against the same network from scratch.

    .venv/bin/python benchmarks/cached_features.py dataset=image_folder dataset.root=<folder> [model.weights=<file>]

Both see the same images for the same number of epochs, one after the other in one process, without augmentation. What
is compared is what run.json records: the seconds of all epochs, and of running the frozen layers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from runcard.config.compose import compose_config
from runcard.console import print_table
from runcard.experiment.run import run
from runcard.runs.environment import hardware

CONFIG = ["dataset=phantom_bone", "loss=bce", "dataset.image_size_px=128", "dataset.channels=3", "train.epochs=30"]
CONFIG += ["optimizer.lr=1e-5", "train.pictures=0"]
FROZEN = ["model=vgg16_pretrained"]
SCRATCH = ["model=vgg16", "model.base=64", "model.head=[128]", "model.dropout=0.5"]


def main() -> None:
    """Print the table of benchmarks/README.md; arguments are further overrides of both configs."""
    with tempfile.TemporaryDirectory() as folder:
        of_weights = [o for o in sys.argv[1:] if o.startswith("model.weights=")]
        common = [*CONFIG, *(o for o in sys.argv[1:] if o not in of_weights), f"train.cache_dir={folder}/features"]
        frozen = record(Path(folder) / "frozen", [*common, *FROZEN, *of_weights])
        scratch = record(Path(folder) / "scratch", [*common, *SCRATCH])
    cost = {
        "frozen VGG16, its head on cached features": frozen["seconds"]["caching"] + frozen["seconds"]["total"],
        "VGG16 from scratch, base 64": scratch["seconds"]["total"],
    }
    first = next(iter(cost.values()))
    rows = [[name, f"{seconds:.1f}", f"{seconds / first:.1f}"] for name, seconds in cost.items()]
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{hardware()} torch {torch.__version__}, {scratch['epochs']} epochs")
    console.print(f"of the first, {frozen['seconds']['caching']:.1f} s ran the frozen layers")
    print_table(console, ["training of", "seconds", "times the first"], rows)


def record(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Run a config and return its run.json."""
    run(compose_config(overrides), folder, overrides, {})
    content: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
