"""Compare data with those of a run: which images were added, removed or changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runcard.audit.findings import counted, shortened
from runcard.data.preprocessing import digest_or_none
from runcard.data.source import Source
from runcard.errors import UserError
from runcard.runs.reader import read_metadata
from runcard.runs.schema import AuditedRun, faults

MAX_LISTED = 20


@dataclass(frozen=True)
class Difference:
    """How a data set differs from a run's; lists of image ids."""

    added: list[str]
    removed: list[str]
    changed: list[str]  # different bytes under the same name
    compared_bytes: bool  # False if the run did not record a hash of every image

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> list[str]:
        """Format one line per kind of difference, or one that says there is none."""
        kinds = {"added": self.added, "removed": self.removed, "changed": self.changed}
        found = [
            f"{kind:<8} {counted(len(ids), 'image')}: {shortened(ids, MAX_LISTED)}"
            for kind, ids in kinds.items()
            if ids
        ]
        if not self.compared_bytes:
            found.append(
                "The run is of an older version, which kept no hash of each file: changed ones cannot be named."
            )
        return found or ["The same images, byte for byte."]


def run_metadata(run: Path) -> dict[str, Any]:
    """Read run.json of a run folder. Raise UserError unless it holds at least the dataset of its config."""
    try:
        metadata = read_metadata(run)
        wrong = "; ".join(faults(metadata, AuditedRun))
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise UserError(f"--against: {run} is not a run folder ({wrong}). Name a folder outputs/<name>/<stamp>.")
    return metadata


def compare_with_run(source: Source, run: Path, metadata: Mapping[str, Any]) -> Difference:
    """Compare the data of source with those of a run folder, whose run.json is metadata."""
    left_out = metadata.get("left_out", {})  # absent in runs of older versions
    recorded = _recorded(run / "split.json") | left_out
    position = {name: i for i, name in enumerate(source.ids)}
    shared = [name for name in source.ids if name in recorded]
    return Difference(
        added=[name for name in source.ids if name not in recorded],
        removed=[name for name in recorded if name not in position],
        changed=[name for name in shared if recorded[name] not in (None, digest_or_none(source, position[name]))],
        compared_bytes=None not in [recorded[name] for name in recorded if name not in left_out],
    )


def _recorded(path: Path) -> dict[str, str | None]:
    """Read the hash of each image that a run used, by id; None if it recorded none."""
    try:
        split: Mapping[str, Sequence[Mapping[str, str]]] = json.loads(path.read_text(encoding="utf-8"))
        return {member["id"]: member.get("sha256") for members in split.values() for member in members}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
