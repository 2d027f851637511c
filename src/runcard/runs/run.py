"""The contents of a run folder."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runcard.config.diff import functional_leaves
from runcard.console import counted
from runcard.fileio import inside, parse_json, read_csv
from runcard.runs.search import read_result

Array = NDArray[np.float64]
SplitMembers = dict[str, list[dict[str, str]]]  # train, val and test -> the id, group and sha256 of each image
EVALUATIONS = "evaluations.csv"  # a row each time that a run is evaluated on other images than those it was made with
TEXTS = ("split", "checkpoint", "id", "group", "target")  # columns of per_image.csv; all others are numbers
PROBABILITY = "prob_"  # prefix of the columns of per_image.csv with the classes' probabilities


@dataclass(frozen=True)
class Images:
    """The rows of per_image.csv of one split and one checkpoint, by column, in the order of the ids in all runs."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: dict[str, Array]  # name -> (I,); NaN if an image's value is missing or infinite
    targets: tuple[str, ...]  # class names; empty if the targets are masks

    @property
    def probs(self) -> dict[str, Array]:
        """The probabilities (I,) of each class, by its name."""
        return {name.removeprefix(PROBABILITY): v for name, v in self.values.items() if name.startswith(PROBABILITY)}

    def equals(self, other: Images) -> bool:
        """Whether both have the same images with the same values."""
        same = [np.array_equal(v, other.values.get(name, []), equal_nan=True) for name, v in self.values.items()]
        return self.ids == other.ids and all(same)


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    metadata: dict[str, Any]  # run.json

    @cached_property
    def config(self) -> dict[str, Any]:
        """The leaves of the resolved config that can change results, by dotted key."""
        return functional_leaves(self.metadata["config"])

    @property
    def loss(self) -> dict[str, Any]:
        """The leaves of the config of the loss: val/loss of two runs is one quantity where these are the same."""
        return {key: value for key, value in self.config.items() if key.startswith("loss.")}

    @cached_property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @cached_property
    def is_fold(self) -> bool:
        """Whether the run is one fold of a cross-validation."""
        return bool(self.config["dataset.split.kind"] == "kfold")

    @cached_property
    def fold(self) -> int:
        """The fold; 0 outside a cross-validation."""
        return int(self.config["dataset.split.fold"]) if self.is_fold else 0

    @property
    def smoke_test(self) -> bool:
        """Whether the run cannot support a conclusion: it used scale=quick, or only a few batches."""
        return bool(self.config["smoke_test"] or self.config["train.limit_batches"] is not None)

    @cached_property
    def chosen_by_search(self) -> str:
        """Why the search that chose its config keeps the run from supporting a claim; "" where none does.

        The best of many trials is too good by chance. Only another seed on images that chose nothing tells how good.
        """
        search = self.metadata.get("search")
        if not search:
            return ""
        result = read_result(self.folder.parent) if "trial" in search else search
        of = f"a search of {counted(result['trials'], 'trial')}" if "trials" in result else "a search"
        if "trial" in search:
            return f"chosen by {of} on the validation images"
        if {member.get("sha256") for member in self.split_members[self.split]} & {*search.get("images", [None])}:
            return f"chosen by {of} on the images that it is measured on"
        return f"chosen by {of} with the same seed" if self.seed in search.get("seeds", [self.seed]) else ""

    @property
    def is_evaluation(self) -> bool:
        """Whether these are the values of a run on other images; see inference/evaluate.py."""
        return "evaluation" in self.metadata

    @property
    def sessions(self) -> tuple[dict[str, Any], ...]:
        """Device, precision, hardware, versions and code of each session; a resumed run has several."""
        return tuple(self.metadata["sessions"])

    @property
    def session(self) -> dict[str, Any]:
        """The last of the sessions."""
        return self.sessions[-1]

    @cached_property
    def evaluations(self) -> list[dict[str, str]]:
        """The rows of evaluations.csv: each look at images that the run was not made with."""
        path = inside(self.folder, EVALUATIONS)
        return read_csv(path) if path.exists() else []

    @property
    def is_sealed(self) -> bool:
        """Whether the test split was kept from the run: `runcard unseal` alone evaluates it."""
        return bool(self.config["dataset.split.seal"]) and not self.is_evaluation

    @cached_property
    def split(self) -> str:
        """The split that comparisons use: test if there is one, else val."""
        return "test" if any(name.startswith("test/") for name in self.metadata["last"]["values"]) else "val"

    @cached_property
    def split_members(self) -> SplitMembers:
        """The id, group and sha256 of each image in train, val and test."""
        return read_split(self.folder)

    @cached_property
    def split_ids(self) -> dict[str, tuple[str, ...]]:
        """The ids of the images in train, val and test."""
        return {
            part: _one_object(tuple(member["id"] for member in members)) for part, members in self.split_members.items()
        }

    @property
    def split_groups(self) -> dict[str, tuple[str, ...]]:
        """The group of each of these images: its patient, or its own id where none is named."""
        return {part: tuple(member["group"] for member in members) for part, members in self.split_members.items()}

    @property
    def split_sizes(self) -> dict[str, int]:
        """The number of images in train, val and test."""
        return {part: len(ids) for part, ids in self.split_ids.items()}

    @cached_property
    def curves(self) -> dict[str, Array]:
        """The columns (E,) of metrics.csv."""
        rows = read_csv(inside(self.folder, "metrics.csv"))
        return {name: np.array([_number(row[name]) for row in rows]) for name in rows[0]}

    @property
    def evaluated(self) -> Array:
        """Whether each epoch (E,) was evaluated, and has values of val and train_eval: see train.eval_every."""
        epochs = self.curves["epoch"]
        return np.asarray(
            (epochs % self.metadata["config"]["train"].get("eval_every", 1) == 0) | (epochs == epochs[-1])
        )

    @cached_property
    def tables(self) -> dict[tuple[str, str], Images]:
        """The rows of per_image.csv by split (val, test) and checkpoint (last, best)."""
        parts: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in sorted(read_csv(inside(self.folder, "per_image.csv")), key=itemgetter("id")):
            parts.setdefault((row["split"], row["checkpoint"]), []).append(row)
        return {part: _columns(members) for part, members in parts.items()}

    def images(self, checkpoint: str = "last") -> Images:
        """Return the values of the images in self.split, for the weights of the last or the best epoch."""
        return self.tables[self.split, checkpoint]

    @property
    def units(self) -> dict[str, str]:
        """The unit, mm or px, of each metric that is a length; empty in runs that do not record it."""
        return dict(self.metadata.get("units", {}))

    @property
    def monitored(self) -> str:
        """The metric that selects the best epoch: dice of val/dice."""
        return str(self.metadata["best"]["monitor"]).partition("/")[2]

    def mode(self, name: str) -> str:
        """Return max if larger values of a metric are better, else min."""
        return str(self.metadata["better"][name])


def read_split(folder: Path) -> SplitMembers:
    """Read split.json: the id, group and sha256 of each image in train, val and test. Raises OSError or ValueError."""
    try:
        return _split_members(inside(folder, "split.json").read_text(encoding="utf-8"))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None


@lru_cache(maxsize=16)  # the runs of a sweep have few splits, and thousands of them one object each
def _split_members(text: str) -> SplitMembers:
    split = parse_json(text)
    members: SplitMembers = {part: split[part] for part in ("train", "val", "test")}
    for member in chain(*members.values()):
        texts = member["id"], member["group"], member.get("sha256", "")  # older runs have no hashes
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"an image has something else than texts: {reprlib.repr(member)}")
    return members


@lru_cache(maxsize=64)
def _one_object(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the equal tuple that runs of the same images share, instead of one for each run."""
    return texts


def _columns(rows: Sequence[dict[str, str]]) -> Images:
    values = {name: np.array([_number(row[name]) for row in rows]) for name in rows[0] if name not in TEXTS}
    return Images(
        ids=_one_object(tuple(row["id"] for row in rows)),
        groups=_one_object(tuple(row["group"] for row in rows)),
        values={name: np.where(np.isfinite(column), column, np.nan) for name, column in values.items()},
        targets=_one_object(tuple(row["target"] for row in rows)) if "target" in rows[0] else (),
    )


def _number(cell: str) -> float:
    return float(cell or math.nan)
