"""Classification data on disk: class folders or flat files, with or without train and validation folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from natsort import natsorted

from runcard.data.image_io import FULL_WINDOW, NO_IMAGES, OnDisk, check_window, file_of, list_images, read_image
from runcard.data.source import Source
from runcard.datasets.layouts import (
    find_data,
    has_images,
    image_and_mask,
    one_folder_per_split,
    other_files,
    slices_or_fault,
    split_folders,
    subfolders,
)
from runcard.errors import DataError, UserError, check_names, did_you_mean

CLASS_FOLDERS, FLAT_FILES = "class folders", "flat files named by class"  # the two layouts
EXAMPLE = "train/Mel/1.jpg and validation/Nev/2.jpg, train/Mel_1.jpg, Mel/1.jpg or Mel_1.jpg"


class ImageFolder(Source):
    """Images with one class each, in the folder that root and folder select (layouts.py).

    This folder, or each of its folders train, val or validation, and test, holds either class folders or flat files. A
    class matches the folder of its name, or else the one folder whose name contains it (Nev matches Nevi), or the flat
    files whose names contain it. classes gives the index order; null takes all class folders, in natural order.

    Item i is (image, class index, id): image H×W or H×W×3 at the depth of its file (window: see image_io), id the path
    below the data's folder, so that root never changes an id. A NIfTI volume gives an item path:z for each axial slice
    z, a DICOM file of several frames one for each frame, and is their group. faults holds the errors of folders and
    names.
    """

    def __init__(
        self, root: str, folder: str | None, classes: Sequence[str] | None, window: Sequence[float] = FULL_WINDOW
    ) -> None:
        names = None if classes is None else check_names("classes", classes)
        limits = check_window(window)
        base = find_data(root, folder, _belonging, EXAMPLE)
        tops = one_folder_per_split(base)
        _check_apart(tops)
        self.classes = _class_names(list(tops.values())) if names is None else names
        self.ids, self.files, self.groups, self.targets = [], [], [], []
        self.faults: list[DataError] = []  # of folders and names; those of a file are reported when it is read
        given, layouts = [], {}
        for part, top in tops.items():
            layouts[top] = _layout(top, names)
            find = _in_class_folders if layouts[top] == CLASS_FOLDERS else _by_name
            for path, target in find(top, self.classes, self.faults):
                images = slices_or_fault([path], self.faults)
                name = path.relative_to(base).as_posix()
                self.ids += [f"{name}{which}" for which in images]
                self.files += images.values()
                self.groups += [name] * len(images)
                self.targets += [target] * len(images)
                given += [part] * len(images)
        if self.groups == self.ids:
            self.groups = None
        self.given_split = None if "" in tops else given
        left_out = _left_out(base, list(tops.values()), {file_of(path) for (path,) in self.files})
        self.on_disk = OnDisk(base, self._words(layouts), left_out, limits)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, str]:
        return read_image(self.files[i][0]), self.targets[i], self.ids[i]

    def _words(self, layouts: dict[Path, str]) -> str:
        """Describe the layout as text: "class folders in train/ and validation/ (Nev in Nevi/)"."""
        places = {layout: [f"{top.name}/" for top in layouts if layouts[top] == layout] for layout in layouts.values()}
        if self.given_split is None:
            words = "".join(places)
        else:
            words = "; ".join(f"{layout} in {' and '.join(tops)}" for layout, tops in places.items())
        folders = {self.classes[t]: p.parent.name for (p,), t in zip(self.files, self.targets, strict=True)}
        other = [f"{name} in {folders[name]}/" for name in folders if folders[name].casefold() != name.casefold()]
        return f"{words} ({', '.join(other)})" if set(places) == {CLASS_FOLDERS} and other else words


def _check_apart(tops: dict[str, Path]) -> None:
    """Reject a split's folder that lies in another's, such as train/validation/Mel: its purpose is ambiguous."""
    for part, top in tops.items():
        for inner in (path for places in split_folders(top).values() for path in places) if part else ():
            if _class_folders(inner) or has_images(inner):
                what, fix = f"lies in {top.name}/, as if it were a class of it", f"Move it beside {top.name}/."
                raise DataError("validation_in_training", inner, what, fix)


def _class_folders(top: Path) -> list[Path]:
    """List the folders of top that may be a class: Image/ and Mask/ are not."""
    pair = image_and_mask(top) or []
    return [path for path in subfolders(top) if path not in pair]


def _belonging(directory: Path) -> list[Path] | None:
    """List the folders of directory that form its layout; None where it holds no labelled images."""
    if parts := [path for places in split_folders(directory).values() for path in places]:
        return parts if any(has_images(p) for top in parts for p in (top, *_class_folders(top))) else None
    folders = [path for path in _class_folders(directory) if has_images(path)]
    return folders if folders or has_images(directory) else None


def _class_names(tops: list[Path]) -> list[str]:
    """List the names of the class folders in all of tops, in natural order; letter case does not distinguish them."""
    names = {path.name.casefold(): path.name for top in reversed(tops) for path in _class_folders(top)}
    if not names:
        shown = ", ".join(path.name for path in list_images(tops[0])[:2])
        raise UserError(
            f"dataset.classes: {tops[0]} holds flat files ({shown}, …), so the classes must be named, each by a part "
            "of its files' names: 'dataset.classes=[Mel,Nev]', say."
        )
    return natsorted(names.values())


def _left_out(base: Path, tops: list[Path], read: set[Path]) -> list[str]:
    """List what was not read in the folders that were searched: folders, images, and other files by suffix.

    tops are the folders of base's splits, read the images of the dataset.
    """
    inner = {path.parent for path in read}
    places = list(dict.fromkeys((base, *tops, *natsorted(inner))))
    found = [path for place in places for path in (*subfolders(place), *list_images(place))]
    unread = [path for path in found if path not in read | inner | set(tops)]
    others = Counter(Path(name).suffix.lower() for place in places for name in other_files(place))
    shown = [path.relative_to(base).as_posix() + "/" * path.is_dir() for path in unread]
    return shown + [f"{count} × {suffix or 'a file without suffix'}" for suffix, count in others.items()]


def _layout(top: Path, classes: list[str] | None) -> str:
    """Determine which of the two layouts top has; where both are possible, the named classes must decide."""
    folders = [path for path in _class_folders(top) if has_images(path)]
    if not folders or not has_images(top):
        return FLAT_FILES if has_images(top) else CLASS_FOLDERS
    loose = list_images(top)
    in_folders = any(_matching(name, [path.name for path in folders]) for name in classes or [])
    in_names = any(_named(path, classes or []) for path in loose)
    if in_folders == in_names:
        both = f"({loose[0].name}, …) and class folders ({', '.join(path.name for path in folders)})"
        fix = "Move one of them away, or name dataset.classes that only one of them has."
        raise DataError("layout", top, f"holds both loose images {both}", fix)
    return CLASS_FOLDERS if in_folders else FLAT_FILES


def _matching(name: str, found: list[str]) -> list[str]:
    """Return the found names that equal name, or else equal it in another letter case, or else contain it."""
    low = name.casefold()
    tries = (
        [other for other in found if other == name],
        [other for other in found if other.casefold() == low],
        [other for other in found if low in other.casefold()],
    )
    return next((names for names in tries if names), [])


def _named(path: Path, classes: list[str]) -> list[int]:
    """Return the indices of the classes that a file's name contains, in their letter case if possible, else in any."""
    exact = [name for name in classes if name in path.stem]
    found = exact or [name for name in classes if name.casefold() in path.stem.casefold()]
    longest = [name for name in found if not any(name != other and name in other for other in found)]
    return [classes.index(name) for name in longest]  # C12_3.jpg has the class C12, not C1


def _in_class_folders(top: Path, classes: list[str], faults: list[DataError]) -> list[tuple[Path, int]]:
    """List the images of each class's folder with their class; append the folders' errors to faults."""
    names = [path.name for path in _class_folders(top)]
    owners: dict[str, str] = {}
    images = []
    for index, name in enumerate(classes):
        found = _matching(name, names)
        if len(found) != 1:
            what = f"no class folder '{name}', found {', '.join(names) or 'no folders'}"
            if found:
                what = f"several folders fit the class '{name}': {', '.join(found)}"
            fix = f"Set dataset.classes to the folders' names.{did_you_mean(name, found or names)}"
            faults.append(DataError("class_folders", top, what, fix))
        elif found[0] in owners:
            what = f"the classes '{owners[found[0]]}' and '{name}' both find this folder"
            faults.append(DataError("class_folders", top / found[0], what, "Give each class one of its own."))
        else:
            owners[found[0]] = name
            paths = list_images(top / found[0])
            if not paths:
                fix = "Fill it, or leave the class out of dataset.classes."
                faults.append(DataError("no_images", top / found[0], NO_IMAGES, fix))
            images += [(path, index) for path in paths]
    return images


def _by_name(top: Path, classes: list[str], faults: list[DataError]) -> list[tuple[Path, int]]:
    """List the flat images of top, class by class; append to faults names of no class or several, and empty classes."""
    images = []
    for path in list_images(top):
        found = [classes[i] for i in _named(path, classes)]
        if len(found) == 1:
            images.append((path, classes.index(found[0])))
        else:
            what = f"several of the classes: {', '.join(found)}" if found else f"none of {', '.join(classes)}"
            fix = "Rename or remove it, or change dataset.classes."
            faults.append(DataError("class_in_name", path, f"its name contains {what}", fix))
    lost = set(range(len(classes))) - {target for _, target in images}
    for i in sorted(lost):
        what, fix = f"no image is of the class '{classes[i]}'", "Its name would contain that."
        faults.append(DataError("no_images", top, what, fix))
    return sorted(images, key=lambda image: image[1])
