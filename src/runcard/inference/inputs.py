"""The images that a prediction is asked for: files, folders, patterns and CSV tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from natsort import natsorted

from runcard.data.image_io import SUFFIXES, is_image, slices, without_suffix
from runcard.errors import DataError, UserError
from runcard.fileio import read_csv

PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Input:
    """One image to predict."""

    path: Path  # of its file, or of a slice of it: see data.image_io
    name: str  # of its output, without suffix: the path below the folder that was named; stem:z for slice z of a volume
    volume: str  # the name of what its file holds: its own, or that of the volume it is a slice of
    in_file: tuple[str, ...]  # the names of all images in its file, in their order


def find_inputs(named: Sequence[str]) -> list[Input]:
    """List the images that the arguments name, each once; of a volume, its axial slices; of a DICOM file, its frames.

    An argument is an image; a folder, searched with its sub-folders; a pattern such as 'scans/*.png'; or a CSV table
    with a column image, whose paths are relative to the table. Raises UserError where an argument names no image, or
    two images would have one output.
    """
    inputs: dict[Path, Input] = {}
    for argument in named:
        found = [image for path, name in _find(argument) for image in _images(path, name)]
        if not found:
            raise UserError(f"{argument}: no images here ({', '.join(sorted(SUFFIXES))}).")
        inputs |= {each.path.absolute(): each for each in found}
    counts = Counter(each.name for each in inputs.values())
    if twice := [each.path for each in inputs.values() if counts[each.name] > 1]:
        raise UserError(f"{twice[0]} and {twice[1]} would have one output. Predict them into folders of their own.")
    return list(inputs.values())


def _images(path: Path, name: str) -> Iterator[Input]:
    """Yield the images of a file, whose name is the path below the folder that was named."""
    stem = without_suffix(name)
    try:
        images = slices([path])
    except DataError:  # reading it says why
        images = {"": (path,)}
    names = tuple(f"{stem}{which}" for which in images)
    for name, (image,) in zip(names, images.values(), strict=True):
        yield Input(image, name, stem, names)


def _find(argument: str) -> Iterator[tuple[Path, str]]:
    """Yield the files that an argument names, with the names that their outputs get, with suffix."""
    path = Path(argument)
    if path.is_dir():
        files = natsorted(file for file in path.rglob("*") if is_image(file.name) and file.is_file())
        yield from ((file, file.relative_to(path).as_posix()) for file in files)
    elif path.suffix.lower() == ".csv":
        yield from _table(path)
    elif path.exists():
        yield path, path.name
    elif PATTERN & set(argument):
        files = natsorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        yield from ((file, file.name) for file in files if is_image(file.name))
    else:
        raise UserError(f"{argument}: no such file or folder.")


def _table(path: Path) -> Iterator[tuple[Path, str]]:
    try:
        rows = read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None
    if "image" not in rows[0]:
        raise UserError(f"{path}: has no column image, only {', '.join(rows[0])}.")
    for name in (row["image"] for row in rows):
        yield path.parent / name, Path(name).as_posix().lstrip("/").replace("../", "")
