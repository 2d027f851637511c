"""What is missing: a run trains without the extras, and what needs no torch does not wait for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from conftest import ROOT, TINY
from folders import write_run

BONE = ("dataset=phantom_bone", "model=vgg16", "loss=bce", "model.head=[8]", "train.epochs=1")


def without(missing: str, argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run train.py or runcard as if a package were not installed."""
    start = "runpy.run_path(sys.argv[0], run_name='__main__')"
    if argv[0] == "runcard":
        start = "from runcard.cli import main; main()"
    code = f"import runpy, sys; sys.modules[{missing!r}] = None; sys.argv = {argv!r}; {start}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)


def train(*arguments: str) -> list[str]:
    return [str(ROOT / "train.py"), *arguments]


def test_a_run_without_the_explain_extra_has_no_activation_maps(tmp_path):
    done = without("pytorch_grad_cam", train(*TINY, *BONE), tmp_path)
    assert done.returncode == 0, done.stderr
    hint = "the package pytorch_grad_cam is not installed: pip install 'runcard[explain]'"
    assert f"no activation maps: {hint}" in done.stdout


@pytest.mark.parametrize("missing", ["jinja2", "vl_convert"])
def test_a_report_without_its_extra_says_how_to_install_it(missing, tmp_path):
    done = without(missing, ["runcard", "report", "nowhere"], tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"the package {missing} is not installed: pip install 'runcard[report]'\n"


def test_a_model_card_needs_no_torch_but_the_report_extra(tmp_path):
    argv = ["runcard", "card", str(write_run(tmp_path / "run"))]
    start = f"import sys; sys.argv = {argv}; from runcard.cli import main"
    code = f"{start}\ntry: main()\nfinally: print('torch' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.endswith("author |\nFalse\n")
    refused = without("jinja2", argv, tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == "the package jinja2 is not installed: pip install 'runcard[report]'\n"


@pytest.mark.parametrize(("missing", "suffix"), [("pydicom", "dcm"), ("nibabel", "nii.gz")])
def test_medical_files_without_their_extra_say_how_to_install_it(missing, suffix, tmp_path):
    for name in ("well/1", "well/2", "sick/1", "sick/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.{suffix}").write_bytes(b"x")
    done = without(missing, train("dataset=image_folder", f"dataset.root={tmp_path}", "loss=bce"), tmp_path)
    assert done.returncode == 2
    hint = f"the package {missing} is not installed: pip install 'runcard[dicom]'\n"
    assert done.stderr == f"{tmp_path}/sick/1.{suffix}: {hint}"


def test_a_prediction_without_highdicom_is_refused_before_the_run_is_opened(tmp_path):
    weights = write_run(tmp_path / "run") / "checkpoints" / "best.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"not read")
    (tmp_path / "x.dcm").write_bytes(b"x")
    done = without("highdicom", ["runcard", "predict", "run", "x.dcm", "-o", "out"], tmp_path)
    assert done.returncode == 2
    assert done.stderr == "the package highdicom is not installed: pip install 'runcard[dicom]'\n"
    as_png = without("highdicom", ["runcard", "predict", "run", "x.dcm", "-o", "out", "--values", "0,255"], tmp_path)
    assert "highdicom" not in as_png.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.epochs=0", "seed=-1"), "seed must be an integer >= 0, got -1.\ntrain.epochs must be an integer >= 1"),
        (("dataset=lungs", "dataset.root=/nowhere"), "/nowhere: no such folder"),
        (("loss._target_=os.system",), "loss._target_: os.system is not an object of a trusted package"),
        (("audit.allow=[truncate]",), "audit.allow must be one of"),
    ],
)
def test_a_mistake_is_refused_without_torch(overrides, message, tmp_path):
    done = without("torch", train(*overrides), tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(message)
    assert not list(tmp_path.glob("outputs/*"))


def test_a_completed_run_and_a_folder_of_another_run_need_no_torch(tmp_path, run_config):
    folder = run_config("a", *TINY)
    again = without("torch", train(*TINY, f"run_dir={folder}"), tmp_path)
    assert again.returncode == 0, again.stderr
    assert "completed before, val/dice " in again.stdout
    (folder / "split.json").rename(folder / "elsewhere.json")
    damaged = Command("train.py", *TINY, f"run_dir={folder}", folder=tmp_path).wait()
    assert damaged.returncode == 2
    assert "completed before, but split.json is missing or empty." in damaged.stderr
    other = without("torch", train(f"run_dir={folder}"), tmp_path)
    assert other.returncode == 2
    lines = other.stderr.splitlines()
    assert lines[0].startswith("a: holds another run, which differs in dataset.image_size_px (32 there, 128 here), ")
    assert lines[0].endswith(" and 5 more.")
    assert lines[1] == f"To resume that run: runcard train {' '.join(TINY)} run_dir=a"
    assert len(lines) == 3
