"""A wheel, installed outside the clone, has all it needs: configs, data, templates."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from commands import LIBRARIES
from conftest import ONE_THREAD, ROOT

SMALL = ("dataset=lung_ct", "dataset.image_size_px=32", "model.base=2", "train.epochs=1")
TINY_CHEST = ("dataset.image_size_px=32", "dataset.num_images=20", "model.base=2", "train.epochs=1")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the bin/ of a new environment with Runcard's wheel, which sees the other packages of this one."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a .pth file in there is not followed
    python = str(folder / "env" / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--quiet", "--no-deps", str(wheel)], check=True, timeout=300)
    return folder / "env" / "bin"


# Forks each command, a line of JSON, from a process that has imported the libraries and nothing of Runcard.
FORK_EACH = f"""
import importlib, json, os, sys
for library in {LIBRARIES}:
    importlib.import_module(library)
for line in sys.stdin:
    if not (child := os.fork()):
        sys.argv = ["runcard", *json.loads(line)]
        from runcard.cli import main
        sys.exit(main())
    print("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def runcard(installed, tmp_path):
    """Return a function that gives a command of the installed Runcard in an empty folder, and returns its output."""
    with subprocess.Popen(
        [str(installed / "python"), "-c", FORK_EACH],
        cwd=tmp_path,
        env={**ONE_THREAD, "PYTHONPATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:

        def command(*arguments: str) -> str:
            print(json.dumps(arguments), file=process.stdin, flush=True)
            printed = ""
            while (line := process.stdout.readline()) and not line.startswith("exit code"):
                printed += line
            assert line == "exit code 0\n", printed
            return printed

        yield command
        process.stdin.close()


def test_the_package_is_the_installed_one(installed):
    code = "import runcard.config.project as p; print(p.CONF)"
    done = subprocess.run([str(installed / "python"), "-c", code], capture_output=True, text=True, check=True, cwd="/")
    conf = Path(done.stdout.strip())
    assert conf.is_relative_to(installed.parent)
    of_experiments = [path for path in (conf / "experiment").rglob("*") if path.is_file()]
    assert {path.suffix for path in of_experiments} == {".yaml"}, "no runs, reports or maps of the repository"


def test_the_script_makes_a_project(installed, tmp_path):
    script = [str(installed / "runcard"), "init", "mine"]
    subprocess.run(script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, check=True)
    assert (tmp_path / "mine" / "conf" / "dataset" / "circles.yaml").exists()


def test_commands_outside_the_clone(runcard, tmp_path):
    runcard("train", "-m", *SMALL, "seed=0,1", "name=seeds")
    runcard("train", "experiment=phantoms/chest", "scale=quick", *TINY_CHEST, "run_dir=recipe")
    assert "seeds" in runcard("compare", "outputs/seeds")
    assert "report.html" in runcard("report", "outputs/seeds")
    assert "no errors" in runcard("audit", "dataset=lung_ct")
    data = ROOT / "src" / "runcard" / "datasets" / "lung_ct"
    image = str(next((data / "Image").iterdir()))
    assert "1 image predicted" in runcard("predict", "outputs/seeds", image, "-o", "masks")
    assert (tmp_path / "masks" / f"{Path(image).stem}.png").exists()
    for folder in ("Image", "Mask"):  # those of the other patient, whom these runs did not train on
        shutil.copytree(data / folder, tmp_path / "other" / folder, ignore=shutil.ignore_patterns("patient1*"))
    assert "2 runs, 61 images" in runcard("evaluate", "outputs/seeds", "dataset=lungs", "dataset.root=other")
    assert "2 (0, 1)" in runcard("compare", "outputs/seeds", "--on", "outputs/evaluations/other")
    run = min((tmp_path / "outputs" / "seeds").glob("*/*/run.json")).parent
    assert "decisions on 61 validation images differ" in runcard("export", str(run), "-o", "model.onnx")
    assert "1 image predicted" in runcard("predict", "model.onnx", image, "-o", "by_file")


def make(*arguments: str) -> str:
    """Return what make would run."""
    return subprocess.run(["make", "-n", "-B", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_setup_leaves_out_what_torch_does_not_load_without_a_gpu():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    (pattern,) = re.findall(r"grep -vE '(.*)' requirements.lock", make("setup", "GPU=0"))
    left_out = {line.partition("==")[0] for line in lock if re.match(pattern, line)}
    of_nvidia = {f"nvidia-{name}" for name in ("cuda-cccl", "cusolver", "nvjitlink", "nvtx")}
    assert left_out == {"triton", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit", *of_nvidia}
    (with_gpu,) = re.findall(r"grep -vE '(.*)' requirements.lock", make("setup", "GPU=1"))
    assert [line for line in lock if re.match(with_gpu, line)] == []


def test_the_page_of_pip_has_the_lines_of_make():
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    for line in make("setup", "GPU=0").splitlines():
        if line.startswith("grep"):
            assert line.replace(".venv/requirements.txt", "cpu.txt") in page
        elif "pip install" in line:
            line = line.replace(" --quiet", "").replace("--requirement .venv/requirements.txt", "-r requirements.lock")
            assert line.replace("--editable", "-e") in page
    for target, lines in re.findall(r"^\| `make (\w+)` \| (.*) \|$", page, re.MULTILINE):
        said = make(target)
        for command in re.findall(r"`([^`]+)`", lines):
            assert command.removeprefix("python -m ") in said or command in said, target
