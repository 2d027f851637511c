"""Explain a classifier by activation maps and the shortcut probe.

A run ends with a panel of maps and the probe's findings; `runcard explain` covers all images of a saved run, or others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from runcard.console import counted, plain_console, print_table
from runcard.data.preprocessing import Normalizer, normalizer
from runcard.data.source import UNKNOWN
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError, check_config_choice
from runcard.explain.cam import GRAD_CAM, activation_maps, last_convolution
from runcard.explain.cam_sheet import Tile, by_class, sheet
from runcard.explain.images import Pictures, read_pictures
from runcard.explain.shortcut_probe import Finding, probe
from runcard.fileio import atomic_write, short_name, write_figure, write_json
from runcard.runs.folders import place_in
from runcard.training.evaluation import Autocast, predict
from runcard.training.memory import limited_layers
from runcard.training.restore import open_run

BATCH_SIZE = 32


@dataclass(frozen=True)
class Classifier:
    """A model with its normalisation, classes and precision: from pixels to probabilities."""

    model: nn.Module
    normalization: Normalizer
    classes: list[str]
    autocast: Autocast

    def batches(self, images: np.ndarray) -> Iterator[Tensor]:
        """Yield images (N, H, W, C) uint8 as normalised batches (BATCH_SIZE or fewer, C, H, W) float32."""
        for start in range(0, len(images), BATCH_SIZE):
            yield torch.from_numpy(self.normalization(images[start : start + BATCH_SIZE]))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Predict probabilities (N, K, …) float32 of images (N, H, W, C) uint8."""
        return torch.cat(list(predict(self.model, self.batches(images), self.autocast))).cpu().numpy()


def explain(
    classifier: Classifier, pictures: Pictures, method: str = GRAD_CAM, layer: str | None = None
) -> tuple[list[Tile], list[Finding]]:
    """Compute the maps of the predicted classes, and run the shortcut probe, unless the class of an image is unknown.

    Raises UserError for an unknown method or layer.
    """
    images, targets, ids, groups = pictures
    probs = classifier(images)
    predicted = torch.from_numpy(probs.argmax(axis=1))
    batches = zip(classifier.batches(images), torch.split(predicted, BATCH_SIZE), strict=True)
    maps = np.concatenate([activation_maps(classifier.model, *batch, method, layer) for batch in batches])
    classes = classifier.classes
    known = bool((targets != UNKNOWN).all())
    findings = probe(images, targets, probs, maps, classes, classifier, groups) if known else []
    tiles = [
        Tile(
            name, image, heat, None if target == UNKNOWN else classes[target], classes[prob.argmax()], float(prob.max())
        )
        for name, image, heat, target, prob in zip(ids, images, maps, targets.tolist(), probs, strict=True)
    ]
    return tiles, findings


def explain_run(
    folder: Path,
    paths: Sequence[Path],
    split: str,
    method: str,
    layer: str | None,
    root: Path | None,
    trust: Sequence[str] = (),
) -> None:
    """Draw the maps of a saved run's images, or of those at paths, into <folder>/explain/, and print the probe.

    A path is an image or a folder. The classes of a folder are known if it has the layout of the run's data.
    """
    console = plain_console()
    check_config_choice("--split", split, ("train", "val", "test"))
    run = open_run(folder, trust)
    dataset, classes = run.dataset(root), run.config["derived"]["classes"]
    classifier = Classifier(run.model, normalizer(dataset.normalization), classes, run.autocast)
    black = np.zeros((1, dataset.image_size_px, dataset.image_size_px, dataset.channels), np.uint8)
    with limited_layers(run.model):
        gives_classes = classifier(black).ndim == 2
    if not gives_classes:
        raise UserError("activation maps are for models that give one class per image; this one gives masks.")
    if paths:
        pictures = read_pictures(dataset, classes, paths, console, trust)
    else:
        samples, indices, groups = run.images(root, split)
        ids = [samples.ids[i] for i in indices]
        pictures = Pictures(samples.images[indices], samples.targets[indices], ids, groups)
        seen = data_fingerprint({split: indices}, samples.ids, samples.digests)
        if seen[split] != run.record["data"][split]:
            console.print("warning: these are not the bytes that the run saw.", style="yellow")
    layer = layer or last_convolution(run.model)
    tiles, findings = explain(classifier, pictures, method, layer)
    name = f"{method.rpartition('.')[2]}-{layer}-{'images' if paths else split}".replace("/", "_")
    target = place_in(folder, f"explain/{short_name(name)}")  # where older sheets are removed
    _write(tiles, findings, target)
    console.print(f"{counted(len(pictures.ids), 'image')}, {method} of {layer}", style="bold")
    print_findings(console, findings)
    if split == "train" and not paths:
        console.print("The network was trained on these images: of others it may be less sure.", style="yellow")
    console.print(f"sheets and maps   {target}")


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print the probe's findings as a table, and a sentence about each."""
    if not findings:
        return
    classes = list(findings[0].heat)
    columns = ["region", "images with it", *(f"heat in it, {name} (area)" for name in classes)]
    columns += ["accuracy", "painted over", "alone"]
    rows = [
        [f.region, f"{f.num_showing} of {f.num_images}"]
        + [f"{_share(f.heat[name])} ({_share(f.area[name])})" for name in classes]
        + [f"{value:.2f}" for value in (f.accuracy, f.accuracy_masked, f.accuracy_alone)]
        for f in findings
    ]
    print_table(console, columns, rows)
    for finding in findings:
        console.print(finding.sentence, style="bold red" if finding.alarm else "")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _write(tiles: Sequence[Tile], findings: Sequence[Finding], folder: Path) -> None:
    """Write a sheet per class and verdict, maps.npz and explanation.json; delete earlier sheets."""
    for old in folder.glob("*.png"):
        old.unlink()
    for (name, verdict), shown in by_class(tiles).items():
        write_figure(
            folder / short_name(f"{name}_{verdict}".replace("/", "_"), ".png"), sheet(shown, f"{name}: {verdict}")
        )
    with atomic_write(folder / "maps.npz") as temporary:
        np.savez_compressed(temporary, ids=[t.id for t in tiles], maps=np.stack([t.heat for t in tiles]))
    rows = [{"id": t.id, "true": t.true, "predicted": t.predicted, "probability": t.probability} for t in tiles]
    write_json(folder / "explanation.json", {"images": rows, "shortcut": [each.to_json() for each in findings]})
