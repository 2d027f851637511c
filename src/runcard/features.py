"""A frozen backbone runs once: its features are stored, and become the data set that the rest of the model trains on.

The engine does not know. Parts with cached features have other loaders and another network; the model, whose parameters
that network shares, is the whole one, so weights are saved and loaded as without a cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from runcard.atomic import alone, replacing
from runcard.facts import hardware
from runcard.loaders import Batch, EpochSampler, SampleDataset, make_loaders

if TYPE_CHECKING:
    from runcard.parts import Parts


WAITING = "frozen layers: another run makes the same features, waiting for them"


@runtime_checkable
class Pretrained(Protocol):
    """A model that starts from a file's weights."""

    def load_pretrained(self) -> str | None:
        """Copies the weights into the model; returns the file's SHA-256, or None where it needs no file."""


@runtime_checkable
class PartlyFrozen(Protocol):
    """A model whose front may be frozen: it gives (N, C, H, W) and is the same in training and in evaluation."""

    def frozen_and_trained(self) -> tuple[nn.Module, nn.Module] | None:
        """Returns the front and the rest, such that rest(front(images)) is the model; None where nothing is frozen."""


class FeatureDataset(Dataset[Batch]):
    """The features of every sample, under the keys (epoch, index) that SampleDataset has."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        self.features = features  # (N, C, H, W), in the dtype that the front gives
        self.targets = targets

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        _, index = key
        return Batch(self.features[index], self.targets[index], torch.tensor(index))


def with_cached_features(parts: Parts, console: Console) -> tuple[Parts, dict[str, Any]]:
    """Returns parts that train on the features of the model's frozen front, and what run.json says of these.

    The front runs over every image, unless a file of train.cache_dir holds its features already: its name is a hash
    over all that they depend on.
    """
    assert isinstance(parts.model, PartlyFrozen)
    divided = parts.model.frozen_and_trained()
    assert divided is not None
    front, rest = divided
    started = perf_counter()
    key = feature_key(parts, front)
    path = Path(parts.train.cache_dir).expanduser() / f"{key}.safetensors"
    fix = "Choose another folder, or train.cache_features=never."
    with alone(path, "train.cache_dir", fix, lambda: console.print(WAITING)):
        stored = _read(path)
        features, made_in = stored or _make(parts, front, console)
        if stored:
            console.print(f"frozen layers: their features are those of an earlier run, made in {made_in:.0f} s")
        else:
            with replacing(path) as temporary:  # bytes of ours: safetensors' own writer hides that the disk is full
                temporary.write_bytes(save({"features": features}, metadata={"seconds": str(made_in)}))
    data = FeatureDataset(features, torch.tensor(parts.data.samples.targets, dtype=torch.int64))
    on_gpu = parts.fabric.device.type == "cuda"
    loaders = make_loaders(data, data, parts.data.split, parts.train, parts.seed, pin_memory=on_gpu)
    seconds = perf_counter() - started
    facts = {"key": key, "reused": stored is not None, "seconds": seconds, "seconds_when_made": made_in}
    return replace(parts, network=parts.fabric.setup_module(rest), loaders=loaders), facts


def size_bytes(front: nn.Module, images: SampleDataset) -> int:
    """Returns what the features of all samples take up, in float32."""
    with torch.inference_mode():
        features: Tensor = front(images[0, 0].images.unsqueeze(0))
    return 4 * features.numel() * len(images.samples.ids)


def _make(parts: Parts, front: nn.Module, console: Console) -> tuple[Tensor, float]:
    """Returns the features (N, C, H, W) of all samples, and the seconds that they took."""
    started = perf_counter()
    everything = EpochSampler(range(len(parts.data.samples.ids)), parts.seed, shuffle=False, limit=None)
    loader = DataLoader(parts.images, parts.train.batch_size, sampler=everything)
    batches = track(_features(parts, front, loader), "frozen layers", len(loader), console=console)
    return torch.cat(list(batches)), perf_counter() - started


@torch.inference_mode()
def _features(parts: Parts, front: nn.Module, loader: DataLoader[Batch]) -> Iterator[Tensor]:
    """Yields the features of each batch, in the dtype that the front gives under the run's precision."""
    front.eval()
    for batch in loader:
        images = batch.images.to(parts.fabric.device, memory_format=torch.channels_last)
        with parts.fabric.autocast():
            yield front(images).cpu().contiguous()


def feature_key(parts: Parts, front: nn.Module) -> str:
    """Returns a hash over the front's layers and weights, every pixel as decoded and resized, and how it computes."""
    pixels, images = parts.data.samples.images, parts.images
    digest = hashlib.sha256()
    for name, tensor in front.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    setting = [str(front), pixels.shape, images.scale.tolist(), images.shift.tolist()]
    setting += [parts.precision, hardware()["gpu"] or hardware()["cpu"], parts.fabric.device.type, torch.__version__]
    digest.update(json.dumps(setting).encode())
    return digest.hexdigest()[:32]


def _read(path: Path) -> tuple[Tensor, float] | None:
    """Returns stored features and the seconds that they once took; None where there is no whole file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("features"), float(file.metadata()["seconds"])
    except (FileNotFoundError, SafetensorError):
        return None
