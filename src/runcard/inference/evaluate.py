"""The command `runcard evaluate`: trained runs on other labelled images, in folders that compare and report read."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn
from torchmetrics import Metric, MetricCollection

from runcard import IGNORED
from runcard.config.compose import compose_config, parse_overrides, replaced
from runcard.config.instantiate import build, build_all
from runcard.config.schema import DatasetConfig, LossConfig, check_recorded, parse_config, parse_recorded, parse_section
from runcard.console import counted, show_progress
from runcard.data.datamodule import open_source, own_split, read_samples
from runcard.data.loaders import BatchLoader, SampleDataset
from runcard.data.preprocessing import normalizer, read_sample, restore_size
from runcard.data.source import Samples, Source, name_of
from runcard.data.splits import data_fingerprint, name_groups
from runcard.errors import UserError, join_first
from runcard.figures.charts import reliability_figure, thresholds_figure
from runcard.figures.predictions import Example, class_figure, mask_figure
from runcard.fileio import sha256, write_figure
from runcard.runs.folders import BEST, file_of, read_metadata, run_folders
from runcard.runs.looks import Look
from runcard.runs.reader import read_run
from runcard.runs.run import Run
from runcard.runs.writer import log_evaluation, write_evaluation
from runcard.stats.calibration import Calibration
from runcard.training.evaluation import Autocast, check_units, evaluate, leave_out_ignored, predict, rows_per_image
from runcard.training.restore import SavedRun, load_epoch, open_run
from runcard.training.types import BalancedLoss, Evaluation

OUTPUT = Path("outputs") / "evaluations"
PREPROCESSING = ("image_size_px", "resize", "channels", "normalization", "window")  # of the run
MAX_WORST = 8  # images shown
MAX_NAMED = 5  # images in a message


@dataclass(frozen=True)
class LabelledImages:
    """The images that one run is evaluated on, as its training would have seen them."""

    name: str  # of the data, for people
    source: Source
    samples: Samples  # all that the source has, with the run's class indices
    class_indices: np.ndarray  # the run's index of each class of the source; of IGNORED, itself
    chosen: list[int]  # the positions in samples that are evaluated
    groups: list[str]  # of all samples

    @property
    def members(self) -> list[dict[str, str]]:
        """The chosen images as split.json has them."""
        ids, digests = self.samples.ids, self.samples.digests
        return [{"id": ids[i], "group": self.groups[i], "sha256": digests[i]} for i in self.chosen]

    def are_of(self, run: Run, part: str) -> bool:
        """Whether these images, by the bytes of their files, are among those of a part of a run's split."""
        return {member["sha256"] for member in self.members} <= _digests(run, part)


def evaluate_runs(
    trained: Sequence[Run],
    overrides: Sequence[str],
    split: str | None,
    output: Path | None,
    trust: Sequence[str],
    console: Console,
    unsealed: Look | None = None,
) -> tuple[Path, list[Run]]:
    """Evaluate trained runs on the images that overrides name (dataset=… dataset.root=…), by default their own.

    Return the folder of the evaluation, and the runs as they are on these images.

    split keeps only the images of one part: of the data's own train, val or test folders; of the run's own images,
    where nothing is overridden, that part of split.json (by default test where there is one, else val). A run that is
    in the output folder already is not evaluated again. unsealed is the look that allows a sealed test split.

    Raises UserError for classes that a run does not know, and for images that a run was trained on or that are sealed.
    """
    cv2.setNumThreads(0)
    place, evaluated, fingerprint = output, [], ""
    read: dict[str, Samples] = {}  # by the config that they were read with: runs mostly share it
    for number, own in enumerate(trained):
        run = open_run(own.folder, trust)
        check_recorded({key: run.config[key] for key in ("loss", "metric")}, trust, str(own.folder))
        images = _images(run, own, overrides, split, read)
        if bool(own.images().targets) == images.samples.has_masks:
            kinds = ("masks", "one class for each image")
            has, needs = kinds if images.samples.has_masks else kinds[::-1]
            raise UserError(f"{images.name}: has {has}, but {own.folder} predicts {needs}.")
        data = hash_images(images.members)
        _check_seal(own, images, data["hash"], unsealed)
        if fingerprint not in ("", data["hash"]):
            raise UserError(
                f"{own.folder}: its {split or own.split} images are not those of {trained[0].folder}, so the runs "
                "cannot be evaluated together. Name the images: dataset=… dataset.root=…"
            )
        fingerprint = data["hash"]
        place = place or _default_folder(images.name, fingerprint)
        folder = place / _name(own.folder, trained)
        if not _is_done(folder, own, data):
            console.print(f"{number + 1} of {len(trained)}  {own.folder}: {counted(len(images.chosen), 'image')}")
            _evaluate(run, own, images, folder, data, console, unsealed)
        done, reason = read_run(folder)
        if done is None:
            raise UserError(f"{folder}: {reason}. Remove it, or name another folder: -o")
        evaluated.append(done)
    assert place is not None, "there is at least one run"
    return place, evaluated


def _check_seal(own: Run, images: LabelledImages, data_hash: str, unsealed: Look | None) -> None:
    """Raise UserError for images of a run's sealed test split, or with a look, for others than those."""
    if unsealed:
        if data_hash != unsealed.data_hash:
            raise UserError(f"{own.folder}: its test images are not the files any more that its split.json sealed.")
        return
    sealed = _digests(own, "test") if own.is_sealed else set()
    if num_seen := sum(member["sha256"] in sealed for member in images.members):
        raise UserError(
            f"{own.folder}: its sealed test split has {num_seen} of these {counted(len(images.chosen), 'image')}.\n"
            "runcard unseal STUDY evaluates these, and counts the look. Leave them out, or choose --split=val."
        )


def _name(folder: Path, runs: Sequence[Run]) -> str:
    """Name a run's evaluation by the part of its folder's path that the runs do not share."""
    shared = os.path.commonpath([run.folder.absolute().parent for run in runs])
    return "_".join(folder.absolute().relative_to(shared).parts)


def _default_folder(name: str, data_hash: str) -> Path:
    """Return the folder for data of this name; with a part of their hash where other data of the name were there."""
    there = set()
    for folder in run_folders(OUTPUT / name):
        with suppress(ValueError, LookupError, TypeError):
            there.add(read_metadata(folder)["data"]["hash"])
    return OUTPUT / (name if there <= {data_hash} else f"{name}_{data_hash[:6]}")


def _is_done(folder: Path, own: Run, data: dict[str, str]) -> bool:
    """Whether folder holds this run on these images. Raise UserError where it holds something else."""
    if not (folder / "run.json").exists():
        return False
    done, _ = read_run(folder)
    made = done.metadata.get("evaluation") if done else None
    if done is None or not made or made["weights_sha256"] != hash_weights(own.folder):
        raise UserError(f"{folder}: is not the evaluation of {own.folder}. Name another folder: -o")
    if done.metadata["data"]["hash"] != data["hash"]:
        raise UserError(f"{folder}: holds this run on other images. Name another folder: -o")
    return True


def hash_images(members: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Hash names and bytes of evaluated images, given as split.json has them."""
    ids, digests = ([member[key] for member in members] for key in ("id", "sha256"))
    return data_fingerprint({"test": range(len(ids))}, ids, digests)


def hash_weights(folder: Path) -> str:
    """Compute the SHA-256 of the best weights of a run."""
    return sha256(file_of(folder, BEST))


def _images(
    run: SavedRun, own: Run, overrides: Sequence[str], split: str | None, read: dict[str, Samples]
) -> LabelledImages:
    """Read the images to evaluate, with the run's preprocessing; read keeps what was read, by its config."""
    dataset, trust, allowed = _dataset(run, overrides) if overrides else (run.dataset(None), run.trust, run.allowed)
    source = open_source(dataset, trust)
    class_indices = _class_indices(source.classes, dataset, run)
    if (key := dataset.model_dump_json()) not in read:
        read[key] = read_samples(source, dataset, allowed)
    samples = read[key]
    name = name_of(source)
    given, patients = own_split(source, samples.positions)
    if overrides:
        if split and split not in (given or ()):
            raise UserError(f"--split={split}: the data have no folder of that part.")
        chosen = [i for i in range(len(samples.ids)) if not (split and given) or given[i] == split]
    else:
        part = split or own.split
        chosen, _ = run.members(samples.ids, part)
        name = f"{name}_{part}"
    groups = name_groups(samples.ids, dataset.split.group_regex, patients)
    trained_on = _digests(own, "train")
    if seen := [samples.ids[i] for i in chosen if samples.digests[i] in trained_on]:
        raise UserError(
            f"{own.folder}: was trained on {join_first(seen, MAX_NAMED)}: {len(seen)} of these {len(chosen)} "
            "images. Evaluate it on images that it has not seen: --split test, or another dataset.root."
        )
    samples = replace(samples, targets=class_indices.astype(samples.targets.dtype)[samples.targets])
    return LabelledImages(name, source, samples, class_indices, chosen, groups)


def _digests(run: Run, part: str) -> set[str]:
    return {member["sha256"] for member in run.split_members[part]}


def _dataset(run: SavedRun, overrides: Sequence[str]) -> tuple[DatasetConfig, Sequence[str], Sequence[str]]:
    """Return the config of the data that overrides name, prepared as the run's; what is trusted; what is allowed."""
    own, values = run.config["dataset"], parse_overrides(overrides)
    for key in values:
        if key not in ("dataset", "trust", "audit.allow") and not key.startswith("dataset."):
            raise UserError(f"{key}: an evaluation takes dataset keys only; all else is the run's.")
        if key.removeprefix("dataset.") in PREPROCESSING:
            raise UserError(f"{key}: images are prepared as the run's training did. Leave it out.")
    if "dataset" in values:
        config, _ = parse_config(compose_config(overrides))
        named, trust = config.dataset.model_dump(), [*config.trust, *run.trust]
    else:
        trust = [*run.trust, *values.get("trust", [])]
        of_dataset = {key: value for key, value in values.items() if key.startswith("dataset.")}
        named = replaced({"dataset": own}, of_dataset)["dataset"]
    kept = {key: own[key] for key in PREPROCESSING if key in own and key in named}
    return parse_section(DatasetConfig, named | kept, "dataset."), trust, values.get("audit.allow", ())


def _class_indices(classes: Sequence[str], dataset: DatasetConfig, run: SavedRun) -> np.ndarray:
    """Return the run's index of each class of the data, and IGNORED at its own place.

    Raise UserError for a class that the run does not know.
    """
    known: list[str] = run.config["derived"]["classes"]
    if unknown := [name for name in classes if name not in known]:
        what = f"the data have the class {', '.join(unknown)}, but {run.folder} predicts {', '.join(known)}."
        same = len(classes) == len(known) and "classes" in dataset.node
        names = [name if re.fullmatch(r"[\w.-]+", name) else json.dumps(name, ensure_ascii=False) for name in known]
        fix = shlex.quote(f"dataset.classes=[{','.join(names)}]")
        fix = fix if same else "name the folders as the run's"
        raise UserError(f"dataset: {what}\nWhere they mean the same: {fix}")
    return np.array([*(known.index(name) for name in classes), *range(len(classes), IGNORED + 1)])


def _evaluate(
    run: SavedRun,
    own: Run,
    images: LabelledImages,
    folder: Path,
    data: dict[str, str],
    console: Console,
    unsealed: Look | None,
) -> None:
    """Evaluate one run with the last and the best weights, and write its folder; run.json comes last."""
    measured = _Measured(run, images)
    evaluations: dict[str, Evaluation] = {}
    for weights in ("last", "best"):
        if not load_epoch(run.model, own, weights):
            raise UserError(
                f"{own.folder}/checkpoints: has no last.ckpt (record=lean and runcard prune remove it), and an "
                "evaluation measures the last epoch too. Train the run again with record=full."
            )
        evaluations[weights] = measured.evaluate()
    calibration, at_size = measured.count(own, console)
    samples, classes = images.samples, run.config["derived"]["classes"]
    rows = [
        row
        for checkpoint, each in evaluations.items()
        for row in rows_per_image("test", checkpoint, each, samples.ids, images.groups, samples.targets, classes)
    ]
    worst = measured.worst(evaluations["best"], own.monitored, own.mode(own.monitored))
    figure = mask_figure(worst) if samples.has_masks else class_figure(worst, classes)
    write_figure(folder / "figures" / "worst.png", figure)
    for name, figure in _charts(calibration, classes, samples.has_masks):
        write_figure(folder / "figures" / f"{name}.png", figure)
    values = {
        checkpoint: own.metadata[checkpoint] | {"values": {f"test/{k}": v for k, v in evaluation.values.items()}}
        for checkpoint, evaluation in evaluations.items()
    }
    was_seen = not unsealed and any(each["data_hash"] == data["hash"] for each in own.evaluations)
    if not was_seen and not images.are_of(own, "val"):  # at those training has looked
        try:
            log_evaluation(own, folder, images.name, len(images.chosen), data["hash"])
        except UserError as error:  # a run folder that is read-only
            if unsealed:
                raise
            console.print(f"warning: this look is not logged: {error}", style="yellow")
    evaluation: dict[str, Any] = {
        "run": own.folder.as_posix(),
        "weights_sha256": hash_weights(own.folder),
        "data": images.name,
        "calibration": {"ece": calibration.ece, "brier": calibration.brier},
        "at_image_size": at_size,
        "own_images": images.are_of(own, own.split),
    }
    if unsealed:
        evaluation |= {"look": unsealed.look, "study": unsealed.study}
    units = check_units(measured.metrics, samples)
    write_evaluation(own, folder, images.members, rows, **values, data=data, units=units, evaluation=evaluation)


def _charts(calibration: Calibration, classes: Sequence[str], has_masks: bool) -> Iterator[tuple[str, Figure]]:
    """Yield the reliability diagram, and of two classes what other thresholds would give."""
    is_binary, positive = len(classes) == 2, classes[calibration.positive]
    counted = "pixels" if has_masks else "images"
    title = f"{counted}: ECE {calibration.ece:.3f}, Brier score {calibration.brier:.3f}"
    axis = f"probability of {positive}" if is_binary else "probability of the predicted class"
    yield "reliability", reliability_figure(*calibration.reliability(), title, axis)
    if is_binary:
        sensitivity, specificity = calibration.rates_by_threshold()
        curves = {"sensitivity": sensitivity, "specificity": specificity}
        if has_masks:
            curves["Dice, mean over the images"] = calibration.dice_by_threshold().mean(axis=0)
        yield "thresholds", thresholds_figure(curves, f"{positive}, by threshold ({counted})")


def predicted_examples(
    model: nn.Module, loader: BatchLoader, samples: Samples, autocast: Autocast = nullcontext
) -> Iterator[Example]:
    """Yield the samples of a loader with the model's probabilities for them, titled by id."""
    batches = predict(model, (batch.images for batch in loader), autocast)
    of_images = (probs for batch in batches for probs in batch.cpu().numpy())
    for (_, i), probs in zip(loader.sampler, of_images, strict=True):
        yield Example(samples.ids[i], samples.images[i], np.asarray(samples.targets[i]), probs)


class _Measured:
    """One run's model, loss and metrics on the chosen images."""

    def __init__(self, run: SavedRun, images: LabelledImages) -> None:
        self.run, self.images = run, images
        loss = parse_recorded(LossConfig, run.config["loss"], f"{run.folder}: loss.")
        self.loss = _weighed(build("loss", loss.node, run.trust), run.record).to(next(run.model.parameters()).device)
        self.metrics = self._metrics(list(run.config["metric"]["scores"])).to(next(run.model.parameters()).device)
        leave_out_ignored(self.loss, self.metrics, images.samples)
        self.dataset = SampleDataset(images.samples, normalizer(run.config["dataset"]["normalization"]), None, 0)

    def _metrics(self, names: Sequence[str]) -> MetricCollection:
        scores = {name: self.run.config["metric"]["scores"][name] for name in names}
        return MetricCollection(build_all("metric.scores", scores, self.run.trust, Metric, "torchmetrics.Metric"))

    def _batches(self, chosen: Sequence[int]) -> BatchLoader:
        """Return a loader of these samples, in batches as large as the training's: the same sums, to the last bit."""
        size = int(self.run.config["train"]["batch_size"])
        return BatchLoader(self.dataset, size, [(0, i) for i in chosen], next(self.run.model.parameters()).device)

    def evaluate(self) -> Evaluation:
        """Evaluate the model as it is now."""
        return evaluate(self.run.model, self.loss, self.metrics, self._batches(self.images.chosen), self.run.autocast)

    def examples(self, chosen: Sequence[int]) -> Iterator[Example]:
        """Yield these samples with the model's probabilities."""
        return predicted_examples(self.run.model, self._batches(chosen), self.images.samples, self.run.autocast)

    def worst(self, evaluation: Evaluation, metric: str, mode: str) -> list[Example]:
        """Return the images with the worst values of the metric, or of the loss where it has none for an image."""
        name, mode = (metric, mode) if metric in evaluation.per_image else ("loss", "min")
        order = evaluation.per_image[name].argsort(descending=mode == "min", stable=True).tolist()[:MAX_WORST]
        values = [f"{name} {evaluation.per_image[name][i]:.3f}  " for i in order]
        examples = self.examples([evaluation.indices[i] for i in order])
        return [replace(each, title=value + each.title) for value, each in zip(values, examples, strict=True)]

    def count(self, own: Run, console: Console) -> tuple[Calibration, dict[str, float] | None]:
        """Count probabilities for calibration; of masks also compute the monitored metric at the images' own size."""
        num_classes = len(self.run.config["derived"]["classes"])
        positive = self.run.config["derived"]["positive"]
        calibration = Calibration(num_classes, 1 if positive is None else positive)
        metric, scores = own.monitored, self.run.config["metric"]["scores"]
        is_of_pixels = self.images.samples.has_masks and metric in scores and metric not in own.units
        at_size = self._metrics([metric]) if is_of_pixels else None
        if at_size is not None:
            leave_out_ignored(self.loss, at_size, self.images.samples)
        resize = self.run.dataset(None).resize
        examples = zip(self.images.chosen, self.examples(self.images.chosen), strict=True)
        for i, example in show_progress(examples, "calibrating", len(self.images.chosen), console):
            calibration.add(*example.labelled())
            if at_size is not None:
                target = self._at_size(i)
                probs = restore_size(example.probs, target.shape[0], target.shape[1], resize)
                at_size.update(torch.from_numpy(probs)[None], torch.from_numpy(target.astype(np.int64))[None])
        computed = {} if at_size is None else at_size.compute()
        return calibration, {name: float(value.float().mean()) for name, value in computed.items()} or None

    def _at_size(self, i: int) -> np.ndarray:
        """Return a sample's class map (H, W) at the size of its file, with the run's class indices."""
        sample = read_sample(self.images.source, self.images.samples.positions[i])
        return np.asarray(self.images.class_indices[sample.target])


def _weighed(loss: nn.Module, record: dict[str, Any]) -> nn.Module:
    """Give each loss that weighs classes by their frequency the weights of the training."""
    for key, class_weights in record.get("balanced_weights", {}).items():  # absent in runs of older versions
        part = loss.get_submodule(key.removeprefix("loss").lstrip("."))
        assert isinstance(part, BalancedLoss)
        part.weigh(class_weights)
    return loss
