"""Measures `runcard predict` on 1,000 images of 512 px, against a bare loop of the same model.

    .venv/bin/python benchmarks/predicting.py [images …]

The bare loop reads each file, resizes, runs the network in batches of the same size, decides at the image size
and writes a PNG: what a script of thirty lines does, one image after the other. Each measurement is a process of its
own, imports included. The run is a U-Net of the lab, base 16, at 256 px, trained for one epoch.
"""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from audit import measured, write_pair
from rich.console import Console

from runcard.config.compose import compose_config
from runcard.console import print_table
from runcard.experiment.run import run

COUNTS = (250, 1000)
CONFIG = ["dataset=phantom_chest", "dataset.num_images=40", "dataset.image_size_px=256", "model=unet", "model.base=16"]
CONFIG += ["loss=dice", "train.epochs=1", "train.precision=32", "train.pictures=0"]
PREDICT = """
import sys
from pathlib import Path
from rich.console import Console
from runcard.inference.predict import Options, predict

root = Path(sys.argv[1])
predict([root.parent / "run"], [str(root / "Image")], root.parent / "ours", Options(), [], Console(quiet=True))
"""
BARE = """
import sys
from pathlib import Path
import cv2, numpy as np, torch
from PIL import Image
from runcard.training.restore import open_run

root = Path(sys.argv[1])
out = root.parent / "bare"
out.mkdir()
model = open_run(root.parent / "run").model
files = sorted((root / "Image").iterdir())
for start in range(0, len(files), 16):
    paths = files[start : start + 16]
    images = [np.asarray(Image.open(path)) for path in paths]
    small = np.stack([cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA) for image in images])
    with torch.inference_mode():
        batch = torch.from_numpy(small[:, None].astype(np.float32) / 255)
        probs = torch.sigmoid(model(batch.to(memory_format=torch.channels_last)))[:, 0].numpy()
    for path, image, p in zip(paths, images, probs):
        mask = cv2.resize(p, image.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        Image.fromarray(mask.astype(np.uint8)).save(out / f"{path.stem}.png")
"""


def main() -> None:
    """Print the table of benchmarks/README.md."""
    counts = [int(count) for count in sys.argv[1:]] or COUNTS
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            with ThreadPoolExecutor() as pool:
                list(pool.map(partial(write_pair, root), range(count)))
            run(compose_config(CONFIG), Path(folder) / "run", CONFIG, {"dataset": "phantom_chest"})
            os.sync()  # else the first flush of predict would wait for what was written here
            bare, bare_gib = measured(BARE, root)
            os.sync()
            ours, ours_gib = measured(PREDICT, root)
            masks = [sorted((Path(folder) / kind).glob("*.png")) for kind in ("ours", "bare")]
            differing = sum(a.read_bytes() != b.read_bytes() for a, b in zip(*masks, strict=True))
        cells = [
            f"{ours:.1f}",
            f"{bare:.1f}",
            f"{ours / bare:.2f}",
            f"{ours_gib:.2f}",
            f"{bare_gib:.2f}",
            f"{differing}",
        ]
        rows.append([f"{count:,}", *cells])
    columns = [
        "images",
        "runcard predict, s",
        "bare loop, s",
        "ratio",
        "peak memory, GiB",
        "bare, GiB",
        "masks differing",
    ]
    print_table(Console(), columns, rows)


if __name__ == "__main__":
    main()
