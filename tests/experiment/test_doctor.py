"""Each check of runcard doctor, where it is ok and where it is not."""

from __future__ import annotations

import json
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from runcard.cli import app
from runcard.experiment import doctor
from runcard.experiment.doctor import NOTE, OK, PROBLEM, Check


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNCARD_VGG16", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_a_line_each_and_nothing_wrong_here():
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    states = {line.split()[1]: line.split()[0] for line in done.output.splitlines()}
    assert {"python", "torch", "precision", "determinism", "data", "versions", "[report]"} <= set(states)
    assert states["data"] == states["determinism"] == states["versions"] == OK
    assert states["weights"] == NOTE, "there is no file of VGG16 in an empty folder"
    assert torch.are_deterministic_algorithms_enabled() is False


def test_data_that_are_not_there_are_a_problem(folder):
    done = CliRunner().invoke(app, ["doctor", "--json", "dataset=lungs", f"dataset.root={folder}/none"])
    assert done.exit_code == 1
    (data,) = [check for check in json.loads(done.output) if check["name"] == "data"]
    assert data["state"] == PROBLEM
    assert f"{folder}/none" in data["text"]


def test_steps_that_do_not_repeat_are_a_problem(monkeypatch):
    weights = iter([[torch.zeros(1)], [torch.ones(1)]])
    monkeypatch.setattr(doctor, "_steps", lambda device: next(weights))
    assert doctor._determinism("cpu").state == PROBLEM


def test_pretrained_weights(folder, monkeypatch):
    path = folder / "hub" / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    assert doctor._weights() == Check(PROBLEM, "weights", f"{path}: damaged. Remove it, and it is downloaded again")
    monkeypatch.setattr(doctor, "sha256", lambda path: "397923af" + "0" * 56)
    assert doctor._weights() == Check(OK, "weights", f"VGG16: {path}")
    monkeypatch.setenv("RUNCARD_VGG16", "elsewhere.pth")
    assert doctor._weights().state == PROBLEM


@pytest.mark.parametrize(("free", "state"), [(0.5e9, PROBLEM), (5e9, NOTE), (50e9, OK)])
def test_free_disk(monkeypatch, free, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert doctor._disk().state == state


@pytest.mark.parametrize(
    ("has_card", "cuda", "sees_it", "state", "words"),
    [
        (False, None, False, NOTE, "none: runs train on the CPU"),
        (True, None, False, PROBLEM, "make setup GPU=1"),
        (True, "13.2", False, PROBLEM, "update its driver for CUDA 13.2"),
    ],
)
def test_the_gpu(monkeypatch, has_card, cuda, sees_it, state, words):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if has_card else None)
    monkeypatch.setattr(doctor, "GPU_DEVICE", "/nowhere/nvidia0")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_it)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (gpu,) = [check for check in doctor._torch() if check.name == "GPU"]
    assert gpu.state == state
    assert words in gpu.text


def test_versions(monkeypatch):
    version = metadata.version
    others = {"numpy": "1.26.4", "onnx": None}

    def of(name):
        if name in others and others[name] is None:
            raise metadata.PackageNotFoundError(name)
        return others.get(name) or version(name)

    monkeypatch.setattr(doctor.metadata, "version", of)
    lines = {check.name: check for check in doctor._packages()}
    assert lines["versions"] == Check(PROBLEM, "versions", "numpy is 1.26.4, not >=2.0: pip install 'numpy>=2.0'")
    assert lines["lock"].state == NOTE
    assert "numpy is 1.26.4" in lines["lock"].text
    assert lines["[export]"] == Check(NOTE, "[export]", "onnx is missing: pip install 'runcard[export]'")
    assert lines["[report]"].state == OK
