"""The configs of experiments/: what they ask, their settings, the factor they change, and that they train."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, build_setup, compose_config
from omegaconf import DictConfig, OmegaConf

from make_data import write_course
from runcard.config.diff import differing_keys

EXPERIMENTS = sorted(
    p.relative_to(ROOT / "experiments").with_suffix("").as_posix() for p in (ROOT / "experiments").rglob("*.yaml")
)
PHANTOMS = ("first/capacity", "phantoms/chest")  # their images lie nowhere
IN_FOLDER = {"lab4": 14, "lab4/bridge": 8, "lab4_2019": 6, "course": 2, "first": 4, "phantoms": 1}
DERIVED = ("derived.in_channels=1", "derived.out_channels=1", "derived.num_classes=2", "derived.classes=[a,b]")
DERIVED += ("derived.positive=0", "derived.image_size_px=32", "derived.steps=30")


@cache
def resolved(name: str, scale: str = "full") -> DictConfig:
    """Return a config as a run would record it, on images that do not exist."""
    root = () if name in PHANTOMS else ("dataset.root=anywhere",)
    config = compose_config(f"experiment={name}", f"scale={scale}", *root, *DERIVED)
    OmegaConf.resolve(config)
    return config


@pytest.fixture(autouse=True)
def published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNCARD_VGG16", raising=False)


def test_all_experiments_are_found():
    folders = [name.rpartition("/")[0] for name in EXPERIMENTS]
    assert {folder: folders.count(folder) for folder in folders} == IN_FOLDER


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_config_says_what_it_asks_and_how_to_run_it(name):
    path = ROOT / "experiments" / f"{name}.yaml"
    package, question, command, measured, *_ = lines = path.read_text(encoding="utf-8").splitlines()
    assert package == "# @package _global_"
    assert "?" in question
    assert command.startswith("#   python train.py ")
    assert f"experiment={name} " in command
    assert measured.startswith(("# Measured, ", "# smoke-tested"))
    assert len(lines) <= 25


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_quick_has_the_last_word_and_changes_only_the_scale(name):
    full, quick = resolved(name), resolved(name, "quick")
    assert not full.smoke_test
    assert quick.smoke_test
    assert quick.dataset.image_size_px == 64
    assert quick.train.epochs == 8
    keys = {said.partition(" ")[0] for said in differing_keys(plain(full), plain(quick))}
    assert keys <= {"smoke_test", "train.epochs", "dataset.image_size_px", "dataset.size_px"}


@pytest.mark.parametrize("name", ["lab4/task2_bone_scratch", "lab4/task4a", "lab4/bridge/base16_both"])
def test_laptop_changes_only_the_scale_and_supports_conclusions(name):
    full, laptop = resolved(name), resolved(name, "laptop")
    assert not laptop.smoke_test
    keys = {said.partition(" ")[0] for said in differing_keys(plain(full), plain(laptop))}
    assert keys == {"train.epochs", "dataset.image_size_px"}


def plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config)  # type: ignore[return-value]


# The settings of LAB.md 2, word for word. lab: rotation 10°, shifts 0.1, zoom 0.2, flip; no_zoom: the same without it.
TASK_2_AND_3 = {
    # folder, image_size_px, channels, model with its base, head, dropout, loss, augmentation, epochs
    "task2_bone_pretrained": ("Lab2/Bone", 224, 3, "PretrainedVGG16", [128], 0.5, "BCE", "none", 150),
    "task2_skin_pretrained": ("Lab2/Skin", 224, 3, "PretrainedVGG16", [128], 0.5, "BCE", "none", 150),
    "task2_bone_scratch": ("Lab2/Bone", 128, 1, "VGG16 64", [64, 64], 0.4, "BCE", "no_zoom", 80),
    "task2_skin_scratch": ("Lab2/Skin", 224, 3, "VGG16 64", [64, 64], 0.4, "BCE", "no_zoom", 80),
    "task3_base8": ("Lab2/Bone", 128, 1, "VGG16 8", [64, 64, 64], 0.4, "CrossEntropy", "no_zoom", 80),
    "task3_base64": ("Lab2/Bone", 128, 1, "VGG16 64", [64, 64, 64], 0.4, "CrossEntropy", "no_zoom", 80),
}
CLASSES = {"Lab2/Bone": (["AFF", "NFF"], "AFF"), "Lab2/Skin": (["Mel", "Nev"], "Mel")}
TASK_4 = {
    # loss, base, dropout, batchnorm, augmentation
    "lab4/task4a": ("BCE", 8, 0.0, False, "none"),
    "lab4/task4b": ("DiceLoss", 8, 0.0, False, "none"),
    "lab4/task4c_bce": ("BCE", 8, 0.2, False, "none"),
    "lab4/task4c_dice": ("DiceLoss", 8, 0.2, False, "none"),
    "lab4/task4d_bce": ("BCE", 32, 0.2, False, "none"),
    "lab4/task4d_dice": ("DiceLoss", 32, 0.2, False, "none"),
    "lab4/task4e_bce": ("BCE", 16, 0.2, True, "light"),
    "lab4/task4e_dice": ("DiceLoss", 16, 0.2, True, "light"),
    "lab4_2019/task4a": ("BCE", 16, 0.5, True, "none"),
    "lab4_2019/task4b": ("DiceLoss", 16, 0.5, True, "none"),
    "lab4_2019/task4c_bce": ("BCE", 16, 0.5, False, "none"),
    "lab4_2019/task4c_dice": ("DiceLoss", 16, 0.5, False, "none"),
    "lab4_2019/task4d": ("DiceLoss", 32, 0.5, False, "none"),
    "lab4_2019/task4e": ("DiceLoss", 32, 0.5, False, "light"),
}
SHIFTS = {"x": [-0.1, 0.1], "y": [-0.1, 0.1]}
AUGMENTATIONS = {
    "none": None,
    "light": ([-10, 10], SHIFTS, [0.8, 1.2], 0.5),
    "no_zoom": ([-10, 10], SHIFTS, [1.0, 1.0], 0.5),
}


def augmentation(config: DictConfig) -> tuple[Any, ...] | None:
    """Return rotation in degrees, shifts, zoom and the chance of a horizontal flip; None where nothing is changed."""
    transforms = plain(config)["augmentation"]["transforms"]
    if not transforms:
        return None
    affine, flip = transforms.pop("affine"), transforms.pop("flip")
    assert not transforms
    assert (affine["_target_"], affine["p"]) == ("albumentations.Affine", 1.0)
    assert flip["_target_"] == "albumentations.HorizontalFlip"
    return affine["rotate"], affine["translate_percent"], affine["scale"], flip["p"]


def built(node: DictConfig) -> str:
    return node._target_.rpartition(".")[2]


def check_what_all_share(config: DictConfig, lr: float) -> None:
    assert (config.train.batch_size, config.train.accumulate_steps, config.train.limit_batches) == (8, 1, None)
    assert (config.train.early_stopping, config.train.clip_grad_norm) == (None, None)
    assert built(config.optimizer) == "Adam"
    assert (config.optimizer.lr, config.optimizer.eps, config.optimizer.weight_decay) == (lr, 1e-7, 0)
    assert config.optimizer.betas == [0.9, 0.999]
    assert built(config.scheduler.rule) == "ConstantLR"
    assert config.scheduler.rule.factor == 1.0
    assert (config.dataset.normalization, config.model.init) == ("unit", "glorot")


@pytest.mark.parametrize("name", TASK_2_AND_3)
def test_tasks_2_and_3_are_the_labs(name):
    folder, size, channels, model, head, dropout, loss, augmented, epochs = TASK_2_AND_3[name]
    config = resolved(f"lab4/{name}")
    check_what_all_share(config, lr=1e-5)
    assert (config.dataset.folder, config.dataset.image_size_px, config.dataset.channels) == (folder, size, channels)
    assert (config.dataset.classes, config.dataset.positive) == CLASSES[folder]
    assert config.dataset.split.kind == "auto"
    if model == "PretrainedVGG16":
        assert (built(config.model), config.model.weights, config.model.freeze) == (model, "imagenet", "features")
    else:
        assert f"{built(config.model)} {config.model.base}" == model
        assert not config.model.batchnorm
    assert (config.model.head, config.model.dropout) == (head, dropout)
    assert (built(config.loss), config.train.epochs) == (loss, epochs)
    assert augmentation(config) == AUGMENTATIONS[augmented]


@pytest.mark.parametrize("name", TASK_4)
def test_task_4_is_the_labs(name):
    loss, base, dropout, batchnorm, augmented = TASK_4[name]
    config = resolved(name)
    check_what_all_share(config, lr=1e-4)
    dataset, model = config.dataset, config.model
    assert (dataset.folder, dataset.image_size_px, dataset.channels) == ("Lab3/X_ray", 256, 1)
    assert (dataset.classes, dataset.positive) == (["background", "lung"], "lung")
    assert (dataset.split.kind, dataset.split.val_fraction, dataset.split.test_fraction) == ("auto", 0.2, 0)
    assert (built(model), model.depth, model.upsample, model.dropout_at) == (
        "UNet",
        4,
        "transpose3",
        ["pool", "concat"],
    )
    assert (built(config.loss), model.base, model.dropout, model.batchnorm) == (loss, base, dropout, batchnorm)
    assert config.train.epochs == 150
    assert augmentation(config) == AUGMENTATIONS[augmented]


ONE_FACTOR = [  # two configs, and the one key or group in which they differ
    ("lab4/task2_bone_pretrained", "lab4/task2_skin_pretrained", "dataset"),
    ("lab4/bridge/task2_bone_imagenet", "lab4/bridge/task2_bone_random", "model.weights"),
    ("lab4/bridge/task2_skin_imagenet", "lab4/bridge/task2_skin_random", "model.weights"),
    ("lab4/task2_bone_pretrained", "lab4/bridge/task2_bone_imagenet", "model.freeze"),
    ("lab4/task2_skin_pretrained", "lab4/bridge/task2_skin_imagenet", "model.freeze"),
    ("lab4/task2_bone_scratch", "lab4/task2_skin_scratch", "dataset"),
    ("lab4/task3_base8", "lab4/task3_base64", "model.base"),
    ("lab4/task4a", "lab4/task4b", "loss"),
    ("lab4/task4a", "lab4/task4c_bce", "model.dropout"),
    ("lab4/task4b", "lab4/task4c_dice", "model.dropout"),
    ("lab4/task4c_bce", "lab4/task4c_dice", "loss"),
    ("lab4/task4c_bce", "lab4/task4d_bce", "model.base"),
    ("lab4/task4c_dice", "lab4/task4d_dice", "model.base"),
    ("lab4/task4d_bce", "lab4/task4d_dice", "loss"),
    ("lab4/task4e_bce", "lab4/task4e_dice", "loss"),
    ("lab4/task4c_dice", "lab4/bridge/base16", "model.base"),
    ("lab4/bridge/base16", "lab4/bridge/base16_batchnorm", "model.batchnorm"),
    ("lab4/bridge/base16", "lab4/bridge/base16_augmentation", "augmentation"),
    ("lab4/bridge/base16_batchnorm", "lab4/bridge/base16_both", "augmentation"),
    ("lab4/bridge/base16_augmentation", "lab4/bridge/base16_both", "model.batchnorm"),
    ("lab4_2019/task4a", "lab4_2019/task4b", "loss"),
    ("lab4_2019/task4a", "lab4_2019/task4c_bce", "model.batchnorm"),
    ("lab4_2019/task4b", "lab4_2019/task4c_dice", "model.batchnorm"),
    ("lab4_2019/task4c_dice", "lab4_2019/task4d", "model.base"),
    ("lab4_2019/task4d", "lab4_2019/task4e", "augmentation"),
]


@pytest.mark.parametrize(("one", "other", "factor"), ONE_FACTOR)
def test_two_configs_differ_in_one_factor(one, other, factor):
    keys = [said.partition(" ")[0] for said in differing_keys(plain(resolved(one)), plain(resolved(other)))]
    assert keys
    assert [key for key in keys if not f"{key}.".startswith(f"{factor}.")] == []


def test_the_bridge_ends_at_4e():
    assert differing_keys(plain(resolved("lab4/bridge/base16_both")), plain(resolved("lab4/task4e_dice"))) == []


# Every config trains


def vgg16(base: int, channels: int, size: int, head: list[int], logits: int) -> int:
    """Return the parameters of a VGG16: 13 convolutions of 3x3 and the dense layers, each with its biases."""
    widths = [base * multiple for multiple in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)]
    convolutions = sum(9 * i * o + o for i, o in pairwise([channels, *widths]))
    return convolutions + sum(i * o + o for i, o in pairwise([widths[-1] * (size // 32) ** 2, *head, logits]))


FEATURES = 14_714_688  # of VGG16 at base 64 on RGB
PRETRAINED = FEATURES + 3_211_521
BATCHNORM_16 = 2 * 2 * 2 * (16 + 32 + 64 + 128) + 2 * 2 * 256  # scale and shift, two convolutions, down and up; bottom
BASE_16 = 2_158_417
NUM_PARAMETERS = {
    "lab4/task2_bone_pretrained": PRETRAINED,
    "lab4/task2_skin_pretrained": PRETRAINED,
    "lab4/bridge/task2_bone_imagenet": PRETRAINED,
    "lab4/bridge/task2_bone_random": PRETRAINED,
    "lab4/bridge/task2_skin_imagenet": PRETRAINED,
    "lab4/bridge/task2_skin_random": PRETRAINED,
    "lab4/task2_bone_scratch": vgg16(64, 1, 128, [64, 64], 1),
    "lab4/task2_skin_scratch": vgg16(64, 3, 224, [64, 64], 1),
    "lab4/task3_base8": vgg16(8, 1, 128, [64, 64, 64], 2),
    "lab4/task3_base64": vgg16(64, 1, 128, [64, 64, 64], 2),
    **dict.fromkeys(("lab4/task4a", "lab4/task4b", "lab4/task4c_bce", "lab4/task4c_dice"), 540_073),
    **dict.fromkeys(("lab4/task4d_bce", "lab4/task4d_dice", "lab4_2019/task4d", "lab4_2019/task4e"), 8_629_921),
    **dict.fromkeys(("lab4/bridge/base16", "lab4/bridge/base16_augmentation"), BASE_16),
    **dict.fromkeys(("lab4_2019/task4c_bce", "lab4_2019/task4c_dice"), BASE_16),
    **dict.fromkeys(("lab4/task4e_bce", "lab4/task4e_dice"), BASE_16 + BATCHNORM_16),
    **dict.fromkeys(("lab4/bridge/base16_batchnorm", "lab4/bridge/base16_both"), BASE_16 + BATCHNORM_16),
    **dict.fromkeys(("lab4_2019/task4a", "lab4_2019/task4b"), BASE_16 + BATCHNORM_16),
    "course/xray_nine": vgg16(8, 1, 128, [64, 64, 64], 9),
    "course/ct_lungs": BASE_16 + BATCHNORM_16 + 2 * (16 + 1),  # three logits in place of one
}
HEADS = {"lab4/task2_bone_pretrained", "lab4/task2_skin_pretrained"}  # of these, only the head is trained
OTHER_IMAGES = {  # configs that are not of the course, and what stands for their images
    "first/lungs": ("dataset.root={}/Lab3/X_ray",),
    "first/bone": ("dataset.root={}/Lab2/Bone", "dataset.positive=AFF"),
    "first/skin": ("dataset.root={}/Lab2/Skin",),
    **dict.fromkeys(PHANTOMS, ("dataset.num_images=20",)),
}


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("course")
    write_course(root, 5)
    return root


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_config_trains(name, course, monkeypatch):
    """One batch of the config's own size, through the whole of its network and back."""
    monkeypatch.setenv("RUNCARD_VGG16", "random")
    images = [override.format(course) for override in OTHER_IMAGES.get(name, ("dataset.root={}",))]
    config = compose_config(f"experiment={name}", "train.accelerator=cpu", *images)
    setup = build_setup(config, choices={})
    batch = next(iter(setup.loaders.train))
    settings = resolved(name)
    assert batch.images.shape[::2] == (settings.train.batch_size, settings.dataset.image_size_px)
    loss = setup.loss(setup.network(batch.images), batch.targets)
    setup.fabric.backward(loss)
    assert loss.isfinite()
    trained = [p for p in setup.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    if name not in OTHER_IMAGES:
        assert sum(p.numel() for p in setup.model.parameters()) == NUM_PARAMETERS[name]
        assert sum(p.numel() for p in trained) == (3_211_521 if name in HEADS else NUM_PARAMETERS[name])
