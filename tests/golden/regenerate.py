"""Write trace.json anew: `make golden`, after a change that is meant to change numbers, and only then.

The trace is made in float64. Processors add in different orders; in float32 twelve steps let that grow to 5e-4, in
float64 SSE and AVX2 instructions differ by 2e-7, so one trace serves every machine with a tolerance that is tight.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATH = Path(__file__).with_name("trace.json")
TOLERANCE = 1e-6  # relative
COLUMNS = ("train/loss", "train_eval/loss", "val/loss", "grad_norm")


def measure() -> dict[str, Any]:
    """Return the traces and the versions that they were made with, from a process of its own with one thread."""
    command = [sys.executable, __file__, "--print"]
    process = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    content: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return content


def _measured_here() -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import numpy as np
    import torch
    from conftest import TINY, compose_config

    from runcard.experiment import setup
    from runcard.experiment.run import run
    from runcard.runs.folders import read_metrics

    setup.PRECISIONS["32"] = "64-true"  # no option of a run: too slow to be of use
    short = (
        "train.epochs=6",
        "train.limit_batches=2",
        "train.pictures=0",
        "train.precision=32",
        "train.explain_images=0",
    )
    configs = {
        "masks": (*TINY, *short, "augmentation=light", "model.dropout=0.2", "loss=bce_dice", "scheduler=cosine"),
        "classes": (*TINY, *short, "dataset=phantom_bone", "model=vgg16", "loss=cross_entropy", "augmentation=strong"),
    }
    traces = {}
    for name, overrides in configs.items():
        with tempfile.TemporaryDirectory() as folder:
            run(compose_config(*overrides), Path(folder) / "run", [], {})
            rows = read_metrics(Path(folder) / "run" / "metrics.csv")
        traces[name] = {column: [row[column] for row in rows] for column in COLUMNS}
    versions = {"torch": torch.__version__, "numpy": np.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    return {"tolerance": TOLERANCE, "made with": versions, "traces": traces}


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(json.dumps(_measured_here()))
    else:
        PATH.write_text(json.dumps(measure(), indent=1) + "\n")
        print(PATH)
