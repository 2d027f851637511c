"""Fixtures: configs run in this process, and the real command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from runcard.config.schema import parse_config
from runcard.data.datamodule import open_source
from runcard.experiment.setup import ExperimentSetup, make_setup

ROOT = Path(__file__).parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
torch.set_num_threads(1)  # tiny models: two threads cost more than they give, and tests run beside each other
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


def compose_config(*overrides: str) -> DictConfig:
    """Return the composed config."""
    with initialize_config_dir(str(ROOT / "conf")):
        return compose("config", overrides=list(overrides))


def build_setup(cfg: DictConfig, choices: dict[str, str] | None = None) -> ExperimentSetup:
    """Return what a run of this config would train with."""
    config, _ = parse_config(cfg)
    return make_setup(cfg, config, open_source(config.dataset, config.trust), choices or {})


@pytest.fixture
def run_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that runs a config in tmp_path/<name>, and return that folder."""
    from runcard.experiment.run import run

    monkeypatch.chdir(tmp_path)

    def run_it(name: str, *overrides: str) -> Path:
        run(compose_config(*overrides), tmp_path / name, list(overrides), choices={})
        return tmp_path / name

    return run_it


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `python train.py …` in tmp_path, and return the finished process."""

    def run_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return run_it
