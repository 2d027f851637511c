"""The commands that are disturbed, each as small as it can be, and what must be equal in the end."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from evidence import numbers, run_json
from PIL import Image

from campaign.processes import Ended, run
from runcard.runs.hold import OWN_FILES

TINY = (
    "dataset.num_images=8",
    "dataset.image_size_px=16",
    "train.epochs=2",
    "train.batch_size=4",
    "train.accelerator=cpu",
    "train.precision=32",
    "train.pictures=0",
    "train.explain_images=0",
)
UNET = ("model.base=2", "model.depth=2")
SEGMENTATION = ("train", *TINY, *UNET, "augmentation=light", "run_dir=run")
CLASSES = ("dataset=phantom_bone", "loss=bce", *TINY, "dataset.image_size_px=32", "dataset.num_images=12")
VGG = ("model=vgg16", "model.base=2", "model.head=[4]")
CACHED = ("train", *CLASSES, "model=tiny_backbone", "trust=[tiny_backbone]", "train.cache_features=always")
# A network with a frozen front, of a user's own: Runcard's own, VGG16, has files of 60 MB.
BACKBONE = '''
from torch import nn


class Backbone(nn.Module):
    """A frozen convolution and a trained layer."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv2d(in_channels, 2, 3, stride=4), nn.ReLU()).requires_grad_(False)
        self.rest = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, out_channels))

    def forward(self, images):
        return self.rest(self.front(images))

    def frozen_and_trained(self):
        return self.front, self.rest
'''
MODEL = """
_target_: tiny_backbone.Backbone
in_channels: ${derived.in_channels}
out_channels: ${derived.out_channels}
"""
STUDY = f"""
name: little
title: Which is better?
primary: dice
seeds: [0]
overrides: [{", ".join((*TINY, *UNET, "record=lean"))}]
arms:
  plain: phantoms/chest
  wide: phantoms/chest model.base=3
questions:
  width: {{text: is it better, compare: [wide, plain], measure: dice}}
"""
TIMES = re.compile(r'"(start|end|time|preregistration|seconds|total|per_epoch|caching|seconds_when_made)": [^\n]*')


@dataclass(frozen=True)
class Scenario:
    """A command, what it needs in its folder, and what must be equal however it was disturbed."""

    name: str
    argv: tuple[str, ...]
    prepare: Callable[[Path], object]
    outputs: Callable[[Path], Any]
    max_messages: int = 1  # one for each job that fails, and one of the whole


def nothing(folder: Path) -> None:
    """Prepare nothing."""


def of_runs(folder: Path) -> dict[str, Any]:
    """Return the numbers of every run below folder, and whether it is completed and clean."""
    runs = sorted(path.parent for path in folder.rglob("run.json"))
    found: dict[str, Any] = {}
    for each in runs:
        record = run_json(each)
        found[str(each.relative_to(folder))] = {
            "status": record["status"],
            "values": [record["last"], record["best"]] if record["status"] == "completed" else None,
            "numbers": numbers(each),
            "files": sorted(
                str(path.relative_to(each))
                for path in each.rglob("*")
                if path.is_file() and "tfevents" not in path.name and path.name not in OWN_FILES  # a dead process's
            ),
        }
    return found


def of_files(*names: str) -> Callable[[Path], dict[str, str]]:
    """Return a function that hashes the files below some names, without times in JSON."""

    def hashed(folder: Path) -> dict[str, str]:
        paths = [path for name in names for path in sorted([*(folder / name).rglob("*"), folder / name])]
        return {str(path.relative_to(folder)): _digest(path) for path in paths if path.is_file()}

    return hashed


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = TIMES.sub("", content.decode()).encode()
    if path.suffix == ".npz":  # a ZIP file, which has the time in it
        with np.load(path) as arrays:
            content = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays.files))
    return hashlib.sha256(content).hexdigest()[:16]


def _backbone(folder: Path) -> None:
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "tiny_backbone.py").write_text(BACKBONE)
    (folder / "conf" / "model" / "tiny_backbone.yaml").write_text(MODEL)


def _study(folder: Path) -> None:
    (folder / "study.yml").write_text(STUDY)


def write_images(folder: Path, number: int = 3) -> None:
    """Write images to predict."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(number):
        Image.fromarray(rng.integers(0, 255, (20 + i, 24), np.uint8)).save(folder / "images" / f"{i}.png")


@cache
def trained(name: str) -> Path:
    """Train a run once, and return the folder in which it is run/."""
    folder = keep_folder("trained-")
    argv = {
        "masks": SEGMENTATION,
        "masks_lean": (*SEGMENTATION, "record=lean"),
        "classes": ("train", *CLASSES, *VGG, "run_dir=run"),
        "other": (*SEGMENTATION, "seed=1"),
        "other_classes": ("train", *CLASSES, *VGG, "seed=1", "run_dir=run"),
    }[name]
    ended = run(*argv, folder=folder)
    assert ended.returncode == 0, ended.stderr
    return folder


_kept: list[Path] = []


def keep_folder(prefix: str) -> Path:
    """Make a folder that stays until the end of the campaign."""
    _kept.append(Path(tempfile.mkdtemp(prefix=prefix)))
    return _kept[-1]


def remove_kept() -> None:
    """Remove these folders."""
    for folder in _kept:
        shutil.rmtree(folder, ignore_errors=True)


def _with_run(folder: Path) -> None:
    shutil.copytree(trained("masks_lean") / "run", folder / "run")
    write_images(folder)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("segmentation", SEGMENTATION, nothing, of_runs),
        Scenario("cached features", (*CACHED, "run_dir=run"), _backbone, of_runs),
        Scenario("sweep", (*SEGMENTATION[:-1], "record=lean", "-m", "seed=0,1"), nothing, of_runs, 3),
        Scenario("study", ("study", "study.yml"), _study, of_runs, 3),
        Scenario("predict", ("predict", "run", "images", "-o", "out", "--probabilities"), _with_run, of_files("out")),
        Scenario("export", ("export", "run", "-o", "out.safetensors", "--format", "safetensors"), _with_run,
                 of_files("out.safetensors")),
    )
}  # fmt: skip


@contextmanager
def workplace(scenario: Scenario) -> Iterator[Path]:
    """Make a folder in which a scenario's command can be given."""
    with tempfile.TemporaryDirectory(prefix="place-", ignore_cleanup_errors=True) as folder:
        scenario.prepare(Path(folder))
        yield Path(folder)


@dataclass(frozen=True)
class Reference:
    """A scenario, undisturbed."""

    ended: Ended
    outputs: Any


@cache
def undisturbed(name: str) -> Reference:
    """Run a scenario undisturbed."""
    scenario = SCENARIOS[name]
    with workplace(scenario) as folder:
        ended = run(*scenario.argv, folder=folder, watch=True)
        if ended.returncode:
            raise RuntimeError(f"{name}: undisturbed, it exits with {ended.returncode}: {ended.stderr}")
        return Reference(ended, scenario.outputs(folder))


def difference(expected: Any, found: Any, place: str = "") -> str:
    """Say where two outputs differ first; "" where they are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            lost, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
            return f"{place or 'outputs'}: missing {lost[:3]}, unexpected {more[:3]}"
        differing = (difference(expected[key], found[key], f"{place}/{key}") for key in expected)
        return next(filter(None, differing), "")
    return "" if expected == found else f"{place}: {str(expected)[:80]} expected, found {str(found)[:80]}"
