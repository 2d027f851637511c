"""A run leaves its data as they were, byte for byte; and would say so if it did not."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest
from conftest import TINY

from runcard.data.source import Samples
from runcard.errors import UserError
from runcard.experiment import session
from runcard.experiment.predictions import PredictionFigures

MASKS = (*TINY, "dataset=phantom_chest")
CLASSES = (*(o for o in TINY if not o.startswith("model.")), "dataset=phantom_bone", "loss=bce")
VGG = ("model=vgg16", "model.base=2", "model.head=[8]")
CACHED = ("model=vgg16_pretrained", "model.head=[8]", "train.cache_features=always")
EVERY_FIGURE = ("train.pictures=2", "train.explain_images=4")  # TINY has two epochs


def digest(samples: Samples) -> str:
    return hashlib.sha256(samples.images.tobytes() + samples.targets.tobytes()).hexdigest()


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Samples, str]]:
    """The samples of each run, with their digest before anything was done with them."""
    seen = []
    make_setup = session.make_setup

    def spy(*arguments, **named):
        setup = make_setup(*arguments, **named)
        seen.append((setup.data.samples, digest(setup.data.samples)))
        return setup

    monkeypatch.setattr(session, "make_setup", spy)
    return seen


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "overrides",
    [
        (*MASKS, "augmentation=none"),
        (*MASKS, "augmentation=strong"),
        (*CLASSES, *VGG, "augmentation=none"),
        (*CLASSES, *VGG, "augmentation=strong"),
        (*CLASSES, *CACHED, "augmentation=none", "model.weights=random"),
    ],
)
def test_a_run_with_all_its_figures_leaves_the_samples_as_they_were(run_config, composed, overrides, channels):
    folder = run_config("a", *overrides, *EVERY_FIGURE, f"dataset.channels={channels}", drawn=True)
    [(samples, before)] = composed
    assert (folder / "figures" / "predictions.png").exists()
    assert digest(samples) == before
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    last = json.loads((folder / "run.json").read_text())["last"]["values"]
    assert {name: float(rows[-1][name] or "nan") for name in last} == pytest.approx(last, rel=0, abs=0, nan_ok=True)


def test_decoded_samples_cannot_be_written_to(run_config, composed):
    run_config("a", *MASKS)
    samples, _ = composed[0]
    for array in (samples.images, samples.targets, samples.images[0], samples.targets[0]):
        with pytest.raises(ValueError, match="read-only"):
            array += 1


def test_sample_changed_in_memory_fails_the_run(run_config, monkeypatch):
    def paint(self: PredictionFigures, epoch: int, _: object) -> dict:
        if epoch == 2:  # the last, after it was evaluated
            writable = self.samples.images.base
            assert isinstance(writable, np.ndarray)
            writable[self.val_indices[0]] = 255
        return {}

    monkeypatch.setattr(PredictionFigures, "epoch", paint)
    with pytest.raises(UserError, match=r"evaluated again, do not reproduce metrics.csv: val/loss was") as error:
        run_config("a", *MASKS, "dataset.channels=3")
    assert "changed in memory" in str(error.value)
