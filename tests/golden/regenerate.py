"""Write trace.json anew: `make golden`, after a change that is meant to change numbers, and only then.

The trace is made with AVX2 instructions on one thread, whatever the processor has beyond them: AVX-512 sums in another
order, and six epochs of two steps let that grow to 5e-4.
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
TOLERANCE = 1e-4  # relative: processors still differ, by the library that multiplies matrices
COLUMNS = ("train/loss", "train_eval/loss", "val/loss", "grad_norm")
INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}


def measure() -> dict[str, Any]:
    """Return the traces and the versions that they were made with, from a process of its own.

    The instructions must be chosen before torch is loaded.
    """
    command = [sys.executable, __file__, "--print"]
    process = subprocess.run(
        command, env={**os.environ, **INSTRUCTIONS}, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    content: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return content


def _measured_here() -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import numpy as np
    import torch
    from conftest import TINY, compose_config

    from runcard.experiment.run import run
    from runcard.runs.reader import read_metrics

    short = ("train.epochs=6", "train.limit_batches=2", "train.pictures=0")
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
