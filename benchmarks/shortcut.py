"""Measures how often the shortcut probe is right, on networks trained with and without a letter that gives the class.

    .venv/bin/python benchmarks/shortcut.py [further overrides]

Every network sees other phantom femurs and starts from other weights. What is printed is what run.json records.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console

from runcard.config.compose import compose_config
from runcard.console import print_table
from runcard.experiment.run import run

CONFIG = ["dataset=phantom_bone", "dataset.image_size_px=64", "model=vgg16", "model.base=8", "model.batchnorm=true"]
CONFIG += ["loss=bce", "train.epochs=8", "train.pictures=0"]
SEEDS = range(8)


def main() -> None:
    """Print the table of docs/explanation/shortcut.md."""
    rows = []
    for printed in (True, False):
        findings = [found for seed in SEEDS for found in probed(printed, seed)]
        for region in dict.fromkeys(finding["region"] for finding in findings):
            of_region = [finding for finding in findings if finding["region"] == region]
            alarms, unsure = (sum(finding[key] for finding in of_region) for key in ("alarm", "blind"))
            columns = ("accuracy", "accuracy_alone", "accuracy_masked", "evidence_lost")
            ranges = [spread([finding[key] for finding in of_region]) for key in columns]
            rows.append([str(printed).lower(), region, f"{alarms} of {len(of_region)}", str(unsure), *ranges])
    head = ["shortcut", "region", "alarms", "too few to say", "accuracy", "alone", "painted over", "log-odds lost"]
    print_table(Console(), head, rows)


def probed(printed: bool, seed: int) -> list[dict[str, Any]]:
    """Train a network, with the letter printed on one class alone or on half of both, and returns its findings."""
    overrides = [*CONFIG, f"dataset.shortcut={printed}", f"dataset.seed={seed}", f"seed={seed}", *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):
            run(compose_config(overrides), Path(folder) / "run", overrides, {})
        content = json.loads((Path(folder) / "run" / "run.json").read_text(encoding="utf-8"))
    findings: list[dict[str, Any]] = content["shortcut"]
    return findings


def spread(values: Sequence[float]) -> str:
    """Return the smallest and the largest of values."""
    return f"{min(values):.2f} to {max(values):.2f}"


if __name__ == "__main__":
    main()
