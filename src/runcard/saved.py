"""A run that has ended, opened again from its folder: its card, its model with the best epoch's weights, its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runcard.build import build
from runcard.checkpoint import read_weights
from runcard.dataset import Data, read_data
from runcard.errors import UserError


@dataclass(frozen=True)
class SavedRun:
    """What best.safetensors alone holds of a run."""

    folder: Path
    config: dict[str, Any]  # resolved
    model: nn.Module  # on the GPU where there is one, in evaluation mode

    def dataset(self, root: Path | None) -> dict[str, Any]:
        """Returns the card's dataset part, with its files at another root where one is given."""
        dataset: dict[str, Any] = self.config["dataset"]
        if root is None:
            return dataset
        if "root" not in dataset:
            raise UserError(f"--root: the data of {self.folder} are not files ({dataset['_target_']}).")
        return dataset | {"root": str(root)}

    def data(self, root: Path | None) -> Data:
        """Returns the run's data, split as they were."""
        return read_data(self.dataset(root))


def open_run(folder: Path) -> SavedRun:
    """Returns the run of a folder. Raises UserError where it holds no weights, or weights that do not fit its card."""
    path = folder / "checkpoints" / "best.safetensors"
    if not path.exists():
        raise UserError(f"{folder}: no run with trained weights. Name a folder such as outputs/<name>/<stamp>.")
    weights, config = read_weights(path)
    model: nn.Module = build("model", config["model"])
    model.load_state_dict(weights, strict=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return SavedRun(folder, config, model.to(device).eval())
