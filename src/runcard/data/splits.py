"""Which images train, validate and test: the one place where they are split.

The split has its own seed: it does not move with the run's seed, so arms of a comparison see the same images.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from runcard.config.schema import SplitConfig
from runcard.errors import UserError, did_you_mean
from runcard.fileio import hash_lines

Split = dict[str, list[int]]  # "train", "val", "test" -> indices into the dataset, in ascending order


def make_split(
    ids: Sequence[str],
    labels: Sequence[int] | None,
    given: Sequence[str] | None,
    config: SplitConfig,
    patients: Sequence[str] | None = None,
) -> tuple[Split, list[str]]:
    """Split the images, and name each one's group: its patient, or its own id where none is known.

    labels are the classes to stratify by, or None for masks; given are the data's own splits, patients the data's own
    groups, which group_regex replaces. kind "given" takes the data's own splits, and draws validation from the training
    images where the data have none; "holdout" draws val_fraction (and test_fraction) of the images; "kfold" takes fold
    number `fold` of num_folds of all images outside of the test split; "auto" is given where the data have a training
    split, else holdout. A test split of the data's own is never trained or validated on.
    No group is divided by what is drawn, and the fractions are then of groups; the data's own splits are taken as
    they are, and audited. What config.exclude names is left out of what was drawn, so that all others stay where they
    are. Raises UserError where nothing would be left to train or to validate with, and where there is no test split to
    seal.
    """
    groups = name_groups(ids, config.group_regex, patients)
    kind = split_kind(config, given)
    if kind == "given":
        if given is None:
            raise UserError("dataset.split.kind=given needs train and validation folders in the data. Try holdout.")
        split = {part: [i for i, g in enumerate(given) if g == part] for part in ("train", "val", "test")}
        if not split["train"]:
            raise UserError("dataset.split.kind=given: there is no training folder in the data. Try holdout.")
        if not split["val"]:
            val = _draw(np.array(split["train"]), config.val_fraction, None, config.seed, labels, groups)
            split |= {"train": np.setdiff1d(split["train"], val).tolist(), "val": val.tolist()}
    else:
        indices = np.arange(len(ids))
        test, share = np.array([i for i, part in enumerate(given or []) if part == "test"], int), config.val_fraction
        if config.test_fraction and not len(test):  # a test folder of the data's own stays what it is
            test = _draw(indices, config.test_fraction, None, config.seed + 1, labels, groups)
            share = config.val_fraction / (1 - config.test_fraction)
        rest = np.setdiff1d(indices, test)
        fold = (config.fold, config.num_folds) if kind == "kfold" else None
        val = _draw(rest, share, fold, config.seed, labels, groups)
        split = {"train": np.setdiff1d(rest, val).tolist(), "val": val.tolist(), "test": test.tolist()}
    if config.seal and not split["test"]:
        fix = "Give the data a test folder" if kind == "given" else "Set dataset.split.test_fraction=0.2"
        raise UserError(f"dataset.split.seal=true: there is no test split to seal. {fix}, or leave the key out.")
    return _left(split, ids, config.exclude) if config.exclude else split, groups


def name_groups(ids: Sequence[str], group_regex: str | None, patients: Sequence[str] | None) -> list[str]:
    """Name each image's group: what group_regex matches of its id, else its patient, else its own id."""
    pattern = _pattern(group_regex)
    return [_group(name, pattern) for name in ids] if pattern else list(patients or ids)


def split_kind(config: SplitConfig, given: Sequence[str] | None) -> str:
    """Return how images are split: given, holdout or kfold."""
    if config.kind == "auto":
        return "given" if "train" in (given or ()) else "holdout"
    return config.kind


def data_fingerprint(split: Mapping[str, Sequence[int]], ids: Sequence[str], digests: Sequence[str]) -> dict[str, str]:
    """Return a hash over names and bytes of a split's files, in all ("hash"), per part, and of its ids alone."""
    parts = {part: hash_lines(f"{ids[i]} {digests[i]}" for i in members) for part, members in split.items()}
    everything = hash_lines(sorted(f"{ids[i]} {digests[i]}" for members in split.values() for i in members))
    ids_alone = hash_lines(f"{part} {ids[i]}" for part, members in split.items() for i in members)
    return {"hash": everything, **parts, "split_hash": ids_alone}


def _left(split: Split, ids: Sequence[str], excluded: Sequence[str]) -> Split:
    """Return the split without the excluded images."""
    if unknown := sorted(set(excluded) - set(ids)):
        raise UserError(f"dataset.split.exclude: the data have no image {unknown[0]!r}.{did_you_mean(unknown[0], ids)}")
    out = set(excluded)
    left = {part: [i for i in members if ids[i] not in out] for part, members in split.items()}
    if emptied := [part for part, members in split.items() if members and not left[part]]:
        raise UserError(f"dataset.split.exclude: names every image of {emptied[0]}. Name fewer.")
    return left


def _draw(
    indices: np.ndarray,
    fraction: float,
    fold: tuple[int, int] | None,
    seed: int,
    labels: Sequence[int] | None,
    groups: Sequence[str],
) -> np.ndarray:
    """Return those of indices that are held out: a random fraction, or fold (this one, of so many)."""
    from sklearn import model_selection as sk  # half a second

    held_groups = np.asarray(groups)[indices]
    grouped = len(set(held_groups)) < len(indices)
    strata = np.asarray(labels)[indices] if labels is not None else np.zeros(len(indices), int)
    if fold:
        taken, num_folds = [fold[0]], fold[1]
    elif not 0 < fraction < 1:
        raise UserError(
            f"dataset.split: val_fraction and test_fraction must leave images in every split, got {fraction}."
        )
    else:  # scikit-learn has no stratified grouped holdout: 3 of 10 folds are 0.3
        most = max(2, min(20, len(set(held_groups))))
        share = min(max(Fraction(fraction).limit_denominator(most), Fraction(1, most)), Fraction(most - 1, most))
        num_folds, taken = share.denominator, list(range(share.numerator))
    if fold or (grouped and labels is not None):
        if grouped:
            kfold = sk.GroupKFold if labels is None else sk.StratifiedGroupKFold
        else:
            kfold = sk.KFold if labels is None else sk.StratifiedKFold
        splitter = kfold(num_folds, shuffle=True, random_state=seed)
    else:
        kind = sk.GroupShuffleSplit if grouped else sk.ShuffleSplit if labels is None else sk.StratifiedShuffleSplit
        splitter, taken = kind(1, test_size=fraction, random_state=seed), [0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a class has fewer images than there are folds
            parts = list(splitter.split(indices, strata, held_groups if grouped else None))
    except ValueError as error:
        reason = (
            _why_not(strata, held_groups, labels is not None, num_folds if fold else 2)
            or f"{len(indices)} images: {error}"
        )
        raise UserError(f"dataset.split: {reason.rstrip('.')}.") from None
    return np.sort(indices[np.concatenate([parts[which][1] for which in taken])])


def _why_not(strata: np.ndarray, groups: np.ndarray, stratified: bool, num_parts: int) -> str:
    """Return why so few images cannot be split into parts; "" for other reasons."""
    counts = np.unique(strata, return_counts=True)[1]
    if len(set(groups)) < 2:
        what = "a single image" if len(strata) == 1 else f"{len(strata)} images of a single group"
        return f"{what} cannot make two splits"
    if len(set(groups)) < num_parts:
        word = "images" if len(set(groups)) == len(groups) else "patients or other groups"
        return f"num_folds={num_parts} needs as many {word}, and there are {len(set(groups))}: set fewer folds"
    if stratified and counts.min() < 2:
        return "a class has a single image, and both splits need one: get more, or leave the class out"
    return ""


def _pattern(group_regex: str | None) -> re.Pattern[str] | None:
    if group_regex is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of signs that a later Python may read otherwise
        return re.compile(group_regex)


def _group(name: str, pattern: re.Pattern[str]) -> str:
    match = pattern.search(name)
    group = match and (match.group(1) if match.groups() else match.group())
    if not group:  # an empty one would make one patient of all such images
        raise UserError(
            f"dataset.split.group_regex {pattern.pattern!r} does not match the image '{name}', or nothing of it."
        )
    return group
