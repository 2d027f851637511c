"""Measures runcard compare on 200 runs of 150 epochs, against reading their files with the standard library alone.

    .venv/bin/python benchmarks/comparing.py

Twenty arms of ten seeds, 47 images, eight metrics; written by tests/folders.py into a temporary folder. Each command is
a process of its own, as a person starts it: imports count. The median of five interleaved rounds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from runcard.console import print_table

TESTS = Path(__file__).parents[1] / "tests"
ARMS, SEEDS, IMAGES, EPOCHS, ROUNDS = 20, 10, 47, 150, 5
METRICS = ("dice", "iou", "precision", "sensitivity", "specificity")  # beside the three losses
READ = """
import csv, json, pathlib, sys
for folder in pathlib.Path(sys.argv[1]).iterdir():
    json.loads((folder / "run.json").read_text())
    json.loads((folder / "split.json").read_text())
    for name in ("metrics.csv", "per_image.csv"):
        with (folder / name).open() as file:
            rows = list(csv.reader(file))
"""


def main() -> None:
    """Print the table of benchmarks/README.md."""
    runcard = str(Path(sys.executable).with_name("runcard"))
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder))
        commands = {
            "runcard compare": [runcard, "compare", folder, "--threshold", "0.9"],
            "reading the files": [sys.executable, "-c", READ, folder],
        }
        seconds = {name: [0.0] * ROUNDS for name in commands}
        for i in range(ROUNDS):
            for name, command in commands.items():
                started = perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                seconds[name][i] = perf_counter() - started
    ratio = median(a / b for a, b in zip(*seconds.values(), strict=True))
    rows = [[name, f"{median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}"] for name, each in seconds.items()]
    print_table(Console(), [f"{ARMS * SEEDS} runs, {EPOCHS} epochs", "median seconds", "range"], rows)
    print(f"ratio {ratio:.1f}")


def write_runs(folder: Path) -> None:
    """Write the run folders: arms that differ in model.base and model.dropout."""
    sys.path.insert(0, str(TESTS))
    folders: Any = import_module("folders")
    rng = np.random.default_rng(0)
    for arm in range(ARMS):
        for seed in range(SEEDS):
            values = 0.9 + rng.normal(0, 0.02, IMAGES)
            config = {"model.base": 8 + arm // 4, "model.dropout": arm % 4 / 10}
            images = dict.fromkeys(METRICS, values)
            folders.write_run(folder / f"{arm}_{seed}", seed=seed, images=images, epochs=EPOCHS, config=config)


if __name__ == "__main__":
    main()
