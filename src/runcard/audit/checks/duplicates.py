"""Checks for duplicates and near-duplicates, within one split and across splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from runcard.audit.cache import remember
from runcard.audit.detectors.near_duplicates import NearDuplicates, find_near_duplicates
from runcard.audit.findings import Finding
from runcard.audit.profiles import Inspected, Profile
from runcard.console import counted
from runcard.data.image_io import is_slice

MANY = 0.2  # share of the calibration copies that the search may miss without a note
SEED = 0  # of the calibration copies
KEEP_ONE = "Keep one of each."
REMOVE = "Remove them from one split, or use dataset.split.kind=holdout and keep one of each."  # of given splits
IN_ONE_SPLIT = (
    "Keep one of each, or put them in one split: dataset.split.group_regex, if the names show what belongs together."
)


def find(data: Inspected) -> Iterator[Finding]:
    """Find duplicates. Constant images do not count as duplicates."""
    exact = _exact(data)
    yield from _exact_findings(data, exact)
    yield from _near_findings(data, {i for group in exact for i in group[1:]})


def _exact(data: Inspected) -> list[list[int]]:
    """Group the positions of images with identical pixels."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for i, profile in enumerate(data.profiles):
        if not profile.is_constant:
            groups[profile.pixel_hash].append(i)
    return [group for group in groups.values() if len(group) > 1]


def _exact_findings(data: Inspected, groups: Sequence[Sequence[int]]) -> Iterator[Finding]:
    """Report identical images: within a split, across splits, and with contradicting labels."""

    def finding(check: str, level: str, groups: Sequence[Sequence[int]], what: str, fix: str) -> Finding:
        places = [" = ".join(_named(data.profiles[i], data) for i in group) for group in groups]
        what = f"{counted(len(groups), 'image')} {what}"
        return data.finding(check, level, what, fix, [i for group in groups for i in group], places)

    across = [group for group in groups if len({data.sides[i] for i in group}) > 1]
    within = [group for group in groups if group not in across]
    labels = [profile.mask.pixel_hash if profile.mask else profile.target for profile in data.profiles]
    contradicting = [group for group in groups if len({labels[i] for i in group}) > 1]
    if within:
        how = _how(data, within)
        yield finding("duplicates", "warning", within, f"more than once, within one split ({how})", KEEP_ONE)
    if across:
        what = f"in two splits ({_how(data, across)}): memorised images raise the score there"
        yield finding("duplicates_across", "error", across, what, _apart(data))
    if contradicting:
        what = f"more than once, with different {'masks' if data.has_masks else 'classes'}"
        yield finding("contradicting_labels", "error", contradicting, what, "One is wrong: keep the right one.")


def _apart(data: Inspected) -> str:
    return REMOVE if data.split_kind == "given" else IN_ONE_SPLIT


def _how(data: Inspected, groups: Sequence[Sequence[int]]) -> str:
    """Count how many groups are identical as files, and how many only in their pixels."""
    files = [[data.profiles[i].files for i in group] for group in groups]
    by_bytes = sum(
        all(paths and not is_slice(paths[0]) for paths in each) and len({paths[0].read_bytes() for paths in each}) == 1
        for each in files
    )
    return f"{by_bytes} by bytes, {len(groups) - by_bytes} by pixels alone"


def _near_findings(data: Inspected, known: set[int]) -> Iterator[Finding]:
    """Report near-duplicates; known are the positions of exact duplicates, which are reported already."""
    kept = [i for i in range(len(data.profiles)) if i not in known]
    thumbs = data.thumbs[kept] if known else data.thumbs
    found = remember(
        data.cache, "near_duplicates", NearDuplicates, lambda: find_near_duplicates(thumbs, SEED), thumbs, SEED
    )
    if found.missed > MANY:
        what = f"{found.missed:.0%} of test copies of these images were not found: the images are too similar"
        yield Finding("near_duplicates", "note", what, "Look for copies by the names or dates of the files.")
    pairs = [(kept[pair.first], kept[pair.second], pair.how) for pair in found.pairs]

    def finding(check: str, level: str, pairs: Sequence[tuple[int, int, str]], what: str, fix: str) -> Finding:
        places = [f"{_named(data.profiles[i], data)} ≈ {_named(data.profiles[j], data)}: {how}" for i, j, how in pairs]
        what = f"{counted(len(pairs), 'pair')} of nearly the same image{what}"
        return data.finding(check, level, what, fix, [i for pair in pairs for i in pair[:2]], places)

    across = [pair for pair in pairs if data.sides[pair[0]] != data.sides[pair[1]]]
    within = [pair for pair in pairs if data.sides[pair[0]] == data.sides[pair[1]]]
    opposed = [pair for pair in pairs if data.profiles[pair[0]].target != data.profiles[pair[1]].target]
    within = [pair for pair in within if pair not in opposed]
    if within:
        yield finding("near_duplicates", "note", within, ", within one split", KEEP_ONE)
    if across:
        yield finding("near_duplicates_across", "warning", across, " in two splits", _apart(data))
    if opposed:
        fix = "Look at them: is one label wrong?"
        yield finding("near_duplicates_labels", "warning", opposed, ", with different classes", fix)


def _named(profile: Profile, data: Inspected) -> str:
    return profile.name if profile.target is None else f"{profile.name} [{data.classes[profile.target]}]"
