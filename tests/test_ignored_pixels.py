"""Pixels that nobody labelled count nowhere: a run on masks with such a region, against what is computed by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ONE_EPOCH, build_setup, compose_config
from PIL import Image
from torch import nn

from runcard import IGNORED
from runcard.errors import UserError
from runcard.experiment.setup import ExperimentSetup
from runcard.metrics.surface import surface_distances
from runcard.runs.folders import read_metrics
from runcard.training.checkpoint import load_weights
from runcard.training.evaluation import evaluate

SIZE_PX = 32  # of the files too: no mask is resized
TRAIN = ("dataset=image_mask", "model.base=2", "model.depth=2", "loss=bce_dice", "metric=masks_surface", *ONE_EPOCH)
TRAIN += ("train.batch_size=16", "train.pictures=0", "dataset.split.val_fraction=0.4")  # one step
INDICES = (0, 1, 255)  # greys of background, foreground and what nobody labelled


def write_pairs(root: Path, greys: tuple[int, int, int], ignored: bool = True) -> str:
    """Write seven discs whose rims and lower right corners nobody labelled; return the override that names them."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIZE_PX, SIZE_PX))
    for i in range(7):
        distance = np.hypot(rows - rng.uniform(12, 20), columns - rng.uniform(12, 20))
        classes = (distance < 8).astype(int)
        image = 90 * classes + rng.integers(0, 120, classes.shape)
        if ignored:
            classes[(np.abs(distance - 8) < 1.5) | (rows + columns > 46)] = 2
        for folder, pixels in (("Image", image), ("Mask", np.array(greys)[classes])):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{i}.png")
    return f"dataset.root={root}"


def by_hand(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Compute loss and metrics of one image's logits (H, W), in float64, on its labelled pixels."""
    labelled = target != IGNORED
    p, t = 1 / (1 + np.exp(-logits[labelled].astype(np.float64))), target[labelled]
    found = p > 0.5
    bce = -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))
    distances = np.concatenate(surface_distances((logits > 0) & labelled, (target == 1) & labelled))
    return {
        "loss": bce + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1),
        "bce": bce,
        "dice": 2 * (found & (t == 1)).sum() / (found.sum() + t.sum()),
        "specificity": (~found & (t == 0)).sum() / (t == 0).sum(),
        "pixel_accuracy": np.mean(found == t),
        "asd": distances.mean(),
    }


def logits_of(model: nn.Module, images: list[torch.Tensor]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.stack(images))[:, 0].numpy()


def image_of(setup: ExperimentSetup, i: int) -> torch.Tensor:
    """Return sample i as the model takes it, (C, H, W)."""
    return setup.loaders.val.prepare(setup.images[0, i]).images[0]


def test_a_run_is_what_is_computed_by_hand(run_config, tmp_path):
    overrides = (*TRAIN, write_pairs(tmp_path / "data", INDICES), "dataset.ignore_value=255")
    folder = run_config("a", *overrides)
    setup = build_setup(compose_config(*overrides))
    targets, split = setup.data.samples.targets, setup.data.split
    assert 0.2 < (targets == IGNORED).mean() < 0.5

    (row,) = read_metrics(folder / "metrics.csv")
    before = logits_of(setup.model.train(), [image_of(setup, i) for i in split["train"]])
    losses = [by_hand(logits, targets[i])["loss"] for i, logits in zip(split["train"], before, strict=True)]
    assert row["train/loss"] == pytest.approx(np.mean(losses), rel=1e-5)

    load_weights(folder / "checkpoints" / "best.safetensors", setup.model)
    after = logits_of(setup.model.eval(), [image_of(setup, i) for i in split["val"]])
    with (folder / "per_image.csv").open(newline="") as file:
        recorded = {each["id"]: each for each in csv.DictReader(file) if each["checkpoint"] == "best"}
    for i, logits in zip(split["val"], after, strict=True):
        for name, value in by_hand(logits, targets[i]).items():
            assert float(recorded[setup.data.samples.ids[i]][name]) == pytest.approx(value, rel=1e-4), name


def test_the_prediction_of_an_ignored_pixel_changes_nothing(tmp_path):
    setup = build_setup(compose_config(*TRAIN, write_pairs(tmp_path, INDICES), "dataset.ignore_value=255"))
    ignored = torch.from_numpy(setup.data.samples.targets == IGNORED)

    class Fixed(nn.Module):
        """Predicts random logits and, where a pixel is ignored, the one given."""

        def __init__(self, there: float) -> None:
            super().__init__()
            logits = torch.randn(ignored.shape, generator=torch.Generator().manual_seed(0))
            self.all = iter(logits.masked_fill(ignored, there)[setup.data.split["val"]])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.stack([next(self.all) for _ in images])[:, None]

    values = [evaluate(Fixed(there), setup.loss, setup.metrics, setup.loaders.val).values for there in (-9.0, 9.0)]
    assert values[0] == values[1]


def setup_of(tmp_path: Path, *overrides: str):
    root = write_pairs(tmp_path, INDICES)
    return build_setup(compose_config(*TRAIN, root, "dataset.ignore_value=255", "metric=masks", *overrides))


def test_where_all_is_labelled_losses_and_metrics_are_as_ever(tmp_path):
    root = write_pairs(tmp_path, INDICES, ignored=False)
    setup = build_setup(compose_config(*TRAIN, root, "dataset.ignore_value=255"))
    assert {part.ignore_index for part in (*setup.loss.losses.values(), *setup.metrics.values())} == {None}


def test_balanced_weights_count_labelled_pixels(tmp_path):
    setup = setup_of(tmp_path, "loss.losses.bce.pos_weight=balanced")
    background, foreground = np.bincount(setup.data.samples.targets[setup.data.split["train"]].ravel())[:2]
    assert setup.loss.losses["bce"].pos_weight.item() == pytest.approx(background / foreground)


OF_TORCH = ("~loss", "+loss._target_=torch.nn.CrossEntropyLoss")
KAPPA = "+metric.scores.kappa={_target_:torchmetrics.classification.MulticlassCohenKappa,num_classes:2}"


def test_objects_of_libraries_leave_out_what_their_ignore_index_says(tmp_path):
    setup = setup_of(tmp_path, *OF_TORCH, "+loss.ignore_index=255", KAPPA)
    val = evaluate(setup.network, setup.loss, setup.metrics, setup.loaders.val)
    assert all(np.isfinite(value) for value in val.values.values())
    assert val.values["loss"] == pytest.approx(val.values["bce"], rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (OF_TORCH, "loss"),
        (("+loss.losses.mse={_target_:torch.nn.MSELoss}", "+loss.weights.mse=1"), "loss.losses.mse"),
        (
            ("+metric.scores.f1={_target_:torchmetrics.segmentation.MeanIoU,num_classes:2,input_format:index}",),
            "metric.scores.f1",
        ),
    ],
)
def test_what_cannot_leave_them_out_is_refused(overrides, keys, tmp_path):
    with pytest.raises(UserError) as caught:
        setup_of(tmp_path, *overrides)
    assert str(caught.value).startswith(f"{keys}: cannot leave out the pixels that nobody labelled in the masks.\nUse")
