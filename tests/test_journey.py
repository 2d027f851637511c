"""The journey of model.base=8: from the command line to everything that a run leaves."""

from __future__ import annotations

import csv
import json

import torch
from conftest import TINY

from runcard.models.unet import UNet
from runcard.training.checkpoint import load_weights, read_weights


def test_key_reaches_every_stage(train, tmp_path):
    done = train(*TINY, "model=unet", "loss=dice", "model.base=8", "run_dir=outputs/journey/a", drawn=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = tmp_path / "outputs" / "journey" / "a"
    assert "val/dice" in done.stdout
    assert str(folder.relative_to(tmp_path)) in done.stdout
    assert "tensorboard --logdir outputs" in done.stdout

    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    expected = {".hydra/config.yaml", ".hydra/overrides.yaml", "run.json", "split.json", "metrics.csv", "per_image.csv"}
    expected |= {"checkpoints/last.ckpt", "checkpoints/best.safetensors"}
    expected |= {"figures/first_batch.png", "figures/curves.png", "figures/predictions.png", "figures/confusion.png"}
    assert expected <= found
    assert not [name for name in found if ".tmp" in name]
    assert len([name for name in found if name.startswith("events.out.tfevents")]) == 1
    assert len([name for name in found if name.startswith("previews/")]) == 4

    assert "model.base=8" in (folder / ".hydra" / "overrides.yaml").read_text()
    record = json.loads((folder / "run.json").read_text())
    assert record["schema"] == 5
    assert record["status"] == "completed"
    assert record["config"]["model"]["base"] == 8
    model = UNet(1, 1, base=8, batchnorm=True)
    assert record["num_parameters"] == sum(p.numel() for p in model.parameters())

    weights, config = read_weights(folder / "checkpoints" / "best.safetensors")
    assert config["model"]["base"] == 8
    assert weights["encoder.0.0.weight"].shape[0] == 8
    load_weights(folder / "checkpoints" / "best.safetensors", model)
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for column in ("lr", "train/loss", "train_eval/dice", "val/loss", "val/dice", "val/bce", "val/soft_dice_loss"):
        assert float(rows[-1][column]) >= 0
    assert float(rows[-1]["images_per_second"]) > 0
    assert record["last"]["values"]["val/dice"] == float(rows[-1]["val/dice"])

    with (folder / "per_image.csv").open() as file:
        per_image = [row for row in csv.DictReader(file) if row["checkpoint"] == "last"]
    split = json.loads((folder / "split.json").read_text())
    assert [row["id"] for row in per_image] == [member["id"] for member in split["val"]]
    mean = sum(float(row["dice"]) for row in per_image) / len(per_image)
    assert abs(mean - record["last"]["values"]["val/dice"]) < 1e-6
