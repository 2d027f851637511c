"""`runcard noise` and the ranges of `runcard power`, on run folders whose scatter is known."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from folders import write_run
from PIL import Image

OFFSETS = (-0.01, 0.0, 0.01)  # of the runs: their means have the standard deviation 0.01
IMAGES = 0.9 + 0.03 * np.sin(np.arange(12))
BY_IMAGE = 0.01 * np.cos(np.pi * np.arange(12))  # of the second arm: ±0.01, a variance of 12/11 · 0.0001


def write_arm(folder: Path, offsets=OFFSETS, values=IMAGES, dropout=0.0, **options) -> Path:
    for seed, offset in enumerate(offsets):
        row = {"dice": np.asarray(values) + offset}
        write_run(folder / f"{dropout}-{seed}", seed=seed, images=row, config={"model.dropout": dropout}, **options)
    return folder


@pytest.fixture
def one_arm(tmp_path):
    return write_arm(tmp_path / "one")


@pytest.fixture
def two_arms(tmp_path):
    write_arm(tmp_path / "two")
    return write_arm(tmp_path / "two", values=IMAGES + BY_IMAGE, dropout=0.2)


def test_one_arm_by_hand(one_arm, runcard_command):
    """0.01 · 2.118 is 0.0212; times 2.267 and 1.165 that is 0.048 and 0.025."""
    code, printed, _ = runcard_command("noise", one_arm)
    lines = printed.splitlines()
    assert code == 0
    assert lines[0] == "Differences in Dice below 0.048 are noise here with three seeds; seven seeds would see 0.025."
    assert "3 runs of lab4/task4a on these 12 images: the mean of a run has a standard deviation of 0.010" in lines[1]
    assert "with 80 % confidence at most 0.021," in lines[1]
    assert lines[2].startswith("For images like these it is at least that: how a difference varies from image to image")
    rows = {line.split()[0]: line.split()[1:] for line in lines if line[:1].isdigit()}
    assert list(rows) == ["2", "3", "5", "7", "10", "20"]
    assert rows["3"] == ["0.048", "(0.023)", "0.064", "(0.030)"]
    assert rows["5"] == ["0.031", "(0.015)", "0.043", "(0.020)"]


def test_one_arm_that_makes_the_scatter_is_named(tmp_path, runcard_command):
    """Ten times the standard deviation: F(4, 4) = 100, p 0.0003 of either arm."""
    write_arm(tmp_path, offsets=(-0.02, -0.01, 0.0, 0.01, 0.02))
    write_arm(tmp_path, offsets=(-0.002, -0.001, 0.0, 0.001, 0.002), dropout=0.2)
    warning = (
        "model.dropout=0.0: its runs scatter more than the others' (standard deviation 0.016 against 0.0016), and the "
        "numbers take all arms as alike. Measure it apart from the others."
    )
    assert warning in runcard_command("noise", tmp_path)[1]
    assert json.loads(runcard_command("noise", tmp_path, "--json")[1])["warnings"] == [warning]


def test_arms_that_scatter_alike_are_not_told_apart(two_arms, runcard_command):
    assert "scatter more" not in runcard_command("noise", two_arms)[1]


def test_two_arms_by_hand(two_arms, runcard_command):
    """0.01 · 1.557 is 0.0156; on other images 2 · 0.0156² / 7 + 0.000109 / 12 is 0.00886², times t(14.6 df) 2.137."""
    printed = runcard_command("noise", two_arms)[1].splitlines()
    assert printed[0] == "Differences in Dice below 0.035 are noise here with three seeds; seven seeds would see 0.018."
    assert "3 runs of model.dropout=0.0 and 3 runs of model.dropout=0.2 on these 12 images" in printed[1]
    assert printed[2] == (
        "For images like these: 0.035 with three seeds, 0.019 with seven; with 12 images no number of seeds sees less "
        "than 0.007."
    )


def test_images_that_add_nothing(tmp_path, runcard_command):
    write_arm(tmp_path / "two")
    folder = write_arm(tmp_path / "two", values=IMAGES + 0.01, dropout=0.2)
    assert runcard_command("noise", folder)[1].splitlines()[2] == (
        "For images like these: 0.035 with three seeds, 0.018 with seven. What varies between images in the difference "
        "of these arms, their runs explain."
    )


def test_arms_with_fewer_runs_are_left_out(two_arms, runcard_command):
    write_arm(two_arms, offsets=(0.0, 0.1), dropout=0.5)
    code, printed, _ = runcard_command("noise", two_arms)
    assert code == 0
    assert "left out  model.dropout=0.5: fewer than three seeds; how far seeds differ takes at least three." in printed
    assert printed.startswith("Differences in Dice below 0.035 are noise here")


def test_json_has_the_numbers_of_the_table(two_arms, one_arm, runcard_command):
    content = json.loads(runcard_command("noise", two_arms, "--json")[1])
    assert content["sentences"][0].startswith("Differences in Dice below 0.035 are noise here")
    assert content["sd"] == pytest.approx({"estimate": 0.01, "bound": 0.01557, "df": 4}, rel=1e-3)
    assert [row["seeds"] for row in content["seeds"]] == [2, 3, 5, 7, 10, 20]
    three = content["seeds"][1]
    assert three["these_images"]["worth_claiming"] == pytest.approx({"estimate": 0.0227, "bound": 0.0353}, abs=1e-4)
    assert three["images_like_these"]["found_four_times_in_five"]["bound"] >= 0.047
    alone = json.loads(runcard_command("noise", one_arm, "--json")[1])
    assert [row["images_like_these"] for row in alone["seeds"]] == [None] * 6


def test_a_difference_that_is_impossible_is_no_number(tmp_path, runcard_command):
    folder = write_arm(tmp_path / "wild", offsets=(-0.4, 0.0, 0.05), metadata={"bounds": {"dice": [0.0, 1.0]}})
    printed = runcard_command("noise", folder)[1]
    assert "Differences in Dice below none" not in printed
    assert "With three seeds no difference in Dice is more than noise here" in printed


def test_few_images_say_nothing_of_others(tmp_path, runcard_command):
    write_arm(tmp_path / "few", values=IMAGES[:5])
    folder = write_arm(tmp_path / "few", values=(IMAGES + BY_IMAGE)[:5], dropout=0.2)
    printed = runcard_command("noise", folder)[1]
    assert "Fewer than 6 images: nothing here speaks of others." in printed
    assert "like these" not in printed


def test_images_that_make_the_noise_are_named(tmp_path, runcard_command):
    rows = IMAGES + 0.002 * np.random.default_rng(0).normal(size=(3, 12))
    rows[1, 4] = 0.05
    for seed, row in enumerate(rows):
        write_run(tmp_path / f"runs/{seed}", seed=seed, images={"dice": row})
    said = (
        "lab4/task4a: one of 12 images (CHNCXR_0004_0) makes more than half of the scatter of its seeds. Rare failures"
    )
    assert said in runcard_command("noise", tmp_path / "runs")[1]
    assert said in runcard_command("power", tmp_path / "runs")[1]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_figure(two_arms, runcard_command, suffix):
    code, printed, _ = runcard_command("noise", two_arms, "--figure", f"noise.{suffix}")
    assert code == 0
    assert printed.splitlines()[-1] == f"noise.{suffix}"
    if suffix == "png":
        assert np.asarray(Image.open("noise.png").convert("L")).std() > 10
    else:
        assert ET.parse("noise.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["one/0.0-0", "one/0.0-1"],
            "fewer than three seeds; how far seeds differ takes at least three. Run seed=0,1,2.",
        ),
        (["one", "--figure", "noise.jpg"], "--figure must end in .png or .svg, got noise.jpg"),
        (["one", "--metric", "dicee"], "metric: dicee was not measured in "),
        (["equal"], "all runs have the same Dice, so that no noise can be measured. Run more seeds,"),
        (["one", "other"], "so nothing can be planned; name those of one data set and split:\n"),
    ],
)
def test_mistakes(tmp_path, one_arm, runcard_command, arguments, message):
    write_arm(tmp_path / "other", dropout=0.2, files="other")
    for seed, shift in enumerate((0, 1, 2)):
        write_run(tmp_path / f"equal/{seed}", seed=seed, images={"dice": np.roll([0.5, 0.75, 1.0] * 4, shift)})
    code, printed, error = runcard_command("noise", *arguments)
    assert (code, printed) == (2, "")
    assert message in error
    assert len(error.splitlines()) <= 4


def test_power_prints_ranges(one_arm, two_arms, runcard_command):
    printed = runcard_command("power", two_arms, "--difference", "0.03")[1].splitlines()
    needed = next(line for line in printed if line.startswith("0.03 "))
    low, _, high = needed.split()[1:4]
    assert int(low) < 6 < int(high), "six seeds each, with the estimated scatter"
    assert "four cases of five" in "\n".join(printed)
    alone = runcard_command("power", one_arm, "--difference", "0.03")[1]
    assert int(next(line for line in alone.splitlines() if line.startswith("0.03 ")).split()[3]) > int(high)


def test_power_says_where_the_variance_of_runs_was_cut(tmp_path, runcard_command):
    rng = np.random.default_rng(0)
    for seed in range(3):
        residual = rng.normal(0, 0.02, 12)
        write_run(
            tmp_path / f"runs/{seed}", seed=seed, images={"dice": IMAGES + residual - residual.mean() + 1e-4 * seed}
        )
    said = (
        "lab4/task4a: its seeds differ no more than chance on single images explains, so their own variance is cut to 0"
    )
    assert said in runcard_command("power", tmp_path / "runs")[1]
