"""A data set that a CSV table lists: one row per image or volume, with its mask or its label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from natsort import natsorted

from runcard.data.image_io import (
    FULL_WINDOW,
    OnDisk,
    check_ignore_value,
    check_mask_values,
    check_window,
    is_image,
    meaning_of_masks,
    read_image,
    read_image_and_mask,
)
from runcard.data.medical_io import Spacing, to_spacing
from runcard.data.source import Source
from runcard.datasets.layouts import SPLIT_FOLDERS, slices_or_fault
from runcard.errors import DataError, UserError, check_names, did_you_mean
from runcard.fileio import read_csv

COLUMNS = ("image", "mask", "label", "patient", "split", "spacing")
MAX_LABELS_NAMED = 5  # in a message
OPTIONAL = ("spacing",)  # columns whose cells may be empty
SPLITS = {name: part for part, names in SPLIT_FOLDERS.items() for name in names}


class Manifest(Source):
    """The images of a CSV table with a column image, and mask or label; patient, split and spacing are optional.

    Paths are relative to the table. An image's id is its path as written. label is a class's name: classes gives the
    index order, null takes the labels in natural order. A mask holds class indices, or 0 and 255; mask_values and
    ignore_value: see image_io. split is train, val or test; without val it is drawn from train. spacing is the distance
    in mm between the pixels of the image's file: one number, or that of rows and that of columns ("0.7 0.5"); it comes
    before what the file says. A NIfTI volume gives an image path:z for each axial slice z, a DICOM file of several
    frames one for each frame; without patient it is their group. Other columns are for people. faults holds all that is
    wrong with the rows.
    """

    def __init__(
        self,
        csv: str,
        classes: Sequence[str] | None,
        window: Sequence[float] = FULL_WINDOW,
        mask_values: Sequence[int] | None = None,
        ignore_value: int | None = None,
    ) -> None:
        table = Path(csv).expanduser()
        columns = _read(table)
        self.kind = "mask" if "mask" in columns else "label"
        names = columns["label"] if classes is None and self.kind == "label" else classes
        if names is None:
            raise ValueError(
                "classes must be the names of the mask's classes, [background,lesion], got null. For masks take "
                "dataset=manifest_masks, which has names and metrics of masks"
            )
        self.classes = natsorted(set(names)) if classes is None else check_names("classes", classes)
        _check_classes(table, columns, self.classes)
        self.mask_values = check_mask_values(mask_values, len(self.classes))
        self.ignore_value = check_ignore_value(ignore_value, len(self.classes), self.mask_values)
        self.faults: list[DataError] = []
        self.ids, self.targets = [], list[int]()
        self._paths: list[tuple[Path, ...]] = []
        self._seen: set[str] = set()
        self.given_split = [] if "split" in columns else None
        self._groups: list[str] = []
        self.spacings_mm: list[Spacing | None] = []
        for line, row in enumerate(zip(*columns.values(), strict=True), start=2):
            self._add(table, line, dict(zip(columns, row, strict=True)))
        self.files = self._paths
        self.groups = None if self._groups == self.ids else self._groups
        place, limits = f"rows of {table.name}", check_window(window)
        masks = None
        if self.kind == "mask":
            masks = meaning_of_masks(len(self.classes), self.mask_values, self.ignore_value)
        self.on_disk = OnDisk(table.parent, place, [], limits, masks, self.ignore_value)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray | int, str]:
        if self.kind == "label":
            return read_image(self.files[i][0]), self.targets[i], self.ids[i]
        pair = read_image_and_mask(self.files[i], len(self.classes), self.mask_values, self.ignore_value)
        return *pair, self.ids[i]

    def _add(self, table: Path, line: int, row: dict[str, str]) -> None:
        """Add one row, or what is wrong with it to faults."""
        paths = tuple(table.parent / row[column] for column in ("image", "mask") if column in row)
        required = [column for column in row if column in COLUMNS and column not in OPTIONAL]
        wrong = [f"has no {column}" for column in required if not row[column].strip()]
        wrong += [f"names a file that does not exist: {path}" for path in paths if not wrong and not path.is_file()]
        if row["image"] in self._seen:
            wrong.append(f"names an image a second time: {row['image']}")
        if self.kind == "label" and row["label"] not in self.classes:
            wrong.append(f"has the label {row['label']!r}, not one of {', '.join(self.classes)}")
        if "split" in row and row["split"].casefold() not in SPLITS:
            wrong.append(f"has the split {row['split']!r}, not one of train, val, test")
        written = row.get("spacing", "").replace("\\", " ").split()
        spacing = to_spacing(written * 2 if len(written) == 1 else written)
        if written and spacing is None:
            wrong.append(f"has the spacing {row['spacing']!r}, not one or two lengths in mm, such as 0.7 or '0.7 0.5'")
        self._seen.add(row["image"])
        if wrong:
            self.faults += [DataError("table", f"{table}: line {line}", what, "Correct the row.") for what in wrong]
            return
        images = slices_or_fault(paths, self.faults)
        self.ids += [f"{row['image']}{which}" for which in images]
        self._paths += images.values()
        self.targets += [self.classes.index(row["label"]) if self.kind == "label" else 0] * len(images)
        self._groups += [row.get("patient", row["image"])] * len(images)
        self.spacings_mm += [spacing] * len(images)
        if self.given_split is not None:
            self.given_split += [SPLITS[row["split"].casefold()]] * len(images)


def _check_classes(table: Path, columns: dict[str, list[str]], classes: Sequence[str]) -> None:
    """Raise UserError where no label is a class, as with the classes of dataset=manifest_masks."""
    labels = natsorted(set(columns.get("label", classes)))
    if not {*labels} & {*classes}:
        more = ", …" if len(labels) > MAX_LABELS_NAMED else ""
        raise UserError(
            f"dataset.classes: no label of {table} is one of {', '.join(classes)}. It has "
            f"{', '.join(labels[:MAX_LABELS_NAMED])}{more}.\ndataset=manifest is for a column label and takes the "
            "classes from it, dataset=manifest_masks for a column mask."
        )


def _read(table: Path) -> dict[str, list[str]]:
    """Return the columns of the table that are read. Raises UserError where one is missing."""
    try:
        _check_separator(table)
        rows = read_csv(table)
    except OSError as error:
        raise UserError(f"dataset.csv={table}: cannot be read: {error.strerror}.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.csv={table}: cannot be read: {error}.") from None
    written = {name.strip().casefold().removeprefix("\ufeff"): name for name in rows[0]}
    columns = {name: [row[written[name]] for row in rows] for name in COLUMNS if name in written}
    if "image" not in columns or ("mask" in columns) == ("label" in columns):
        close = "".join(did_you_mean(name, COLUMNS) for name in written if name not in COLUMNS)
        what = f"needs a column image and one of mask and label, has {', '.join(written)}"
        raise UserError(f"dataset.csv={table}: {what}.{close}")
    if files := [name for name in columns.get("label", ()) if is_image(Path(name).name)]:
        what, fix = f"the column label names files, such as {files[0]}", "Call it mask, with dataset=manifest_masks."
        raise UserError(f"dataset.csv={table}: {what}. {fix}")
    cells = [name for name in columns.get("mask", ()) if name.strip()]
    if cells and not any(Path(name).suffix or (table.parent / name).is_file() for name in cells):
        what, fix = f"the column mask names no files, but {cells[0]}", "Call it label, with dataset=manifest."
        raise UserError(f"dataset.csv={table}: {what}. {fix}")
    return columns


def _check_separator(table: Path) -> None:
    with table.open(encoding="utf-8") as file:
        header = file.readline()
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if sign in header and "," not in header:
            fix = "Save it with commas, and decimals with a point."
            raise UserError(f"dataset.csv={table}: its columns are separated by {name}. {fix}")
