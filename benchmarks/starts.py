"""What a command takes before it answers, and before the first step: python benchmarks/starts.py [root of radiographs].

Each row is the median of five starts with warm caches: seconds that passed, and seconds of the processor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
NUM_STARTS = 5
RUNCARD = ["-m", "runcard.cli"]
ANSWERS = (
    ["train.py", "--help"],
    ["train.py", "modle=unet"],
    ["train.py", "model=unett"],
    ["train.py", "dataset=image_mask", "dataset.root=/nope"],
    [*RUNCARD, "--help"],
    [*RUNCARD, "train", "--help"],
    [*RUNCARD, "audit", "--help"],
    [*RUNCARD, "status", "experiments"],
)
FIRST_STEP = """
import os
from runcard.experiment import run
from runcard.experiment.train import main
opened = run.open_source  # is called last before torch is imported

def open_source(*arguments):
    source = opened(*arguments)
    from torch.optim.optimizer import register_optimizer_step_post_hook
    register_optimizer_step_post_hook(lambda *_: os._exit(0))
    return source

run.open_source = open_source
main()
"""
ROW = "  {:<58} {:6.2f} {:6.2f}"


def start(arguments: list[str]) -> tuple[float, float]:
    """Run Python with these arguments; return the seconds that passed, and those of the processor."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    passed, after = time.perf_counter() - began, os.times()
    return passed, sum(after[2:4]) - sum(before[2:4])


def print_medians(name: str, arguments: list[str]) -> None:
    """Start once for the caches, then NUM_STARTS times."""
    start(arguments)
    print(ROW.format(name, *map(median, zip(*[start(arguments) for _ in range(NUM_STARTS)], strict=True))), flush=True)


def main() -> None:
    """Print a row for each answer; with data also for the first step, an audit from its caches, and torch alone."""
    print(f"  {'':<58} {'passed':>6} {'CPU':>6}")
    for arguments in ANSWERS:
        print_medians(" ".join(arguments).replace("-m runcard.cli", "runcard"), arguments)
    print_medians("import torch", ["-c", "import torch"])
    if len(sys.argv) == 1:
        return
    with tempfile.TemporaryDirectory() as folder:
        caches = [f"{section}.cache_dir={folder}/{section}" for section in ("images", "audit")]
        data = ["dataset=image_mask", f"dataset.root={Path(sys.argv[1]).absolute()}", "dataset.image_size_px=128"]
        print_medians("first step", ["-c", FIRST_STEP, *data, *caches, f"run_dir={folder}/run", "overwrite=true"])
        print_medians("runcard audit", [*RUNCARD, "audit", *data, *caches, f"--output={folder}/audit"])


if __name__ == "__main__":
    main()
