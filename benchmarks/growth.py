"""Measures how ours grows with the number of images, with their size, and with the processes that load them.

    .venv/bin/python benchmarks/growth.py images     # the start on 100, 1,000 and 10,000 images
    .venv/bin/python benchmarks/growth.py pixels     # a training step at 128 to 1024 px, against the best bare loop
    .venv/bin/python benchmarks/growth.py workers    # epochs with augmentation=strong, with 0, 1 and 2 loader processes

Each measurement is a process of its own.

images: PNG of 64 px with masks; the whole command train.py with every check of the audit, on a U-Net base 4 that trains
and evaluates two batches, so that only the start grows. At first nothing is kept; again, decoded images and results of
the audit are. Memory is RssAnon, which the system cannot take back (Linux).
pixels: a U-Net base 8, batches of 8; see peers.py.
workers: a U-Net base 8 at 128 px on 160 training images; images/s of the training part of an epoch, as metrics.csv has
it, without the first, which starts the processes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from memory import make_pairs, measured, train
from peers import rate
from rich.console import Console

from runcard.console import print_table
from runcard.runs.environment import hardware
from runcard.runs.folders import read_metrics

COUNTS = (100, 1000, 10_000)
SIZES_PX = (128, 256, 512, 1024)
WORKERS = (0, 1, 2)
EPOCHS, ROUNDS = 6, 3
CONSOLE = Console(soft_wrap=True, highlight=False)


def images() -> None:
    """Print seconds and memory of the start, by the number of images."""
    options = ["dataset.image_size_px=64", "train.limit_batches=2", "train.accelerator=cpu"]
    rows: dict[str, list[list[str]]] = {"first": [], "again": []}
    before: dict[str, tuple[int, float]] = {}  # the number of images and the seconds of the row above
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            make_pairs(data, count)
            for start, of_start in rows.items():
                seconds, gib = train(data, Path(folder) / start, *options)
                print(f"{count:,} images, {start}: {seconds:.1f} s", flush=True)
                fewer, shorter = before.get(start, (0, 0.0))
                further = f"{1000 * (seconds - shorter) / (count - fewer):.1f}" if fewer else ""
                of_start.append([f"{count:,}", start, f"{seconds:.1f}", further, f"{gib:.2f}"])
                before[start] = count, seconds
    columns = ["images", "start", "seconds", "ms per further image", "peak memory, GiB"]
    print_table(CONSOLE, columns, [*rows["first"], *rows["again"]])


def pixels() -> None:
    """Print images per second of a training step, by the size of the images."""
    rows = []
    for size_px in SIZES_PX:
        values: dict[str, list[float]] = {"Runcard": [], "the best bare loop": []}
        for _ in range(ROUNDS if size_px <= 256 else 1):
            for who, rates in values.items():
                rates.append(rate(who, "unet-8", size_px))
                print(f"{size_px} px  {who}: {rates[-1]:.2f} images/s", flush=True)
        ours, bare = values.values()
        ratio = statistics.median(map(float.__truediv__, ours, bare))
        medians = [statistics.median(rates) for rates in values.values()]
        megapixels = f"{medians[0] * size_px**2 / 1e6:.2f}"
        rows.append(
            [f"{size_px}", *(f"{median:.2f}" for median in medians), f"{ratio:.2f}", megapixels, f"{len(ours)}"]
        )
    columns = ["px", "Runcard, images/s", "the best bare loop, images/s", "ratio", "Runcard, megapixels/s", "rounds"]
    print_table(CONSOLE, columns, rows)


def workers() -> None:
    """Print images per second of training with augmentation, by the number of loader processes."""
    config = ["dataset=phantom_chest", "augmentation=strong", "model.base=8", f"train.epochs={EPOCHS}", "record=lean"]
    config += ["train.accelerator=cpu"]
    rates: dict[int, list[float]] = {number: [] for number in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(ROUNDS):
            for number in WORKERS:
                run = Path(folder) / f"{round_number}-{number}"
                caches = [f"audit.cache_dir={folder}/audit"]
                measured([*config, *caches, f"run_dir={run}", f"train.num_workers={number}"])
                rows = read_metrics(run / "metrics.csv")[1:]
                rates[number].append(statistics.median(row["images_per_second"] for row in rows))
                print(f"{number} workers: {rates[number][-1]:.1f} images/s", flush=True)
    table = []
    for number, values in rates.items():
        ratio = statistics.median(map(float.__truediv__, values, rates[0]))
        spread = f"{min(values):.1f} to {max(values):.1f}"
        table.append([f"{number}", f"{statistics.median(values):.1f}", spread, f"{ratio:.2f}"])
    print_table(CONSOLE, ["loader processes", "training images/s", "range", "times that of none"], table)


MEASURED: dict[str, Callable[[], None]] = {"images": images, "pixels": pixels, "workers": workers}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in MEASURED:
        sys.exit(f"Say growth.py and what grows: {', '.join(MEASURED)}.")
    CONSOLE.print(f"{hardware()}")
    MEASURED[sys.argv[1]]()
