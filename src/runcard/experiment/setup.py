"""From a config to finished objects. What is wrong with model, loss or data is reported here, before the run starts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from runcard.config.diff import flatten
from runcard.config.instantiate import build, build_all, build_with
from runcard.config.schema import Config, TrainConfig, to_plain
from runcard.data.datamodule import Data, make_data, positive_class, read_samples
from runcard.data.loaders import Augment, Loaders, SampleDataset, make_loaders
from runcard.data.seeding import forked
from runcard.data.source import Samples, Source
from runcard.errors import UserError
from runcard.experiment.checks import check_monitors, check_output, check_shares
from runcard.fileio import sha256
from runcard.runs.reader import weights_file
from runcard.training.evaluation import check_units, leave_out_ignored
from runcard.training.feature_cache import PartlyFrozen, Pretrained, cached_features, check_cache
from runcard.training.memory import build_model, check_training_fits
from runcard.training.ranks import ALONE, Ranks, synchronize_batchnorm
from runcard.training.transfer import freeze, load_initial_weights
from runcard.training.types import BalancedLoss, Loss, Monitor, Schedule

MAX_SHARE_OF_GPU = 0.25  # of a GPU's free memory, that the data may take
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class ExperimentSetup:
    """Everything one run needs, built and checked."""

    train: TrainConfig
    seed: int
    is_lean: bool  # whether the run leaves few files: see conf/config.yaml, record
    fabric: Fabric
    precision: str  # resolved: 32-true | bf16-mixed
    data: Data
    augment: Augment
    images: SampleDataset  # unaugmented
    loaders: Loaders
    model: nn.Module  # its parameters are network's
    network: nn.Module  # the model as Fabric runs it, in the chosen precision; with cached features, its trained part
    cache_features: bool  # whether the frozen part runs once, before training
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    metrics: MetricCollection
    monitor: Monitor
    balanced_weights: dict[str, list[float]]  # one per class, of each loss that weighs classes by their frequency
    units: dict[str, str]  # of each column of lengths: mm | px
    config: dict[str, Any]  # resolved
    config_yaml: str  # the config as composed, YAML, from which it can be run again

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """What the model takes of one image: (C, H, W)."""
        height, width, channels = self.data.samples.images.shape[1:]
        return channels, height, width

    @property
    def bit_exact(self) -> bool:
        """Whether the same computation gives the same bits: on a CPU always, on a GPU in deterministic mode."""
        return self.fabric.device.type == "cpu" or self.train.deterministic


def with_cached_features(setup: ExperimentSetup, console: Console) -> tuple[ExperimentSetup, dict[str, Any]]:
    """Return the setup that trains on the features of the model's frozen front, and what run.json says of these."""
    assert isinstance(setup.model, PartlyFrozen)
    divided = setup.model.frozen_and_trained()
    assert divided is not None
    front, rest = divided
    data, metadata = cached_features(front, setup.images, setup.train, setup.fabric, setup.precision, console)
    setup.images.on_device = None  # only the features are needed from here on
    loaders = make_loaders(data, data, setup.data.loaded, setup.train, setup.seed, setup.fabric.device)
    return replace(setup, network=setup.fabric.setup_module(rest), loaders=loaders), metadata


def make_setup(
    cfg: DictConfig,
    config: Config,
    source: Source,
    choices: dict[str, str],
    read: Callable[[], Samples] | None = None,
    begins: bool = True,
    ranks: Ranks = ALONE,
) -> ExperimentSetup:
    """Build all that one run needs: cfg is the composed config, config the same parsed, source its dataset, opened.

    choices names the file chosen per config group, for messages; read gives the decoded images; begins says
    whether the model needs the weights that training begins with; ranks are those that train it. Fills in cfg.derived.
    Raises UserError.
    """
    unresolved, train, seed, trust = cfg.copy(), config.train, config.seed, config.trust
    fabric, precision = _fabric(train, ranks)
    loss = build("loss", config.loss.node, trust, choices.get("loss"))
    augment = build("augmentation", config.augmentation, trust, choices.get("augmentation"))
    _derive(cfg, config, source)
    with forked(seed, "weights"):
        model = build_model(to_plain(cfg.model), trust, choices.get("model"))
    origin = _load_weights(model, train, to_plain(cfg.model)) if begins else {}
    freeze(model, train.freeze or [])
    if ranks.size > 1 and train.sync_batchnorm:
        synchronize_batchnorm(model, fabric.device)
    read = read or partial(read_samples, source, config.dataset, config.audit.allow)
    data = make_data(source, config.dataset, read())
    check_shares(train, data.split, ranks.size)
    images = SampleDataset(data.samples, data.normalization, None, seed)
    is_plain = getattr(augment, "is_identity", False)
    augmented = images if is_plain else SampleDataset(data.samples, data.normalization, augment, seed)
    if train.data_on_device == "auto" and _fits(data.samples, fabric.device):
        images.move(fabric.device)
    loaders = make_loaders(images, augmented, data.loaded, train, seed, fabric.device)
    cfg.derived.steps = train.epochs * math.ceil(len(loaders.train) / train.accumulate_steps)
    resolved = to_plain(cfg)
    balanced_weights = _balance(loss, data)
    loss = loss.to(fabric.device)
    cache_features = check_cache(train.cache_features, model, augment, images, choices)
    model = model.to(fabric.device, memory_format=torch.channels_last)
    network = fabric.setup_module(model)
    scores = resolved["metric"]["scores"]
    metrics = MetricCollection(build_all("metric.scores", scores, trust, Metric, "torchmetrics.Metric"))
    leave_out_ignored(loss, metrics, data.samples)
    out_channels = resolved["derived"]["out_channels"]
    check_output(network, loss, loaders, data.samples.has_masks, data.classes, out_channels, choices)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_with("optimizer", resolved["optimizer"], trained, trust)
    check_training_fits(model, optimizer, fabric.device)
    rule = build_with("scheduler.rule", resolved["scheduler"]["rule"], optimizer, trust)
    schedule = Schedule(rule, config.scheduler.every, config.scheduler.monitor)
    monitor = check_monitors(schedule, config.metric.monitor, metrics)
    return ExperimentSetup(
        train=train,
        seed=seed,
        is_lean=config.record == "lean",
        fabric=fabric,
        precision=precision,
        data=data,
        augment=augment,
        images=images,
        loaders=loaders,
        model=model,
        network=network,
        cache_features=cache_features,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        metrics=metrics.to(fabric.device),
        monitor=monitor,
        balanced_weights=balanced_weights,
        units=check_units(metrics, data.samples),
        config=resolved | origin,
        config_yaml=_runnable(unresolved, resolved),
    )


def _fabric(train: TrainConfig, ranks: Ranks) -> tuple[Fabric, str]:
    """Return Fabric on the device of this rank, and the resolved precision."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if train.accelerator == "gpu" and not gpu:
        raise UserError("train.accelerator=gpu: no GPU was found on this machine. Use train.accelerator=auto or cpu.")
    torch.use_deterministic_algorithms(train.deterministic)
    torch.backends.cudnn.benchmark = not train.deterministic  # tries which convolution is the fastest here
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run's first lines name device and precision
    precision = PRECISIONS.get(str(train.precision)) or PRECISIONS["bf16" if has_bf16(train.accelerator) else "32"]
    devices: Any = 1
    if ranks.size > 1 and gpu and train.accelerator != "cpu":
        if ranks.local_rank >= torch.cuda.device_count():
            raise UserError(f"train.devices: this machine has {max(1, torch.cuda.device_count())} GPU(s), not more.")
        devices = [ranks.local_rank]
        torch.cuda.set_device(ranks.local_rank)
    return Fabric(accelerator=train.accelerator, devices=devices, precision=precision), precision  # type: ignore[arg-type]


def _fits(samples: Samples, device: torch.device) -> bool:
    """Whether all images and targets take little of a GPU's free memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return samples.images.nbytes + samples.targets.nbytes <= MAX_SHARE_OF_GPU * free


def has_bf16(accelerator: str) -> bool:
    """Whether the device computes in bfloat16 itself; emulation is slower than float32."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _derive(cfg: DictConfig, config: Config, source: Source) -> None:
    """Fill cfg.derived, but for the number of steps: what the model must know of the dataset and the loss."""
    classes, positive = list(source.classes), positive_class(config.dataset, source)
    num_classes = len(classes)
    if num_classes < 2:
        raise UserError(f"dataset.classes: at least two classes are needed, got {classes}.")
    cfg.derived.in_channels = config.dataset.channels
    cfg.derived.out_channels = config.loss.two_class_logits if num_classes == 2 else num_classes
    cfg.derived.num_classes = num_classes
    cfg.derived.classes = classes
    cfg.derived.positive = None if positive is None else classes.index(positive)
    cfg.derived.image_size_px = config.dataset.image_size_px


def _load_weights(model: nn.Module, train: TrainConfig, node: Mapping[str, Any]) -> dict[str, str]:
    """Load what the model, of this node, starts from; return the SHA-256 of each file, by its key in the config."""
    hashes = {}
    if isinstance(model, Pretrained) and (pretrained := model.load_pretrained_weights()):
        hashes["weights_sha256"] = pretrained
    if train.init_from:
        file = weights_file(train.init_from)
        load_initial_weights(model, file, train.init_without or [], node)
        hashes["init_sha256"] = sha256(file)
    return hashes


def _balance(loss: nn.Module, data: Data) -> dict[str, list[float]]:
    """Set the weights of each loss that weighs classes by their frequency; return them by the loss's dotted key."""
    asking = {name: part for name, part in loss.named_modules() if isinstance(part, BalancedLoss) and part.balanced}
    if not asking:
        return {}
    targets, num_classes = data.samples.targets, len(data.classes)
    of_images = (np.bincount(targets[i].ravel(), minlength=num_classes) for i in data.split["train"])
    counts = np.sum([counts[:num_classes] for counts in of_images], axis=0)  # without what is IGNORED
    if absent := [name for name, count in zip(data.classes, counts, strict=True) if not count]:
        raise UserError(f"loss: balanced weights need every class, and no training image has {absent[0]}.")
    class_weights = [sum(counts.tolist()) / (num_classes * count) for count in counts.tolist()]
    for part in asking.values():
        part.weigh(class_weights)
    return {f"loss.{name}".rstrip("."): class_weights for name in asking}


def _runnable(unresolved: DictConfig, config: dict[str, Any]) -> str:
    """Return a config as YAML that gives the same run elsewhere: with the values that the environment gave it here."""
    values = flatten(config)
    for key, value in flatten(to_plain(unresolved, resolve=False)).items():
        if "${oc.env:" in str(value):
            OmegaConf.update(unresolved, key, values[key])
    return OmegaConf.to_yaml(unresolved)
