"""Measures status, compare and report over sweeps of thousands of runs: seconds and memory.

    .venv/bin/python benchmarks/many_runs.py [runs…] [--keep FOLDER]    # 1000 3000 10000 by default

One small run is trained; its record then serves as the pattern of a sweep of 100 arms (model.base and model.dropout)
with as many seeds as it takes, 12 validation images and 5 epochs, each run folder written by runs.writer as training
does, with values of its own, which mean nothing. Pictures, weights and event file are hard links to those of the one
run, so that folders have as many entries as real ones. Each command is a process of its own. The disk cache is warm:
what a first look costs beyond that depends on the disk.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console

from runcard.console import print_table
from runcard.fileio import read_csv, write_csv
from runcard.runs import writer
from runcard.runs.hold import Hold
from runcard.runs.sweep import record_jobs
from runcard.runs.writer import Record

TRAIN = Path(__file__).parents[1] / "train.py"
CONFIG = ["dataset.num_images=60", "dataset.image_size_px=32", "model.base=4", "train.epochs=5", "train.precision=32"]
CONFIG += ["train.accelerator=cpu", "name=pattern", "run_dir=pattern"]
ARMS, NUM_SIDE = 100, 10  # model.base × model.dropout
LINKED = ("previews", "figures", "checkpoints", "events.out.tfevents.*")
COMMANDS = {"status": [], "compare": [], "report": ["--no-images"]}
# Started from this process, which is large, a command would seem as large: Linux counts what it was before it began.
MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


def main() -> None:
    """Print the table of benchmarks/README.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*", type=int, default=[1000, 3000, 10_000])
    parser.add_argument("--keep", type=Path, help="keep the sweeps in this folder, and use those that are there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = (arguments.keep or Path(temporary)).resolve()
        rows = [row for number in arguments.runs for row in measure(top, number)]
    print_table(Console(), ["runs", "command", "s", "of the CPU", "peak, MiB"], rows)


def measure(top: Path, number: int) -> list[list[str]]:
    """Run each command; a row of the table for each."""
    folder = top / f"sweep{number}"
    if not folder.exists():
        began = perf_counter()
        once: dict[str, Any] = {name: cache(getattr(writer, name)) for name in ("commit", "hardware", "versions")}
        with patch.multiple(writer, **once), patch("os.fsync"):  # as in one process, and without waiting for the disk
            write_sweep(pattern(top), folder, number)
        print(f"{number:,} runs written in {perf_counter() - began:.0f} s", flush=True)
    rows = []
    for command, options in COMMANDS.items():
        rows.append([f"{number:,}", command, *timed(command, str(folder), *options)])
        print(*rows[-1], flush=True)
    return rows


def timed(*arguments: str) -> list[str]:
    """Run a command of runcard; return its seconds, those of the processor, and its peak memory in MiB."""
    began = perf_counter()
    command = [str(Path(sys.executable).with_name("runcard")), *arguments]
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True)
    seconds = perf_counter() - began
    code, of_cpu, peak = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}: {done.stderr}")
    return [f"{seconds:.1f}", f"{of_cpu:.1f}", f"{peak:.0f}"]


def pattern(top: Path) -> Path:
    """Train the one run, where it is not there yet, and return its folder."""
    if not (top / "pattern" / "run.json").exists():
        top.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(TRAIN), *CONFIG], cwd=top, check=True, stdout=subprocess.DEVNULL)
    return top / "pattern"


def write_sweep(run: Path, folder: Path, number: int) -> None:
    """Write a sweep of this number of completed runs, a multiple of ARMS, like the one in the folder run."""
    rng, made = np.random.default_rng(0), json.loads((run / "run.json").read_text(encoding="utf-8"))
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    tables = {name: read_csv(run / name) for name in ("metrics.csv", "per_image.csv")}
    config_yaml = (run / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    linked = [path for name in LINKED for found in run.glob(name) for path in [found, *found.rglob("*")]]
    links = [(path, path.relative_to(run)) for path in linked if path.is_file()]
    gains = rng.normal(0, 0.01, ARMS)
    jobs = {}
    for i in range(number):
        arm, seed = i % ARMS, i // ARMS
        base, dropout = 4 + arm // NUM_SIDE, arm % NUM_SIDE / 20
        overrides = [f"model.base={base}", f"model.dropout={dropout}", f"seed={seed}"]
        jobs[",".join(overrides)] = overrides
        config = copy.deepcopy(made["config"])
        config["seed"] = seed
        config["model"] |= {"base": base, "dropout": dropout}
        write_run(
            folder / ",".join(overrides),
            made,
            split,
            tables,
            config,
            overrides,
            config_yaml,
            gains[arm] + rng.normal(0, 0.005),
            rng,
        )
        for path, place in links:
            target = folder / ",".join(overrides) / place
            target.parent.mkdir(exist_ok=True)
            target.hardlink_to(path)
    record_jobs(folder, jobs)


def write_run(
    folder: Path,
    made: dict[str, Any],
    split: dict[str, Any],
    tables: dict[str, list[dict[str, str]]],
    config: dict[str, Any],
    overrides: list[str],
    config_yaml: str,
    gain: float,
    rng: np.random.Generator,
) -> None:
    """Write one run as training does, but for its values: those of the pattern and this gain, with scatter."""
    session, kept = (
        made["sessions"][-1],
        (
            "choices",
            "data",
            "audit",
            "parent",
            "num_parameters",
            "num_trained_parameters",
            "model",
            "balanced_weights",
            "better",
            "bounds",
            "units",
            "images",
            "class_counts",
            "left_out",
        ),
    )
    hold = Hold.take(folder)
    record = Record.open(hold, config, made["choices"], made["data"], overwrite=False)
    record.start(
        config_yaml,
        overrides,
        {key: session[key] for key in ("device", "precision", "reproducible")},
        config=config,
        **{key: made[key] for key in kept},
    )
    members = [(part, each) for part, images in split.items() for each in images]
    places = {part: [i for i, (of, _) in enumerate(members) if of == part] for part in split}
    ids, groups, digests = ([each[key] for _, each in members] for key in ("id", "group", "sha256"))
    record.write_split(places, ids, groups, digests)
    rows = [varied(row, gain, 0.002, rng) for row in tables["metrics.csv"]]
    write_csv(folder / "metrics.csv", rows)
    record.write_per_image([varied(row, gain, 0.02, rng) for row in tables["per_image.csv"]])
    best = max(rows, key=lambda row: row[made["best"]["monitor"]])
    ends: dict[str, Any] = {
        name: {"epoch": int(row["epoch"]), "values": {key: row[key] for key in made["last"]["values"]}}
        for name, row in (("last", rows[-1]), ("best", best))
    }
    ends["best"] |= {"monitor": made["best"]["monitor"], "value": best[made["best"]["monitor"]]}
    record.finish(made["seconds"]["total"], "completed", epochs=len(rows), seconds=made["seconds"], **ends)
    hold.release()


def varied(row: dict[str, str], gain: float, spread: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return a row with other values of its metrics, in full digits; texts, counts and times stay."""
    kept = ("epoch", "step", "lr", "split", "checkpoint", "id", "group", "seconds", "images_per_second", "grad_norm")
    return {
        key: cell if key in kept or not cell else float(np.clip(float(cell) + gain + rng.normal(0, spread), 0, 1))
        for key, cell in row.items()
    }


if __name__ == "__main__":
    main()
