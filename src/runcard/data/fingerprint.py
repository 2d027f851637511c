"""Hashes of the data that a run saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runcard.fileio import hash_lines


def data_fingerprint(split: Mapping[str, Sequence[int]], ids: Sequence[str], digests: Sequence[str]) -> dict[str, str]:
    """Return a hash over names and bytes of all files, in all ("hash"), per split, and of the split's ids alone."""
    parts = {part: hash_lines(f"{ids[i]} {digests[i]}" for i in members) for part, members in split.items()}
    everything = hash_lines(sorted(f"{name} {digest}" for name, digest in zip(ids, digests, strict=True)))
    ids_alone = hash_lines(f"{part} {ids[i]}" for part, members in split.items() for i in members)
    return {"hash": everything, **parts, "split_hash": ids_alone}
