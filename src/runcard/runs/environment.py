"""What is recorded of where a run was made: code, commit, versions and hardware."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from runcard.fileio import hash_lines

# What can change a run's numbers, under src/runcard: neither figures, loggers, reports nor comments.
NUMERIC_CODE = (
    *("config", "data", "datasets", "experiment/setup.py", "losses", "metrics", "models"),
    *("training", "transforms.py"),
)
PACKAGES = (
    *("torch", "torchvision", "torchmetrics", "lightning-fabric", "hydra-core", "albumentations"),
    *("numpy", "scipy", "scikit-learn", "opencv-python-headless", "pillow"),
)


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_hash(places: Sequence[str] = NUMERIC_CODE) -> str:
    """Return a hash over the package's modules and folders named, as syntax trees without comments and docstrings."""
    root = Path(__file__).parents[1]
    found = [root / place for place in places]
    files = sorted(file for path in found for file in ([path] if path.is_file() else path.rglob("*.py")))
    return hash_lines(f"{file.relative_to(root).as_posix()} {_syntax(file)}" for file in files)


@cache
def _syntax(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def commit() -> str | None:
    """Return the commit that the source stands at, with "+" where it was changed; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # an exported file is predicted without torch
            found[name] = importlib.metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """Return the machine: processor, cores, torch's threads, GPU."""
    import torch  # here, so that comparing runs does not wait for it

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
