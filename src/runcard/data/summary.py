"""The dataset summary: a small table, shown before training so that surprises are seen in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from runcard.console import counted
from runcard.data.image_io import OnDisk
from runcard.data.source import Original, Source
from runcard.data.splits import Split
from runcard.errors import join_first

MAX_SHOWN = 3  # distinct sizes or file kinds per row
MAX_LEFT_OUT_SHOWN = 5
LITTLE_OF_WINDOW = 0.25  # share of dataset.window: a hint is shown if files use less


def summary_rows(
    source: Source,
    originals: Sequence[Original],
    labels: Sequence[int] | None,
    split: Split,
    patients: Sequence[str] | None = None,
) -> list[list[str]]:
    """Build rows of two cells, the data's folder first; none for data that are not on disk.

    originals, labels (None with masks) and patients (None where nothing names them) are those of the images in split.
    """
    if source.on_disk is None or not originals:
        return []
    disk = source.on_disk
    rows = [("data", str(disk.location)), ("layout", disk.layout)]
    drawn = {"val"} if source.given_split and "val" not in source.given_split else set()
    rows += [
        (part, _counts(members, source.classes, labels, patients) + (", drawn from train" if part in drawn else ""))
        for part, members in split.items()
        if members
    ]
    rows += [("sizes", _sizes(originals)), ("images", _commonest(original.kinds[0] for original in originals))]
    if any(original.spacing_mm for original in originals):
        rows.append(("spacing", f"{_commonest(map(_spacing, originals))} (mm between rows × columns)"))
    if disk.masks is not None:
        rows.append(("masks", f"{_commonest(original.kinds[1] for original in originals)}; {disk.masks}"))
    if disk.ignore_value is not None:
        share = sum(original.ignored for original in originals) / len(originals)
        rows.append(("ignored", f"{share:.1%} of the masks' pixels (dataset.ignore_value={disk.ignore_value})"))
    if any(original.deep_range for original in originals):
        rows.append(("values", _values(originals, disk)))
    if disk.left_out:
        rows.append(("left out", join_first(disk.left_out, MAX_LEFT_OUT_SHOWN)))
    return [list(row) for row in rows]


def describe_images(originals: Sequence[Original]) -> dict[str, Any]:
    """Describe images for run.json: the kinds of their files, their smallest and largest width and height."""
    widths, heights = [o.width_px for o in originals], [o.height_px for o in originals]
    return {
        "kinds": sorted({original.kinds[0] for original in originals if original.kinds}),
        "smallest_px": [min(widths), min(heights)],
        "largest_px": [max(widths), max(heights)],
    }


def count_classes(split: Split, classes: Sequence[str], labels: Sequence[int] | None) -> dict[str, dict[str, int]]:
    """Count the images of each class in train, val and test, for run.json; none if labels is None."""
    if labels is None:
        return {}
    counts = {part: Counter(labels[i] for i in members) for part, members in split.items()}
    return {part: {name: counts[part][i] for i, name in enumerate(classes)} for part in split}


def _counts(
    members: list[int], classes: list[str], labels: Sequence[int] | None, patients: Sequence[str] | None
) -> str:
    """Format "40 images of 20 patients: 8 Mel, 32 Nev", without what is None."""
    total = counted(len(members), "image")
    if patients is not None:
        total += f" of {counted(len({patients[i] for i in members}), 'patient')}"
    if labels is None:
        return total
    counts = Counter(labels[i] for i in members)
    return f"{total}: " + ", ".join(f"{counts[i]} {name}" for i, name in enumerate(classes))


def _sizes(originals: Sequence[Original]) -> str:
    """Format the most frequent sizes in pixels, width×height, and the range if there are many."""
    sizes = [(o.width_px, o.height_px) for o in originals]
    text = _commonest(f"{width}×{height}" for width, height in sizes)
    if len(set(sizes)) <= MAX_SHOWN:
        return f"{text} pixels"
    widths, heights = zip(*sizes, strict=True)
    return f"{text}; {min(widths)} to {max(widths)} pixels wide, {min(heights)} to {max(heights)} high"


def _spacing(original: Original) -> str:
    return f"{original.spacing_mm[0]:.4g}×{original.spacing_mm[1]:.4g}" if original.spacing_mm else "unknown"


def _commonest(values: Iterable[Hashable]) -> str:
    """Format "A" for one value, else "A (190), B (8), C (1) and 2 others", the most frequent first."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return str(counts[0][0])
    shown = ", ".join(f"{value} ({count})" for value, count in counts[:MAX_SHOWN])
    more = len(counts) - MAX_SHOWN
    return f"{shown} and {counted(more, 'other')}" if more > 0 else shown


def _values(originals: Sequence[Original], disk: OnDisk) -> str:
    """Format the range of values in deep files, with a hint if they use little of the window."""
    low, high = (pick(o.deep_range[k] for o in originals if o.deep_range) for k, pick in ((0, min), (1, max)))
    black, white = disk.window
    text = f"{low:g} to {high:g} in files deeper than 8 bits; window {black:g} to {white:g}"
    used = (min(high, white) - max(low, black)) / (white - black)
    if used >= LITTLE_OF_WINDOW or low == high:
        return text
    return f"{text}, of which they use {max(used, 0):.0%}: try 'dataset.window=[{low:g},{high:g}]'"
