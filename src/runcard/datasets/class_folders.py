"""Classification data on disk: one folder per class, with or without given train and validation folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from natsort import natsorted

from runcard.errors import UserError, check_names, nearest
from runcard.images import list_images, read_image

SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


class ClassFolders:
    """Images under <root>/<folder>/<Class>/ or <root>/<folder>/{train,validation,test}/<Class>/.

    Item i is (image, class index, id): image H×W or H×W×3 uint8, id the path below the folder. classes names the
    folders in index order; null takes all folders in natural order.
    """

    def __init__(self, root: str, folder: str | None, classes: Sequence[str] | None) -> None:
        base = Path(root).expanduser() / (folder or "")
        if not base.is_dir():
            raise UserError(f"{base}: no such folder. dataset.root (with dataset.folder) must hold the class folders.")
        parts = {part: path for path in _folders(base) if (part := SPLIT_FOLDERS.get(path.name.lower()))}
        if parts and "train" not in parts:
            raise UserError(f"{base}: has {', '.join(p.name for p in parts.values())} but no train folder.")
        found = {p.name for top in parts.values() or [base] for p in _folders(top)}
        self.classes = natsorted(found) if classes is None else check_names("classes", classes)
        self.ids, self.files, self.targets = [], [], []
        self.faults: list[str] = []  # of the folders; those of a file are told when it is read
        given = []
        for part, top in parts.items() or [("", base)]:
            for index, name in enumerate(self.classes):
                for path in _class_images(top, name, self.faults):
                    self.ids.append(path.relative_to(base).as_posix())
                    self.files.append((path,))
                    self.targets.append(index)
                    given.append(part)
        self.given_split = given if parts else None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, str]:
        return read_image(self.files[i][0]), self.targets[i], self.ids[i]


def _folders(base: Path) -> list[Path]:
    return natsorted((p for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _class_images(top: Path, name: str, faults: list[str]) -> list[Path]:
    """Returns the images of one class; what is wrong with its folder is added to faults."""
    if not (top / name).is_dir():
        found = [p.name for p in _folders(top)]
        faults.append(
            f"{top}: no class folder '{name}', found {', '.join(found) or 'no folders'}. "
            f"Set dataset.classes to the folders' names.{nearest(name, found)}"
        )
        return []
    paths = list_images(top / name)
    if not paths:
        faults.append(f"{top / name}: no images in this folder (.png, .jpg, .bmp or .tif).")
    return paths
