"""Checks of images and their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from runcard.audit.detectors.outliers import outliers
from runcard.audit.findings import Finding
from runcard.audit.profiles import Inspected, Profile
from runcard.console import counted
from runcard.data.image_io import LOSSY_FORMATS, file_of
from runcard.stats.association import association

OTHER_FORMATS = {".dcm": "DICOM", ".dicom": "DICOM", ".nii": "NIfTI", ".gz": "NIfTI"}  # beside those of Pillow


def find(data: Inspected) -> Iterator[Finding]:
    """Find faults of single images and of the whole set."""
    yield from _formats(data)
    yield from _greys(data)
    if not data.has_masks:
        yield from _shortcuts(data)


def _formats(data: Inspected) -> Iterator[Finding]:
    """Find files whose suffix is another format's, and mixed bit depths."""
    suffixes = Image.registered_extensions() | OTHER_FORMATS
    wrong = []
    for i, profile in enumerate(data.profiles):
        names = [profile.name, *([profile.mask.name] if profile.mask else [])]
        for name, path, kind in zip(names, profile.files, profile.original.kinds, strict=False):
            found, named = kind.rpartition(" ")[2], suffixes.get(file_of(path).suffix.lower())
            if named != found and not {named, found} <= LOSSY_FORMATS:
                wrong.append((i, f"{name} is {found}"))
    if wrong:
        samples, places = zip(*wrong, strict=True)
        what = f"{counted(len(wrong), 'file')} in another format than the name says"
        fix = "Name it after its format: other programs may refuse it, and what was once JPEG has lost details."
        yield data.finding("wrong_extension", "warning", what, fix, samples, places)
    if several := [i for i, profile in enumerate(data.profiles) if profile.original.num_pages > 1]:
        what = f"{counted(len(several), 'file')} of several pages or frames, of which only the first one is read"
        fix = "Save each page as a file of its own, and give them one patient, if the others are to be used."
        yield data.finding("several_pages", "warning", what, fix, several)
    deep = [i for i, profile in enumerate(data.profiles) if profile.original.deep_range]
    if 0 < len(deep) < len(data.profiles):
        few = deep if 2 * len(deep) <= len(data.profiles) else sorted(set(range(len(data.profiles))) - set(deep))
        what = f"more than 8 bits in {len(deep)} of {len(data.profiles)} images, and only there dataset.window applies"
        yield data.finding("mixed_depths", "warning", what, "Export all at one depth.", few)
    unknown = [i for i, profile in enumerate(data.profiles) if profile.files and profile.original.spacing_mm is None]
    if data.has_masks and 0 < len(unknown) < len(data.profiles):
        what = f"no pixel spacing in {len(unknown)} of {len(data.profiles)} images, so that distances are in pixels"
        fix = "Give it in the column spacing of a table (dataset=manifest), or leave these images out."
        yield data.finding("mixed_spacing", "warning", what, fix, unknown)
    if marked := [i for i, profile in enumerate(data.profiles) if profile.original.burned_in_text]:
        what = f"{counted(len(marked), 'DICOM file')} with text burned into the image, as BurnedInAnnotation says"
        fix = "Cover it before the images are shared, and see with runcard explain that no classifier reads it."
        yield data.finding("burned_in_text", "warning", what, fix, marked)


def _greys(data: Inspected) -> Iterator[Finding]:
    """Find constant images, inverted images and outliers."""
    constant = [i for i, profile in enumerate(data.profiles) if profile.is_constant]
    if constant:
        what = f"{counted(len(constant), 'image')} of a single grey"
        yield data.finding("constant_image", "error", what, "Remove or replace what shows nothing.", constant)
    if data.inverted:
        what = f"{counted(len(data.inverted), 'grey image')} whose grey scale is inverted relative to the others"
        fix = "MONOCHROME1 read as MONOCHROME2? Invert them, and see that they are not all of one class."
        yield data.finding("inverted", "warning", what, fix, data.inverted)
    if unusual := [i for i in outliers(data.thumbs) if i not in data.inverted]:
        what = f"{counted(len(unusual), 'image')} unlike the others"
        yield data.finding("outlier", "warning", what, "Look at the contact sheet: do they belong here?", unusual)


def _shortcuts(data: Inspected) -> Iterator[Finding]:
    """Find file metadata that predict the class: a network may learn these instead of the disease."""
    first: dict[tuple[str, int | None], Profile] = {}  # an image per patient and class: a patient's are made alike
    for profile, group in zip(data.profiles, data.groups, strict=True):
        if profile.files:
            first.setdefault((group, profile.target), profile)
    profiles = list(first.values())
    originals = [profile.original for profile in profiles]
    metadata = {
        "width": np.array([original.width_px for original in originals]),
        "height": np.array([original.height_px for original in originals]),
        "aspect ratio": np.array([original.width_px / original.height_px for original in originals]),
        "mode and format": np.array([original.kinds[0] for original in originals]),
        "bytes per pixel": np.array([_lossy_bytes(profile) for profile in profiles]),
    }
    targets = np.array([profile.target for profile in profiles])
    places = []
    for name, values in metadata.items():
        reported = association(values, targets)
        if reported and reported.is_predictive:
            each = [f"{label} {_typical(values[targets == i])}" for i, label in enumerate(data.classes) if i in targets]
            places.append(f"{name}: {reported}: {'; '.join(each)}")
    if places:
        what = f"without looking at a pixel, the class can be predicted from {len(places)} of the files' properties"
        fix = "Were the classes collected apart? A model may learn this instead. Make them alike, or say so."
        yield Finding("class_shortcut", "warning", what, fix, tuple(places))


def _lossy_bytes(profile: Profile) -> float:
    """Compute a JPEG's bytes per pixel, which depend on its quality; 0 for other formats, where content decides."""
    original = profile.original
    lossy = original.kinds[0].rpartition(" ")[2] in LOSSY_FORMATS
    return profile.num_bytes / (original.width_px * original.height_px) if lossy else 0.0


def _typical(values: np.ndarray) -> str:
    """Format typical values: median and 10th to 90th percentile of numbers, else the most frequent value."""
    if np.issubdtype(values.dtype, np.number):
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
        return f"{middle:.3g}, mostly {low:.3g} to {high:.3g}"
    commonest, count = Counter(values.tolist()).most_common(1)[0]
    return f"{commonest} ({count / len(values):.0%})"
