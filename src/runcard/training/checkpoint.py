"""Save the whole state of a training atomically, and resume it exactly. Only this module writes checkpoints.

checkpoints/last.ckpt holds everything training needs. checkpoints/best.safetensors holds only the weights, with the
config in its header. Neither runs code when it is opened.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runcard.errors import UserError
from runcard.fileio import atomic_write, parse_json
from runcard.training.types import State

# What torch.load raises for a file that it did not write. LookupError and the like: its unpickler meets foreign bytes.
READ_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)
PLAIN = (Tensor, str, int, float, bool, type(None))


class Checkpoint:
    """The files in folder/checkpoints with model, optimizer, scheduler and State."""

    def __init__(
        self, folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, config: dict[str, Any]
    ) -> None:
        self.last = folder / "checkpoints" / "last.ckpt"
        self.best = folder / "checkpoints" / "best.safetensors"
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = config
        self.epoch = 0  # the last one saved, from which a killed run goes on

    def resume(self) -> State:
        """Restore last.ckpt and return its State; a new State if there is none."""
        if not self.last.exists():
            return State()
        content = read_last(
            self.last, "so the run cannot go on from it", "overwrite=true moves the run aside and starts anew"
        )
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        state = State(**content["state"])
        self.epoch = state.epoch
        if 0 < state.epoch == state.best_epoch:  # killed between the two writes: these are the best weights
            self.save_best()
        return state

    def save(self, state: State) -> None:
        """Write last.ckpt, from which a killed run resumes; then best.safetensors if this epoch is the best."""
        content = {
            "state": asdict(state),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        refuse_code(content, "checkpoint")
        with atomic_write(self.last) as temporary, temporary.open("wb") as file:
            torch.save(content, file)  # to an open file: given a path, torch hides that the disk is full
        self.epoch = state.epoch
        if state.epoch == state.best_epoch:
            self.save_best()

    def save_best(self) -> None:
        """Write best.safetensors: contiguous copies of the weights, and the resolved config as JSON in the header."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        with atomic_write(self.best) as temporary:
            temporary.write_bytes(to_bytes(weights, metadata={"config": json.dumps(self.config)}))


def refuse_code(content: Any, name: str) -> None:
    """Raise TypeError, with its dotted name, for the first value that cannot be loaded without running code."""
    if isinstance(content, Mapping) and type(content).__module__ in ("builtins", "collections"):
        for key, value in content.items():
            refuse_code(value, f"{name}.{key}")
    elif type(content) in (list, tuple):
        for i, value in enumerate(content):
            refuse_code(value, f"{name}.{i}")
    elif not isinstance(content, Tensor) and type(content) not in PLAIN:
        raise TypeError(f"{name} is a {type(content).__module__}.{type(content).__name__}, not plain data or a tensor")


def read_last(path: Path, consequence: str, fix: str) -> dict[str, Any]:
    """Read a last.ckpt: model, optimizer, scheduler, state. Raise UserError, ending with fix, where it is damaged."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if missing := [
            key for key in ("model", "optimizer", "scheduler", "state") if not isinstance(content[key], dict)
        ]:
            raise ValueError(f"{missing[0]} is no group of values")
    except READ_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise UserError(f"{path}: damaged, {consequence} ({reason}).\n{fix}.") from None
    return content


def load_weights(path: Path, model: nn.Module) -> None:
    """Load best.safetensors into model; every name and shape must match."""
    weights, _ = read_weights(path)
    load_tensors(model, weights, path)


def load_tensors(model: nn.Module, weights: Any, path: Path) -> None:
    """Load weights into model; every name and shape must match. path is their file, for messages."""
    try:
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:  # names and shapes, a line each; or no tensors
        last = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(f"{path}: not the weights of this model: {last:.300}") from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a best.safetensors, and the resolved config in its header."""
    weights, header = read_tensors(path)
    if "config" not in header:
        raise UserError(f"{path}: no config in its header, so it is not a run's best.safetensors.")
    try:
        config = parse_json(header["config"])
    except ValueError as error:
        raise UserError(f"{path}: the config in its header is damaged ({error}).") from None
    return weights, config


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the header of a .safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: weights cannot be read: {error}") from None
