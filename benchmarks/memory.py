"""The memory of training on more images than it holds: python benchmarks/memory.py 100000 [folder].

Makes pairs of a 64 px image and its mask in the folder, unless they are there, and trains on them at 256 px, twice: the
first start decodes and audits them, the second takes both from the caches. Prints the largest RssAnon of each, the
memory that the system cannot take back: pages that are mapped from a file are its cache of the disk. Linux only.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

TRAIN = Path(__file__).parents[1] / "train.py"
PX = 64
ROW = "  {:<8} {:6.0f} s  {:.2f} GiB"


def make_pairs(folder: Path, num_images: int) -> None:
    """Write images of blurred noise with a brighter disc, and the masks of the discs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:PX, :PX]
    for name in ("Image", "Mask"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(num_images):
        row, column, radius = rng.integers((20, 20, 8), (44, 44, 18))
        mask = (y - row) ** 2 + (x - column) ** 2 < radius**2
        blurred = cv2.resize(rng.integers(0, 255, (6, 6), np.uint8), (PX, PX), interpolation=cv2.INTER_CUBIC)
        image = np.clip(0.6 * blurred + 80 * mask + rng.integers(0, 8, (PX, PX)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "Image" / f"{i:06}.png"), image)
        cv2.imwrite(str(folder / "Mask" / f"{i:06}.png"), mask.astype(np.uint8) * 255)


def train(data: Path, run: Path, *arguments: str) -> tuple[float, float]:
    """Train for 20 batches of data; return the seconds and the largest RssAnon in GiB."""
    caches = [f"{section}.cache_dir={data.parent / section}" for section in ("images", "audit")]
    options = ["model.base=4", "train.epochs=1", "train.limit_batches=20", "train.pictures=1", "images.cache_gb=null"]
    config = ["dataset=image_mask", f"dataset.root={data}", "dataset.image_size_px=256", f"run_dir={run}"]
    return measured([*config, *caches, *options, *arguments])


def measured(arguments: list[str]) -> tuple[float, float]:
    """Run train.py; return the seconds and the largest RssAnon in GiB."""
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, TRAIN, *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if found := re.search(r"RssAnon:\s+(\d+)", status):
            peak = max(peak, int(found[1]) / 2**20)
        time.sleep(0.05)
    assert process.returncode == 0
    return time.perf_counter() - began, peak


def main() -> None:
    """Make the data, train twice and print."""
    num_images, folder = int(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "outputs/memory").absolute()
    data = folder / f"pairs_{num_images}"
    if not data.exists():
        make_pairs(data, num_images)
    print(f"{num_images:,} pairs of 256 px: {2 * num_images * 256**2 / 2**30:.1f} GiB", flush=True)
    for start in ("first", "second"):
        print(ROW.format(start, *train(data, folder / start)), flush=True)


if __name__ == "__main__":
    main()
