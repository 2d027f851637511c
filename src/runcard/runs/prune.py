"""What old runs can do without: the files of runs that have ended that comparisons and reports do not read."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runcard.fileio import inside
from runcard.runs.folders import BEST, LAST, run_folders
from runcard.runs.sweep import state_of

REMOVED = {  # what to keep of a run -> the file that must be there, and what goes then
    "best": (BEST, (LAST,)),  # it can predict and be exported, not be trained longer
    "last": (LAST, (BEST,)),  # it can be trained longer
    "record": ("run.json", ("checkpoints", "previews")),  # it can be compared and reported
}


@dataclass(frozen=True)
class Pruning:
    """What would go of one run."""

    folder: Path
    paths: tuple[Path, ...]
    num_bytes: int

    def apply(self) -> None:
        """Remove it."""
        for path in self.paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_prunable(folders: Iterable[Path], keep: str) -> tuple[list[Pruning], list[Path]]:
    """Return what can go of the completed runs in or below folders, and the runs that are not completed."""
    found, unfinished = [], []
    kept, removed = REMOVED[keep]
    for run in dict.fromkeys(run for folder in folders for run in run_folders(folder)):
        if state_of(run).state not in ("done", "pruned"):
            unfinished.append(run)
            continue
        paths = tuple(run / name for name in removed if _is_own(run, name) and (run / kept).exists())
        files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        if paths:
            found.append(Pruning(run, paths, sum(file.stat().st_size for file in files)))
    return found, unfinished


def _is_own(run: Path, name: str) -> bool:
    """Whether a file or folder of a run is there and lies in it: what a link leads to is not the run's to lose."""
    try:
        return inside(run, name).exists() and not (run / name).is_symlink()
    except ValueError:
        return False
