"""What differs between arms is read from their cards, data and machines; and what runs form an arm."""

from __future__ import annotations

import numpy as np
import pytest
from folders import write_run

from runcard.compare.factors import factors, group_arms, incomparable, parted
from runcard.compare.runs import find_runs


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
            config(loss___target_="runcard.losses.dice.SoftDice", loss__smooth=1.0) | {"choices": {"loss": "dice"}},
            ["loss (bce | dice)"],
        ),
        (config(loss___target_="runcard.losses.dice.SoftDice", loss__smooth=1.0), ["loss (BCE | SoftDice)"]),
        (
            config(augmentation__transforms__flip=0.5) | {"choices": {"augmentation": "lab"}},
            ["augmentation (none | lab)"],
        ),
        (config(train__num_workers=4, dataset__root="/elsewhere", name="other"), []),
        (config(metric__scores__dice__num_classes=3), []),
        (config(metric__monitor="val/loss"), ["metric.monitor (val/dice | val/loss)"]),
        (config(model__out_channels=2, derived__out_channels=2), []),
        (config(model__weights="random", weights_sha256="ab"), ["model.weights (absent | random)"]),
        (config(weights_sha256="ab"), ["weights_sha256 (absent | ab)"]),
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
    found = parted(first, second, named)
    assert [[factor.key for factor in part] for part in found] == [studied, others]


def test_the_only_one_that_differs_is_the_factor(tmp_path):
    first, second = pair(tmp_path, second=config(model__base=32))
    assert [[factor.key for factor in part] for part in parted(first, second, None)] == [["model.base"], []]


def test_folds_are_runs_of_one_arm_and_splits_are_not(tmp_path):
    names = [f"n{i}" for i in range(36)]
    for fold in range(3):
        ids = names[12 * fold : 12 * fold + 12]
        images = {"ids": ids, "train_ids": [name for name in names if name not in ids]}
        write_run(tmp_path / f"{fold}", **images, **config(dataset__split__kind="kfold", dataset__split__fold=fold))
        write_run(tmp_path / f"h{fold}", **images, **config(dataset__split__seed=fold))
    arms, left_out = group_arms(find_runs([str(tmp_path)]).runs)
    assert (sorted(len(arm.runs) for arm in arms), left_out) == ([1, 1, 1, 3], [])


def test_arms_that_miss_a_fold_are_not_comparable(tmp_path):
    names = [f"n{i}" for i in range(36)]
    for name, folds in (("a", (0, 1)), ("b", (0, 1, 2))):
        for fold in folds:
            ids = names[12 * fold : 12 * fold + 12]
            special = config(dataset__split__kind="kfold", dataset__split__fold=fold, model__base=len(folds))
            others = [each for each in names if each not in ids]
            write_run(tmp_path / f"{name}{fold}", ids=ids, train_ids=others, **special)
    arms, _ = group_arms(find_runs([str(tmp_path)]).runs)
    assert any("another split" in reason for reason in incomparable(*arms, "dice"))


def test_a_test_split_against_none(tmp_path):
    first, second = pair(tmp_path, second={"split": "test", **config(model__base=32)})
    assert (first.split, second.split) == ("val", "test")
    arms, _ = group_arms([first, second])
    assert "one has a test split, the other has none" in incomparable(*arms, "dice")


@pytest.mark.parametrize(
    ("cards", "names"),
    [
        ([{}, config(model__base=32)], ["model.base=8", "model.base=32"]),
        ([config(model__base=b, model__dropout=d) for b, d in ((8, 0.0), (8, 0.2), (32, 0.2))],
         ["model.dropout=0.0, model.base=8", "model.dropout=0.2, model.base=8", "model.dropout=0.2, model.base=32"]),
        ([{"choices": {"experiment": f"lab4/{t}"}, **config(model__base=i)} for i, t in ((8, "4a"), (9, "4b"))],
         ["lab4/4a", "lab4/4b"]),
        ([{}, {"files": "other bytes"}], ["this card (1)", "this card (2)"]),
        ([{}], ["lab4/task4a"]),
    ],
)  # fmt: skip
def test_names_of_arms(tmp_path, cards, names):
    for i, card in enumerate(cards):
        write_run(tmp_path / f"{i}", **card)
    arms, _ = group_arms(find_runs([str(tmp_path)]).runs)
    assert [arm.name for arm in arms] == names


def test_values_are_matched_by_id_and_not_by_place(tmp_path):
    values = np.linspace(0.5, 0.9, 12)
    ids = [f"n{i}" for i in range(12)]
    write_run(tmp_path / "a", ids=ids, images={"dice": values})
    write_run(tmp_path / "b", ids=ids[::-1], images={"dice": values[::-1]}, seed=1)
    from runcard.compare.endpoints import units
    from runcard.compare.runs import Arm

    runs = find_runs([str(tmp_path)]).runs
    (y,) = units([Arm("both", runs)], "dice").values
    assert (y[0] == y[1]).all()
