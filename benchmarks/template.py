"""Measures ours against a training in the style of lightning-hydra-template: template_train.py.

    .venv/bin/python benchmarks/template.py epoch [rounds]             # 3 by default
    .venv/bin/python benchmarks/template.py sweep [rounds] [name …]    # 1 by default; of WAYS, those that begin so

Both train the same U-Net on the same PNG files with the same loss, optimizer, batch size and augmentation, by their own
command. An epoch lasts from one line val/loss of TensorBoard to the next: augmentation, training, validation, records
and checkpoints; the first two epochs are left out. A sweep is two losses, with and without augmentation, and three
seeds; it lasts from the command to its end, in a new folder, so that no cache is warm.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from peers import PEERS, has_bf16
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runcard.console import print_table
from runcard.datasets.synthetic.chest import PhantomChest
from runcard.runs.environment import hardware

ROOT = Path(__file__).parents[1]
SIZE_PX = 128
NUM_IMAGES = {"epoch": {"train": 160, "val": 40}, "sweep": {"train": 32, "val": 8}}
EPOCHS = {"epoch": 9, "sweep": 15}
WARM_UP = 2  # epochs that do not count: workers start, and the first picture is drawn after the first epoch
ROUNDS = {"epoch": 3, "sweep": 1}
OURS = [sys.executable, str(ROOT / "train.py")]
THEIRS = [str(PEERS), str(ROOT / "benchmarks" / "template_train.py")]
CONFIG = ["dataset=image_mask", f"dataset.image_size_px={SIZE_PX}", "model.base=8", "train.batch_size=8"]
CONFIG += ["train.accelerator=cpu"]
COMMON = {  # what is measured -> arguments of both commands
    "epoch": ["loss=dice", "augmentation=light"],
    "sweep": ["-m", "loss=bce,dice", "augmentation=none,light", "seed=0,1,2"],
}
NUM_RUNS = {"epoch": 1, "sweep": 12}
BF16 = ["trainer.precision=bf16-mixed", "data.num_workers=2"]
LEAN, JOBLIB = ["record=lean"], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
WAYS = {  # what is measured -> name -> arguments beyond CONFIG
    "epoch": {
        "Runcard": ["train.pictures=3"],  # one is drawn within the epochs that count, one in fifteen in a long run
        "Lightning, float32": [],
        "Lightning, bf16-mixed, two loader workers": BF16,
    },
    "sweep": {
        "Runcard, record=lean": LEAN,
        "Runcard, record=lean, two joblib workers": [*LEAN, *JOBLIB],
        "Lightning, float32": [],
        "Lightning, bf16-mixed, two loader workers": BF16,
        "Runcard, record=full": [],
    },
}


def main() -> None:
    """Print the table of an epoch or of a sweep."""
    if len(sys.argv) < 2 or sys.argv[1] not in WAYS:
        sys.exit("Say template.py epoch, or template.py sweep.")
    if not PEERS.exists():
        sys.exit(f"{PEERS}: no such file. make .peers/.ready installs Lightning there.")
    what = sys.argv[1]
    rounds = next((int(each) for each in sys.argv[2:] if each.isdigit()), ROUNDS[what])
    named = tuple(each for each in sys.argv[2:] if not each.isdigit()) or ("",)
    ways = {way: more for way, more in WAYS[what].items() if way.startswith(named) and (has_bf16() or more != BF16)}
    if not ways:
        sys.exit(f"None begins so. There are: {'; '.join(WAYS[what])}.")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as top:
        write_pairs(Path(top) / "data", NUM_IMAGES[what])
        for number in range(rounds):
            for i, (way, more) in enumerate(ways.items()):
                folder = Path(top) / f"{number}-{i}"
                took, of_epochs, last = train(what, way, more, Path(top) / "data", folder)
                seconds[way].append(took if what == "sweep" else of_epochs)
                losses[way].append(last)
                print(f"{way}: {seconds[way][-1]:.2f} s", flush=True)
    first, rows = next(iter(ways)), []
    for way, values in seconds.items():
        ratio = statistics.median(map(float.__truediv__, values, seconds[first]))
        spread = f"{min(values):.2f} to {max(values):.2f}"
        loss = f"{statistics.median(losses[way]):.3f}"
        rows.append([way, f"{statistics.median(values):.2f}", spread, f"{ratio:.2f}", loss])
    console = Console(soft_wrap=True, highlight=False)
    images = ", ".join(f"{number} {part}" for part, number in NUM_IMAGES[what].items())
    console.print(f"{hardware()}, {images} images of {SIZE_PX} px, {EPOCHS[what]} epochs, {rounds} rounds")
    print_table(console, [f"{what} of", "seconds", "range", f"times {first}", "last validation loss"], rows)


def write_pairs(root: Path, num_images: dict[str, int]) -> None:
    """Write chest phantoms and their masks as PNG: root/train/images/chest_0000.png, and so on."""
    phantoms = PhantomChest(sum(num_images.values()), SIZE_PX)
    parts = [part for part, number in num_images.items() for _ in range(number)]
    for i, part in enumerate(parts):
        image, mask, name = phantoms[i]
        for kind, pixels in (("images", image), ("masks", mask * 255)):
            path = root / part / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def train(what: str, way: str, more: list[str], data: Path, folder: Path) -> tuple[float, float, float]:
    """Train in folder; return the seconds of the command and of an epoch, and the mean last validation loss."""
    folder.mkdir()
    if way.startswith("Runcard"):
        caches = [f"{section}.cache_dir={folder}/{section}" for section in ("images", "audit")]
        command = [*OURS, *CONFIG, f"dataset.root={data}", f"train.epochs={EPOCHS[what]}", *caches]
    else:
        command = [*THEIRS, f"data.root={data}", f"trainer.max_epochs={EPOCHS[what]}"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "NO_ALBUMENTATIONS_UPDATE": "1"}
    os.sync()  # else the first flush would wait for the files of another way
    began = perf_counter()
    done = subprocess.run([*command, *COMMON[what], *more], cwd=folder, env=environment, capture_output=True, text=True)
    took = perf_counter() - began
    if done.returncode:
        sys.exit(f"{way}:\n{done.stderr}")
    curves = [validation(file) for file in folder.rglob("events.out.tfevents.*")]
    assert len(curves) == NUM_RUNS[what], len(curves)
    assert {len(curve) for curve in curves} == {EPOCHS[what]}
    of_epochs = [(curve[-1][0] - curve[WARM_UP - 1][0]) / (EPOCHS[what] - WARM_UP) for curve in curves]
    return took, statistics.mean(of_epochs), statistics.mean(curve[-1][1] for curve in curves)


def validation(events: Path) -> list[tuple[float, float]]:
    """Return the time and the validation loss of each epoch in an event file of TensorBoard."""
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return [(event.wall_time, event.value) for event in accumulator.Scalars("val/loss")]


if __name__ == "__main__":
    main()
