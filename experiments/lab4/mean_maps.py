"""Average the activation maps of task 3 over the validation images: no image can be seen in them.

    python experiments/lab4/mean_maps.py outputs/lab4,scale=laptop,train.accelerator=cpu

Explains each run of the two networks first. Writes mean_maps.npz beside this file: base8 and base64, (S, 96, 96)
float16 for S seeds: how many times the mean of its map a pixel has.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runcard.explain.cam import GRAD_CAM
from runcard.explain.explain import explain_run


def main() -> None:
    """Explain the runs in the folder that the command line names, and write the means of their maps."""
    (study,) = map(Path, sys.argv[1:])
    means = {f"base{base}": np.stack([mean_map(run) for run in runs(study, base)]) for base in (8, 64)}
    np.savez_compressed(Path(__file__).with_name("mean_maps.npz"), **means)


def runs(study: Path, base: int) -> list[Path]:
    """Return the folders of the runs of task 3 with this base, by seed."""
    return sorted(study.glob(f"experiment=lab4.task3_base{base},seed=*"))


def mean_map(run: Path) -> NDArray[np.float16]:
    """Average the maps of a run's validation images, each divided by its own mean; empty maps are left out."""
    explain_run(run, [], "val", GRAD_CAM, None, None)
    (file,) = (run / "explain").glob("*/maps.npz")
    maps = np.load(file)["maps"]
    active = maps[maps.any(axis=(1, 2))]
    return np.asarray((active / active.mean(axis=(1, 2), keepdims=True)).mean(axis=0), np.float16)


if __name__ == "__main__":
    main()
