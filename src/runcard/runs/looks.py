"""The looks at a sealed test set, counted in looks.csv of a study's folder and of the folder above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runcard.errors import UserError
from runcard.fileio import inside, read_csv
from runcard.runs.run import Run

LOOKS = "looks.csv"  # a row each time that a sealed test set is evaluated
NAMES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Look:
    """One evaluation of a sealed test set by the runs of a study."""

    look: int  # 1: the first
    study: str  # its folder
    images: int
    data_hash: str  # of names and bytes of the images
    folder: str  # of the evaluation


def read_looks(folder: Path) -> list[dict[str, str]]:
    """Read looks.csv of a folder; empty where there is none. Raises UserError where it is damaged."""
    try:
        path = inside(folder, LOOKS)
        looks = read_csv(path) if path.exists() else []
        if not all({"data_hash", "folder"} <= each.keys() for each in looks):
            raise ValueError("a column is missing")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / LOOKS}: cannot be read ({error}), so looks cannot be counted.") from None
    return looks


def looked_in(folders: Sequence[Path], runs: Sequence[Run], data_hash: str) -> tuple[list[str], list[str]]:
    """Return the folders of all evaluations of a test set: those that looks.csv counts, and those that only runs log.

    The latter were interrupted, or somebody removed looks.csv.
    """
    counted = [each["folder"] for folder in folders for each in read_looks(folder) if each["data_hash"] == data_hash]
    logged = [each["folder"] for run in runs for each in run.evaluations if each["data_hash"] == data_hash]
    places = {place: str(Path(place).parent) for place in logged}
    done = list(dict.fromkeys(counted))
    return done, [place for place in dict.fromkeys(places.values()) if place not in done]


def ordinal(number: int) -> str:
    """Format 2 as "second"."""
    return NAMES[number - 1] if number <= len(NAMES) else f"{number}th"
