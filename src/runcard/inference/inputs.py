"""The images that a prediction is asked for: files, folders, patterns and CSV tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from natsort import natsorted

from runcard.data.image_io import SUFFIXES, is_image
from runcard.errors import UserError
from runcard.fileio import read_csv

PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Input:
    """One image to predict."""

    path: Path
    name: str  # of its output, without suffix: the path below the folder that was named


def find_inputs(named: Sequence[str]) -> list[Input]:
    """List the images that the arguments name, each once.

    An argument is an image; a folder, searched with its sub-folders; a pattern such as 'scans/*.png'; or a CSV table
    with a column image, whose paths are relative to the table. Raises UserError where an argument names no image, or
    two images would have one output.
    """
    inputs: dict[Path, Input] = {}
    for argument in named:
        found = list(_find(argument))
        if not found:
            raise UserError(f"{argument}: no images here ({', '.join(sorted(SUFFIXES))}).")
        inputs |= {each.path.absolute(): each for each in found}
    counts = Counter(each.name for each in inputs.values())
    if twice := [each.path for each in inputs.values() if counts[each.name] > 1]:
        raise UserError(f"{twice[0]} and {twice[1]} would have one output. Predict them into folders of their own.")
    return list(inputs.values())


def _find(argument: str) -> Iterator[Input]:
    path = Path(argument)
    if path.is_dir():
        files = natsorted(file for file in path.rglob("*") if is_image(file.name) and file.is_file())
        yield from (Input(file, file.relative_to(path).with_suffix("").as_posix()) for file in files)
    elif path.suffix.lower() == ".csv":
        yield from _table(path)
    elif path.exists():
        yield Input(path, path.stem)
    elif PATTERN & set(argument):
        files = natsorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        yield from (Input(file, file.stem) for file in files if is_image(file.name))
    else:
        raise UserError(f"{argument}: no such file or folder.")


def _table(path: Path) -> Iterator[Input]:
    try:
        header, rows = read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None
    if "image" not in header:
        raise UserError(f"{path}: has no column image, only {', '.join(header)}.")
    for row in rows:
        name = row[header.index("image")]
        yield Input(path.parent / name, Path(name).with_suffix("").as_posix().lstrip("/").replace("../", ""))
