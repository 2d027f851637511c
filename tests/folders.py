"""Complete run folders, without training, and per-image values of which the truth is known: for tests of comparisons.

The defaults are those of the lab's own runs (folders.yml), so that a test says only what is special about its runs.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from runcard.compare.arms import Arm
from runcard.config.diff import config_hash, flatten
from runcard.data.splits import data_fingerprint
from runcard.fileio import write_json
from runcard.runs.run import Images
from runcard.runs.schema import SCHEMA_VERSION

Array = NDArray[np.float64]
Columns = Mapping[str, ArrayLike]  # name -> a value per image, or per epoch
LOWER_IS_BETTER = ("loss", "bce", "soft_dice_loss", "log_loss")


class RecordedConfig(NamedTuple):
    """A resolved config, and the file chosen per group."""

    config: dict[str, Any]
    choices: dict[str, str]


_DEFAULTS = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
LUNGS, BONE = RecordedConfig(**_DEFAULTS["lungs"]), RecordedConfig(**_DEFAULTS["bone"])
TRAIN_IDS = tuple(f"CHNCXR_{i:04}_1" for i in range(24))


def shortcut(region="border", alarm=False, **changed):
    """Returns a finding of the shortcut probe, as run.json has it."""
    numbers = {"accuracy": 0.9, "accuracy_masked": 0.6, "accuracy_alone": 0.8, "evidence_lost": 0.5}
    shares = {"heat": {"AFF": 0.3, "NFF": None}, "area": {"AFF": 0.25, "NFF": 0.25}}
    said = f"shortcut: The model reads the {region}." if alarm else f"no shortcut seen: from the {region} alone"
    return {"region": region, "sentence": said, "alarm": alarm, **numbers, **shares, **changed}


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    images: Columns | None = None,  # of the compared split, last epoch: {"dice": (I,)}, or what of_classes returns
    best: Columns | None = None,  # the same of the best epoch; by default, as in the last
    ids: Sequence[str] | None = None,  # of the I images
    groups: Sequence[str] | None = None,  # of the I images; by default, each is its own
    train_ids: Sequence[str] = TRAIN_IDS,
    split: str = "val",  # test: a validation split with as many images stands beside it
    files: str = "",  # stands for the files' bytes: another text, other data
    epochs: int = 60,
    curves: Columns | None = None,  # columns (E,) of metrics.csv in place of those that end at the means of images
    recorded: RecordedConfig = LUNGS,
    config: Mapping[str, Any] | None = None,  # by dotted key, what differs from the config
    choices: Mapping[str, str] | None = None,
    session: Mapping[str, Any] | None = None,
    status: str = "completed",
    pooled: Mapping[str, float] | None = None,  # of the last and best epoch: what no single image has, such as auroc
    metadata: Mapping[str, Any] | None = None,  # of run.json, in place of those made here
    previews: bool = False,
) -> Path:
    """Write run.json, split.json, metrics.csv and per_image.csv, and return folder.

    Another split of the same data has the same names, some of them moved between ids and train_ids.
    """
    last = _with_losses(images or {"dice": 0.93 + 0.03 * np.sin(np.arange(12)) + 0.01 * np.cos(np.arange(12) * seed)})
    at_best = _with_losses(best) if best else last
    count = len(np.asarray(next(iter(last.values()))))
    compared = list(ids or (f"CHNCXR_{i:04}_0" for i in range(count)))
    group_of = dict(zip(compared, groups or compared, strict=True))
    is_test = split == "test"
    val = [f"val_{name}" for name in compared] if is_test else compared
    parts = {"train": list(train_ids), "val": val, "test": compared if is_test else []}
    rows = _metrics(_means(last) | dict(pooled or {}), epochs, curves or {})
    resolved = _nested(flatten(recorded.config) | {"seed": seed, "train.epochs": epochs} | dict(config or {}))
    content = {
        "schema": SCHEMA_VERSION,
        "start": _DEFAULTS["session"]["start"],
        "sessions": [_DEFAULTS["session"] | dict(session or {})],
        "choices": recorded.choices | dict(choices or {}),
        "config": resolved,
        "config_hash": config_hash(resolved),
        "data": _fingerprint(parts, files),
        "num_parameters": 540_073,
        "num_trained_parameters": 540_073,
        "better": {name[4:]: _better(name[4:]) for name in rows if name.startswith("val/")},
        "bounds": {},
        "parent": None,
        "audit": [],
        "status": status,
        "error": None,
    }
    if status == "completed":
        content |= _ending(rows, resolved["metric"]["monitor"])
        for epoch, columns in (("last", last), ("best", at_best)):
            content[epoch]["values"] |= {f"{split}/{name}": mean for name, mean in _means(columns).items()}
    write_json(folder / "run.json", content | dict(metadata or {}))
    write_json(
        folder / "split.json",
        {part: [{"id": name, "group": group_of.get(name, name)} for name in names] for part, names in parts.items()},
    )
    _write_csv(folder / "metrics.csv", rows)
    if status == "completed":
        tables = [
            {"split": [part] * count, "checkpoint": [weights] * count, "id": parts[part]}
            | {"group": [group_of.get(name, name) for name in parts[part]]}
            | dict(columns)
            for weights, columns in (("last", last), ("best", at_best))
            for part in (("val", "test") if is_test else ("val",))
        ]
        _write_csv(folder / "per_image.csv", *tables)
    for path in (folder / "previews" / f"{name}.png" for name in val if previews):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 24, 3), 90, np.uint8)).save(path)
    return folder


def of_classes(targets: Sequence[str], probs: ArrayLike, classes: Sequence[str] = ("AFF", "NFF")) -> Columns:
    """Return the columns of per_image.csv that a classifier's probs (I, K) give, for write_run(recorded=BONE)."""
    probs = np.asarray(probs)
    truth = np.array([list(classes).index(target) for target in targets])
    log_loss = -np.log(probs[np.arange(len(truth)), truth])
    columns = {"loss": log_loss, "accuracy": (probs.argmax(axis=1) == truth).astype(float), "log_loss": log_loss}
    return columns | {"target": targets} | {f"prob_{name}": probs[:, k] for k, name in enumerate(classes)}


def simulate(
    rng: np.random.Generator, num_seeds: int, num_images: int, effect: float = 0.0, run_sd: float = 0.006
) -> tuple[Array, Array]:
    """Return Dice-like values (S, I) of two arms, of which the first is better by effect.

    y = 0.9 + image (sd 0.04, the same in both arms) + arm × image (0.01) + run (run_sd) + residual (0.015).
    """
    image = 0.9 + rng.normal(0, 0.04, num_images)
    first, second = (
        image
        + rng.normal(0, 0.01, num_images)
        + rng.normal(0, run_sd, (num_seeds, 1))
        + rng.normal(0, 0.015, (num_seeds, num_images))
        for _ in range(2)
    )
    return first + effect, second


def arms_of(template: Sequence[Arm], values: Sequence[Array], groups: Sequence[str] | None = None) -> list[Arm]:
    """Return arms with these values of Dice, (S, I) of each, in the place of a written arm's own; seeds from 0 on."""
    arms = []
    for arm, of_runs in zip(template, values, strict=True):
        runs = []
        for seed, row in enumerate(of_runs):
            run = replace(arm.first)
            ids = tuple(str(i) for i in range(len(row)))
            vars(run).update(seed=seed, tables={("val", "last"): Images(ids, tuple(groups or ids), {"dice": row}, ())})
            runs.append(run)
        arms.append(Arm(arm.name, tuple(runs)))
    return arms


def _metrics(means: Mapping[str, float], epochs: int, special: Columns) -> dict[str, Array]:
    """Return the columns of metrics.csv: validation ends at its means, and the training images are ahead by 0.01."""
    epoch = np.arange(1, epochs + 1)
    left = (1 - epoch / epochs) ** 3
    ahead = {name: 0.01 if _better(name) == "max" else -0.01 for name in means}
    val = {name: mean * (1 - left) + (0.7 * left if ahead[name] < 0 else 0) for name, mean in means.items()}
    columns = {"epoch": epoch, "step": 24 * epoch, "lr": 1e-4, "train/loss": val["loss"]}
    columns |= {f"train_eval/{name}": values + ahead[name] for name, values in val.items()}
    columns |= {f"val/{name}": values for name, values in val.items()}
    columns |= {"grad_norm": 0.5, "seconds": 3.5, "images_per_second": 80.0, **special}
    return {name: np.broadcast_to(np.asarray(column), epochs) for name, column in columns.items()}


def _means(images: Columns) -> dict[str, float]:
    return {name: float(np.mean(v)) for name, v in images.items() if name != "target" and not name.startswith("prob_")}


def _ending(rows: Mapping[str, Array], monitor: str) -> dict[str, Any]:
    """Return what run.json gains when a run is completed."""
    sign = 1 if _better(monitor[4:]) == "max" else -1
    last, best = len(rows["epoch"]), int(np.nanargmax(sign * rows[monitor])) + 1
    val = {name: column for name, column in rows.items() if name.startswith("val/")}
    at_last, at_best = ({name: column[epoch - 1] for name, column in val.items()} for epoch in (last, best))
    return {
        "end": "2026-11-23T14:04:23+00:00",
        "epochs": last,
        "seconds": {"total": rows["seconds"].sum(), "per_epoch": rows["seconds"].mean(), "caching": 0.0},
        "last": {"epoch": last, "values": at_last},
        "best": {"epoch": best, "monitor": monitor, "value": at_best[monitor], "values": at_best},
        "shortcut": [],
    }


def _better(name: str) -> str:
    return "min" if name in LOWER_IS_BETTER else "max"


def _with_losses(images: Columns) -> Columns:
    """Return images with the losses that a run on masks has, where only Dice is given."""
    loss = 1 - np.asarray(images.get("dice", 1.0))
    return {"loss": loss, "bce": loss, "soft_dice_loss": loss, **images} if "dice" in images else images


def _fingerprint(parts: Mapping[str, Sequence[str]], files: str) -> dict[str, str]:
    ids = [name for names in parts.values() for name in names]
    split = {part: [ids.index(name) for name in names] for part, names in parts.items()}
    return data_fingerprint(split, ids, [f"{files} {name}" for name in ids])


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of these dotted keys: metadata.flatten backwards."""
    config: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *above, name = key.split(".")
        part = config
        for step in above:
            part = part.setdefault(step, {})
        part[name] = copy.deepcopy(leaf)
    return config


def _write_csv(path: Path, *tables: Columns) -> None:
    """Write tables of the same columns, one below the other; floats in full."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(tables[0])
        for table in tables:
            writer.writerows(zip(*(np.asarray(column).tolist() for column in table.values()), strict=True))
