"""The search for the one folder that dataset.root and dataset.folder select, in any letter case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

from natsort import natsorted

from runcard.data.image_io import check_printable, is_image, slices
from runcard.errors import DataError, UserError, did_you_mean

MAX_DEPTH = 4  # levels of folders below root that are searched
MAX_LISTED = 10
SPLIT_FOLDERS = {  # in any letter case, as all names of folders
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
IMAGE_FOLDERS = ("image", "images", "img", "imgs")
MASK_FOLDERS = ("mask", "masks", "label", "labels", "annotation", "annotations")

Inner = Callable[[Path], "list[Path] | None"]  # the sub-folders of a folder's layout; None if it lacks the layout


def find_data(root: str, folder: str | None, inner_of: Inner, example: str) -> Path:
    """Find the folder that has a layout and that root and folder select.

    Candidates are root and the folders below it. A candidate matches where its path ends with all of folder, or all of
    its path below root is the end of folder: so root may be the data's folder or one above it. Of several matches, the
    one whose path ends with the most of folder is taken. Raises UserError where none matches or two match equally;
    example illustrates the layout in its message.
    """
    if root is None:
        raise ValueError("root must be the folder of the data or one above it, got null")
    top = _existing(str(root))
    candidates = list(_search(top, inner_of))
    if not candidates:
        files = natsorted(_shown(entry.name) for entry in _entries(top) if not _is_folder(entry))
        there = [f"{path.name}/" for path in subfolders(top)] + files
        what = f"no data here, or up to {MAX_DEPTH} folders below, that look like {example}"
        raise DataError("layout", top, what, f"There is: {_shortened(there)}.")
    wanted = PurePath(str(folder or "")).parts
    below = {path: str(path.relative_to(top)) for path in candidates}
    ranks = {path: _rank(path, wanted) for path in candidates}
    meant = [p for p in candidates if ranks[p] >= min(len(wanted), len(p.relative_to(top).parts))]
    if not meant:
        found = list(below.values())
        raise UserError(
            f"dataset.folder={folder}: no such data in {top}, found {_shortened(found)}. "
            f"Set dataset.folder to one of these.{did_you_mean(folder, found)}"
        )
    best = [path for path in meant if ranks[path] == max(ranks[p] for p in meant)]
    if len(best) > 1:
        names = [below[path] if path != top else top.name for path in best]
        which = f" that fit dataset.folder={folder}" if folder else ""
        what, fix = f"holds several folders of data{which}: {_shortened(names)}", "Say which is meant: dataset.folder="
        raise DataError("layout", top, what, f"{fix}{names[-1]}")
    return best[0]


def image_and_mask(directory: Path) -> list[Path] | None:
    """Find the folder of images and that of masks in directory, by their usual names; None where one is missing."""
    named = {path.name.casefold(): path for path in subfolders(directory)}
    found = [next((named[name] for name in names if name in named), None) for names in (IMAGE_FOLDERS, MASK_FOLDERS)]
    return [path for path in found if path] if all(found) else None


def split_folders(directory: Path) -> dict[str, list[Path]]:
    """Map the splits train, val and test, in this order, to the folders of directory that are named after them."""
    folders = subfolders(directory)
    found = {part: [p for p in folders if p.name.casefold() in names] for part, names in SPLIT_FOLDERS.items()}
    return {part: places for part, places in found.items() if places}


def one_folder_per_split(base: Path) -> dict[str, Path]:
    """Return the folder of each split in base, or {"": base} where it has none. Raise DataError for an unclear layout.

    A validation folder may be missing: it is then drawn from the training images.
    """
    parts = split_folders(base)
    for part, places in parts.items():
        if len(places) > 1:
            both = " and ".join(f"{path.name}/" for path in places)
            raise DataError("layout", base, f"{both} are both for {part}", "Rename one of them.")
    if parts and "train" not in parts:
        what = f"has {', '.join(p.name for places in parts.values() for p in places)} but no train folder"
        raise DataError("layout", base, what, "Name it train or training.")
    return {part: places[0] for part, places in parts.items()} or {"": base}


def subfolders(directory: Path) -> list[Path]:
    """List the visible folders directly in directory, in natural order. Raises UserError for unprintable names."""
    found = [Path(entry.path) for entry in _entries(directory) if _is_folder(entry)]
    for path in found:
        check_printable(path)
    return natsorted(found, key=lambda path: path.name)


def has_images(directory: Path) -> bool:
    """Whether an image lies directly in directory; stops at the first, for there may be thousands."""
    return any(is_image(entry.name) for entry in _entries(directory))


def other_files(directory: Path) -> list[str]:
    """List the names of visible files directly in directory that are not images, in natural order."""
    names = (entry.name for entry in _entries(directory) if not _is_folder(entry))
    return natsorted(_shown(name) for name in names if not is_image(name))


def slices_or_fault(paths: Sequence[Path], faults: list[DataError]) -> dict[str, tuple[Path, ...]]:
    """Return image_io.slices of an item's files; nothing where they have a fault, which is appended to faults."""
    try:
        return slices(paths)
    except DataError as fault:
        faults.append(fault)
        return {}


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except PermissionError:
        return  # a folder below root without read permission is skipped


def _is_folder(place: Path | os.DirEntry[str]) -> bool:
    try:
        return place.is_dir()
    except OSError:  # a link to itself, a folder without permission, or a name that is too long
        return False


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _existing(root: str) -> Path:
    """Return root as an absolute path that exists, matched in any letter case."""
    try:
        home = Path(root).expanduser()
    except RuntimeError:
        raise UserError(f"dataset.root={root}: no such user. For a folder of this name, write ./{root}") from None
    typed = Path(os.path.normpath(home.absolute()))  # resolve() would lose the names of links
    found = Path(typed.anchor)
    for part in typed.parts[1:]:
        names = [path.name for path in subfolders(found)] if not _is_folder(found / part) else [part]
        same = [name for name in names if name.casefold() == part.casefold()]
        if len(same) != 1:
            raise UserError(
                f"{typed}: no such folder. dataset.root must be the folder of the data or one above it; {found} holds "
                f"{_shortened(names)}.{did_you_mean(part, names)}"
            )
        found /= same[0]
    return found


def _search(directory: Path, inner_of: Inner, depth: int = 0) -> Iterator[Path]:
    """Yield the folders that have the layout; folders that belong to a layout are not searched."""
    inner = inner_of(directory)
    if inner is not None:
        yield directory
    if depth < MAX_DEPTH:
        belonging = [*(inner or []), *(image_and_mask(directory) or [])]
        for path in subfolders(directory):
            if path not in belonging:
                yield from _search(path, inner_of, depth + 1)


def _rank(path: Path, wanted: Sequence[str]) -> int:
    """Count how many of the last parts of wanted the path ends with."""
    have, want = ([part.casefold() for part in parts] for parts in (path.parts, wanted))
    return next(count for count in range(len(want), -1, -1) if count == 0 or have[-count:] == want[-count:])


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "") if names else "nothing"
