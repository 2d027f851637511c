"""Checks of masks: their values, whether several images share one, and their alignment with the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from runcard.audit.cache import remember
from runcard.audit.detectors.mask_alignment import MIN_FOR_ERROR, Fit, Misfit, mask_fit
from runcard.audit.findings import Finding
from runcard.audit.profiles import Inspected, Mask
from runcard.console import counted

MAX_EMPTY = 0.2  # share of empty masks up to which they are only a note
MIN_SOFT = 1e-3  # share of a mask's pixels with intermediate values
MIN_IMAGE_CORRELATION = 0.98  # from which image and mask are taken as the same picture
SAME_FOR_MANY = 0.5  # share of images with one mask: more cannot be a slip with a few


def find(data: Inspected) -> Iterator[Finding]:
    """Find faults of masks; none for data without masks."""
    masks = [profile.mask for profile in data.profiles if profile.mask]
    if not masks:
        return
    yield from _encodings(data, masks)
    yield from _contents(data, masks)
    if same := [i for i, mask in enumerate(masks) if mask.image_correlation > MIN_IMAGE_CORRELATION]:
        what, fix = f"{counted(len(same), 'mask')} with the same picture as the image", "Put the masks there."
        yield _finding(data, masks, "mask_is_image", "error", what, fix, same)
    repeated = _repeated(data, masks)
    yield from repeated
    if not any(finding.level == "error" for finding in repeated):  # a shared mask fits all images equally
        yield from _misfits(data, masks)


def _finding(
    data: Inspected, masks: Sequence[Mask], check: str, level: str, what: str, fix: str, which: Sequence[int]
) -> Finding:
    return data.finding(check, level, what, fix, which, [masks[i].name for i in which])


def _encodings(data: Inspected, masks: Sequence[Mask]) -> Iterator[Finding]:
    """Find masks with intermediate values, or encoded differently from the others."""
    if soft := [i for i, mask in enumerate(masks) if mask.soft > MIN_SOFT]:
        most = max(masks[i].soft for i in soft)
        rounded = f"{most:.1%} of their pixels: each pixel goes to the nearest class"
        what = f"in-between values in {len(soft)} of {len(masks)} masks, in up to {rounded}"
        fix = "Resized, anti-aliased or saved as JPEG? PNG without smoothing keeps a mask as it was drawn."
        yield _finding(data, masks, "mask_soft", "note", what, fix, soft)
    drawn = [i for i, mask in enumerate(masks) if not mask.is_empty]
    small = [i for i in drawn if masks[i].values[-1] < len(masks[i].counts)]
    if 0 < len(small) < len(drawn):
        few = small if 2 * len(small) <= len(drawn) else sorted(set(drawn) - set(small))
        highest = max(masks[i].values[-1] for i in drawn)
        what = f"class indices in {len(small)} of {len(drawn)} masks, greys up to {highest} in the others: read alike"
        fix = "Do they come from one source? Store all alike: another program would read some of them as empty."
        yield _finding(data, masks, "mask_encodings", "warning", what, fix, few)


def _contents(data: Inspected, masks: Sequence[Mask]) -> Iterator[Finding]:
    """Find masks without foreground or background, and classes that occur in no mask."""
    empty = [i for i, mask in enumerate(masks) if mask.is_empty]
    if empty:
        share = len(empty) / len(masks)
        level = "error" if share == 1 else "warning" if share > MAX_EMPTY else "note"
        what = f"no foreground in {len(empty)} of {len(masks)} masks"
        fix = "Is there nothing to see, or was it not drawn? Dice is 1 or 0 on such an image: a few weigh much."
        yield _finding(data, masks, "mask_empty", level, what, fix, empty)
    if full := [i for i, mask in enumerate(masks) if mask.is_full]:
        level = "error" if len(full) == len(masks) else "warning"
        what = f"no background in {len(full)} of {len(masks)} masks"
        fix = "Inverted, or stored with other values than the config says (dataset.mask_values)?"
        yield _finding(data, masks, "mask_full", level, what, fix, full)
    absent = [name for i, name in enumerate(data.classes) if i > 0 and not any(mask.counts[i] for mask in masks)]
    if absent and len(empty) < len(masks):
        what = f"no mask holds the class {' or '.join(absent)}"
        fix = "Leave it out of dataset.classes, or say the greys of the classes in dataset.mask_values."
        yield Finding("mask_class_absent", "warning", what, fix)


def _repeated(data: Inspected, masks: Sequence[Mask]) -> list[Finding]:
    """Find masks that different images share, as when one label array is passed twice."""
    owners: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for i, (profile, mask) in enumerate(zip(data.profiles, masks, strict=True)):
        if not (mask.is_empty or mask.is_full):
            owners[mask.pixel_hash].setdefault(profile.pixel_hash, i)
    groups = [list(shared.values()) for shared in owners.values() if len(shared) > 1]
    if not groups:
        return []
    most = max(map(len, groups))
    level = "error" if most > max(2, SAME_FOR_MANY * len(masks)) else "warning"
    what = f"{sum(map(len, groups))} different images share {counted(len(groups), 'mask')}, pixel for pixel"
    fix = "One label written for several images? Make each mask of its own image."
    return [_finding(data, masks, "mask_repeated", level, what, fix, [i for group in groups for i in group])]


def _misfits(data: Inspected, masks: Sequence[Mask]) -> Iterator[Finding]:
    """Find misaligned masks: all of them (wrong pairing, rotation or flip), or single ones."""
    thumbs = data.thumbs
    if data.inverted:  # a fault of the image, not of its mask
        thumbs = thumbs.copy()
        thumbs[data.inverted] = 255 - thumbs[data.inverted]
    small = np.stack([mask.thumb for mask in masks])
    fit = remember(data.cache, "mask_alignment", Fit | None, lambda: mask_fit(thumbs, small), thumbs, small)
    if fit is None:
        return
    if fit.shuffled or fit.turned:
        what = f"nearly all masks are {fit.turned} against their images" if fit.turned else "masks are of other images"
        better = "" if fit.paired_anew is None else f", where another pairing has {fit.paired_anew:.2f}"
        what += f" (they agree with what foreground looks like by {fit.agreement:.2f}{better})"
        fix = "Were two folders listed without sorting, or masks saved with axes swapped? Pair or rotate them."
        yield Finding("mask_misfit", "error", what, fix)
    elif not fit.fits and fit.num_images >= MIN_FOR_ERROR:
        what = f"masks fit their own images no better than others' ({fit.mean_rank:.0%} fit worse; chance: 50%)"
        yield Finding("mask_misfit", "warning", what, "Look at the contact sheet: do the outlines fit?")
    if fit.suspects:
        what = f"{counted(len(fit.suspects), 'mask')} that would fit better otherwise"
        yield data.finding(
            "mask_misfit",
            "warning",
            what,
            "Look at the contact sheet: were they swapped, rotated or moved?",
            [suspect.index for suspect in fit.suspects],
            [_suspected(suspect, masks) for suspect in fit.suspects],
        )


def _suspected(suspect: Misfit, masks: Sequence[Mask]) -> str:
    """Format "Mask/3.png: mirrored", with the mask that would fit instead if there is one."""
    better = "" if suspect.partner is None else f", {masks[suspect.partner].name} would fit"
    return f"{masks[suspect.index].name}: {suspect.what}{better}"
