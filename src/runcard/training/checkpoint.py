"""Save the whole state of a training atomically, and resume it exactly. Only this module writes checkpoints.

checkpoints/last.ckpt holds everything training needs. checkpoints/best.safetensors holds only the weights, with the
config in its header. Neither runs code when it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runcard.config.diff import LONGER, differing_keys
from runcard.errors import UserError, first_line
from runcard.fileio import LOAD_ERRORS, atomic_write, parse_json, sha256
from runcard.interrupts import uninterrupted
from runcard.training.types import State

ANEW = "overwrite=true moves the run aside and starts anew"
PLAIN = (Tensor, str, int, float, bool, type(None))


@dataclass(eq=False)
class Checkpoint:
    """The files in folder/checkpoints with model, optimizer, scheduler and State.

    config and data say whose they are: the resolved config and the hashes of the data. The files of the save before are
    kept too, for the case that the last ones are damaged.
    """

    folder: Path
    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    config: dict[str, Any]
    data: Mapping[str, str] = field(default_factory=dict)
    best_sha256: str | None = None  # of best.safetensors
    epoch: int = 0  # the last one saved, from which a killed run goes on

    def __post_init__(self) -> None:
        names = ("last.ckpt", "previous.ckpt", "best.safetensors", "previous.safetensors")
        self.last, self.previous, self.best, self.previous_best = (self.folder / "checkpoints" / name for name in names)

    def resume(self, warn: Callable[[str], None] = lambda _: None) -> State:
        """Restore last.ckpt, or previous.ckpt where it is damaged, and return its State; a new one if there is none.

        Raises UserError where what is there is damaged, or is another run's: no run goes on from other numbers.
        """
        found = [path for path in (self.last, self.previous) if path.exists()]
        if not found:
            return State()
        path, content = self._first_whole(found, warn)
        self._check_owner(path, content)
        if path == self.previous:
            path.replace(self.last)
        state = restore(content, self.model, self.optimizer, self.scheduler)
        self.epoch, self.best_sha256 = state.epoch, content.get("best_sha256")
        if 0 < state.epoch == state.best_epoch:  # killed between the two writes: these are the best weights
            self.save_best()
        elif self.best_sha256 and not self._restore_best(self.best_sha256):
            raise UserError(
                f"{self.best}: damaged or replaced: not the weights of epoch {state.best_epoch} that {path.name} knows."
                f"\n{ANEW}."
            )
        return state

    def _first_whole(self, paths: Sequence[Path], warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
        """Read the first of some checkpoints that is not damaged."""
        faults = []
        for path in paths:
            try:
                content = read_last(path, "so the run cannot go on from it", ANEW)
            except UserError as fault:
                faults.append(fault)
                continue
            if path == self.previous:
                epoch = content["state"]["epoch"]
                warn(f"{self.last}: damaged or missing: going on from the checkpoint before it, of epoch {epoch}.")
            return path, content
        raise faults[0]

    def _check_owner(self, path: Path, content: Mapping[str, Any]) -> None:
        """Check that a checkpoint is of this run, or of the one that it extends."""
        differing = differing_keys(content["config"], self.config, but=LONGER)
        if content["data"] != self.data and self.data:
            differing.append("the data")
        if differing:
            raise UserError(f"{path}: the checkpoint of another run, which differs in {', '.join(differing[:3])}.")

    def save(self, state: State) -> None:
        """Write last.ckpt, from which a killed run resumes; then best.safetensors if this epoch is the best."""
        best = self._best_bytes() if state.epoch == state.best_epoch else None
        content = {
            "state": asdict(state),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "config": self.config,
            "data": self.data,
            "best_sha256": self.best_sha256,
        }
        refuse_code(content, "checkpoint")
        written = BytesIO()  # not a file: torch would hide that the disk is full
        with uninterrupted():
            torch.save(content | {"sha256": _hashed(content)}, written)
            with atomic_write(self.last, self.previous) as temporary:
                temporary.write_bytes(written.getbuffer())
            self.epoch = state.epoch
            if best:
                self.save_best(best)

    def finish(self, keep_last: bool) -> None:
        """Remove what only an interrupted run needs."""
        self.previous.unlink(missing_ok=True)
        self.previous_best.unlink(missing_ok=True)
        if not keep_last:
            self.last.unlink(missing_ok=True)

    def _best_bytes(self) -> bytes:
        """Return best.safetensors, contiguous weights with the config as JSON in the header, and note its SHA-256."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        content = to_bytes(weights, metadata={"config": json.dumps(self.config)})
        self.best_sha256 = hashlib.sha256(content).hexdigest()
        return content

    def save_best(self, content: bytes | None = None) -> None:
        """Write best.safetensors: these bytes, or the weights that the model has now."""
        with atomic_write(self.best, self.previous_best) as temporary:
            temporary.write_bytes(content or self._best_bytes())

    def _restore_best(self, digest: str) -> bool:
        """Whether best.safetensors has this SHA-256, or did before it was replaced; it does then again."""
        for path in (self.best, self.previous_best):
            if path.exists() and sha256(path) == digest:
                path.replace(self.best)
                return True
        return False


def restore(content: dict[str, Any], model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> State:
    """Restore the content of a last.ckpt, and return its State."""
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    scheduler.load_state_dict(content["scheduler"])
    return State(**content["state"])


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


def read_last(path: Path | BytesIO, consequence: str, fix: str) -> dict[str, Any]:
    """Read a last.ckpt: model, optimizer, scheduler, state. Raise UserError, ending with fix, where it is damaged."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if "sha256" in content and content.pop("sha256") != _hashed(content):  # absent in files of old versions
            raise ValueError("its content is not what was written")
        if missing := [k for k in ("model", "optimizer", "scheduler", "state") if not isinstance(content[k], dict)]:
            raise ValueError(f"{missing[0]} is no group of values")
    except LOAD_ERRORS as error:
        raise UserError(f"{path}: damaged, {consequence} ({first_line(error)}).\n{fix}.") from None
    return content


def _hashed(content: Any) -> str:
    """Compute the SHA-256 of plain data and tensors, by their values."""
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            total.update(f"mapping {len(value)}".encode())
            for key, each in value.items():
                total.update(repr(key).encode())
                add(each)
        elif isinstance(value, (list, tuple)):
            total.update(f"sequence {len(value)}".encode())
            for each in value:
                add(each)
        elif isinstance(value, Tensor):
            total.update(f"{value.dtype} {tuple(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            total.update(repr(value).encode())

    add(content)
    return total.hexdigest()


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
