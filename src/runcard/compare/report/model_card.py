"""The model card of a run: what its folder records, and what only its author can say.

A card is plain text in sections; the templates model_card.md and model_card.html write it, and escape every word of it.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from runcard import __version__
from runcard.compare import endpoints
from runcard.compare.analysis import limits, metric_value
from runcard.compare.arms import Arm
from runcard.compare.contrasts import metric_measure
from runcard.compare.endpoints import Count
from runcard.compare.measures import Value, title
from runcard.compare.report.tables import cell, number
from runcard.console import counted, duration
from runcard.fileio import read_csv, sha256
from runcard.runs.folders import BEST, fault_of_weights, has_file
from runcard.runs.run import Run
from runcard.stats.mrmc import MIN_UNITS

NOT_RECORDED = "not recorded"
TEMPLATES = Path(__file__).with_name("templates")
WEIGHTS = re.compile(r"model\..*(weights|pretrained|init)[^.]*$", re.IGNORECASE)  # keys of a model that decide them
SPLITS = {"train": "training", "val": "validation", "test": "test"}
CHECKLIST_NOTE = (
    "Tejani A S, Klontzas M E, Gatti A A, et al. Checklist for Artificial Intelligence in Medical Imaging (CLAIM): "
    "2024 Update. Radiology: Artificial Intelligence 6 (2024) e240300. https://doi.org/10.1148/ryai.240300. Items are "
    "paraphrased: check words and numbers against the publication."
)
# What only the author of a model can say of it.
USE = {
    "intended use": "author: task, users, place in the clinical workflow",
    "out of scope": "author: uses, patients and devices it must not be used for",
    "patients and devices": "author: populations, hospitals and scanners of the data",
    "ethics and privacy": "author: approval, consent, de-identification",
    "known failures": "author",
    "contact and citation": "author",
}


@dataclass(frozen=True)
class Section:
    """A part of a card: paragraphs, a table, commands."""

    title: str
    header: tuple[str, ...] = ("", "")
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """A model card; the CLAIM checklist is a section of its own."""

    title: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    checklist: Section


def model_card(run: Run) -> Card:
    """Describe the network in checkpoints/best.safetensors by what the run's folder records."""
    arm, metadata = Arm(run.folder.name, (run,)), run.metadata
    model, data, training, versions = _model(run), _data(run), _training(run), _versions(run)
    technique = _name(metadata["config"]["model"])
    texts = model | data | training | versions | _evaluation(arm) | {"technique": technique}
    smoke_test = ("SMOKE TEST: small images, few epochs or a few batches only. Nothing here supports a conclusion.",)
    use = [*USE.items(), *(("limit, from the record", limit) for limit in limits(arm, [arm]))]
    return Card(
        title=f"Model card: {technique} on {metadata['choices']['dataset']}",
        notes=(
            *(smoke_test if run.smoke_test else ()),
            f"Of the run {run.folder}, which ended {metadata['end']}. Written by Runcard {__version__} from the run's "
            f'record. Where it says "author", only the author can; "{NOT_RECORDED}" is what a run does not record.',
        ),
        sections=(
            Section("Model", rows=tuple(model.items())),
            Section("Intended use and limits", rows=tuple(use)),
            Section("Data", rows=tuple(data.items())),
            _audit(run),
            Section("Training", rows=tuple(training.items())),
            _results(arm, texts),
            _shortcuts(run),
            Section("How to load it", code=_commands(run)),
            Section("Versions and hashes", rows=tuple(versions.items())),
        ),
        checklist=_checklist(texts),
    )


def _checklist(texts: Mapping[str, str]) -> Section:
    """Fill the items of the CLAIM 2024 checklist, each of whose {name} is a row of the card.

    Items are paraphrased; their numbers and order are from a transcription of the checklist by others.
    """
    items = read_csv(TEMPLATES / "claim_2024.csv")
    rows = tuple(tuple((item | {"this run": item["this run"].format_map(texts)}).values()) for item in items)
    return Section("CLAIM 2024 checklist", tuple(items[0]), rows, notes=(CHECKLIST_NOTE,))


def to_markdown(card: Card) -> str:
    """Write a card as Markdown."""
    environment = templates(finalize=lambda text: text if isinstance(text, Markup) else escape_markdown(str(text)))
    return environment.get_template("model_card.md").render(card=card)


def templates(**options: Any) -> jinja2.Environment:
    """Return the templates of the report and of the card, in which an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def escape_markdown(text: str) -> str:
    """Escape what Markdown, HTML or a table would read as markup; all white space becomes a space."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)


def describe(node: Any) -> str:
    """Format a node of the config as a call: DiceLoss(pooling=image, smooth=1.0)."""
    if isinstance(node, list):
        return f"[{', '.join(map(describe, node))}]"
    if not isinstance(node, Mapping):
        return str(node)
    arguments = [describe(each) for each in node.get("_args_", ())]
    arguments += [f"{key}={describe(each)}" for key, each in node.items() if not key.startswith("_")]
    return f"{_name(node)}({', '.join(arguments)})"


def _name(node: Any) -> str:
    """Return the name of the class of a node of the config."""
    return str(node["_target_"]).rpartition(".")[2] if isinstance(node, Mapping) and "_target_" in node else ""


def _model(run: Run) -> dict[str, str]:
    config, metadata = run.metadata["config"], run.metadata
    size, channels = config["derived"]["image_size_px"], run.config.get("dataset.channels", "?")
    built = metadata.get("model", {})
    layers = [f"{kind} ×{count}" if count else f"no {kind}" for kind, count in built.get("layers", {}).items()]
    shape = " × ".join(map(str, built.get("output_shape") or ()))
    num_parameters, num_trained = metadata["num_parameters"], metadata["num_trained_parameters"]
    origin = [f"{key.removeprefix('model.')}={value}" for key, value in run.config.items() if WEIGHTS.match(key)]
    origin += [f"SHA-256 of the file {digest}" for digest in [run.config.get("weights_sha256")] if digest]
    if initial := run.config.get("train.init_from"):
        origin.append(f"the weights of {initial}, SHA-256 {run.config['init_sha256']}")
    origin += [f"trained on from {parent}" for parent in [metadata.get("parent")] if parent]
    return {
        "architecture": describe(config["model"]),
        "layers": ", ".join(layers) or NOT_RECORDED,
        "parameters": f"{num_parameters:,}, {'all' if num_trained == num_parameters else f'{num_trained:,}'} trained",
        "input": f"{channels} × {size} × {size} (channels, height, width)",
        "output": f"logits{f' of shape {shape}' if shape else ''} for the classes {_classes(run)}",
        "initial weights": f"{', '.join(origin) or NOT_RECORDED}; seed {run.seed}",
        "licence": "author: of the weights, the code and the data",
    }


def _classes(run: Run) -> str:
    positive = run.config.get("dataset.positive")
    names = ", ".join(map(str, run.metadata["config"]["derived"]["classes"]))
    return names if positive is None else f"{names} (positive: {positive})"


def _data(run: Run) -> dict[str, str]:
    config, left_out = run.metadata["config"], run.metadata.get("left_out")
    settings = ", ".join(f"{key[8:]}={value}" for key, value in run.config.items() if _of_dataset(key))
    return {
        "dataset": f"{run.metadata['choices']['dataset']}: {_name(config['dataset'])}({settings})",
        "classes": _classes(run),
        "targets": "a class of each image" if run.images().targets else "a mask of class indices of each image",
        "files": _files(run),
        "preprocessing": _preprocessing(run),
        "split": describe(config["dataset"]["split"])[1:-1],
        "disjoint": _disjoint(run),
        **{name: _members(run, part) for part, name in SPLITS.items()},
        "left out": NOT_RECORDED if left_out is None else counted(len(left_out), "image") if left_out else "no images",
    }


def _of_dataset(key: str) -> bool:
    return key.startswith("dataset.") and not key.startswith("dataset.split.") and not key.endswith("_target_")


def _files(run: Run) -> str:
    """Format the kinds and sizes of the training images' files."""
    images = run.metadata.get("images")
    if images is None:
        return NOT_RECORDED
    smallest, largest = ("×".join(map(str, images[key])) for key in ("smallest_px", "largest_px"))
    sizes = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"{', '.join(images['kinds']) or 'no files: images are made by the dataset'}; {sizes} pixels"


def _preprocessing(run: Run) -> str:
    size = run.metadata["config"]["derived"]["image_size_px"]
    keys = [key for key in ("resize", "channels", "window", "normalization") if f"dataset.{key}" in run.config]
    return ", ".join([f"{size} × {size} pixels", *(f"{key}={run.config[f'dataset.{key}']}" for key in keys)])


def _patients_named(run: Run) -> bool:
    return run.split_groups != run.split_ids


def _disjoint(run: Run) -> str:
    """Say what no two splits share, and count the patients that they share all the same."""
    if not _patients_named(run):
        return "by image; patients are not named"
    train, val, test = (set(run.split_groups[part]) for part in SPLITS)
    shared = len(train & val | train & test | val & test)
    return f"by image; {counted(shared, 'patient')} in two splits" if shared else "by patient"


def _members(run: Run, part: str) -> str:
    """Format the images of a split: "40 images of 12 patients: 8 Mel, 32 Nev"."""
    groups, classes = run.split_groups[part], run.metadata.get("class_counts", {}).get(part, {})
    if not groups:
        return "none"
    patients = f" of {counted(len(set(groups)), 'patient')}" if _patients_named(run) else ""
    counts = ", ".join(f"{count} {name}" for name, count in classes.items())
    return counted(len(groups), "image") + patients + (f": {counts}" if counts else "")


def _audit(run: Run) -> Section:
    """List the findings, without the places, which may name patients."""
    findings = run.metadata["audit"]
    counts = Counter(each.get("level", NOT_RECORDED) for each in findings)
    found = ", ".join(counted(count, level) for level, count in counts.items()) or "no findings"
    rows = [(each.get("level", "") + " (allowed)" * each["allowed"], each["check"], each["what"]) for each in findings]
    return Section(
        "Audit of the data", ("level", "check", "finding"), tuple(rows), (f"Before training, by Runcard: {found}.",)
    )


def _training(run: Run) -> dict[str, str]:
    config, metadata, session = run.metadata["config"], run.metadata, run.session
    train, hardware, seconds = config["train"], session["hardware"], metadata["seconds"]
    transforms = config["augmentation"].get("transforms", [config["augmentation"]])
    transforms = list(transforms.values()) if isinstance(transforms, Mapping) else transforms
    return {
        "loss": describe(config["loss"]),
        "optimizer": describe(config["optimizer"]),
        "scheduler": describe(config["scheduler"]["rule"]),
        "augmentation": ", ".join(map(describe, transforms)) or "none",
        "batches": _settings(train, "batch_size", "accumulate_steps", "clip_grad_norm"),
        "epochs": f"{metadata['epochs']} of {train['epochs']}, {_settings(train, 'early_stopping')}",
        "selection": f"epoch {metadata['best']['epoch']}, the best {metadata['best']['monitor']}",
        "seed": f"{run.seed}; reproducible {session.get('reproducible', NOT_RECORDED)}",
        "precision": session["precision"],
        "hardware": f"{hardware['gpu'] or hardware['cpu']}, {counted(hardware['threads'], 'thread')}",
        "time": f"{duration(seconds['total'])}, {number(seconds['per_epoch'])} s per epoch",
        "sessions": str(len(run.sessions)),
    }


def _settings(config: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(f"{key}={config[key]}" for key in keys)


def _evaluation(arm: Arm) -> dict[str, str]:
    """Return what the checklist says of the evaluation."""
    run, count = arm.first, Count.of(arm)
    figures = [
        name for name in ("confusion", "predictions", "activation_maps") if has_file(run.folder, f"figures/{name}.png")
    ]
    shortcut = [each["sentence"] for each in run.metadata.get("shortcut", ())]
    maps = ["class activation maps (figures/activation_maps.png)"] * ("activation_maps" in figures)
    chosen = " that chose the epoch" if run.split == "val" else ""
    patients = f" of {counted(count.patients, 'patient')}" if count.word == "patients" else ""
    return {
        "evaluated on": f"{counted(count.images, f'{SPLITS[run.split]} image')}{patients}{chosen}",
        "metrics": ", ".join(_metrics(run)),
        "intervals": _intervals(count),
        "primary result": f"{title(arm.first.monitored)} {_score(arm, arm.first.monitored, 'best')}",
        "explanation": "; ".join([*maps, *shortcut]) or NOT_RECORDED,
        "failures": ", ".join(["per_image.csv", *(f"figures/{name}.png" for name in figures)]),
        "limits": "; ".join(limits(arm, [arm])) or "none from the record",
    }


def _metrics(run: Run) -> list[str]:
    return [name.partition("/")[2] for name in run.metadata["best"]["values"] if name.startswith(f"{run.split}/")]


def _intervals(count: Count) -> str:
    if count.patients < MIN_UNITS:
        return f"no interval: {counted(count.patients, count.word[:-1])}, and at least {MIN_UNITS} are needed"
    return (
        f"95 % interval of the mean over the {count.patients} {count.word}, by t; of metrics that count all images "
        "together, by the jackknife"
    )


def _score(arm: Arm, metric: str, checkpoint: str) -> str:
    """Format a metric of the compared split: "0.932 [0.921, 0.943]", or the value and why it has no interval."""
    if Count.of(arm).patients < MIN_UNITS:
        value = Value((endpoints.value(arm.first, metric, checkpoint),), None)
    else:
        value = metric_value(arm, metric, checkpoint)
    if value.mean and value.mean.se == 0:  # such as an accuracy of 1: no image says how far others may lie
        value = replace(value, mean=None, note="no variation over the images, so no interval")
    return cell(metric_measure(metric, arm.first), value)


def _results(arm: Arm, texts: Mapping[str, str]) -> Section:
    """Tabulate all metrics of the network, on the training images too, and of the last epoch, which nothing chose."""
    run, best, last = arm.first, arm.first.metadata["best"], arm.first.metadata["last"]
    is_test = run.split == "test"
    measured, metrics = SPLITS[run.split], _metrics(run)
    columns = {
        "": [title(metric) for metric in metrics],
        f"{measured}, epoch {best['epoch']}: these weights": [_score(arm, metric, "best") for metric in metrics],
    }
    if is_test:
        of_val = [best["values"].get(f"val/{metric}") for metric in metrics]
        columns[f"validation, epoch {best['epoch']}"] = [*map(_number, of_val)]
    curves = [run.curves.get(f"train_eval/{metric}") for metric in metrics]
    of_train = [None if curve is None else curve[best["epoch"] - 1] for curve in curves]
    columns[f"training, epoch {best['epoch']}"] = [*map(_number, of_train)]
    if best["epoch"] != last["epoch"]:
        columns[f"{measured}, epoch {last['epoch']} (the last)"] = [_score(arm, metric, "last") for metric in metrics]
    notes = [
        f"The network is that of epoch {best['epoch']}, evaluated on {texts['evaluated on']}. Uncertainty: "
        f"{texts['intervals']}. Values and intervals speak of these weights only: other images of the same source are "
        "expected to behave alike, but another seed, another hospital or another device may not."
    ]
    if not is_test:
        notes.append(
            "The epoch was chosen on these same images, which favours its values. A test split, "
            "dataset.split.test_fraction, has no such bias."
        )
    return Section("Results", tuple(columns), tuple(zip(*columns.values(), strict=True)), tuple(notes))


def _number(value: float | None) -> str:
    return number(math.nan if value is None else value)


def _shortcuts(run: Run) -> Section:
    """List what the shortcut probe found."""
    found = run.metadata.get("shortcut", ())
    rows = tuple((str(each["region"]), each["sentence"]) for each in found)
    if rows:
        return Section("Shortcut probe", ("region", "finding"), rows)
    why = "" if run.images().targets else " It is for networks that classify images."
    return Section("Shortcut probe", notes=(f"The probe for printed markers and borders was not run.{why}",))


def _commands(run: Run) -> tuple[str, ...]:
    folder = str(run.folder)
    return (
        f"runcard predict {shlex.quote(folder)} images/ -o predictions",
        "",
        "import runcard",
        f"predictor = runcard.load({folder!r})",
        'prediction = predictor.predict("image.png")',
    )


def _weights(run: Run) -> str:
    """Return the SHA-256 of the best weights, and what is wrong with their file."""
    fault = fault_of_weights(run.folder, run.metadata)
    if recorded := run.metadata.get("best_sha256"):  # absent in runs of old versions
        return f"{recorded}; the file in the run folder is {fault}" if fault else str(recorded)
    return "no file in the run folder" if fault else sha256(run.folder / BEST)


def _versions(run: Run) -> dict[str, str]:
    metadata, session = run.metadata, run.session
    return {
        "weights SHA-256": _weights(run),
        "config hash": str(metadata.get("config_hash", NOT_RECORDED)),
        "data hash": metadata["data"]["hash"],
        "split hash": metadata["data"]["split_hash"],
        "code hash": session["code"],
        "commit": str(session["commit"] or NOT_RECORDED).replace("+", ", with changes"),
        "packages": ", ".join(f"{name} {version}" for name, version in session["versions"].items()),
    }
