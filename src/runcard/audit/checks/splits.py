"""Checks of labels and splits: leaking groups and files, splits too small to measure, splits that differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from runcard.audit.findings import Finding
from runcard.audit.profiles import Inspected, Profile
from runcard.console import counted
from runcard.stats.association import association
from runcard.stats.mrmc import MIN_UNITS

MIN_IMAGES = 10  # fewer in a split measure nothing
MIN_POSITIVES = 5  # fewer images of a class in a split measure nothing
UNEVEN, LOPSIDED = 1.5, 10  # ratio of the most to the least frequent class: for a note, a warning
MIN_SHARED = 2  # mean images per patient, from which names are taken to identify patients
PATIENT = re.compile(r"(?:patient|pat|subject|subj|sub|case|person|study)[-_ ]?\d+", re.IGNORECASE)
WORDS = re.compile(r"[^\W\d_]+")


def find(data: Inspected) -> Iterator[Finding]:
    """Find faults of labels and splits."""
    yield from _names(data)
    yield from _balance(data)
    if not any(data.sides):
        return
    yield from _both_sides(data)
    yield from _few(data)
    yield from _differing(data)


def _names(data: Inspected) -> Iterator[Finding]:
    """Find file names that contradict the label, or that name patients while the config sets no groups."""
    words = {name.casefold() for name in data.classes}
    against = []
    for i, profile in enumerate(data.profiles):
        if profile.target is not None and profile.files:
            said = {word.casefold() for word in WORDS.findall(profile.files[0].stem)} & words
            if said and data.classes[profile.target].casefold() not in said:
                against.append(i)
    if against:
        what = f"{counted(len(against), 'image')} whose name says another class than its folder"
        yield data.finding("label_against_name", "warning", what, "Was it put in the wrong folder?", against)
    patients = Counter(match[0] for profile in data.profiles if (match := PATIENT.search(PurePath(profile.id).stem)))
    if not data.is_grouped and patients.total() >= MIN_SHARED * max(1, len(patients)):
        regex = re.sub(r"\d+", r"\\d+", next(iter(patients)))  # patient7 gives patient\d+
        yield Finding(
            "groups_unnamed",
            "warning",
            f"the names look like {counted(len(patients), 'patient')} with {patients.total()} images, and "
            "dataset.split.group_regex is null",
            f"Name the part that identifies the patient: 'dataset.split.group_regex=\"({regex})\"' (with both quotes).",
            tuple(patients),
        )


def _balance(data: Inspected) -> Iterator[Finding]:
    """Report the accuracy of always predicting the most frequent class, if the classes are imbalanced."""
    counts = Counter(profile.target for profile in data.profiles if profile.target is not None)
    if len(counts) < 2:
        return
    (commonest, most), (_, fewest) = counts.most_common()[0], counts.most_common()[-1]
    if most >= UNEVEN * fewest:
        yield Finding(
            "imbalance",
            "warning" if most >= LOPSIDED * fewest else "note",
            f"{', '.join(f'{counts[i]} {name}' for i, name in enumerate(data.classes))}: always saying "
            f"'{data.classes[commonest]}' has an accuracy of {most / counts.total():.2f}",
            "Go by balanced accuracy or AUROC, and weigh the classes in the loss if the rare one matters.",
        )


def _both_sides(data: Inspected) -> Iterator[Finding]:
    """Find groups (patients) and files that occur in two splits."""
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for group, side in zip(data.groups, data.sides, strict=True):
        sides[group].add(side)
    both = tuple(f"{group} ({' and '.join(sorted(found))})" for group, found in sides.items() if len(found) > 1)
    if both:
        yield Finding(
            "group_on_both_sides",
            "error",
            f"{counted(len(both), 'group')} in two splits: validation sees patients it was trained on",
            "Try dataset.split.kind=holdout, which keeps groups together.",
            both,
        )
    trained = {profile.inode: profile for profile in data.of("train") if profile.inode}
    same = [(p, trained[p.inode]) for side in ("val", "test") for p in data.of(side) if p.inode in trained]
    if same:
        yield Finding(
            "validation_in_training",
            "error",
            f"{counted(len(same), 'file')} of validation or test linked with a file of training",
            "Put images of their own there, or use dataset.split.kind=holdout with one folder.",
            tuple(f"{held.name} → {own.name}" for held, own in same),
        )


def _few(data: Inspected) -> Iterator[Finding]:
    """Find splits with too few images, patients or images of a class for a measurement.

    The validation of a cross-validation is that of all folds together, because comparisons average over them. But a
    fold of its own needs every class: without one, its metrics of a class are undefined.
    """
    for side in dict.fromkeys(data.sides):
        members = [i for i, other in enumerate(data.sides) if other == side]
        measured, where = members, side
        if data.split_kind == "kfold" and side == "val":
            measured, where = [i for i, other in enumerate(data.sides) if other != "test"], "val of all folds"
        if side != "train" and len(measured) < MIN_IMAGES:
            what = f"{where} has {counted(len(measured), 'image')}: a single one of them changes every score"
            yield Finding("few_images", "warning", what, "Hold out more, or use dataset.split.kind=kfold.")
        groups = {data.groups[i] for i in measured}
        if side != "train" and data.is_grouped and len(groups) < MIN_UNITS:
            what = f"{where} has {counted(len(groups), 'patient')}: below {MIN_UNITS} no comparison gives a verdict"
            yield Finding("few_patients", "warning", what, "Hold out more patients, or use dataset.split.kind=kfold.")
        own, pooled = _counts(data, members), _counts(data, measured)
        for name in own:
            fix = "Change dataset.split.seed or val_fraction, add images of this class, or leave the class out."
            if not own[name]:
                what = f"{side} has 0 images of {name}, so that nothing can be learnt or said of it"
                yield Finding("few_positives", "error", what, fix)
            elif pooled[name] < MIN_POSITIVES:
                what = f"{where} has {counted(pooled[name], 'image')} of {name}"
                yield Finding("few_positives", "warning", what, fix)


def _counts(data: Inspected, members: Sequence[int]) -> dict[str, int]:
    """Count the images of each class; with masks, of the positive class, or of each class but background."""
    shown = [data.profiles[i] for i in members]
    if data.has_masks:
        wanted = [i for i, name in enumerate(data.classes) if i > 0 and data.positive in (None, name)]
        return {data.classes[i]: sum(p.mask is not None and p.mask.counts[i] > 0 for p in shown) for i in wanted}
    return {name: sum(p.target == i for p in shown) for i, name in enumerate(data.classes)}


def _differing(data: Inspected) -> Iterator[Finding]:
    """Find metadata that distinguish training from validation images, with the patient as the unit."""
    groups: dict[str, list[Profile]] = defaultdict(list)
    for profile, group, side in zip(data.profiles, data.groups, data.sides, strict=True):
        if side in ("train", "val"):
            groups[f"{side} {group}"].append(profile)
    sides = np.array([name.partition(" ")[0] for name in groups])
    metadata = {
        "brightness": [np.mean([p.mean for p in members]) for members in groups.values()],
        "contrast": [np.mean([p.sd for p in members]) for members in groups.values()],
        "width": [np.mean([p.original.width_px for p in members]) for members in groups.values()],
        "height": [np.mean([p.original.height_px for p in members]) for members in groups.values()],
        "mode and format": [" ".join(members[0].original.kinds[:1]) for members in groups.values()],
    }
    reported = {name: association(np.array(values), sides) for name, values in metadata.items()}
    if places := [f"{name}: {how}" for name, how in reported.items() if how and how.is_predictive]:
        what = f"training and validation can be distinguished by {len(places)} of the images' properties"
        fix = "Do they come from other machines or days? Then say so, or mix them: dataset.split.kind=holdout."
        yield Finding("split_differs", "warning", what, fix, tuple(places))
