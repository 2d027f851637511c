"""Data folders as they should not be: each is audited or trained on, or refused file by file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from campaign.processes import Command
from campaign.trials import EQUAL, FAILED, REFUSED, Result, Trial, fault_of, rng

NUMBER = 100
MAX_SECONDS = 60.0
MAX_LINES = 60  # all faulty files of a data folder are listed together
TRAIN = ("dataset.image_size_px=16", "model.base=2", "train.epochs=1", "train.batch_size=4", "train.accelerator=cpu")
TRAIN += ("train.precision=32", "train.pictures=0", "record=lean", "train.explain_images=0")
MASKS = ("dataset=image_mask", "dataset.root=data", "model.depth=2")
CLASSES = ("dataset=image_folder", "dataset.root=data", "dataset.classes=[A,B]", "dataset.positive=A", "loss=bce")
CLASSES += ("model=vgg16", "model.head=[4]", "dataset.image_size_px=32")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options) if mode else Image.fromarray(pixels).save(
        path, **options
    )


def _grey(draw: Random, height: int = 20, width: int = 20) -> np.ndarray:
    return np.random.default_rng(draw.randrange(99)).integers(0, 255, (height, width), np.uint8)


def _victim(data: Path, draw: Random) -> Path:
    return draw.choice(sorted(path for path in data.rglob("*.png") if path.is_file() and not path.is_symlink()))


def _damage(data: Path, draw: Random, change: Callable[[bytes], bytes]) -> None:
    path = _victim(data, draw)
    path.write_bytes(change(path.read_bytes()))


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _claim(old: bytes) -> bytes:
    return old[:16] + (60_000).to_bytes(4, "big") * 2 + old[24:]


ODDITIES: dict[str, Callable[[Path, Random], object]] = {
    "empty file": lambda data, draw: _damage(data, draw, lambda old: b""),
    "half a file": lambda data, draw: _damage(data, draw, lambda old: old[: len(old) // 2]),
    "text": lambda data, draw: _damage(data, draw, lambda old: b"no picture\n"),
    "one bit": lambda data, draw: _damage(data, draw, lambda old: old[:60] + bytes([old[60] ^ 4]) + old[61:]),
    "claims 60,000 pixels": lambda data, draw: _damage(data, draw, _claim),
    "PostScript": lambda data, draw: _damage(data, draw, lambda old: b"%!PS-Adobe-3.0\nshowpage\n"),
    "no permission": lambda data, draw: _victim(data, draw).chmod(0),
    "gone": lambda data, draw: _victim(data, draw).unlink(),
    "link to itself": lambda data, draw: _link(path := _victim(data, draw), path.name),
    "link to nothing": lambda data, draw: _link(_victim(data, draw), "/nope/nothing.png"),
    "link to a device": lambda data, draw: _link(_victim(data, draw), "/dev/zero"),
    "folder called .png": lambda data, draw: (path := _victim(data, draw)).unlink() or path.mkdir(),
    "pipe": lambda data, draw: (path := _victim(data, draw)).unlink() or os.mkfifo(path),
    "one pixel": lambda data, draw: _save(_victim(data, draw), _grey(draw, 1, 1)),
    "long and narrow": lambda data, draw: _save(_victim(data, draw), _grey(draw, 1, 9000)),
    "colour": lambda data, draw: _save(_victim(data, draw), _grey(draw), "RGBA"),
    "16 bits": lambda data, draw: _save(_victim(data, draw), _grey(draw).astype(np.uint16) * 257),
    "palette": lambda data, draw: _save(_victim(data, draw), _grey(draw), "P"),
    "name with a newline": lambda data, draw: (path := _victim(data, draw)).rename(path.with_name("a\nb.png")),
    "name that is a formula": lambda data, draw: (path := _victim(data, draw)).rename(path.with_name("=1+1.png")),
    "name that is no UTF-8": lambda data, draw: os.rename(  # noqa: PTH104  # pathlib takes no bytes
        path := os.fsencode(_victim(data, draw)), os.path.dirname(path) + b"/\xff\xfe.png"  # noqa: PTH120
    ),
    "long name": lambda data, draw: (path := _victim(data, draw)).rename(path.with_name("x" * 251 + ".png")),
    "same name twice": lambda data, draw: _write((path := _victim(data, draw)).with_suffix(".PNG"), path.read_bytes()),
    "same picture twice": lambda data, draw: _write((path := _victim(data, draw)).with_name("x.png"), path.read_bytes()),  # noqa: E501
    "hidden files": lambda data, draw: _write(_victim(data, draw).with_name("._x.png"), b"\0\5\x16\7"),
    "Thumbs.db": lambda data, draw: _write(_victim(data, draw).with_name("Thumbs.db"), b"\xd0\xcf\x11\xe0"),
    "folder within": lambda data, draw: _write(_victim(data, draw).parent / "deep" / "deeper" / "x.png", b""),
    "all pictures gone": lambda data, draw: [path.unlink() for path in data.rglob("*.png")],
    "no folder": lambda data, draw: [path.rename(path.with_name("other")) for path in sorted(data.iterdir())[:1]],
}  # fmt: skip


def trials(seed: int) -> Iterator[Trial]:
    """Yield folders with one to three faults, under `train` and `audit` in turn."""
    for i in range(NUMBER):
        draw = rng(seed, "datasets", i)
        odd = draw.sample(sorted(ODDITIES), draw.choice((1, 2, 3)))
        command, kind = ("train", "audit")[i % 2], (MASKS, CLASSES)[i // 2 % 2]
        yield Trial(f"{i}: {command}, {kind[0]}, {', '.join(odd)}", partial(_try, command, kind, odd, draw))


def _make(data: Path, kind: tuple[str, ...], draw: Random) -> None:
    """Write ten images: with masks, or in two classes."""
    for i in range(10):
        pixels = _grey(draw, 20 + i)
        y, x = np.indices(pixels.shape)
        disc = np.hypot(y - 10, x - 8 - i / 3) < 6
        if kind is MASKS:
            _save(data / "Image" / f"{i}.png", np.where(disc, pixels // 2 + 100, pixels // 2).astype(np.uint8))
            _save(data / "Mask" / f"{i}.png", (255 * disc).astype(np.uint8))
        else:
            _save(data / "AB"[i % 2] / f"{i}.png", np.where(disc & (i % 2 > 0), 200, pixels).astype(np.uint8))


def _try(command: str, kind: tuple[str, ...], odd: list[str], draw: Random) -> Result:
    with tempfile.TemporaryDirectory(prefix="place-", ignore_cleanup_errors=True) as place:
        data = Path(place) / "data"
        _make(data, kind, draw)
        for name in odd:
            if any(data.rglob("*.png")):
                ODDITIES[name](data, draw)
        more = (*TRAIN, *kind, "run_dir=run") if command == "train" else kind
        ended = Command(command, *more, folder=Path(place)).wait(MAX_SECONDS)
        if wrong := fault_of(ended, codes=(0, 2) if command == "train" else (0, 1, 2), max_lines=MAX_LINES):
            return Result(FAILED, wrong)
        return Result(REFUSED, ended.stderr) if ended.returncode else Result(EQUAL)
