"""The checks of an audit, and its findings: what is wrong, where, and how to fix it.

An error is certain and stops training, a warning is a detector's suspicion, and a note is information.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runcard.console import counted
from runcard.errors import NEVER_ALLOWED, DataError, UserError, allow_hint, check_config_choice

STYLES = {"error": "red", "warning": "yellow", "note": "default"}  # of each level, in the terminal
LEVELS = tuple(STYLES)
MAX_PLACES_SHOWN = 5
MAX_PLACES_IN_A_LINE = 3
CHECKS = {  # name -> what it looks for; the level is set where a finding is made
    # files and folders
    "layout": "a folder with no known layout, or with several",
    "no_images": "a folder or a class without images",
    "class_folders": "classes and folders that do not match",
    "class_in_name": "a file whose name contains no class, or several",
    "table": "a row of a CSV table that is incomplete or wrong",
    "unpaired": "an image without a mask, or a mask without an image",
    "ambiguous_pair": "several images or several masks of one name",
    "unreadable": "a file that is not an image, or cannot be decoded",
    "truncated": "a file that ends too early",
    "empty_file": "a file of zero bytes",
    "wrong_extension": "a file whose format is not that of its extension",
    "several_pages": "a TIFF or PNG of several images, of which only the first one is read",
    "window": "16-bit images that are constant under `dataset.window`",
    "mixed_depths": "images of 8 bits beside deeper ones: only these are windowed",
    "mixed_spacing": "images with a known pixel spacing beside others without: distances are then in pixels",
    # images
    "burned_in_text": "DICOM files that say that there is text in the image, perhaps a name",
    "constant_image": "an image with one grey value only",
    "inverted": "a grey image whose grey scale is inverted relative to the others (MONOCHROME1)",
    "outlier": "an image unlike all others",
    # masks
    "mask_values": "a file that is not a mask: a photograph, or values that the config does not name",
    "mask_unlabelled": "a mask without a labelled pixel: all have `dataset.ignore_value`",
    "mask_size": "a mask of another size than its image",
    "mask_soft": "masks with intermediate greys at their edges, which are rounded",
    "mask_encodings": "masks of 0 and 1 beside masks of 0 and 255",
    "mask_is_image": "a mask that is identical to its image",
    "mask_empty": "masks without any foreground",
    "mask_full": "masks that are all foreground",
    "mask_class_absent": "a class that occurs in no mask",
    "mask_repeated": "one mask for several images",
    "mask_misfit": "masks that fit other images as well as their own, or better",
    # labels
    "imbalance": "the accuracy of always predicting the most frequent class",
    "label_against_name": "an image whose name contains another class than its folder",
    "class_shortcut": "format, depth, colour or size of the files predict the class",
    # duplicates
    "duplicates": "the same image twice, by bytes or pixels",
    "duplicates_across": "the same image in two splits",
    "contradicting_labels": "the same image with two labels or masks",
    "near_duplicates": "nearly the same image twice, also rotated or mirrored",
    "near_duplicates_across": "nearly the same image in two splits",
    "near_duplicates_labels": "nearly the same image with two labels",
    # split
    "split": "images that cannot be split as dataset.split says",
    "group_on_both_sides": "a patient's images in two splits",
    "groups_unnamed": "names that look like several images of one patient, and no group_regex",
    "validation_in_training": "a file of validation that is a file of training",
    "split_differs": "training and validation images that differ in brightness, contrast or size",
    "few_images": "a split with too few images for a measurement",
    "few_patients": "a split with too few patients for a measurement",
    "few_positives": "a class with too few images in a split",
    # augmentation and model
    "augmentation_mask": "image and mask are transformed differently",
    "augmentation_values": "augmented masks hold new values, or other sizes and types come out than went in",
    "augmentation_random": "the same seed gives a different draw",
    "augmentation_loses_mask": "draws that move the foreground out of the image",
    "no_op_parameter": "a parameter of the augmentation without effect",
    "validation_augmented": "validation images that differ from those on disk",
    "ignored_model_key": "a key of the model's config that has no effect on the built model",
}


@dataclass(frozen=True)
class Finding:
    """One result of a check, with all places where it occurs."""

    check: str
    level: str  # error | warning | note
    what: str
    fix: str
    places: tuple[str, ...] = ()  # files, ids, pairs of them, or config keys
    samples: tuple[int, ...] = ()  # positions among the profiles, for the contact sheet

    def __post_init__(self) -> None:
        assert self.check in CHECKS, self.check
        assert self.level in LEVELS, self.level

    def __str__(self) -> str:
        places = f" ({shortened(self.places, MAX_PLACES_IN_A_LINE)})" if self.places else ""
        return f"{self.check}: {self.what}{places}. {self.fix}"


def shortened(places: Sequence[str], most: int) -> str:
    """Join the first places, as "a, b, c and 12 more"."""
    more = len(places) - most
    return ", ".join(places[:most]) + (f" and {more} more" if more > 0 else "")


def of_faults(faults: Iterable[DataError], location: Path | None = None) -> Iterator[Finding]:
    """Group equal faults of files and folders into findings.

    Places are given relative to location, the data's folder, if it is known.
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for fault in faults:
        place = Path(fault.place)
        if location and location in place.parents:
            place = place.relative_to(location)
        groups.setdefault((fault.check, fault.what, fault.fix), []).append(f"{place}{fault.detail}")
    for (check, what, fix), places in groups.items():
        number = f"{len(places)} times: " if len(places) > 1 else ""
        yield Finding(check, "error", f"{number}{what}", fix, tuple(places))


def check_allowed(names: Sequence[str]) -> None:
    """Raise UserError where audit.allow names something else than a check, or a check that must hold."""
    for name in names:
        check_config_choice("audit.allow", name, [check for check in CHECKS if check not in NEVER_ALLOWED])


def stop_at_errors(findings: Sequence[Finding], allowed: Sequence[str]) -> None:
    """Raise UserError with every error whose check is not allowed."""
    errors = [finding for finding in findings if finding.level == "error" and finding.check not in allowed]
    if errors:
        way = allow_hint(allowed, (finding.check for finding in errors))
        raise UserError("\n".join([*map(str, errors), way]).rstrip())


def as_json(findings: Iterable[Finding], allowed: Sequence[str]) -> list[dict[str, Any]]:
    """Convert findings to plain values, each with whether it was allowed."""
    return [asdict(f) | {"allowed": f.level == "error" and f.check in allowed} for f in findings]


def summary(findings: Iterable[Finding]) -> str:
    """Format "1 error, 2 warnings, no notes."."""
    numbers = Counter(finding.level for finding in findings)
    return ", ".join(counted(numbers[level], level) if numbers[level] else f"no {level}s" for level in LEVELS) + "."


def by_level(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by level, errors first, then in the order of CHECKS."""
    order = list(CHECKS)
    return sorted(findings, key=lambda f: (LEVELS.index(f.level), order.index(f.check)))
