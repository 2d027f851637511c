"""What a search for the best config leaves in its folder, for those who ask later how a config was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runcard.errors import UserError
from runcard.fileio import read_json, write_json

RESULT = "search.json"


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write search.json: trials (how many have ended), monitor, seeds, images (SHA-256 of validation), best."""
    write_json(folder / RESULT, result)


def read_result(folder: Path) -> dict[str, Any]:
    """Return search.json of the folder of a search; {} where there is none."""
    try:
        result = read_json(folder, RESULT)
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def search_behind(origin: Path) -> str | None:
    """Return the folder of the search behind a run, or behind the run of a file of weights; None without one."""
    run = origin.expanduser()
    run = run if run.is_dir() else run.parent.parent  # of checkpoints/best.safetensors
    try:
        search = read_json(run, "run.json").get("search")
    except (OSError, ValueError, AttributeError):
        return None
    if not isinstance(search, dict):
        return None
    return run.parent.as_posix() if "trial" in search else str(search.get("folder"))


def chosen_by(folder: str | None) -> dict[str, Any] | None:
    """Return what a run records of the search that chose its config, the one in this folder; None without one."""
    if folder is None:
        return None
    result = read_result(Path(folder))
    if not {"trials", "seeds", "images"} <= result.keys():
        raise UserError(
            f"chosen_by: {folder} holds no search of which a trial has ended. Name the folder where a search.json is."
        )
    return {"folder": folder, **{key: result[key] for key in ("trials", "seeds", "images")}}
