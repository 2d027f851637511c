"""Fixtures: configs run in this process, and the real command as a process.

What keeps the tests fast: the longest modules come first, a command is forked from a process that has imported torch
(commands.py), and figures are left blank where a test does not look at them (blank_figures).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Command
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image

from runcard.config.schema import DatasetConfig, parse_config
from runcard.data.datamodule import Data, make_data, open_source, read_samples
from runcard.experiment.setup import ExperimentSetup, make_setup

ROOT = Path(__file__).parents[1]
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, too
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
torch.set_num_threads(1)  # tiny models: two threads cost more than they give, and tests run beside each other
LONGEST = ("test_truth.py", "test_killing.py", "test_install.py", "test_sweep.py", "test_shared_sweeps.py")
LONGEST += ("test_feature_cache.py", "test_extending.py", "test_study.py")
# A config that trains in about a second: what tests of the machinery run.
TINY = (
    "dataset.num_images=20",
    "dataset.image_size_px=32",
    "model.base=4",
    "train.epochs=2",
    "train.batch_size=4",
    "train.accelerator=cpu",
    "train.precision=32",
)

ONE_EPOCH = (
    "train.epochs=1",
    "train.batch_size=8",
    "train.precision=32",
    "train.accelerator=cpu",
    "dataset.image_size_px=32",
)
MASKS = ("dataset=lung_ct", "model.base=2", "augmentation=light", *ONE_EPOCH)
CLASSES = ("dataset=phantom_bone", "dataset.num_images=24", "model=vgg16", "model.base=2", "loss=bce", *ONE_EPOCH)
CLASSES += ("dataset.channels=3", "train.explain_images=0")


def compose_config(*overrides: str) -> DictConfig:
    """Return the composed config."""
    with initialize_config_dir(str(ROOT / "conf")):
        return compose("config", overrides=list(overrides))


def read_data(dataset: DatasetConfig) -> Data:
    """Return the data that a config names, decoded and split."""
    source = open_source(dataset)
    return make_data(source, dataset, read_samples(source, dataset))


def build_setup(cfg: DictConfig, choices: dict[str, str] | None = None) -> ExperimentSetup:
    """Return what a run of this config would train with."""
    config, _ = parse_config(cfg)
    return make_setup(cfg, config, open_source(config.dataset, config.trust), choices or {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first, so that a worker which is done can take short tests from the other one."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@contextmanager
def blank_figures() -> Iterator[None]:
    """Leave the figures that are saved within empty, of the right size: drawing them takes two thirds of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", lambda figure, renderer: None)
        yield


@pytest.fixture
def run_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that runs a config in tmp_path/<name>, and returns that folder; figures blank unless drawn."""
    from runcard.experiment.run import run

    monkeypatch.chdir(tmp_path)

    def run_it(name: str, *overrides: str, drawn: bool = False) -> Path:
        with nullcontext() if drawn else blank_figures():
            run(compose_config(*overrides), tmp_path / name, list(overrides), choices={})
        return tmp_path / name

    return run_it


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `python train.py …` in tmp_path, and return the finished process."""
    return lambda *arguments, drawn=False: Command("train.py", *arguments, folder=tmp_path, drawn=drawn).wait()


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with two runs of one mask config, and one run with classes."""
    from runcard.experiment.run import run

    folder = tmp_path_factory.mktemp("runs")
    configs = {"masks/seed0": [*MASKS, "seed=0"], "masks/seed1": [*MASKS, "seed=1"], "classes": [*CLASSES]}
    with pytest.MonkeyPatch.context() as patch, blank_figures():
        patch.chdir(folder)
        for name, overrides in configs.items():
            choices = dict(each.split("=") for each in overrides if each.split("=")[0] in ("dataset", "model", "loss"))
            run(compose_config(*overrides), folder / name, overrides, choices)
    return folder


@pytest.fixture
def letterboxed(tmp_path: Path, run_config: Callable[..., Path]) -> Path:
    """Make a run with masks that letterboxes its images in tmp_path/pairs, which are of several aspect ratios."""
    rng = np.random.default_rng(0)
    for i in range(12):
        height, width = (70, 40 + i) if i % 2 else (30 + i, 80)
        y, x = np.indices((height, width))
        mask = np.hypot(y / height - 0.5, x / width - rng.uniform(0.4, 0.6)) < 0.3
        for folder, pixels in (("Image", 120 * mask + rng.integers(0, 90, mask.shape)), ("Mask", 255 * mask)):
            (tmp_path / "pairs" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pairs" / folder / f"{i}.png")
    data = ("dataset=image_mask", f"dataset.root={tmp_path / 'pairs'}", "dataset.resize=letterbox")
    return run_config("letterboxed", *data, "model.base=2", "augmentation=light", *ONE_EPOCH)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Make a folder with five images of different sizes, one of them in a sub-folder."""
    rng = np.random.default_rng(0)
    for i in range(5):
        path = tmp_path / "images" / ("deep" if i == 4 else "") / f"im{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (140 + i, 150), np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def runcard_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that gives a command in tmp_path, and returns exit code, stdout and stderr."""
    from runcard.cli import main

    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runcard", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        shown = capsys.readouterr()
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return code or 0, shown.out, shown.err

    return command
