"""Cache the features of a frozen backbone: it runs once, and the rest of the model trains on the stored features.

The training loop is the same: only its loaders and network differ. The network shares its parameters with the whole
model, so weights are saved and loaded as without a cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from runcard.caching import open_cache
from runcard.config.schema import TrainConfig
from runcard.console import show_progress
from runcard.data.loaders import Batch, BatchDataset, BatchLoader, Key, SampleDataset
from runcard.data.preprocessing import MEMORY_LIMIT_BYTES
from runcard.data.source import Samples
from runcard.errors import UserError
from runcard.runs.environment import hardware
from runcard.training.evaluation import infer


@runtime_checkable
class Pretrained(Protocol):
    """A model that can load pretrained weights from a file."""

    def load_pretrained_weights(self) -> str | None:
        """Load the weights into the model; return the file's SHA-256, or None if it needs no file."""


@runtime_checkable
class PartlyFrozen(Protocol):
    """A model whose front may be frozen. The front outputs (N, C, H, W), the same in training and evaluation mode."""

    def frozen_and_trained(self) -> tuple[nn.Module, nn.Module] | None:
        """Return the front and the rest, such that rest(front(images)) is the model; None if nothing is frozen."""


class FeatureDataset(BatchDataset):
    """The features of every sample."""

    normalization = None

    def __init__(self, features: Tensor, samples: Samples) -> None:
        self.features = features  # (N, C, H, W), in the front's output dtype
        self.samples = samples
        self.targets = torch.tensor(samples.targets, dtype=torch.int64)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        indices = [index for _, index in keys]
        return self.batch(self.features[indices], self.targets[indices], indices)


def cached_features(
    front: nn.Module, images: SampleDataset, train: TrainConfig, fabric: Fabric, precision: str, console: Console
) -> tuple[FeatureDataset, dict[str, Any]]:
    """Compute or load the features of all images; return them as a dataset, with their metadata for run.json.

    The front runs over every image unless train.cache_dir has a file of its features, named by a hash of all that they
    depend on.
    """
    started = perf_counter()
    key = feature_key(front, images, precision, fabric.device.type)
    (features, made_in), reused = open_cache("train", train.cache_dir, train.cache_gb).load_or_make(
        key, _load, lambda: _make(front, images, train.batch_size, fabric, console), _dump, console.print
    )
    if reused:
        console.print(f"frozen layers: their features are those of an earlier run, made in {made_in:.0f} s")
    seconds = perf_counter() - started
    metadata = {"key": key, "reused": reused, "seconds": seconds, "seconds_when_made": made_in}
    return FeatureDataset(features, images.samples), metadata


def size_bytes(front: nn.Module, images: SampleDataset) -> int:
    """Compute the size of the float32 features of all samples."""
    with torch.inference_mode():
        features: Tensor = front(torch.from_numpy(images.normalization(images.samples.images[:1])))
    return 4 * features.numel() * len(images.samples.ids)


def _make(
    front: nn.Module, images: SampleDataset, batch_size: int, fabric: Fabric, console: Console
) -> tuple[Tensor, float]:
    """Compute the features (N, C, H, W) of all samples in the run's precision, and measure the seconds."""
    started = perf_counter()
    everything = [(0, i) for i in range(len(images.samples.ids))]
    loader = BatchLoader(images, batch_size, everything, fabric.device)
    batches = show_progress(loader, "frozen layers", len(loader), console)
    features = [infer(front, batch.images, fabric.autocast).cpu().contiguous() for batch in batches]
    return torch.cat(features), perf_counter() - started


def feature_key(front: nn.Module, images: SampleDataset, precision: str, device: str) -> str:
    """Hash the front's layers and weights, all resized pixels, normalisation, precision, hardware, torch version."""
    pixels = images.samples.images
    digest = hashlib.sha256()
    for name, tensor in front.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    setting = [str(front), pixels.shape, *(array.tolist() for array in images.normalization)]
    setting += [precision, hardware()["gpu"] or hardware()["cpu"], device, torch.__version__]
    digest.update(json.dumps(setting).encode())
    return digest.hexdigest()[:32]


def _load(path: Path) -> tuple[Tensor, float]:
    """Read stored features and the seconds that they took. Raises OSError or ValueError."""
    try:
        with safe_open(path, framework="pt") as file:
            # Copied: safetensors maps the file, and a map of what another machine removes ends the process.
            return file.get_tensor("features").clone(), float(file.metadata()["seconds"])
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}") from None


def _dump(made: tuple[Tensor, float]) -> bytes:
    features, seconds = made
    return save({"features": features}, metadata={"seconds": str(seconds)})


def check_cache(wish: str, model: nn.Module, augment: object, images: SampleDataset, choices: dict[str, str]) -> bool:
    """Decide whether to run the model's frozen part once before training, which requires that results do not change.

    wish is train.cache_features. Raises UserError if it is "always" and caching is impossible.
    """
    divided = model.frozen_and_trained() if isinstance(model, PartlyFrozen) else None
    if wish == "never":
        return False
    if divided is None:
        reason = (
            f"nothing of model={choices.get('model')} is frozen, so every step changes its features. Use "
            "model=vgg16_pretrained with model.freeze=features"
        )
    elif not getattr(augment, "is_identity", False):  # other libraries' pipelines are unknown
        reason = (
            f"augmentation={choices.get('augmentation')} makes every image anew in every epoch, and its features with "
            "it. Use augmentation=none"
        )
    elif (size := size_bytes(divided[0], images)) > MEMORY_LIMIT_BYTES:
        reason = (
            f"the features would take {size / 2**30:.1f} GiB, more than {MEMORY_LIMIT_BYTES / 2**30:.0f}. Freeze more"
        )
    else:
        return True
    if wish == "always":
        raise UserError(f"train.cache_features=always: {reason}, or train.cache_features=auto.")
    return False
