"""What differs between arms is read from their configs, data and machines; and what runs form an arm."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import compose_config
from folders import RecordedConfig, of_classes, write_run
from omegaconf import OmegaConf

from runcard.compare.confounds import factors, group_arms, incomparable, split_factors
from runcard.runs.reader import find_runs


def pair(tmp_path, first=None, second=None):
    for name, special in (("a", first), ("b", second)):
        write_run(tmp_path / name, **(special or {}))
    return find_runs([str(tmp_path)]).runs


def config(**changes):
    return {"config": {key.replace("__", "."): value for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (config(model__base=32), ["model.base (8 | 32)"]),
        (config(model__base=32, model__dropout=0.2), ["model.base (8 | 32)", "model.dropout (0.0 | 0.2)"]),
        (
            config(loss___target_="runcard.losses.dice.DiceLoss", loss__smooth=1.0) | {"choices": {"loss": "dice"}},
            ["loss (bce | dice)"],
        ),
        (config(loss___target_="runcard.losses.dice.DiceLoss", loss__smooth=1.0), ["loss (BCE | DiceLoss)"]),
        (
            config(augmentation__transforms__flip=0.5) | {"choices": {"augmentation": "light"}},
            ["augmentation (none | light)"],
        ),
        (config(train__num_workers=4, dataset__root="/elsewhere", name="other"), []),
        (config(metric__scores__dice__num_classes=3), []),
        (config(metric__monitor="val/loss"), ["metric.monitor (val/dice | val/loss)"]),
        (
            config(dataset__image_size_px=256, derived__image_size_px=256, dataset__channels=3, derived__in_channels=3),
            ["dataset.channels (1 | 3)", "dataset.image_size_px (128 | 256)"],
        ),
        (config(model__weights="random", weights_sha256="ab"), ["model.weights (absent | random)"]),
        (config(weights_sha256="ab"), ["weights_sha256 (absent | ab)"]),
        (
            config(weights_sha256="ab", model__dropout=0.2),
            ["model.dropout (0.0 | 0.2)", "weights_sha256 (absent | ab)"],
        ),
        (config(train__init_from="a", init_sha256="ab"), ["train.init_from (absent | a)"]),
        (config(init_sha256="ab"), ["init_sha256 (absent | ab)"]),
        (config(train__extend="outputs/run/a"), []),
        ({"seed": 7}, []),
        ({"choices": {"experiment": "another", "scale": "quick"}}, []),
    ],
)
def test_factors(tmp_path, second, expected):
    first, other = pair(tmp_path, second=second)
    assert [str(factor) for factor in factors(first, other)] == expected


@pytest.mark.parametrize(
    ("named", "studied", "others"),
    [
        ("model.base", ["model.base"], ["model.dropout"]),
        ("model", ["model.base", "model.dropout"], []),
        ("model.bas", [], ["model.base", "model.dropout"]),
        (None, [], ["model.base", "model.dropout"]),
    ],
)
def test_the_named_factor_and_the_others(tmp_path, named, studied, others):
    first, second = pair(tmp_path, second=config(model__base=32, model__dropout=0.2))
    found = split_factors(first, second, named)
    assert [[factor.key for factor in part] for part in found] == [studied, others]


def test_the_only_one_that_differs_is_the_factor(tmp_path):
    first, second = pair(tmp_path, second=config(model__base=32))
    assert [[factor.key for factor in part] for part in split_factors(first, second, None)] == [["model.base"], []]


def test_folds_are_runs_of_one_arm_and_splits_are_not(tmp_path):
    names = [f"n{i}" for i in range(36)]
    for fold in range(3):
        ids = names[12 * fold : 12 * fold + 12]
        images = {"ids": ids, "train_ids": [name for name in names if name not in ids]}
        write_run(tmp_path / f"{fold}", **images, **config(dataset__split__kind="kfold", dataset__split__fold=fold))
        write_run(tmp_path / f"h{fold}", **images, **config(dataset__split__seed=fold))
    arms, left_out = group_arms(find_runs([str(tmp_path)]).runs)
    assert (sorted(len(arm.runs) for arm in arms), left_out) == ([1, 1, 1, 3], [])


def test_a_key_that_is_null_is_as_good_as_absent(tmp_path):
    """Runs from before there was such a key are of the same arm."""
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, **config(train__freeze=None))
    write_run(tmp_path / "c", seed=2, **config(train__freeze=["encoder"]))
    arms, _ = group_arms(find_runs([str(tmp_path)]).runs)
    assert [arm.seeds for arm in arms] == [(0, 1), (2,)]


def test_arms_that_miss_a_fold_are_not_comparable(tmp_path):
    names = [f"n{i}" for i in range(36)]
    for name, folds in (("a", (0, 1)), ("b", (0, 1, 2))):
        for fold in folds:
            ids = names[12 * fold : 12 * fold + 12]
            special = config(dataset__split__kind="kfold", dataset__split__fold=fold, model__base=len(folds))
            others = [each for each in names if each not in ids]
            write_run(tmp_path / f"{name}{fold}", ids=ids, train_ids=others, **special)
    arms, _ = group_arms(find_runs([str(tmp_path)]).runs)
    assert incomparable(*arms, "dice") == ["only one of them has fold 2 seed 0 of model.base=3"]


def test_a_test_split_against_none(tmp_path):
    first, second = pair(tmp_path, second={"split": "test", **config(model__base=32)})
    assert (first.split, second.split) == ("val", "test")
    arms, _ = group_arms([first, second])
    assert "one has a test split, the other has none" in incomparable(*arms, "dice")


@pytest.mark.parametrize(
    ("configs", "names"),
    [
        ([{}, config(model__base=32)], ["model.base=8", "model.base=32"]),
        ([config(model__base=b, model__dropout=d) for b, d in ((8, 0.0), (8, 0.2), (32, 0.2))],
         ["model.dropout=0.0, model.base=8", "model.dropout=0.2, model.base=8", "model.dropout=0.2, model.base=32"]),
        ([{"choices": {"experiment": f"lab4/{t}"}, **config(model__base=i)} for i, t in ((8, "4a"), (9, "4b"))],
         ["lab4/4a", "lab4/4b"]),
        ([{}, {"files": "other bytes"}], None),
        ([{}], ["lab4/task4a"]),
    ],
)  # fmt: skip
def test_names_of_arms(tmp_path, configs, names):
    for i, special in enumerate(configs):
        write_run(tmp_path / f"{i}", **special)
    arms, _ = group_arms(find_runs([str(tmp_path)]).runs)
    found = [arm.name for arm in arms]
    if names is None:  # nothing but the data differs
        assert all(re.fullmatch(r"this config \(data \w{6}, split \w{6}\)", name) for name in found)
        assert len(set(found)) == len(configs)
    else:
        assert found == names


def test_values_are_matched_by_id_and_not_by_place(tmp_path):
    values = np.linspace(0.5, 0.9, 12)
    ids = [f"n{i}" for i in range(12)]
    write_run(tmp_path / "a", ids=ids, images={"dice": values})
    write_run(tmp_path / "b", ids=ids[::-1], images={"dice": values[::-1]}, seed=1)
    from runcard.compare.arms import Arm
    from runcard.compare.endpoints import units

    runs = find_runs([str(tmp_path)]).runs
    (y,) = units([Arm("both", runs)], "dice").values
    assert (y[0] == y[1]).all()


def record(folder, name, *overrides):
    """A run folder of a config as it is composed from conf/ and experiments/."""
    derived = ("derived.num_classes=2", "derived.classes=[a,b]", "derived.positive=0", "derived.steps=30")
    composed = compose_config(f"experiment={name}", "dataset.root=x", *derived, *overrides)
    text = OmegaConf.to_yaml(composed)
    OmegaConf.resolve(composed)
    images = of_classes(["AFF", "NFF"] * 6, np.full((12, 2), 0.5))
    whole = RecordedConfig(OmegaConf.to_container(composed), {"dataset": "image_folder", "model": name})
    write_run(folder, recorded=whole, images=images, config={"train.epochs": 60})
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(text)


def test_task_2_as_the_report_compared_it_is_confounded(tmp_path):
    """LAB 5, item 10: other input sizes, channels, epochs and augmentation."""
    rgb = ("derived.in_channels=3", "derived.out_channels=1", "derived.image_size_px=224")
    grey = ("derived.in_channels=1", "derived.out_channels=2", "derived.image_size_px=128")
    record(tmp_path / "a", "lab4/task2_bone_pretrained", *rgb)
    record(tmp_path / "b", "lab4/task2_bone_scratch", *grey)
    found = {factor.key for factor in factors(*find_runs([str(tmp_path)]).runs)}
    assert {"dataset.image_size_px", "dataset.channels", "model"} <= found
    assert any(key.startswith("augmentation.") for key in found)


def test_what_follows_from_the_loss_is_no_factor(tmp_path):
    size = ("derived.in_channels=1", "derived.image_size_px=128")
    record(tmp_path / "a", "lab4/task3_base8", *size, "derived.out_channels=2")
    record(tmp_path / "b", "lab4/task3_base8", *size, "derived.out_channels=1", "loss=bce")
    runs = find_runs([str(tmp_path)]).runs
    assert runs[0].config["model.out_channels"] != runs[1].config["model.out_channels"]
    assert [factor.key for factor in factors(*runs)] == ["loss"]


@pytest.mark.parametrize(("key", "hashed"), [("train.init_from", "init_sha256"), ("model.weights", "weights_sha256")])
def test_weights_are_known_by_their_hash_and_not_by_their_path(tmp_path, key, hashed):
    for i, (path, weights) in enumerate((("a", "12"), ("elsewhere/a", "12"), ("a", "34"))):
        dice = np.linspace(0.8, 0.9 + i / 100, 12)
        write_run(tmp_path / str(i), seed=i, images={"dice": dice}, config={key: path, hashed: weights})
    runs = find_runs([str(tmp_path)]).runs
    assert factors(runs[0], runs[1]) == []
    assert len(factors(runs[0], runs[2])) == 1
    assert [[run.seed for run in arm.runs] for arm in group_arms(runs)[0]] == [[0, 1], [2]]
