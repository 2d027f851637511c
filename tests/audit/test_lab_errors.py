"""The twelve silent errors of the lab's solutions (LAB.md 5), rebuilt: each is reported by name, or cannot be made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, build_setup, compose_config
from corpus import CONFIGS, audited, copy, copy_all, leave_out_costly, link, resized, shuffle_masks, write_clean
from folders import write_run
from hydra.errors import HydraException
from torch import nn

from runcard.compare.analysis import ask_pairs, find
from runcard.compare.confounds import factors, group_arms, incomparable
from runcard.data.loaders import make_loaders
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.errors import UserError
from runcard.experiment import setup as parts
from runcard.explain.regions import markers
from runcard.explain.shortcut_probe import probe
from runcard.metrics.segmentation import Dice, PixelAccuracy
from runcard.models.unet import UNet
from runcard.runs.reader import find_runs


class ImageOnly:
    """An augmentation that mirrors the image and leaves its mask, as the solutions' generators did."""

    is_identity = False

    def __init__(self, transforms: dict[str, object]) -> None:
        self.transforms = transforms

    def __call__(self, image, mask, seed):
        return (np.ascontiguousarray(image[:, ::-1]), mask) if seed % 2 else (image, mask)


class Swallowing(UNet):
    """A network that takes use_batch_norm and does nothing with it."""

    def __init__(self, in_channels: int, out_channels: int, use_batch_norm: bool, base: int) -> None:
        super().__init__(in_channels, out_channels, base=base, depth=2, batchnorm=False)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    write_clean(root)
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_costly(monkeypatch)


@pytest.fixture
def broken(clean, tmp_path):
    """Returns a function that copies a clean folder, damages it and returns it."""

    def damaged(name: str, damage) -> Path:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(clean / name, tmp_path / "data")
        damage(tmp_path / "data")
        return tmp_path / "data"

    return damaged


def reported(folder: Path, kind: str) -> dict[str, str]:
    """Returns the checks that find something in a folder, with their level."""
    return {finding.check: finding.level for finding in audited(folder, CONFIGS[kind])}


def recorded(run: Path) -> dict[str, dict[str, object]]:
    """Returns what the audit found before a run, by check."""
    return {finding["check"]: finding for finding in json.loads((run / "run.json").read_text())["audit"]}


def weights(*overrides: str) -> dict[str, torch.Tensor]:
    return build_setup(compose_config(*TINY, *overrides), {}).model.state_dict()


def test_1_image_augmented_and_mask_not(run_config, tmp_path):
    with pytest.raises(UserError, match="augmentation_mask: image and mask are transformed differently"):
        run_config("a", *TINY, "augmentation._target_=test_lab_errors.ImageOnly", "trust=[test_lab_errors]")
    assert not (tmp_path / "a").exists()


def test_1_validation_augmented(run_config, monkeypatch, tmp_path):

    def careless(plain, augmented, split, train, seed, device):
        return make_loaders(augmented, augmented, split, train, seed, device)

    monkeypatch.setattr(parts, "make_loaders", careless)
    with pytest.raises(UserError, match="validation_augmented: validation images are not as they are on disk"):
        run_config("a", *TINY, "augmentation=light")
    assert not (tmp_path / "a").exists()


def test_1_no_key_augments_validation():
    built = build_setup(compose_config(*TINY, "augmentation=strong"), {})
    assert built.loaders.train.dataset.augment is not None
    assert built.loaders.val.dataset.augment is built.loaders.train_eval.dataset.augment is None
    with pytest.raises(UserError, match="val_augmentation"):
        build_setup(compose_config(*TINY, "+val_augmentation=strong"), {})


@pytest.mark.parametrize("damage", [copy_all("train", "validation"), link("train", "validation")], ids=["copy", "link"])
def test_2_validation_reads_the_training_folder(damage, broken, run_config, tmp_path):
    folder = broken("parts", damage)
    tiny = [override for override in TINY if "num_images" not in override]
    with pytest.raises(UserError, match=r"duplicates_across: .* in two splits"):
        run_config(
            "a", "dataset=image_folder", f"dataset.root={folder}", "model=vgg16", "model.base=2", *tiny[2:], tiny[0]
        )
    assert not (tmp_path / "a").exists()


def test_3_numbers_of_another_run(tmp_path):
    write_run(tmp_path / "a", seed=1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    content = json.loads((tmp_path / "b" / "run.json").read_text())
    content["config"]["seed"] = 2
    (tmp_path / "b" / "run.json").write_text(json.dumps(content))
    arms, left_out = group_arms(find_runs([str(tmp_path)]).runs)
    assert [len(arm.runs) for arm in arms] == [1]
    assert "all values are those of" in left_out[0]


def test_4_a_key_that_the_config_does_not_have():
    with pytest.raises(HydraException, match="use_batch_norm"):
        compose_config("model.use_batch_norm=true")
    with pytest.raises(UserError, match=r"no such option of .*UNet\. Did you mean 'batchnorm'"):
        build_setup(compose_config(*TINY, "+model.use_batch_norm=true"), {})


def test_4_a_key_of_the_augmentation_that_changes_nothing(run_config):
    run = run_config("a", *TINY, "train.epochs=1", "augmentation=light", "augmentation.transforms.flip.p=0")
    assert recorded(run)["no_op_parameter"]["places"] == ["augmentation.transforms.flip.p"]


def test_4_a_key_that_the_model_swallows(run_config):
    swallowing = (
        "trust=[test_lab_errors]",
        "~model",
        "+model._target_=test_lab_errors.Swallowing",
        "+model.use_batch_norm=true",
        "+model.base=4",
    )
    channels = ("+model.in_channels=${derived.in_channels}", "+model.out_channels=${derived.out_channels}")
    run = run_config("a", *(o for o in TINY if not o.startswith("model")), "train.epochs=1", *swallowing, *channels)
    assert "model.use_batch_norm=true: no batch norm was built" in recorded(run)["ignored_model_key"]["what"]


def test_5_zip_of_two_unsorted_listings(broken, monkeypatch):
    monkeypatch.undo()
    folder = broken("pairs", shuffle_masks(np.random.default_rng(1).permutation))
    assert reported(folder, "pairs")["mask_misfit"] == "error"


def test_6_two_sides_of_a_comparison_on_other_images(tmp_path):
    names = [f"film_{i}" for i in range(36)]
    write_run(tmp_path / "a", ids=names[:12], train_ids=names[12:])
    write_run(tmp_path / "b", ids=names[12:24], train_ids=[*names[:12], *names[24:]], config={"model.base": 16})
    arms, _ = group_arms(find_runs([str(tmp_path)]).runs)
    assert incomparable(*arms, "dice") == ["another split: they were not measured on the same images"]
    splits = [build_setup(compose_config(*TINY, f"seed={seed}"), {}).data.split for seed in (0, 1)]
    assert splits[0] == splits[1]


def test_7_a_loss_that_is_none():
    for wrong in ("loss=dicee", "metrics=1"):
        with pytest.raises(HydraException):
            compose_config(wrong)
    with pytest.raises(UserError, match=r"metrics: nothing reads this key\. Did you mean 'metric'"):
        build_setup(compose_config(*TINY, "+metrics=1"), {})


def test_7_a_dice_cell_that_still_uses_bce(tmp_path):
    dice = {"loss._target_": "runcard.losses.dice.DiceLoss"}
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", seed=seed)
        write_run(tmp_path / f"b{seed}", seed=seed, config=dice)
    arms, left_out = group_arms(find_runs([str(tmp_path)]).runs)
    findings = find(ask_pairs(arms, None, None, None), arms, left_out=left_out, command="", metric=None)
    sentences = [answer.verdict.sentence for answer in findings.answers]
    assert ["both arms give the same value of every image" in sentence for sentence in sentences] == [True]


def test_8_a_run_never_goes_on_from_another_configs_weights(run_config):
    run_config("a", *TINY, "train.epochs=1", "loss=bce")
    with pytest.raises(UserError, match="holds another run, which differs in loss"):
        run_config("a", *TINY, "train.epochs=1", "loss=dice")
    bce, dice = weights("loss=bce"), weights("loss=dice")
    assert all(torch.equal(bce[name], dice[name]) for name in bce)


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (copy("Image/film_07.png", "Mask/film_07.png", resized), "mask_values"),
        (copy_all("Mask", "Image"), "mask_is_image"),
        (shuffle_masks(lambda number: np.zeros(number, int)), "mask_repeated"),
    ],
    ids=["mask = resize(image)", "the mask for both", "one label array for all"],
)
def test_9_a_mask_that_is_none(damage, check, broken):
    assert reported(broken("pairs", damage), "pairs")[check] == "error"


def test_10_a_confounded_comparison_lists_its_factors(tmp_path):
    write_run(tmp_path / "a", config={"model.base": 8})
    write_run(tmp_path / "b", config={"model.base": 16, "dataset.image_size_px": 224, "dataset.channels": 3}, epochs=30)
    found = {factor.key for factor in factors(*find_runs([str(tmp_path)]).runs)}
    assert found >= {"model.base", "dataset.image_size_px", "dataset.channels", "train.epochs"}


@pytest.mark.parametrize("shortcut", [True, False])
def test_11_a_model_that_reads_markers(shortcut):
    """It looks for printed letters and nothing else; where these go with the class, that is reported."""
    dataset = PhantomBone(80, 64, shortcut=shortcut)
    films = np.stack([dataset[i][0] for i in range(len(dataset))])[..., None]
    targets = np.array(dataset.targets)

    def reads_letters(images: np.ndarray) -> np.ndarray:
        printed = np.array([markers(image).any() for image in images])
        return np.where(printed[:, None], [0.9, 0.1], [0.1, 0.9])

    heat = np.ones(films.shape[:3], np.float32)
    findings = probe(films, targets, reads_letters(films), heat, dataset.classes, reads_letters)
    assert [finding.region for finding in findings if finding.alarm] == ["printed markers"] * shortcut


def test_12_dice_per_image_is_what_masks_are_scored_by():
    """Two images of 100 pixels, of which 2 are foreground: the second prediction misses both."""
    truth = torch.zeros(2, 10, 10, dtype=torch.int64)
    truth[:, 0, :2] = 1
    prediction = truth.clone()
    prediction[1] = 0
    probs = nn.functional.one_hot(prediction, 2).permute(0, 3, 1, 2).float()
    scores = {}
    for name, metric in (("dice", Dice(2)), ("pixel_accuracy", PixelAccuracy(2))):
        metric.update(probs, truth)
        scores[name] = metric.compute().mean().item()
    assert scores == pytest.approx({"dice": 0.5, "pixel_accuracy": 0.99})
    composed = compose_config("dataset=phantom_chest").metric
    assert composed.monitor == "val/dice"
    assert composed.scores.dice._target_.endswith(".Dice")
    assert "accuracy" not in composed.scores
