"""Checkpoints: exact, atomic, and without code."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, compose_config
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import runcard.fileio
from runcard.config.instantiate import build
from runcard.errors import UserError
from runcard.fileio import atomic_write, write_json, write_text
from runcard.training.checkpoint import Checkpoint, load_weights, read_weights, refuse_code
from runcard.training.types import State

CONFIG = {"model": {"base": 4}, "seed": 0, "name": "ä"}
OPTIMIZERS, SCHEDULERS = (
    sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml")) for group in ("optimizer", "scheduler")
)


@cache
def composed(optimizer: str, scheduler: str) -> DictConfig:
    return compose_config(f"optimizer={optimizer}", f"scheduler={scheduler}", "derived.steps=20")


class Training:
    """A small network with the optimizer and the scheduler that a config names, and its checkpoint in folder."""

    def __init__(self, folder: Path, optimizer: str = "adam", scheduler: str = "none", seed: int = 0) -> None:
        config = composed(optimizer, scheduler)
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 1))
        self.optimizer = build("config", config.optimizer)(self.model.parameters())
        self.rule = build("config", config.scheduler.rule)(self.optimizer)
        self.checkpoint = Checkpoint(folder, self.model, self.optimizer, self.rule, CONFIG)

    def steps(self, numbers: range) -> Training:
        """Takes the numbered steps: what a step does depends on its number alone."""
        for number in numbers:
            images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(number))
            self.optimizer.zero_grad()
            loss = self.model(images).square().mean()
            loss.backward()
            self.optimizer.step()
            self.rule.step(*([1.0] if isinstance(self.rule, ReduceLROnPlateau) else []))
        return self

    def content(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rule": self.rule.state_dict(),
        }


def equal(ours: object, theirs: object) -> bool:
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if ".tmp" in p.name]


def test_all_optimizers_and_schedulers_are_found():
    assert len(OPTIMIZERS) >= 3
    assert len(SCHEDULERS) >= 4


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_and_scheduler_resumes_exactly(optimizer, scheduler, tmp_path):
    state = State(epoch=2, step=4, best=0.5, best_epoch=1)
    Training(tmp_path, optimizer, scheduler).steps(range(4)).checkpoint.save(state)
    resumed = Training(tmp_path, optimizer, scheduler, seed=1)
    assert not equal(resumed.content(), Training(tmp_path, optimizer, scheduler).steps(range(4)).content())
    assert resumed.checkpoint.resume() == state
    assert equal(resumed.content(), Training(tmp_path, optimizer, scheduler).steps(range(4)).content())
    uninterrupted = Training(tmp_path, optimizer, scheduler).steps(range(9))
    assert equal(resumed.steps(range(4, 9)).content(), uninterrupted.content())


def test_without_a_checkpoint_a_training_begins_at_the_beginning(tmp_path):
    training = Training(tmp_path)
    before = training.model[0].weight.clone()
    assert training.checkpoint.resume() == State(epoch=0, step=0, best=None, best_epoch=0)
    assert torch.equal(training.model[0].weight, before)


def test_last_ckpt_is_plain_data(tmp_path):
    training = Training(tmp_path, "adamw", "onecycle").steps(range(2))
    training.checkpoint.save(State(1, 2))
    content = torch.load(training.checkpoint.last, weights_only=True)
    assert content["state"] == {"epoch": 1, "step": 2, "best": None, "best_epoch": 0, "rows": []}
    assert set(content) == {"state", "model", "optimizer", "scheduler", "config", "data", "best_sha256", "sha256"}
    assert leftovers(tmp_path) == []


def test_best_safetensors_holds_weights_and_the_config(tmp_path):
    training = Training(tmp_path).steps(range(2))
    training.model.to(memory_format=torch.channels_last)  # as runs have it: safetensors wants contiguous tensors
    training.checkpoint.save_best()
    weights, config = read_weights(training.checkpoint.best)
    assert config == CONFIG
    assert equal(dict(sorted(weights.items())), dict(sorted(training.model.state_dict().items())))
    other = Training(tmp_path, seed=1)
    load_weights(training.checkpoint.best, other.model)
    assert equal(other.model.state_dict(), training.model.state_dict())


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"a": {"lr": np.float64(0.1)}}, r"checkpoint.a.lr is a numpy.float64"),
        ({"a": [1, {"n": np.int64(1)}]}, r"checkpoint.a.1.n is a numpy.int64"),
        ({"a": np.zeros(2)}, r"checkpoint.a is a numpy.ndarray"),
        ({"config": OmegaConf.create({"lr": 1})}, r"checkpoint.config is a omegaconf.dictconfig.DictConfig"),
        ({"g": [{"betas": OmegaConf.create([1, 2])}]}, r"checkpoint.g.0.betas is a omegaconf.listconfig.ListConfig"),
        ({"a": {"path": Path("x")}}, r"checkpoint.a.path is a pathlib"),
        ({"a": (1, {2, 3})}, r"checkpoint.a.1 is a builtins.set"),
        ({"rule": torch.optim.SGD}, r"checkpoint.rule is a builtins.type"),
        ({"a": State()}, r"checkpoint.a is a runcard.training.types.State"),
    ],
)
def test_what_needs_code_to_load_is_refused_by_its_dotted_name(content, name):
    with pytest.raises(TypeError, match=name):
        refuse_code(content, "checkpoint")


def test_plain_data_and_tensors_are_not_refused():
    refuse_code({"a": [1, 2.0, "x", None, True, (torch.zeros(1), {})], 3: OrderedDict(b=1)}, "checkpoint")


def test_a_refused_checkpoint_leaves_the_old_one(tmp_path):
    training = Training(tmp_path)
    training.checkpoint.save(State(1))
    training.optimizer.param_groups[0]["lr"] = np.float32(0.1)
    with pytest.raises(TypeError, match=r"checkpoint.optimizer.param_groups.0.lr is a numpy.float32"):
        training.checkpoint.save(State(2))
    assert training.checkpoint.resume().epoch == 1


def test_a_file_appears_whole_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "x.json"
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".json"
        assert temporary.name.startswith("."), "no tool takes it for a result"
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("unreadable"),
        ValueError("our own bug"),
        RuntimeError("torch.save's way to say that the disk is full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_while_writing_leaves_the_old_file_and_no_other(error, tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fails_half_way() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error), match=str(error)):
        fails_half_way()
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_temporary_file_of_a_killed_process_is_overwritten(tmp_path):
    with atomic_write(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
        name = temporary
    name.write_text("left behind by a process that was killed")
    write_text(tmp_path / "x.txt", "newer")
    assert (tmp_path / "x.txt").read_text() == "newer"
    assert leftovers(tmp_path) == []


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1.5, float("nan")], "b": {"c": float("nan")}, "d": "ä"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == (
        '{\n "a": [\n  1.5,\n  null\n ],\n "b": {\n  "c": null\n },\n "d": "ä"\n}\n'
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_a_user_error_and_keeps_the_last_checkpoint(code, tmp_path, monkeypatch):
    training = Training(tmp_path)
    training.checkpoint.save(State(1))
    training.checkpoint.save_best()
    before = {p: p.read_bytes() for p in (training.checkpoint.last, training.checkpoint.best)}

    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(runcard.fileio.os, "fsync", full)
    training.steps(range(2))
    for save, name in (
        (lambda: training.checkpoint.save(State(2)), "last.ckpt"),
        (training.checkpoint.save_best, "best"),
    ):
        with pytest.raises(UserError, match=rf"{name}.*: cannot be written, the disk is full. Free some space"):
            save()
    assert {p: p.read_bytes() for p in before} == before
    assert leftovers(tmp_path) == []
    monkeypatch.undo()
    assert training.checkpoint.resume().epoch == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("name", ["last", "best"])
def test_disk_that_fills_up_while_writing_is_reported(name, tmp_path):
    training = Training(tmp_path)
    training.checkpoint.save(State(1))
    training.checkpoint.save_best()
    path = getattr(training.checkpoint, name)
    before = path.read_bytes()
    path.with_name(f".{path.name}.tmp{path.suffix}").symlink_to("/dev/full")  # what is written there does not fit
    with pytest.raises(UserError, match="the disk is full"):
        {"last": lambda: training.checkpoint.save(State(2)), "best": training.checkpoint.save_best}[name]()
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_truncated_weights_are_reported_with_the_file(part, tmp_path):
    training = Training(tmp_path)
    training.checkpoint.save_best()
    path = training.checkpoint.best
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(UserError, match=r"best.safetensors: weights cannot be read"):
        load_weights(path, training.model)


def test_missing_weights_are_reported_with_the_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.safetensors: weights cannot be read"):
        read_weights(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_without_a_config_are_reported_with_the_file(metadata, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(UserError, match=r"x.safetensors: .*config"):
        read_weights(tmp_path / "x.safetensors")


def test_damaged_last_ckpt_is_reported_with_the_file(tmp_path):
    training = Training(tmp_path)
    training.checkpoint.save(State(1))
    training.checkpoint.last.write_bytes(training.checkpoint.last.read_bytes()[:500])
    with pytest.raises(UserError, match=r"last.ckpt: .*"):
        training.checkpoint.resume()


def test_weights_of_another_model_are_refused(tmp_path):
    training = Training(tmp_path)
    training.checkpoint.save_best()
    for other in (nn.Linear(2, 2), nn.Sequential(*training.model, nn.Linear(1, 1))):
        with pytest.raises(UserError, match="not the weights of this model"):
            load_weights(training.checkpoint.best, other)
