"""Every YAML composes and instantiates, and every option of every YAML changes what is built."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, compose_config
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from runcard.config.instantiate import build
from runcard.config.schema import DatasetConfig
from runcard.data.preprocessing import prepare

CONF = ROOT / "conf"
GROUPS = {
    "dataset": 6,
    "model": 3,
    "loss": 4,
    "augmentation": 3,
    "optimizer": 3,
    "scheduler": 4,
    "metric": 3,
    "scale": 2,
}
CHOICES = [(group, p.stem) for group in GROUPS for p in sorted((CONF / group).glob("*.yaml"))]
DERIVED = ("derived.in_channels=1", "derived.out_channels=1", "derived.num_classes=2", "derived.positive=0")
DERIVED += (
    "derived.classes=[background,lung]",
    "derived.image_size_px=32",
    "derived.steps=30",
    "dataset.image_size_px=32",
)
# Another value for every key, by its last names; a new key needs a line here, and has to show an effect.
OTHER: dict[str, Any] = {
    "in_channels": 3, "out_channels": 2, "image_size_px": 64, "size_px": 40,
    "base": 5, "depth": 2, "dropout": 0.9, "dropout_at": ["concat"],
    "upsample": "transpose2", "init": "default", "head": [32], "pooling": "batch", "smooth": 100.0,
    "weights": [1.0, 3.0], "pos_weight": 3.0,
    "weights.bce": 3.0, "weights.dice": 3.0, "lr": 0.5, "betas": [0.5, 0.6], "eps": 0.1, "weight_decay": 0.7,
    "momentum": 0.3, "T_max": 5, "eta_min": 1e-4, "factor": 0.5, "max_lr": 0.7, "total_steps": 40, "pct_start": 0.6,
    "anneal_strategy": "linear", "div_factor": 5.0, "final_div_factor": 50.0, "base_momentum": 0.2,
    "max_momentum": 0.99, "mode": "max", "patience": 1, "threshold": 0.9, "min_lr": 5e-4, "rotate": [30, 40],
    "translate_percent.x": [0.3, 0.4], "translate_percent.y": [0.3, 0.4], "scale": [0.3, 0.4], "border_mode": 0,
    "p": 0.01, "brightness_limit": [0.5, 0.6], "contrast_limit": [0.5, 0.6], "sigma_limit": [4.0, 5.0],
    "std_range": [0.4, 0.5], "num_images": 21, "difficulty": 0.9, "imbalance": 0.1, "label_noise": 0.9,
    "near_duplicates": 0.9, "shortcut": True, "seed": 3, "classes": ["a", "b"], "root": "elsewhere", "folder": "deeper",
    "num_classes": 3, "positive": 1, "sides": True, "dice_of_classes.classes": ["background", "right", "left"],
    "pixel_mm": 0.7, "vgg16_pretrained.weights": "random", "freeze": "first_2_blocks",
}  # fmt: skip
READ_BY_ENGINE = {"every", "monitor"}  # of scheduler and metric: tests/training/test_loop.py
READ_BY_SETUP = {"two_class_logits"}  # of a loss: tests/experiment/test_setup.py
PREPARED = {
    "positive",
    "normalization",
    "channels",
    "image_size_px",
    "resize",
    "split",
}  # read by the setup


def test_all_choices_are_found():
    """A new file is found by itself, and needs no change here."""
    found = {group: sum(g == group for g, _ in CHOICES) for group in GROUPS}
    assert all(found[group] >= number for group, number in GROUPS.items()), found


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_composes(group, choice):
    config = compose_config(f"{group}={choice}")
    assert OmegaConf.to_yaml(config)
    text = (CONF / group / f"{choice}.yaml").read_text()
    assert text.startswith("#"), "a choice says what it is"
    assert len(text.splitlines()) <= 25


@pytest.mark.parametrize("choice", [choice for group, choice in CHOICES if group == "dataset"])
def test_every_dataset_has_the_keys_of_all(choice):
    assert {*DatasetConfig.model_fields} <= {*compose_config(f"dataset={choice}").dataset}


def leaves(node: DictConfig, prefix: str = "") -> list[str]:
    """Return the dotted keys of all leaves, but for Hydra's own."""
    keys = []
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            keys += leaves(child, f"{prefix}{key}.")
        elif not key.startswith("_"):
            keys.append(prefix + key)
    return keys


def built(group: str, config: DictConfig) -> Any:
    """Return something picklable that shows all there is to see of what the group's node builds."""
    torch.manual_seed(0)
    if group == "model":
        model = build("config", config.model)
        named = [(name, p.requires_grad, p.detach().numpy()) for name, p in model.named_parameters()]
        return repr(model), named, getattr(model, "weights", None)  # which file: tests/models/test_vgg16_pretrained.py
    if group == "loss":
        logits = torch.randn(2, config.derived.out_channels, 8, 8, generator=torch.Generator().manual_seed(1))
        section = {key: value for key, value in config.loss.items() if key not in READ_BY_SETUP}
        return build("config", section)(logits, (logits[:, 0] > 0.3).long()).item()
    if group == "optimizer":
        return sorted(build("config", config.optimizer)([torch.nn.Parameter(torch.zeros(1))]).defaults.items())
    if group == "scheduler":
        optimizer = build("config", config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        rule = build("config", config.scheduler.rule)(optimizer)
        trace = []
        for step in range(30):
            trace.append([(g["lr"], g["betas"]) for g in optimizer.param_groups])
            optimizer.step()
            rule.step(*([max(0.95, 1 - 0.01 * step)] if config.scheduler.monitor else []))
        return trace
    if group == "metric":
        generator = torch.Generator().manual_seed(1)
        masks = "dice" in config.metric.scores
        logits = torch.randn((4, 2, 8, 8) if masks else (12, 2), generator=generator)
        targets = (torch.randn((4, 8, 8) if masks else (12,), generator=generator) > 0).long()
        scores = {name: build("config", score) for name, score in config.metric.scores.items()}
        for score in scores.values():
            score.update(logits.softmax(dim=1), targets)
        settings = [(getattr(s, "num_classes", None), getattr(s, "positive", None)) for s in scores.values()]
        return settings, [(name, repr(score.compute())) for name, score in scores.items()]
    if group == "augmentation":
        augment = build("config", config.augmentation)
        image = np.random.default_rng(0).integers(0, 255, (32, 32, 1), np.uint8)
        return [augment(image, image[..., 0] // 128, seed) for seed in range(20)]
    node = {k: v for k, v in config.dataset.items() if k not in PREPARED}
    source = build("config", node)
    return source.classes, [source[i] for i in range(min(len(source), 25))]


def digest(thing: Any) -> str:
    return hashlib.sha256(pickle.dumps(thing)).hexdigest()


NEED_FILES = ("image_mask", "lungs", "image_folder", "manifest", "manifest_masks")  # test_manifest.py tests the last
BUILDABLE = [c for c in CHOICES if c[0] != "scale" and c[1] not in NEED_FILES]


@pytest.mark.parametrize(("group", "choice"), BUILDABLE)
def test_every_option_changes_what_is_built(group, choice):
    logits = compose_config(f"loss={choice}").loss.get("two_class_logits", 2) if group == "loss" else 1
    base = [f"{group}={choice}", *DERIVED, f"derived.out_channels={logits}"]
    base += ["dataset.num_images=20"] if choice.startswith("phantom") else []
    base += ["optimizer.nesterov=false", "optimizer.momentum=0.9"] if choice == "sgd" else []
    base += ["model.dropout=0.5"] if choice == "unet" else []
    config = compose_config(*base)
    before = digest(built(group, config))
    assert digest(built(group, config)) == before, "not determined by the config"
    skipped = {"scheduler": READ_BY_ENGINE, "metric": READ_BY_ENGINE, "dataset": PREPARED, "loss": READ_BY_SETUP}.get(
        group, set()
    )
    for key in leaves(config[group]):
        if key.partition(".")[0] in skipped:
            continue
        value = OmegaConf.select(config[group], key)
        other = (
            not value
            if isinstance(value, bool)
            else OTHER.get(f"{choice}.{key}", OTHER.get(".".join(key.split(".")[-2:]), OTHER.get(key.split(".")[-1])))
        )
        assert other is not None, f"{group}.{key}: name another value in OTHER"
        changed = config.copy()
        OmegaConf.update(changed, f"{group}.{key}", other)
        assert digest(built(group, changed)) != before, f"{group}.{key}={other} changes nothing"


FOLDERS = [
    ("lungs", ("Image", "Mask"), {"mask_values": [255, 0], "ignore_value": 255}),
    ("image_folder", ("a", "b"), {}),
]


@pytest.mark.parametrize(("choice", "names", "more"), FOLDERS)
def test_every_option_of_a_folder_changes_what_is_read(choice, names, more, tmp_path):
    for number, folder in enumerate(("here/one", "here/two", "elsewhere/one")):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            stripes = np.arange(8) > number
            deep = np.full((8, 8), 255 if name == "Mask" else 40000) * stripes
            Image.fromarray(deep.astype(np.uint8 if name == "Mask" else np.uint16)).save(
                tmp_path / folder / name / "1.png"
            )

    def read(config: DictConfig) -> Any:
        source = build("config", {k: v for k, v in config.dataset.items() if k not in PREPARED})
        samples = prepare(source, image_size_px=8, channels=1)
        return source.classes, samples.images.tobytes(), samples.targets.tobytes()

    root = f"dataset.root={tmp_path / 'here'}"
    config = compose_config(f"dataset={choice}", root, "dataset.folder=one", "dataset.classes=[b,a]")
    before = read(config)
    others = {"root": str(tmp_path / "elsewhere"), "folder": "two", "classes": ["a", "b"], "window": [0, 40000], **more}
    for key, other in others.items():
        changed = config.copy()
        OmegaConf.update(changed, f"dataset.{key}", other)
        assert read(changed) != before, key
    assert set(map(str, config.dataset)) - PREPARED - {"_target_"} == set(others)
