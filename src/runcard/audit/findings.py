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
from runcard.errors import NEVER_ALLOWED, DataError, UserError, allow_hint, check_config_choice, join_first

STYLES = {"error": "red", "warning": "yellow", "note": "default"}  # of each level, in the terminal
LEVELS = tuple(STYLES)
MAX_PLACES_SHOWN = 5
MAX_PLACES_IN_A_LINE = 3
CHECKS = {  # name -> its level, and what it looks for
    # files and folders
    "layout": ("error, always stops", "a folder with no known layout, or with several"),
    "no_images": ("error", "a folder or a class without images"),
    "class_folders": ("error", "classes and folders that do not match"),
    "class_in_name": ("error", "a file whose name contains no class, or several"),
    "table": ("error", "a row of a CSV table that is incomplete or wrong"),
    "unpaired": ("error", "an image without a mask, or a mask without an image"),
    "ambiguous_pair": ("error", "several images or several masks of one name"),
    "unreadable": ("error", "a file that is not an image, or cannot be decoded"),
    "truncated": ("error", "a file that ends too early"),
    "empty_file": ("error", "a file of zero bytes"),
    "wrong_extension": ("warning", "a file whose format is not that of its extension"),
    "several_pages": ("warning", "a TIFF or PNG of several images, of which only the first one is read"),
    "window": ("error", "16-bit images that are constant under `dataset.window`"),
    "mixed_depths": ("warning", "images of 8 bits beside deeper ones: only these are windowed"),
    "mixed_spacing": (
        "warning",
        "images with a known pixel spacing beside others without: distances are then in pixels",
    ),
    # images
    "burned_in_text": ("warning", "DICOM files that say that there is text in the image, perhaps a name"),
    "constant_image": ("error", "an image with one grey value only"),
    "inverted": ("warning", "a grey image whose grey scale is inverted relative to the others (MONOCHROME1)"),
    "outlier": ("warning", "an image unlike all others"),
    # masks
    "mask_values": ("error", "a file that is not a mask: a photograph, or values that the config does not name"),
    "mask_unlabelled": ("error", "a mask without a labelled pixel: all have `dataset.ignore_value`"),
    "mask_size": ("error", "a mask of another size than its image"),
    "mask_soft": ("note", "masks with intermediate greys at their edges, which are rounded"),
    "mask_encodings": ("warning", "masks of 0 and 1 beside masks of 0 and 255"),
    "mask_is_image": ("error", "a mask that is identical to its image"),
    "mask_empty": ("note; warning above a fifth; error if all", "masks without any foreground"),
    "mask_full": ("warning; error if all", "masks that are all foreground"),
    "mask_class_absent": ("warning", "a class that occurs in no mask"),
    "mask_repeated": ("warning; error if of most images", "one mask for several images"),
    "mask_misfit": ("warning; error if of nearly all", "masks that fit other images as well as their own, or better"),
    # labels
    "imbalance": ("note; warning from 10 : 1", "the accuracy of always predicting the most frequent class"),
    "label_against_name": ("warning", "an image whose name contains another class than its folder"),
    "class_shortcut": ("warning", "format, depth, colour or size of the files predict the class"),
    # duplicates
    "duplicates": ("warning", "the same image twice, by bytes or pixels"),
    "duplicates_across": ("error", "the same image in two splits"),
    "contradicting_labels": ("error", "the same image with two labels or masks"),
    "near_duplicates": ("note", "nearly the same image twice, also rotated or mirrored"),
    "near_duplicates_across": ("warning", "nearly the same image in two splits"),
    "near_duplicates_labels": ("warning", "nearly the same image with two labels"),
    # split
    "split": ("error, always stops", "images that cannot be split as dataset.split says"),
    "group_on_both_sides": ("error", "a patient's images in two splits"),
    "groups_unnamed": ("warning", "names that look like several images of one patient, and no group_regex"),
    "validation_in_training": ("error", "a file of validation that is a file of training"),
    "split_differs": ("warning", "training and validation images that differ in brightness, contrast or size"),
    "few_images": ("warning", "a split with too few images for a measurement"),
    "few_patients": ("warning", "a split with too few patients for a measurement"),
    "few_positives": ("warning; error if none", "a class with too few images in a split"),
    # augmentation and model
    "augmentation_mask": ("error; warning from 2.3 to 3 px", "image and mask are transformed differently"),
    "augmentation_values": ("error", "augmented masks hold new values, or other sizes and types come out than went in"),
    "augmentation_random": ("error", "the same seed gives a different draw"),
    "augmentation_loses_mask": ("warning", "draws that move the foreground out of the image"),
    "no_op_parameter": ("warning", "a parameter of the augmentation without effect"),
    "validation_augmented": ("error", "validation images that differ from those on disk"),
    "ignored_model_key": ("warning", "a key of the model's config that has no effect on the built model"),
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

    def is_allowed(self, allowed: Sequence[str]) -> bool:
        """Whether it is an error that audit.allow names."""
        return self.level == "error" and self.check in allowed

    def __str__(self) -> str:
        places = f" ({join_first(self.places, MAX_PLACES_IN_A_LINE)})" if self.places else ""
        return f"{self.check}: {self.what}{places}. {self.fix}"


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


def errors_that_stop(findings: Iterable[Finding], allowed: Sequence[str]) -> list[Finding]:
    """Return the errors whose check is not allowed."""
    return [finding for finding in findings if finding.level == "error" and not finding.is_allowed(allowed)]


def stop_at_errors(findings: Sequence[Finding], allowed: Sequence[str]) -> None:
    """Raise UserError with every error whose check is not allowed."""
    if errors := errors_that_stop(findings, allowed):
        way = allow_hint(allowed, (finding.check for finding in errors))
        raise UserError("\n".join([*map(str, errors), way]).rstrip())


def as_json(findings: Iterable[Finding], allowed: Sequence[str]) -> list[dict[str, Any]]:
    """Convert findings to plain values, each with whether it was allowed."""
    return [asdict(f) | {"allowed": f.is_allowed(allowed)} for f in findings]


def summary(findings: Iterable[Finding]) -> str:
    """Format "1 error, 2 warnings, no notes."."""
    numbers = Counter(finding.level for finding in findings)
    return ", ".join(counted(numbers[level], level) if numbers[level] else f"no {level}s" for level in LEVELS) + "."


def by_level(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by level, errors first, then in the order of CHECKS."""
    order = list(CHECKS)
    return sorted(findings, key=lambda f: (LEVELS.index(f.level), order.index(f.check)))
