"""Which folders are runs, and their two records as they stand there: reader.py says whether a run is whole.

Imports neither numpy nor pydantic: what only looks at run folders answers at once.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from natsort import natsorted

from runcard.errors import UserError
from runcard.fileio import inside, read_csv, read_json, sha256

Row = dict[str, Any]  # of metrics.csv
BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.ckpt"  # in a run folder
FILES = ("run.json", "metrics.csv", "per_image.csv", "split.json")
ASIDE = re.compile(r"\.old\d+$")  # the end of a folder's name that overwrite=true has moved aside
OWN_FOLDERS = (".hydra", "checkpoints", "figures", "previews")  # of a run: no other run lies below these


def run_folders(folder: Path) -> list[Path]:
    """Return folder where it is a run's, and the run folders below it that overwrite=true has not moved aside."""
    return natsorted([each for each, files in walk(folder) if is_run(folder, each, files)], key=str)


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield folder and all folders below it with the names of their files, but for those that belong to one run."""
    for path, folders, files in os.walk(folder):
        if "run.json" in files:
            folders[:] = [name for name in folders if name not in OWN_FOLDERS]
        yield Path(path), files


def is_run(top: Path, folder: Path, files: Collection[str]) -> bool:
    """Whether a folder of walk(top), with these files, is a run's; one that is moved aside only where it is top."""
    here = "run.json" in files and (folder / "run.json").is_file()
    return here and (folder == top or not ASIDE.search(folder.name))


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return run.json, as it stands there. Raises ValueError where it cannot be read."""
    try:
        metadata = read_json(folder, "run.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"run.json cannot be read ({error})") from None
    if not isinstance(metadata, dict):
        raise ValueError(f"run.json cannot be read (it holds {reprlib.repr(metadata)}, no keys)")
    return metadata


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.csv, epoch and step as int, the rest as float; none where it is absent.

    A value is None where the epoch was not evaluated.
    """
    if not path.exists():
        return []
    whole = ("epoch", "step")
    return [{k: int(v) if k in whole else float(v) if v else None for k, v in row.items()} for row in read_csv(path)]


def place_in(folder: Path, name: str) -> Path:
    """Return a path inside a run folder. Raises UserError where a link leads elsewhere."""
    try:
        return inside(folder, name)
    except ValueError as error:
        raise UserError(f"{folder}: {error}. Remove that link.") from None


def file_of(folder: Path, name: str) -> Path:
    """Return a file inside a run folder. Raises UserError where it is missing, or a link that leads elsewhere."""
    path = place_in(folder, name)
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}.")
    return path


def has_file(folder: Path, name: str) -> bool:
    """Whether a run folder has a file of this name; a link that leads out of the folder is none of its files."""
    try:
        return inside(folder, name).is_file()
    except (OSError, ValueError):
        return False


def fault_of_weights(folder: Path, metadata: Mapping[str, Any]) -> str:
    """Say what is wrong with the best weights of a run, given its run.json; "" where nothing is."""
    if not has_file(folder, BEST) or not (folder / BEST).stat().st_size:
        return "not there any more"
    recorded = metadata.get("best_sha256")  # absent in runs of old versions
    return "damaged or replaced" if recorded and sha256(folder / BEST) != recorded else ""


def lost_files(folder: Path) -> str:
    """Name the files of a completed run's record that are missing or empty, joined by commas; "" where none is."""
    return ", ".join(name for name in FILES if not has_file(folder, name) or not (folder / name).stat().st_size)
