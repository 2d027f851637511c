"""A study without a finding of the audit: which images leave, which runs are made, and what is said of the score."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, compose_config
from folders import RecordedConfig, of_classes, write_run
from natsort import natsorted
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from runcard.audit.checks import duplicates
from runcard.audit.detectors.near_duplicates import NearDuplicates, Pair
from runcard.cli import main
from runcard.compare.analysis import of_study
from runcard.compare.report.html import write_report
from runcard.compare.report.terminal import print_answers
from runcard.errors import UserError
from runcard.stats import mrmc
from runcard.study import register, runner
from runcard.study.plan import ArmConfig, arm_config
from runcard.study.runner import run_study
from runcard.study.without import flagged, run_without, without

STUDY = """
name: little
title: Which is better?
primary: accuracy
seeds: [0, 1, 2]
overrides: [dataset.root=data, 'audit.allow=[duplicates_across]', dataset.image_size_px=32, dataset.channels=1,
            model.base=2, train.epochs=1, train.precision=32, train.accelerator=cpu, train.explain_images=0]
arms:
  plain: first/bone
  slow: first/bone optimizer.lr=1e-5
questions:
  slow_accuracy:
    {text: is it worse, compare: [slow, plain], measure: accuracy, factor: optimizer.lr, claim: it is, expect: lower}
"""
CLASSES = ("Normal", "Osteoporosis")
NUM_EACH = 20  # images of a class in a split
LEAKED = [f"train/Normal/leak, {i}'s.png" for i in range(3)]  # as names may be that Hydra must be told apart
TWINS = [f"validation/Normal/{i}.png" for i in range(3)]
MISNAMED = "validation/Normal/Osteoporosis_0.png"
DERIVED = ("derived.in_channels=1", "derived.out_channels=2", "derived.num_classes=2", "derived.positive=1")
DERIVED += ("derived.classes=[Normal, Osteoporosis]", "derived.image_size_px=32", "derived.steps=5")
START = "2100-01-01T00:00:00+00:00"  # after the registration
LEAK, WITHOUT = Path("outputs/little"), Path("outputs/little,without=duplicates_across")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with train.py, conf/, a study, and images of which three lie in both splits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(register, "_hash_data", lambda _: None)  # fake runs name other hashes
    monkeypatch.setattr(duplicates, "find_near_duplicates", lambda *_: NearDuplicates([], 1, 0, 0))  # a second each
    for name in ("train.py", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "study.yml").write_text(STUDY, encoding="utf-8")
    rng = np.random.default_rng(0)
    for part in ("train", "validation"):
        for label in CLASSES:
            for i in range(NUM_EACH):
                save(tmp_path / "data" / part / label / f"{i}.png", rng.integers(0, 256, (24, 24), np.uint8))
    held = tmp_path / "data/validation/Normal"
    for i, name in enumerate(LEAKED):
        (tmp_path / "data" / name).write_bytes((held / f"{i}.png").read_bytes())
    (held / f"{NUM_EACH - 1}.png").rename(tmp_path / "data" / MISNAMED)
    return tmp_path


def held_out() -> list[str]:
    return sorted(p.relative_to("data").as_posix() for p in Path("data").glob("validation/*/*.png"))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def started(house: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, list[str]]]:
    """Return the list of what is started, (arm, seed, excluded ids), of which each leaves its run folder."""
    found: list[tuple[str, int, list[str]]] = []

    def launch(command: Sequence[str]) -> None:
        overrides = [each for each in command[1:] if not each.startswith(("hydra.", "name="))]
        (folder,) = [each.removeprefix("name=").strip("'") for each in command if each.startswith("name=")]
        plain = OmegaConf.to_container(compose_config(*overrides, *DERIVED), resolve=True)
        arm = "slow" if "optimizer.lr=1e-5" in command else "plain"
        excluded = plain["dataset"]["split"]["exclude"]
        for seed in map(int, command[0].removeprefix("seed=").split(",")):
            found.append((arm, seed, excluded))
            write(house / "outputs" / folder / f"{arm}{seed}", plain, arm, seed)

    monkeypatch.setattr(runner, "_launch", launch)
    return found


def write(folder: Path, config: dict, arm: str, seed: int) -> None:
    """Write a run: the plain arm is right on what it has seen in training, and neither learns anything else."""
    excluded, data = set(config["dataset"]["split"]["exclude"]), Path("data")
    ids = {
        part: sorted({p.relative_to(data).as_posix() for p in data.glob(f"{part}/*/*.png")} - excluded)
        for part in ("train", "validation")
    }
    compared = ids["validation"]
    right = accuracy(arm, seed, len(compared), is_leaked=len(ids["train"]) > 2 * NUM_EACH)
    targets = [name.split("/")[1] for name in compared]
    of_normal = np.where((np.array(targets) == "Normal") == right, 0.9, 0.1)
    write_run(
        folder,
        seed=seed,
        epochs=1,
        recorded=RecordedConfig(config, {"dataset": "image_folder"}),
        images=of_classes(targets, np.stack([of_normal, 1 - of_normal], axis=1), CLASSES),
        ids=compared,
        train_ids=ids["train"],
        metadata={"start": START},
    )
    sign(folder)


def accuracy(arm: str, seed: int, num_images: int, is_leaked: bool) -> np.ndarray:
    right = np.random.default_rng([seed, *arm.encode()]).random(num_images) < 0.5
    return right | (np.arange(num_images) < 30) if arm == "plain" and is_leaked else right


def sign(folder: Path, **of_other_bytes: str) -> None:
    """Give each image of split.json its SHA-256."""
    split = json.loads((folder / "split.json").read_text())
    for member in (member for members in split.values() for member in members):
        member["sha256"] = of_other_bytes.get(Path(member["id"]).stem, member["id"])
    (folder / "split.json").write_text(json.dumps(split))


def printed(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_answers(console, of_study(folder))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_a_leak_was_worth(house, started):
    run_study(Path("study.yml"), [])
    with_it = [(arm, seed) for arm, seed, _ in started]
    assert run_without(Path("study.yml"), [], "duplicates_across").missing == ()
    again = started[len(with_it) :]
    assert [(arm, seed) for arm, seed, _ in again] == with_it
    assert all(sorted(excluded) == LEAKED for _, _, excluded in again), "the copies in training, and nothing else"

    cost = of_study(WITHOUT).cost
    assert [each.arm for each in cost.arms] == ["plain", "slow"]
    assert [(each.num_trained, each.num_images, each.num_seeds) for each in cost.arms] == [((43, 40), 40, 3)] * 2
    before, after = (np.stack([accuracy("plain", s, 40, leaked) for s in range(3)]) for leaked in (True, False))
    assert cost.arms[0].scores == pytest.approx((before.mean(), after.mean()))
    assert cost.arms[0].effect.interval() == pytest.approx(mrmc.difference(1.0 * before, 1.0 * after).interval())
    assert cost.arms[0].effect.interval()[0] > 0
    assert [each.num_twins for each in cost.arms] == [3, 3]
    twins = [i for i, name in enumerate(held_out()) if name in TWINS]
    assert cost.arms[0].of_twins == pytest.approx((before[:, twins].mean(), after[:, twins].mean()))
    assert (cost.arms[1].effect.estimate, cost.arms[1].scores[0]) == (0, cost.arms[1].scores[1])
    assert cost.verdicts == (("slow_accuracy", "worse, claim supported", "cannot tell, claim cannot tell"),)
    assert cost.sentence == "1 of 1 verdict depended on duplicates_across: slow_accuracy."
    assert cost.remarks == ()
    assert of_study(LEAK).cost is None


def test_it_is_told_on_the_terminal_and_in_the_report(house, started):
    run_study(Path("study.yml"), [])
    run_without(Path("study.yml"), [], "duplicates_across")
    text = printed(WITHOUT)
    assert "What the finding duplicates_across was worth" in text
    assert "43 → 40" in text
    assert "40 same images, 3 seeds" in text
    assert "of these, also in training" in text
    assert "1 of 1 verdict depended on duplicates_across: slow_accuracy." in text
    assert "What the finding" not in printed(LEAK)
    page = write_report(of_study(WITHOUT), WITHOUT).read_text()
    assert "What the finding duplicates_across was worth" in page
    assert "worse, claim supported" in page
    content = json.loads((WITHOUT / "study.json").read_text())
    assert content["command"] == "runcard study study.yml --without duplicates_across"
    assert content["without"]["excluded"] == dict.fromkeys(("plain", "slow"), LEAKED)
    assert (WITHOUT / "preregistration.json").exists()

    num_started = len(started)
    run_without(Path("study.yml"), [], "duplicates_across")
    assert len(started) == num_started, "the same command has nothing left to do"


def test_without_the_study_as_it_is_nothing_is_said(house, started):
    run_study(Path("study.yml"), [])
    run_without(Path("study.yml"), [], "duplicates_across")
    LEAK.rename("elsewhere")
    found = of_study(WITHOUT)
    assert found.cost is None
    assert any(each.text.startswith("what duplicates_across was worth cannot be said: ") for each in found.remarks)


def test_images_of_other_bytes_are_not_compared(house, started):
    run_study(Path("study.yml"), [])
    run_without(Path("study.yml"), [], "duplicates_across")
    sign(WITHOUT / "plain1", **{"7": "other bytes"})  # of a validation image in each class
    plain, slow = of_study(WITHOUT).cost.arms
    assert (plain.num_images, slow.num_images) == (38, 40)
    sign(WITHOUT / "plain1", **{Path(name).stem: "other bytes" for name in held_out()})
    plain, _ = of_study(WITHOUT).cost.arms
    assert (plain.note, plain.scores) == ("no seed, or no two images, that both were measured with", None)


def test_what_may_be_labelled_wrongly_is_not_compared_either(house, started):
    run_study(Path("study.yml"), [])
    run_without(Path("study.yml"), [], "label_against_name")
    assert started[-1][2] == [MISNAMED]
    cost = of_study(Path("outputs/little,without=label_against_name")).cost
    assert [(each.num_trained, each.num_images) for each in cost.arms] == [((43, 43), 39)] * 2
    assert "plain: 1 of the compared images are among those left out; scores are of the others" in cost.remarks


def arm(*own: str) -> ArmConfig:
    overrides = ("dataset.root=data", "model.base=2", *own)
    return arm_config("study.yml: arms.plain", "first/bone", {text.partition("=")[0]: text for text in overrides}, None)


def test_the_audit_does_not_see_what_is_left_out(house):
    whole = arm("dataset.split.exclude=[train/Normal/9.png]")
    found = flagged({"plain": whole}, "duplicates_across")["plain"]
    assert (list(found.ids), list(found.twins)) == (LEAKED, TWINS)
    left = without(whole, found.ids)
    assert left.config.dataset.split.exclude == ["train/Normal/9.png", *LEAKED], "and what was left out before"
    with pytest.raises(UserError, match="the audit does not find it in the data of plain"):
        flagged({"plain": left}, "duplicates_across")


def test_an_image_with_the_pixels_of_a_near_duplicate_leaves_too(house, monkeypatch):
    """The search for near-duplicates looks at one only of those with the same pixels."""
    own, held = "train/Osteoporosis/5.png", "validation/Osteoporosis/5.png"
    (house / "data/train/Osteoporosis/5b.png").write_bytes((house / "data" / own).read_bytes())
    seen = sorted(p.relative_to("data").as_posix() for p in Path("data").rglob("*.png"))
    copies = {"train/Osteoporosis/5b.png", *(f"validation/Normal/{i}.png" for i in range(len(LEAKED)))}
    order = [name for name in natsorted(seen) if name not in copies]
    pair = Pair(order.index(own), order.index(held), 1.0, "as it is")
    monkeypatch.setattr(duplicates, "find_near_duplicates", lambda *_: NearDuplicates([pair], 1, 0, 0))
    found = flagged({"plain": arm()}, "near_duplicates_across")["plain"]
    assert list(found.ids) == [own, "train/Osteoporosis/5b.png"]


def test_of_patients_in_two_splits_the_training_images_leave(house):
    whole = arm("dataset.split.group_regex='([^/]+)$'")  # an image's name, which its namesake of validation has too
    assert sorted(flagged({"plain": whole}, "group_on_both_sides")["plain"].ids) == sorted(
        f"train/{label}/{i}.png" for label in CLASSES for i in range(NUM_EACH)
    )


def test_a_finding_that_names_every_image_of_training_is_refused(house):
    for name in LEAKED:
        (house / "data" / name).unlink()
    with pytest.raises(UserError, match=r"^--without group_on_both_sides: names every image of train, so that none"):
        flagged({"plain": arm("dataset.split.group_regex='([^/]+)$'")}, "group_on_both_sides")


def test_each_arm_gets_the_seeds_that_it_had(house, started):
    run_study(Path("study.yml"), [], budget=10)
    with_it = sorted((arm, seed) for arm, seed, _ in started)
    run_without(Path("study.yml"), [], "duplicates_across")
    assert sorted((arm, seed) for arm, seed, _ in started[len(with_it) :]) == with_it
    before, after = (json.loads((folder / "study.json").read_text())["design"] for folder in (LEAK, WITHOUT))
    assert before == after


@pytest.mark.parametrize(
    ("arguments", "finding", "message"),
    [
        ([], "duplicates_accross", r"^--without duplicates_accross: must be .*Did you mean 'duplicates_across'"),
        ([], "class_shortcut", r"^--without class_shortcut: must be a check of the audit that names images"),
        ([], "mask_misfit", r"^--without mask_misfit: the audit does not find it .*\. They have duplicates_across"),
        (["seeds=0"], "duplicates_across", r"^seeds=0: --without takes the seeds"),
    ],
)
def test_nothing_is_run_for_what_cannot_be_left_out(house, started, arguments, finding, message):
    run_study(Path("study.yml"), [])
    num_started = len(started)
    with pytest.raises(UserError, match=message):
        run_without(Path("study.yml"), arguments, finding)
    assert len(started) == num_started
    assert [path.name for path in Path("outputs").glob("*without*")] == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--until-decided", "--without takes the seeds that each arm of the study has. Leave --until-decided out."),
        ("--budget=10", "--budget 10: is that of --until-decided."),
    ],
)
def test_seeds_are_not_added_without_a_finding(house, monkeypatch, capsys, option, words):
    monkeypatch.setattr(sys, "argv", ["runcard", "study", "study.yml", "--without", "duplicates_across", option])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_a_study_without_runs_is_run_as_it_is_first(house, started):
    with pytest.raises(UserError, match=r"^outputs/little: has no study\.json, .* first: runcard study study\.yml$"):
        run_without(Path("study.yml"), [], "duplicates_across")
    run_study(Path("study.yml"), [])
    other = STUDY.replace("train.epochs=1", "train.epochs=2")
    Path("study.yml").write_text(other, encoding="utf-8")
    with pytest.raises(UserError, match=r"has no completed run of the arms as they are now"):
        run_without(Path("study.yml"), [], "duplicates_across")
    assert len(started) == 6
