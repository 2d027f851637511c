"""Splits: fixed by their own seed, stratified, and no patient on two sides."""

from __future__ import annotations

import re
import warnings

import pytest

from runcard.config.schema import SplitConfig, parse_section
from runcard.data.splits import make_split
from runcard.errors import UserError

HOLDOUT = {"kind": "holdout", "val_fraction": 0.2, "test_fraction": 0.0, "seed": 0, "group_regex": None}
HOLDOUT |= {"num_folds": 5, "fold": 0}
IDS = [f"p{i // 4}_{i % 4}" for i in range(100)]  # 25 patients of 4 images


def config(**changes):
    return parse_section(SplitConfig, {**HOLDOUT, **changes}, "dataset.split.")


def split_of(labels=None, given=None, ids=IDS, **changes):
    split, _ = make_split(ids, labels, given, config(**changes))
    return split


def test_sides_are_disjoint_and_complete():
    split = split_of(test_fraction=0.1)
    assert sorted(split["train"] + split["val"] + split["test"]) == list(range(100))
    assert [len(split[part]) for part in ("train", "val", "test")] == [70, 20, 10]


def test_lab_size():
    ids = [f"Im{i}" for i in range(234)]
    assert [len(split_of(ids=ids)[part]) for part in ("train", "val")] == [187, 47]


def test_seed_decides():
    assert split_of() == split_of()
    assert split_of(seed=1)["val"] != split_of()["val"]


def test_classes_are_stratified():
    labels = [int(i < 20) for i in range(100)]
    assert sum(labels[i] for i in split_of(labels)["val"]) == 4


@pytest.mark.parametrize("labels", [None, [i // 4 % 2 for i in range(100)]])
@pytest.mark.parametrize("kind", ["holdout", "kfold"])
def test_no_patient_is_on_two_sides(kind, labels):
    split, groups = make_split(
        IDS,
        labels,
        None,
        parse_section(SplitConfig, {**HOLDOUT, "kind": kind, "group_regex": r"^(p\d+)_"}, "dataset.split."),
    )
    assert not {groups[i] for i in split["train"]} & {groups[i] for i in split["val"]}
    assert 15 <= len(split["val"]) <= 25


def test_folds_tile_the_data():
    folds = [split_of(kind="kfold", fold=fold)["val"] for fold in range(5)]
    assert sorted(i for fold in folds for i in fold) == list(range(100))


def test_folds_share_one_test_split_and_tile_the_rest():
    splits = [split_of(kind="kfold", num_folds=4, fold=fold, test_fraction=0.2) for fold in range(4)]
    assert len({tuple(split["test"]) for split in splits}) == 1
    held_out = sorted(i for split in splits for i in split["val"])
    assert sorted(held_out + splits[0]["test"]) == list(range(100))


def test_given_folders():
    given = ["train"] * 80 + ["val"] * 20
    assert split_of(given=given, kind="given")["val"] == list(range(80, 100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "random"}, "split.kind must be one of"),
        ({"kind": "given"}, "split.kind=given needs"),
        ({"val_fraction": 1.5}, "split.val_fraction must be a number in"),
        ({"val_fraction": 0.0}, "must leave images in every split"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "must leave images in every split"),
        ({"group_regex": "("}, "split.group_regex must be a regular expression"),
        ({"group_regex": "^x"}, "does not match the image 'p0_0'"),
        ({"kind": "kfold", "fold": 5}, "split.fold must be below num_folds=5"),
        ({"kind": "kfold", "num_folds": 101}, "num_folds=101 needs as many images, and there are 100: set fewer folds"),
        ({"kind": "holdout", "fold": 1}, "split.fold=1 needs dataset.split.kind=kfold"),
        ({"kind": "kfold", "num_folds": 1}, "split.num_folds must be an integer >= 2"),
        ({"group_regex": "p{99999999999}"}, "split.group_regex must be a regular expression"),
        ({"group_regex": "(" * 9999 + ")" * 9999}, "split.group_regex must be a regular expression"),
        ({"group_regex": "x*"}, "does not match the image 'p0_0', or nothing of it"),
        ({"kind": "given", "given": ["val"] * 100}, "split.kind=given: there is no training folder"),
    ],
)
def test_mistakes_name_the_key(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        split_of(**changes)


def test_a_test_folder_of_the_datas_own_is_never_trained_on():
    given = ["train"] * 60 + ["test"] * 40
    for kind in ("holdout", "kfold"):
        split = split_of(given=given, kind=kind, test_fraction=0.1)
        assert split["test"] == list(range(60, 100))
        assert len(split["val"]) == 12


@pytest.mark.parametrize("val_fraction", [0.1, 0.2, 0.3, 0.4, 0.6, 0.75])
def test_a_grouped_and_stratified_holdout_keeps_its_fraction(val_fraction):
    ids = [f"p{i // 4}_{i % 4}" for i in range(400)]
    labels = [i // 4 % 2 for i in range(400)]
    changes = {"val_fraction": val_fraction, "group_regex": r"^(p\d+)_"}
    split, _ = make_split(ids, labels, None, config(**changes))
    assert len(split["val"]) == pytest.approx(400 * val_fraction, abs=12)
    assert sum(labels[i] for i in split["val"]) == pytest.approx(200 * val_fraction, abs=12)


def test_a_group_that_the_pattern_leaves_out_is_no_group():
    with pytest.raises(UserError, match="does not match the image 'p0_0'"):
        split_of(group_regex=r"^(x)?p")


@pytest.mark.parametrize(("val_fraction", "held_out"), [(0.01, 4), (0.125, 4), (0.9, 12)])
def test_a_small_fraction_of_few_patients_is_one_patient(val_fraction, held_out):
    labels = [i // 4 % 2 for i in range(16)]
    split = split_of(labels, ids=IDS[:16], val_fraction=val_fraction, group_regex=r"^(p\d+)_")
    assert len(split["val"]) == held_out


@pytest.mark.parametrize("changes", [{"kind": "kfold"}, {"group_regex": "^[[p]\\d+"}])
def test_nothing_is_warned_of(changes):
    """Neither a class with fewer images than folds, nor signs that a later Python may read otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_of([int(i < 2) for i in range(100)], **changes)


@pytest.mark.parametrize("changes", [{"test_fraction": 0.1}, {"kind": "kfold", "fold": 2}])
def test_all_others_stay_where_they_are_without_an_excluded_image(changes):
    whole, out = split_of(**changes), {3, 40, 99}
    left = split_of(exclude=[IDS[i] for i in out], **changes)
    assert left == {part: [i for i in members if i not in out] for part, members in whole.items()}
    assert sum(map(len, left.values())) == 97


def test_an_excluded_image_must_be_there_and_leave_others():
    with pytest.raises(UserError, match=r"exclude: the data have no image 'p3_7'\. Did you mean 'p3_\d'\?"):
        split_of(exclude=["p3_7"])
    val = [IDS[i] for i in split_of()["val"]]
    with pytest.raises(UserError, match=r"^dataset\.split\.exclude: names every image of val\."):
        split_of(exclude=val)
