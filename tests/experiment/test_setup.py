"""From a config to a setup: every key has an effect, and every mistake is reported before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, build_setup, compose_config
from PIL import Image
from rich.console import Console

from runcard.errors import UserError
from runcard.experiment.checks import metric_mode
from runcard.experiment.predictions import PredictionFigures
from runcard.experiment.setup import ExperimentSetup, _fits
from runcard.loggers.progress import Progress
from runcard.training.evaluation import columns

CHOICES = {
    "dataset": "phantom_chest",
    "model": "unet",
    "loss": "dice",
    "augmentation": "none",
    "optimizer": "adam",
    "scheduler": "none",
}
BONE = ("dataset=phantom_bone", "model=vgg16", "model.base=2")


def composed(*overrides: str, num_images: int = 20) -> ExperimentSetup:
    given = dict(o.split("=", 1) for o in overrides if "=" in o)
    choices = {group: given.get(group, choice) for group, choice in CHOICES.items()}
    own_files = choices["dataset"] in ("image_mask", "lungs", "image_folder")
    tiny = [o for o in TINY if not o.startswith("dataset.num_images")]
    tiny += [] if own_files else [f"dataset.num_images={num_images}"]
    return build_setup(compose_config(*tiny, *overrides), choices)


@pytest.fixture(scope="module")
def tiny() -> ExperimentSetup:
    return composed()


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images with masks of 0, 1 and 2, two of each of five patients."""
    root = tmp_path_factory.mktemp("lungs")
    (root / "Image").mkdir()
    (root / "Mask").mkdir()
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24), np.uint8)
        Image.fromarray(pixels).save(root / "Image" / f"p{i // 2}_{i}.png")
        Image.fromarray(pixels // 86).save(root / "Mask" / f"p{i // 2}_{i}.png")
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes in given folders for training and validation."""
    root = tmp_path_factory.mktemp("labelled")
    for i, part in enumerate(["train"] * 6 + ["validation"] * 2):
        folder = root / part / ("AFF", "NFF")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    return root


# Every key has an effect


def lines_of_an_epoch(setup: ExperimentSetup) -> int:
    """Return how many lines a log file gets within an epoch."""
    console = Console(file=StringIO())
    progress = Progress(console, setup.train, len(setup.loaders.train), "val/dice")
    for step in range(1, 5):
        progress.step(1, step, 4, 0.5)
    return console.file.getvalue().count("\n")


def first_images(setup: ExperimentSetup) -> torch.Tensor:
    return next(iter(setup.loaders.val)).images


def split_sizes(setup: ExperimentSetup) -> list[int]:
    return [len(members) for members in setup.data.split.values()]


# key -> (another value, what shows it, what that shows with TINY's value, and with the other). What fit() reads as it
# goes (accumulate_steps, clip_grad_norm, early_stopping, every, monitor) is seen in tests/training/test_loop.py.
EFFECTS: dict[str, tuple[str, Callable[[ExperimentSetup], Any], Any, Any]] = {
    "train.epochs": ("3", lambda p: p.config["derived"]["steps"], 8, 12),
    "train.batch_size": ("8", lambda p: len(first_images(p)) + len(p.loaders.train), 4 + 4, 4 + 2),
    "train.accumulate_steps": ("3", lambda p: p.config["derived"]["steps"], 8, 4),
    "train.clip_grad_norm": ("1", lambda p: p.train.clip_grad_norm, None, 1),
    "train.early_stopping": ("5", lambda p: p.train.early_stopping, None, 5),
    "train.precision": ("bf16", lambda p: p.precision, "32-true", "bf16-mixed"),
    "train.accelerator": ("auto", lambda p: p.train.accelerator, "cpu", "auto"),
    "train.deterministic": ("true", lambda _: torch.are_deterministic_algorithms_enabled(), False, True),
    "train.num_workers": ("2", lambda p: p.loaders.train.num_workers, 0, 2),  # auto: see tests/data/test_preprocessing
    "train.checkpoint_every": ("3", lambda p: p.train.checkpoint_every, 1, 3),
    "train.eval_every": ("2", lambda p: p.train.is_evaluated(1), True, False),
    "train.limit_batches": ("1", lambda p: [len(p.loaders.train), len(p.loaders.val)], [4, 1], [1, 1]),
    "train.log_every_steps": ("2", lines_of_an_epoch, 0, 2),
    "train.pictures": ("1", lambda p: PredictionFigures(p).epochs, {1, 2}, {1}),
    "train.data_on_device": ("never", lambda p: p.train.data_on_device, "auto", "never"),
    "train.cache_dir": ("elsewhere", lambda p: p.train.cache_dir, "outputs/.features", "elsewhere"),
    "train.cache_gb": ("1", lambda p: p.train.cache_gb, 20, 1),
    "seed": ("1", lambda p: p.seed, 0, 1),  # what it moves and what it leaves: test_same.py
    "dataset.image_size_px": ("40", lambda p: first_images(p).shape[2:], (32, 32), (40, 40)),
    "dataset.channels": ("3", lambda p: (first_images(p).shape[1], p.model.encoder[0][0].in_channels), (1, 1), (3, 3)),
    "dataset.normalization": ("symmetric", lambda p: bool(first_images(p).min() < 0), False, True),
    "dataset.positive": ("background", lambda p: p.data.positive, 1, 0),
    "dataset.split.val_fraction": ("0.4", split_sizes, [16, 4, 0], [12, 8, 0]),
    "dataset.split.test_fraction": ("0.1", split_sizes, [16, 4, 0], [14, 4, 2]),
    "dataset.split.group_regex": ("'chest_00(.)'", lambda p: len(set(p.data.groups)), 20, 2),
    "dataset.split.exclude": ("[chest_0000]", split_sizes, [16, 4, 0], [15, 4, 0]),
    "scheduler.every": ("step", lambda p: p.schedule.every, "epoch", "step"),
    "metric.monitor": ("val/iou", lambda p: p.monitor.name, "val/dice", "val/iou"),
}
ELSEWHERE = {  # key -> the test that sees it
    "overwrite": "tests/runs/test_writer.py",
    "dataset.split.seal": "tests/inference/test_unseal.py",
    "train.devices": "tests/experiment/test_devices.py",
    "train.sync_batchnorm": "tests/experiment/test_devices.py",
    "train.persistent_workers": "test_workers_are_kept_between_epochs_where_there_are_any",
    "train.extend": "tests of the run folder",
    "train.init_from": "tests/training/test_transfer.py",
    "train.init_without": "tests/training/test_transfer.py",
    "train.freeze": "tests/training/test_transfer.py",
    "train.explain_images": "tests/test_explain.py",
    "train.cache_features": "tests/test_features.py",
    "dataset.split.kind": "test_split_kind_seed_and_fold_change_the_split",
    "dataset.split.seed": "test_split_kind_seed_and_fold_change_the_split",
    "dataset.split.fold": "test_split_kind_seed_and_fold_change_the_split",
    "dataset.split.num_folds": "tests/data/test_splits.py",
    "scheduler.monitor": "test_plateau_monitors_what_the_config_names",
}


def test_data_go_to_a_gpu_that_has_four_times_their_size(monkeypatch):
    samples = composed().data.samples
    size = samples.images.nbytes + samples.targets.nbytes
    for free, fits in ((4 * size, True), (4 * size - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 0))
        assert _fits(samples, torch.device("cuda")) == fits
    assert not _fits(samples, torch.device("cpu"))


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_has_an_effect(key, tiny):
    value, shown, before, after = EFFECTS[key]
    torch.use_deterministic_algorithms(False)
    try:
        assert shown(tiny) == before
        assert shown(composed(f"{key}={value}")) == after
    finally:
        torch.use_deterministic_algorithms(False)


def test_every_key_has_a_test():
    config = compose_config()
    keys = {f"train.{key}" for key in config.train} | {f"dataset.split.{key}" for key in config.dataset.split}
    keys |= {f"dataset.{key}" for key in ("image_size_px", "channels", "normalization", "positive")}
    keys |= {"seed", "overwrite", "scheduler.every", "scheduler.monitor", "metric.monitor"}
    assert keys == set(EFFECTS) | set(ELSEWHERE)
    assert len(keys) >= 33


def test_workers_are_kept_between_epochs_where_there_are_any():
    kept = {
        (workers, persistent): composed(
            f"train.num_workers={workers}", f"train.persistent_workers={persistent}"
        ).loaders.train.persistent_workers
        for workers in (0, 1)
        for persistent in ("true", "false")
    }
    assert kept == {(0, "true"): False, (0, "false"): False, (1, "true"): True, (1, "false"): False}


def test_split_kind_seed_and_fold_change_the_split(tiny, labelled):
    def val(*overrides: str) -> list[int]:
        return composed(*overrides).data.split["val"]

    folds = [val("dataset.split.kind=kfold", f"dataset.split.fold={fold}") for fold in range(5)]
    assert sorted(i for fold in folds for i in fold) == list(range(20))
    assert val("dataset.split.seed=1") != tiny.data.split["val"]
    given = composed("dataset=image_folder", f"dataset.root={labelled}", "model=vgg16", "model.base=2")
    assert [given.data.samples.ids[i] for i in given.data.split["val"]] == [
        "validation/AFF/6.png",
        "validation/NFF/7.png",
    ]
    assert split_sizes(given) == [6, 2, 0]


def test_groups_stay_together(three_classes):
    setup = composed(
        "dataset=lungs",
        f"dataset.root={three_classes}",
        "dataset.classes=[background, lung, heart]",
        r"dataset.split.group_regex='^(p\d)_'",
    )
    assert setup.data.groups == ["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4"]
    assert len({setup.data.groups[i] for i in setup.data.split["val"]}) == 1
    assert len(setup.data.split["val"]) == 2


def test_plateau_monitors_what_the_config_names(tiny):
    assert tiny.schedule.monitor is None
    assert composed("scheduler=plateau").schedule.monitor == "val/loss"
    dice = composed("scheduler=plateau", "scheduler.monitor=train_eval/dice", "scheduler.rule.mode=max")
    assert dice.schedule.monitor == "train_eval/dice"


# Derived values


@pytest.mark.parametrize(
    ("overrides", "derived"),
    [
        (("loss=dice",), {"in_channels": 1, "out_channels": 1, "num_classes": 2, "positive": 1, "steps": 8}),
        (("loss=bce",), {"out_channels": 1}),
        (("loss=bce_dice",), {"out_channels": 1}),
        (("loss=cross_entropy",), {"out_channels": 2}),
        (("dataset.channels=3",), {"in_channels": 3}),
        (("dataset.image_size_px=40",), {"image_size_px": 40}),
        (("dataset.positive=null",), {"positive": None}),
        (("train.batch_size=5", "train.epochs=3"), {"steps": 12}),  # 16 images: 4 batches
        (("train.batch_size=5", "train.epochs=3", "train.accumulate_steps=3"), {"steps": 6}),
        (("train.limit_batches=3",), {"steps": 6}),
        ((*BONE, "loss=bce"), {"out_channels": 1, "num_classes": 2, "positive": 0}),
        ((*BONE, "loss=cross_entropy"), {"out_channels": 2}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_derived_values(overrides, derived):
    setup = composed(*overrides)
    assert {key: setup.config["derived"][key] for key in derived} == derived
    outputs = setup.model.head if hasattr(setup.model, "head") else setup.model.classifier[-1]
    assert len(outputs.weight) == setup.config["derived"]["out_channels"]


@pytest.mark.parametrize(
    ("overrides", "lower"),
    [
        (("dataset=phantom_bone", "model=vgg16", "model.base=2", "loss=bce"), {"log_loss"}),
        ((), {"bce", "soft_dice_loss"}),
    ],
)
def test_each_score_says_which_way_is_better(overrides, lower):
    """torchmetrics does not say it of specificity, so that its lowest value would be the best."""
    metrics = composed(*overrides).metrics
    assert {name for name in columns(metrics) if metric_mode(name, metrics) == "min"} == lower


@pytest.mark.parametrize(("loss", "num_logits"), [("dice", 3), ("cross_entropy", 3)])
def test_three_classes_have_three_logits(loss, num_logits, three_classes):
    setup = composed(
        f"loss={loss}", "dataset=lungs", f"dataset.root={three_classes}", "dataset.classes=[background, lung, heart]"
    )
    assert setup.config["derived"]["out_channels"] == num_logits
    assert setup.data.samples.targets.max() == 2


def test_recorded_config_is_the_given_one(tiny):
    assert "in_channels: ???" in tiny.config_yaml, "nobody types the derived values, in a saved config neither"
    assert "${derived.out_channels}" in tiny.config_yaml
    assert tiny.config["model"]["out_channels"] == 1


def test_bf16_computes_in_bf16(tiny):
    images = first_images(tiny)
    halved = composed("train.precision=bf16")
    with torch.no_grad():
        assert halved.network(images).dtype == torch.float32, "Fabric gives back what it was given"
        difference = (halved.network(images) - tiny.network(images)).abs().max()
    assert 1e-5 < difference < 0.5


# Weights of the classes


def test_balanced_weights_are_of_the_training_images_alone():
    setup = composed(*BONE, "loss=cross_entropy", "loss.weights=balanced", "dataset.imbalance=0.3")
    train = np.bincount(setup.data.samples.targets[setup.data.split["train"]])
    assert train[0] != train[1]
    assert setup.balanced_weights == {"loss": [16 / (2 * count) for count in train.tolist()]}
    assert setup.loss.weights.tolist() == pytest.approx(setup.balanced_weights["loss"])


def test_balanced_weights_of_masks_count_pixels_and_reach_a_loss_within_another():
    setup = composed("loss=bce_dice", "loss.losses.bce.pos_weight=balanced")
    background, lung = np.bincount(setup.data.samples.targets[setup.data.split["train"]].ravel()).tolist()
    (weights,) = setup.balanced_weights.values()
    assert list(setup.balanced_weights) == ["loss.losses.bce"]
    assert weights == pytest.approx([(background + lung) / (2 * count) for count in (background, lung)])
    assert composed("loss=bce_dice").balanced_weights == {}


def test_balanced_weights_need_every_class():
    said = said_of(*BONE, "loss=bce", "loss.pos_weight=balanced", "dataset.imbalance=0")
    assert said == "loss: balanced weights need every class, and no training image has AFF."


# Mistakes

# The overrides, and the words that the message must hold: the first is how it begins.
MISTAKES: list[tuple[str, list[str]]] = [
    ("train.epochs=abc", ["train.epochs must be an integer >= 1", "'abc'"]),
    ("train.epochs=0", ["train.epochs must be an integer >= 1", "got 0"]),
    ("train.epochs=1.5", ["train.epochs must be an integer >= 1", "got 1.5"]),
    ("train.epochs=true", ["train.epochs must be an integer >= 1", "got True"]),
    ("train.batch_size=0", ["train.batch_size must be an integer >= 1"]),
    ("train.accumulate_steps=[2]", ["train.accumulate_steps must be an integer >= 1", "[2]"]),
    ("train.clip_grad_norm=0", ["train.clip_grad_norm must be a number > 0"]),
    ("train.clip_grad_norm=-1", ["train.clip_grad_norm must be a number > 0", "-1"]),
    ("train.early_stopping=0", ["train.early_stopping must be an integer >= 1"]),
    ("train.precision=16", ["train.precision must be one of auto, 32, bf16", "mean 'bf16'"]),
    ("train.accelerator=cuda", ["train.accelerator must be one of auto, cpu, gpu", "'cuda'"]),
    ("train.deterministic=1", ["train.deterministic must be true or false", "got 1"]),
    ("train.num_workers=-1", ["train.num_workers must be auto or an integer >= 0"]),
    ("train.persistent_workers=yes", ["train.persistent_workers must be true or false", "'yes'"]),
    ("train.limit_batches=0", ["train.limit_batches must be an integer >= 1"]),
    ("train.log_every_steps=0", ["train.log_every_steps must be an integer >= 1"]),
    ("train.pictures=-1", ["train.pictures must be an integer >= 0"]),
    ("train.extend=5", ["train.extend must be", "5"]),
    ("train.explain_images=-1", ["train.explain_images must be an integer >= 0"]),
    ("train.cache_features=yes", ["train.cache_features must be one of auto, always, never", "'yes'"]),
    ("train.cache_dir=null", ["train.cache_dir must be a string", "None"]),
    ("train.cache_gb=0", ["train.cache_gb must be a number > 0", "got 0"]),
    ("seed=-1", ["seed must be an integer >= 0", "-1"]),
    ("overwrite=maybe", ["overwrite must be true or false", "'maybe'"]),
    ("model.base=abc", ["model.base must be an integer >= 1", "'abc'"]),
    ("model.upsample=transpos3", ["model.upsample must be one of", "Did you mean 'transpose3'?"]),
    ("+model.foo=1", ["model", "foo", "conf/model"]),
    ("loss.pooling=imag", ["loss.pooling must be one of image, batch", "Did you mean 'image'?"]),
    ("+loss.foo=1", ["loss", "foo"]),
    ("loss=bce_dice loss.losses.dice.smooth=-1", ["loss.losses.dice.smooth must be a number >= 0"]),
    ("loss=cross_entropy loss.weights=[1.0]", ["loss.weights must have one number per class, 2, got 1"]),
    ("optimizer.lr=-1", ["optimizer", "Invalid learning rate: -1"]),
    ("optimizer.lr=fast", ["optimizer.lr=fast: text where torch.optim.Adam compares numbers"]),
    ("optimizer.betas=[0.9,1.5]", ["optimizer", "Invalid beta parameter"]),
    ("+optimizer.foo=1", ["optimizer", "foo", "conf/optimizer"]),
    ("+scheduler.foo=1", ["scheduler.foo: nothing reads this key"]),
    ("+scheduler.rule.foo=1", ["scheduler", "foo", "conf/scheduler"]),
    ("scheduler.every=foo", ["scheduler.every must be one of step, epoch", "'foo'"]),
    ("scheduler=plateau scheduler.monitor=val/los", ["scheduler.monitor must be one of", "Did you mean 'val/loss'?"]),
    ("scheduler=plateau scheduler.monitor=null", ["scheduler.monitor"]),
    ("scheduler=plateau scheduler.every=step", ["scheduler.every", "epoch"]),
    ("scheduler=cosine scheduler.every=epoch scheduler.monitor=val/loss", ["scheduler.monitor"]),
    ("scheduler=cosine scheduler.monitor=val/loss", ["scheduler.monitor"]),
    ("metric.monitor=val/dicee", ["metric.monitor must be one of", "Did you mean 'val/dice'?"]),
    ("+metric.mode=max", ["metric.mode: nothing reads this key"]),
    ("scheduler=plateau scheduler.monitor=val/dice", ["scheduler.rule.mode=min", "val/dice", "mode=max"]),
    ("scheduler=plateau scheduler.rule.mode=max", ["scheduler.rule.mode=max", "val/loss", "mode=min"]),
    (
        "+metric.scores.area={_target_:torchmetrics.SumMetric}",
        ["metric.scores: area: SumMetric must say which way is better", "higher_is_better: True or False"],
    ),
    ("+metric.foo=1", ["metric.foo: nothing reads this key"]),
    ("metric.scores.dice.num_classes=1", ["metric.scores.dice.num_classes must be an integer >= 2"]),
    ("dataset.channels=2", ["dataset.channels must be 1 or 3", "2"]),
    ("dataset.image_size_px=abc", ["dataset.image_size_px must be an integer", "'abc'"]),
    ("dataset.normalization=imagenet", ["dataset.normalization=imagenet is for 3 channels", "dataset.channels=3"]),
    ("dataset.normalization=imagnet", ["dataset.normalization must be one of", "Did you mean 'imagenet'?"]),
    ("dataset.positive=lungs", ["dataset.positive must be one of background, lung", "Did you mean 'lung'?"]),
    ("+dataset.foo=1", ["dataset", "foo"]),
    ("~dataset.channels", ["dataset.channels"]),
    ("dataset.split=kfold", ["dataset.split"]),
    ("+dataset.split.foo=1", ["dataset.split.foo"]),
    ("~dataset.split.fold", ["dataset.split.fold"]),
    (
        "dataset.split.kind=fold",
        ["dataset.split.kind must be one of auto, given, holdout", "Did you mean 'kfold'?"],
    ),
    ("dataset.split.kind=given", ["dataset.split.kind=given", "holdout"]),
    ("dataset.split.kind=kfold dataset.split.fold=9", ["dataset.split.fold must be below num_folds=5"]),
    ("dataset.split.val_fraction=0", ["dataset.split: val_fraction", "images in every split"]),
    ("dataset.split.val_fraction=abc", ["dataset.split.val_fraction must be a number in [0, 1]"]),
    ("dataset.split.group_regex=5", ["dataset.split.group_regex"]),
    ("dataset.split.group_regex=patient", ["dataset.split.group_regex 'patient' does not match the image"]),
    ("dataset.num_images=1", ["dataset.split: a single image cannot make two splits"]),
    ("dataset=lungs", ["dataset.root", "dataset.root=…"]),
    ("dataset=lungs dataset.root=/nowhere", ["/nowhere: no such folder", "dataset.root"]),
    ("dataset=image_folder model=vgg16 model.base=2", ["dataset.root"]),
    ("model=vgg16", ["model=vgg16 gives one label per image", "dataset=phantom_chest has masks", "Try model=unet"]),
    ("dataset=phantom_bone", ["model=unet gives", "dataset=phantom_bone has one class per image", "Try model=vgg16"]),
    ("dataset=phantom_bone model=vgg16 dataset.image_size_px=16", ["model.image_size_px must be an integer >= 32"]),
    ("model.out_channels=3", ["model=unet gives an output of shape (2, 3, 32, 32)", "needs (2, 1, 32, 32)"]),
    ("model.in_channels=3", ["model=unet", "channels"]),
    ("derived.out_channels=7", ["derived.out_channels"]),
    ("augmentation=light +augmentation.foo=1", ["augmentation", "foo"]),
    ("augmentation=light +augmentation.transforms.affine.rotat=5", ["augmentation.transforms.affine", "rotat"]),
    ("augmentation=light augmentation.transforms.affine.rotate=abc", ["augmentation.transforms.affine", "rotate"]),
    ("augmentation=light augmentation.transforms.flip=null", ["augmentation.transforms"]),
    ("model._target_=runcard.models.unt.UNet", ["model", "runcard.models.unt.UNet"]),
    ("+foo=1", ["foo: nothing reads this key"]),
    ("+train.foo=1", ["train.foo: nothing reads this key"]),
    ("+train.epoch=1", ["train.epoch: nothing reads this key", "Did you mean 'epochs'?"]),
    ("~train.epochs", ["train.epochs: this key is needed"]),
    ("~seed", ["seed: this key is needed"]),
]


def said_of(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        composed(*overrides, num_images=8)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Argument:UserWarning")
@pytest.mark.parametrize(("overrides", "words"), MISTAKES, ids=[overrides for overrides, _ in MISTAKES])
def test_mistake_gives_a_message_of_at_most_four_lines(overrides, words):
    said = said_of(*overrides.split())
    assert said.startswith(words[0])
    assert all(word in said for word in words)
    assert 1 <= len(said.splitlines()) <= 4


def test_bce_with_three_classes_names_loss_classes_and_fitting_losses(three_classes):
    said = said_of(
        "loss=bce", "dataset=lungs", f"dataset.root={three_classes}", "dataset.classes=[background, lung, heart]"
    )
    assert said == (
        "loss=bce cannot take 3 classes (background, lung, heart), a logit each: logits must have one channel for "
        "binary cross-entropy, got 3. Try loss=cross_entropy or loss=dice."
    )


def test_more_classes_in_a_mask_than_the_config_names_are_reported_with_the_file(three_classes):
    *lines, way = said_of("dataset=lungs", f"dataset.root={three_classes}").splitlines()
    assert len(lines) == 10
    assert way == "runcard audit lists all faults, also those of the checks that follow.", "no mask would be left"
    assert lines[0].startswith(f"{three_classes / 'Mask' / 'p0_0.png'}: not a mask: ")


def test_one_class_is_too_few(labelled):
    said = said_of(
        *("dataset=image_folder", f"dataset.root={labelled}", "dataset.classes=[AFF]", "model=vgg16", "model.base=2")
    )
    assert said.startswith("dataset.classes: at least two classes are needed, got ['AFF']")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_reported():
    said = said_of("train.accelerator=gpu")
    assert said.startswith("train.accelerator=gpu: no GPU was found")
    assert "train.accelerator=auto or cpu" in said


@pytest.mark.parametrize("overrides", ["dataset.positive=lungs", "model=vgg16"])
def test_a_mistake_leaves_no_folder(overrides, run_config, tmp_path):
    with pytest.raises(UserError):
        run_config("run", *TINY, *overrides.split())
    assert list(tmp_path.iterdir()) == []
