"""What `runcard doctor` checks: this machine, what is installed on it, and the data that a config names."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlparse

import torch
from packaging.requirements import Requirement
from torch import nn
from torchvision.models import VGG16_Weights

from runcard.config.compose import compose_config
from runcard.config.project import CONF
from runcard.config.schema import parse_config
from runcard.console import counted
from runcard.data.datamodule import open_source
from runcard.errors import UserError, first_line, join_first
from runcard.experiment.setup import PRECISIONS, has_bf16
from runcard.fileio import sha256

State = Literal["ok", "note", "problem"]
OK: Final = "ok"
NOTE: Final = "note"
PROBLEM: Final = "problem"
MIN_FREE_GB = 1, 10  # below the first a run may not end, below the second a sweep
OTHER_EXTRAS = {"dev", "docs"}  # for work on Runcard itself
MISSING = " is missing"  # make setup leaves packages out where there is no GPU
GPU_DEVICE = "/dev/nvidia0"  # of NVIDIA's driver, on Linux


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, how it is, and what to do where that is not ok."""

    state: State
    name: str
    text: str


def examine(overrides: Sequence[str], config_dir: Path | None = None) -> Iterator[Check]:
    """Yield the checks, of the config too that these overrides compose."""
    yield Check(OK, "python", f"{platform.python_version()}, {sys.executable}")
    yield from _torch()
    yield _determinism("cpu")
    if torch.cuda.is_available():
        yield _determinism("cuda")
    yield _weights()
    yield _data(overrides, config_dir)
    yield _disk()
    yield from _packages()


def _torch() -> Iterator[Check]:
    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU only"
    yield Check(OK, "torch", f"{torch.__version__}, built for: {build}")
    has_card = Path(GPU_DEVICE).exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Check(OK, "GPU", f"{torch.cuda.get_device_name()}, {memory:.0f} GB, {torch.cuda.device_count()} in all")
    elif torch.backends.mps.is_available():
        yield Check(OK, "GPU", "Apple's")
    elif has_card and not cuda:
        yield Check(PROBLEM, "GPU", "an NVIDIA one is here, but torch has no CUDA: make setup GPU=1, or pytorch.org")
    elif has_card:
        yield Check(PROBLEM, "GPU", f"an NVIDIA one is here that torch cannot use: update its driver for CUDA {cuda}")
    else:
        yield Check(NOTE, "GPU", f"none: runs train on the CPU, with {counted(torch.get_num_threads(), 'thread')}")
    precision = PRECISIONS["bf16" if has_bf16("auto") else "32"]
    yield Check(OK, "precision", f"train.precision=auto takes {precision} here")


def _determinism(device: str) -> Check:
    """Take the same training steps twice, as train.deterministic=true does, and compare the weights bit for bit."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        one, other = _steps(device), _steps(device)
    except RuntimeError as error:
        return Check(PROBLEM, "determinism", f"{device}: {first_line(error)}")
    finally:
        torch.use_deterministic_algorithms(before)
    if not all(map(torch.equal, one, other)):
        return Check(PROBLEM, "determinism", f"{device}: the same steps gave other bits: runs will differ by rounding")
    how = "" if device == "cpu" else " with train.deterministic=true"
    return Check(OK, "determinism", f"{device}: the same steps, taken twice, gave the same bits{how}")


def _steps(device: str) -> list[torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 1, 3)).to(device)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            model(torch.randn(4, 1, 64, 64).to(device)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return [weight.detach().cpu() for weight in model.parameters()]


def _weights() -> Check:
    """Look for the pretrained weights of model=vgg16_pretrained, where torch keeps downloaded files."""
    if own := os.environ.get("RUNCARD_VGG16"):
        there = own == "random" or Path(own).is_file()
        return Check(OK if there else PROBLEM, "weights", f"RUNCARD_VGG16={own}{'' if there else ': no such file'}")
    url = VGG16_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.exists():
        return Check(NOTE, "weights", f"none of VGG16 yet: model=vgg16_pretrained downloads {url} to {path} (528 MB)")
    if not sha256(path).startswith(path.stem.rpartition("-")[2]):
        return Check(PROBLEM, "weights", f"{path}: damaged. Remove it, and it is downloaded again")
    return Check(OK, "weights", f"VGG16: {path}")


def _data(overrides: Sequence[str], config_dir: Path | None) -> Check:
    try:
        config, _ = parse_config(compose_config(overrides, config_dir))
        source = open_source(config.dataset, config.trust)
    except UserError as error:
        return Check(PROBLEM, "data", " ".join(str(error).split()))
    faults = f", {counted(len(source.faults), 'fault')}: runcard audit lists them" if source.faults else ""
    what = f"{type(source).__name__}, {counted(len(source), 'image')}, classes {', '.join(source.classes)}{faults}"
    return Check(NOTE if faults else OK, "data", what)


def _disk() -> Check:
    folder = next(path for path in (Path("outputs"), Path.cwd()) if path.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        return Check(PROBLEM, "disk", f"{folder.absolute()}: may not be written. Work in another folder")
    few, some = MIN_FREE_GB
    state: State = PROBLEM if free < few else NOTE if free < some else OK
    hint = "" if state == OK else ": runcard prune and runcard cache free some"
    return Check(state, "disk", f"{free:.1f} GB free in {folder.absolute()}{hint}")


def _packages() -> Iterator[Check]:
    """Compare what is installed with the ranges of pyproject.toml, the extras, and requirements.lock in a clone."""
    required = [Requirement(line) for line in metadata.requires("runcard") or ()]
    if wrong := [each for each in required if each.marker is None and _unmet(each)]:
        fix = " ".join(f"'{each}'" for each in wrong)
        yield Check(PROBLEM, "versions", f"{', '.join(map(_unmet, wrong))}: pip install {fix}")
    else:
        yield Check(OK, "versions", "all packages are in the ranges of pyproject.toml")
    lock = CONF.parent / "requirements.lock"
    if lock.exists():
        lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")]
        tested = [each for each in map(Requirement, lines) if each.marker is None or each.marker.evaluate()]
        others = [line for each in tested if (line := _unmet(each)) and not line.endswith(MISSING)]
        text = f"not those tested: {join_first(others)}: make setup installs them"
        yield Check(NOTE, "lock", text) if others else Check(OK, "lock", "the versions of requirements.lock")
    for extra in sorted(set(metadata.metadata("runcard").get_all("Provides-Extra") or ()) - OTHER_EXTRAS):
        needed = [each for each in required if each.marker and each.marker.evaluate({"extra": extra})]
        lacking = [line for each in needed if (line := _unmet(each))]
        if lacking:
            yield Check(NOTE, f"[{extra}]", f"{', '.join(lacking)}: pip install 'runcard[{extra}]'")
        else:
            yield Check(OK, f"[{extra}]", ", ".join(each.name for each in needed))


def _unmet(requirement: Requirement) -> str:
    """Say how a requirement is not met; "" where it is."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return requirement.name + MISSING
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, not {requirement.specifier}"
