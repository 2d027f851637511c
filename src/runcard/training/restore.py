"""Open a finished run from its folder: its config, its model with the best epoch's weights, and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runcard.config.schema import DatasetConfig, check_recorded, parse_recorded
from runcard.data.datamodule import open_source, read_samples
from runcard.data.image_io import FULL_WINDOW, check_window
from runcard.data.source import Samples
from runcard.errors import UserError, first_line, runs_below
from runcard.runs.folders import BEST, LAST, fault_of_weights, file_of, has_file, read_metadata
from runcard.runs.run import Run, read_split
from runcard.runs.schema import RestoredConfig, RestoredRun, faults
from runcard.training.checkpoint import load_tensors, load_weights, read_last, read_weights
from runcard.training.memory import build_model

BUILD_ERRORS = (RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class SavedRun:
    """A run restored from its folder."""

    folder: Path
    config: dict[str, Any]  # resolved
    model: nn.Module  # on the GPU where there is one, in evaluation mode
    record: dict[str, Any]  # run.json
    trust: Sequence[str]  # packages whose objects the config may name

    def dataset(self, root: Path | None) -> DatasetConfig:
        """Return the config of the run's data, with its files at another root where one is given."""
        dataset = parse_recorded(DatasetConfig, self.config["dataset"], f"{self.folder}: dataset.")
        if root is None:
            return dataset
        if "root" not in dataset.node:
            raise UserError(f"--root: the data of {self.folder} are not files ({dataset.node['_target_']}).")
        return dataset.with_arguments(root=str(root))

    def images(self, root: Path | None, split: str) -> tuple[Samples, list[int], list[str]]:
        """Read the run's data; return them with the positions and the groups of the images in split.json's split."""
        dataset = self.dataset(root)
        if split == "test" and dataset.split.seal:
            raise UserError(f"--split=test: the test split of {self.folder} is sealed. Choose --split=val.")
        samples = read_samples(open_source(dataset, self.trust), dataset, self.allowed)
        return samples, *self.members(samples.ids, split)

    @property
    def allowed(self) -> Sequence[str]:
        """The checks of the data whose faults left an image out."""
        return self.config["audit"]["allow"] if "audit" in self.config else ()  # a run of before there was an audit

    @property
    def window(self) -> tuple[float, float]:
        """The values that are black and white in files deeper than 8 bits."""
        try:
            return check_window(self.config["dataset"].get("window", FULL_WINDOW))  # data that are made have none
        except ValueError as error:
            raise UserError(f"{self.folder}: dataset.{error}.") from None

    def members(self, ids: Sequence[str], split: str) -> tuple[list[int], list[str]]:
        """Return the positions in ids, those of the run's data, and the groups of the images in split.json's split."""
        try:
            members = read_split(self.folder)[split]
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder}: split.json is missing or damaged ({error}).") from None
        if not members:
            raise UserError(f"--split={split}: the run has no such images.")
        position = {name: i for i, name in enumerate(ids)}
        lost = [member["id"] for member in members if member["id"] not in position]
        if lost:
            raise UserError(
                f"{self.folder}: {len(lost)} of its {split} images are not in the data any more, such as {lost[0]}. "
                "Does --root name the folder that the run was trained on?"
            )
        return [position[member["id"]] for member in members], [member["group"] for member in members]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return an autocast context with the run's precision."""
        mixed = self.record["sessions"][-1]["precision"] == "bf16-mixed"
        return torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16, enabled=mixed)


def _check_weights(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise UserError where the best weights are not those of the run: until it is completed, its checkpoint knows."""
    if record.get("status") == "completed" or not has_file(folder, LAST):
        known, knows = record, "run.json"
    else:
        known, knows = read_last(file_of(folder, LAST), "so nobody knows its best weights", "Complete the run"), LAST
    if fault := fault_of_weights(folder, known):
        raise UserError(f"{folder / BEST}: {fault}: its SHA-256 is not the one in {knows}.")


def load_epoch(model: nn.Module, run: Run, weights: str) -> bool:
    """Load the weights of a completed run's last or best epoch; return whether its folder has them."""
    if weights == "last" and (run.folder / LAST).exists():
        path = file_of(run.folder, LAST)
        load_tensors(model, read_last(path, "so it cannot be evaluated", "Train the run again")["model"], path)
        return True
    if weights == "best" or run.metadata["epochs"] == run.metadata["best"]["epoch"]:  # then the best are the last
        load_weights(file_of(run.folder, BEST), model)
        return True
    return False


def open_run(folder: Path, trust: Sequence[str] = ()) -> SavedRun:
    """Open the run of a folder; trust names packages whose objects its config may name.

    Raises UserError if the weights are missing or do not fit the config, or the config names untrusted objects.
    """
    if not (folder / BEST).exists() or not (folder / "run.json").exists():
        fix = runs_below(folder) or " Name a folder such as outputs/<name>/<stamp>."
        raise UserError(f"{folder}: no run with trained weights.{fix}")
    path = file_of(folder, BEST)
    weights, config = read_weights(path)
    try:
        record = read_metadata(folder)
        wrong = [f"run.json: {fault}" for fault in faults(record, RestoredRun)]
    except ValueError as error:
        wrong = [str(error)]
    if wrong := wrong + [f"config in {BEST}: {fault}" for fault in faults(config, RestoredConfig)]:
        raise UserError(f"{folder}: {wrong[0]}{f', and {len(wrong) - 1} more' if len(wrong) > 1 else ''}.")
    check_recorded({key: config[key] for key in ("model", "dataset")}, trust, str(folder))  # what is rebuilt here
    _check_weights(folder, record)
    try:
        model = build_model(config["model"], trust)
    except BUILD_ERRORS as error:  # it was built once: the config or the code is another one now
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{folder}: model cannot be built of its config: {said}.") from None
    if not isinstance(model, nn.Module):
        raise UserError(f"{folder}: model._target_: {config['model'].get('_target_')} builds no torch.nn.Module.")
    load_tensors(model, weights, path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).to(memory_format=torch.channels_last).eval()  # as it was trained: the same sums
    return SavedRun(folder, config, model, record, trust)
