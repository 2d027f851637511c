"""Odd values of every key of the config: each is refused in a few lines that name the key, or taken as it is."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from conftest import blank_figures, compose_config
from omegaconf import DictConfig
from torch import nn

from runcard.config.sweep import sweep_arguments
from runcard.errors import UserError
from runcard.experiment import session
from runcard.experiment.run import run
from runcard.models.unet import UNet
from runcard.training import memory

ALL = ["dataset.num_images=12", "dataset.image_size_px=32", "train.epochs=1", "train.batch_size=4"]
ALL += ["train.accelerator=cpu", "train.precision=32", "record=lean", "train.explain_images=0"]
MASKS = [*ALL, "model.base=2"]
CLASSES = [*ALL, "dataset=phantom_bone", "model=vgg16", "model.base=2", "loss=bce", "metric=classes"]


class Accepted(BaseException):
    """Training would begin."""


def outcome(cfg: DictConfig, folder: Path) -> str:
    """Run a config up to its first epoch; return the message where it is refused, "" where it is not."""

    def stop(*_: object, **__: object) -> None:
        raise Accepted

    with pytest.MonkeyPatch.context() as patch, blank_figures(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(session, "fit_setup", stop)
        try:
            run(cfg, folder, [], {})
        except Accepted:
            return ""
        except UserError as error:
            return str(error)
    return ""


def check(message: str) -> None:
    lines = message.splitlines()
    assert len(lines) <= 4, message
    assert all(len(line) < 400 for line in lines), message


REFUSED = {
    "optimizer.lr=inf": "optimizer.lr must be a finite number, got inf",
    "optimizer.lr=nan": "optimizer.lr must be a finite number, got nan",
    "optimizer.betas=[0.9,nan]": "optimizer.betas must be a finite number, got nan",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]: torch.optim.Adam cannot be built of it",
    "+metric.scores.x={_target_:torch.nn.ReLU}": "scores.x._target_ must name a torchmetrics.Metric, got torch.nn.ReLU",
    "dataset.channels=true": "dataset.channels must be 1 or 3, got True",
    "dataset.num_images=100000000000000000000": "dataset.num_images must be at most 1000000",
    "dataset.size_px=100000": "dataset.size_px must be at most 16384",
    "name=..": "name must name a folder in outputs/, such as first or lungs/first, got '..'",
    "name=../../x": "name must name a folder in outputs/",
    "name=/x": "name must name a folder in outputs/",
    "name=a//b": "name must name a folder in outputs/",
    "name=null": "name must name a folder in outputs/, such as first or lungs/first, got None",
    "name=''": "name must name a folder in outputs/",
    "run_dir=''": "run_dir must name a folder, got ''",
    "dataset.channels='1'": "dataset.channels must be",
    "metric.scores=null": "metric.scores must be a group of keys",
    "train.batch_size=100000000000000000000": "train.batch_size must be at most 2147483647",
    "train.epochs=100000000000000000000": "train.epochs must be at most 2147483647",
    "train.num_workers=100000": "train.num_workers must be at most 1024",
    "train.devices=100000": "train.devices must be at most train.batch_size=4",
    "dataset.image_size_px=100000": "dataset.image_size_px must be at most 16384",
    "model.base=100000": "model: its weights take more",
    "model.depth=14 model.base=64": "model: its weights take more",
    "model.depth=50": "model.depth must be at most 14",
    "model.base=100000000000000000000": "model: its weights take more",
    "model._target_=null": "model must have a _target_, the name of a class",
    "images.cache_dir=''": "images.cache_dir must name a folder",
}


@pytest.mark.parametrize("override", REFUSED)
def test_senseless_value_is_refused_with_its_key_and_rule(tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    message = outcome(compose_config(*MASKS, *override.split()), tmp_path / "a")
    check(message)
    assert REFUSED[override] in message
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "outputs"])


@pytest.mark.parametrize("override", ["name=lungs/first", "name=7", "train.batch_size=100000000", "run_dir=/tmp/x"])
def test_sensible_value_is_accepted(tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    assert outcome(compose_config(*MASKS, *override.split()), tmp_path / "a") == ""


def test_gradients_and_averages_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    model = UNet(1, 1, base=4)
    size = sum(4 * p.numel() for p in model.parameters())
    for optimizer, needed in ((torch.optim.Adam, 3 * size), (torch.optim.SGD, size)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=needed: free)
        memory.check_training_fits(model, optimizer(model.parameters()), torch.device("cpu"))
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=needed: free - 1)
        with pytest.raises(UserError, match=r"need .* of memory are free"):
            memory.check_training_fits(model, optimizer(model.parameters()), torch.device("cpu"))


def test_weights_are_counted_before_they_are_made_and_replaced_ones_are_not(monkeypatch):
    model = UNet(1, 1, base=4)
    size = sum(4 * p.numel() for p in model.parameters())
    monkeypatch.setattr(memory, "free_bytes", lambda: size)
    with memory.limited_weights():
        UNet(1, 1, base=4)
    layer = nn.Linear(1000, size // 8000)
    with memory.limited_weights():
        for _ in range(5):  # of which one is there at a time
            layer = nn.Linear(1000, size // 8000)
    assert layer.in_features == 1000
    memory.check_weights_fit(lambda: UNet(1, 1, base=4))
    monkeypatch.setattr(memory, "free_bytes", lambda: size - 1)

    def build():
        with memory.limited_weights():
            UNet(1, 1, base=4)

    for refuse in (build, lambda: memory.check_weights_fit(lambda: UNet(1, 1, base=4))):
        with pytest.raises(UserError, match=r"model: its weights take more than the .* of memory that are free"):
            refuse()


def test_layers_that_do_not_fit_are_refused_before_they_are_computed(monkeypatch):
    model, images = UNet(1, 1, base=8, depth=2).eval(), torch.zeros(1, 1, 64, 64)
    monkeypatch.setattr(memory, "free_bytes", lambda: 100 * 4 * 64 * 64)
    with torch.inference_mode(), memory.limited_layers(model):
        model(images)
    monkeypatch.setattr(memory, "free_bytes", lambda: 20 * 4 * 64 * 64)  # two tensors of 8 channels, and the image
    with torch.inference_mode(), memory.limited_layers(model), pytest.raises(UserError, match=r"image\(s\) take"):
        model(images)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_sweep_makes_no_folder_outside_of_outputs():
    with pytest.raises(UserError, match=r"name must name a folder in outputs/.*, got '\.\./\.\./x'"):
        sweep_arguments(["-m", "name=../../x", "seed=0,1"])
    assert sweep_arguments(["-m", "name=a/b", "seed=0,1"])
