"""Measures the audit of large data sets, against decoding the same files and nothing else.

    .venv/bin/python benchmarks/audit.py [images …]

Images of 512 px and their masks, as grey PNG, in a temporary folder: each of its own random waves, so that none is a
copy. Each measurement is a process of its own, for its peak of memory. 10,000 pairs take 2 GB of disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console

from runcard.console import print_table

SIDE_PX = 512
COUNTS = (2500, 5000, 10_000)
DECODING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image

def decode(path):
    with Image.open(path) as image:
        return image.load() and None

with ThreadPoolExecutor() as pool:
    for _ in pool.map(decode, sorted(Path(sys.argv[1]).rglob("*.png"))):
        pass
"""
AUDIT = """
import sys
from pathlib import Path
from rich.console import Console
from runcard.audit.command import audit_config

root = Path(sys.argv[1])
config = ["dataset=lungs", f"dataset.root={root}", "augmentation=light"]
audit_config(config, root.parent / "found", Console(quiet=True))
"""
MEASURED = """
import json, resource, time
print(json.dumps([time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
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
            decoding, _ = measured(DECODING, root)
            seconds, gib = measured(AUDIT, root)
        rows.append([f"{count:,}", f"{seconds:.0f}", f"{decoding:.0f}", f"{seconds / decoding:.1f}", f"{gib:.2f}"])
    print_table(Console(), ["pairs", "audit, s", "decoding alone, s", "ratio", "peak memory, GiB"], rows)


def measured(code: str, root: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory (GiB) of a process that runs code on root."""
    program = f"import time; started = time.perf_counter()\n{code}\n{MEASURED}"
    done = subprocess.run([sys.executable, "-c", program, str(root)], check=True, capture_output=True, text=True)
    seconds, gib = json.loads(done.stdout.splitlines()[-1])
    return seconds, gib


def write_pair(root: Path, i: int) -> None:
    """Write image i, and as its mask where its coarse waves are high."""
    rng = np.random.default_rng(i)
    coarse, fine = (
        cv2.resize(rng.standard_normal((knots, knots), np.float32), (SIDE_PX,) * 2, interpolation=cv2.INTER_CUBIC)
        for knots in (6, 48)
    )
    noise = rng.standard_normal((SIDE_PX, SIDE_PX), np.float32)
    image = np.clip(128 + 40 * coarse + 15 * fine + 2 * noise, 0, 255).astype(np.uint8)
    for kind, pixels in (("Image", image), ("Mask", np.uint8(255) * (coarse > 0.5))):
        path = root / kind / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=1)


if __name__ == "__main__":
    main()
