"""What runcard study launches and what it takes for done; its mistakes; and a real study, interrupted and gone on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ONE_THREAD, ROOT, TINY, compose_config
from folders import RecordedConfig, write_run
from omegaconf import OmegaConf

from runcard.errors import UserError
from runcard.fileio import sha256
from runcard.runs.environment import code_hash
from runcard.study import runner as study
from runcard.study.runner import StudyRun, run_study
from runcard.study.spec import read_study

STUDY = """
name: little
title: Which is better?
primary: dice
seeds: [0, 1]
overrides: [train.epochs=3]
arms:
  plain: phantoms/chest
  wide: phantoms/chest model.base=8
  clever: phantoms/chest train.epochs=5 model.base=8
questions:
  width_dice: {text: is it better, compare: [wide, plain], measure: dice}
  width_soon: {text: is it sooner, compare: [wide, plain], measure: seconds}
  more_dice: {text: is it better, compare: [clever, plain], measure: dice}
"""
TWO_CARDS = """
name: two
title: Which is better?
primary: dice
seeds: [0]
arms: {one: phantoms/chest, other: first/capacity}
questions: {dice: {text: is it better, compare: [one, other], measure: dice}}
"""
DERIVED = ("derived.in_channels=1", "derived.out_channels=1", "derived.num_classes=2", "derived.classes=[a,b]")
DERIVED += ("derived.positive=1", "derived.image_size_px=64", "derived.steps=30")
CHEST = "hydra.sweep.subdir='experiment=${runcard.folder:${hydra.runtime.choices.experiment}}"
PLAIN = ["experiment=phantoms/chest", "train.epochs=3", CHEST + ",seed=${seed}'", "name='little'"]
WIDE = ["experiment=phantoms/chest", "train.epochs=3", "model.base=8", CHEST + ",model.base=8,seed=${seed}'"]
CLEVER = ["experiment=phantoms/chest", "train.epochs=5", "model.base=8"]
CLEVER += [CHEST + ",train.epochs=5,model.base=8,seed=${seed}'"]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the current folder, with train.py, conf/ and a study."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "study.yml").write_text(STUDY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def launched(house: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Returns a function that runs the study without training, and returns what train.py would have been given."""

    def run_it(*arguments: str) -> list[list[str]]:
        commands: list[list[str]] = []
        monkeypatch.setattr(study, "_launch", commands.append)
        run_it.result = run_study(Path("study.yml"), arguments)  # type: ignore[attr-defined]
        return commands

    return run_it


def write(folder: Path, *overrides: str, seed: int = 0, epochs: int = 3, **special) -> None:
    """Writes the run folder that a config leaves."""
    config = compose_config("experiment=phantoms/chest", *overrides, *DERIVED)
    plain = OmegaConf.to_container(config, resolve=True)
    write_run(folder, seed=seed, epochs=epochs, recorded=RecordedConfig(plain, {"dataset": "phantom_chest"}), **special)


def test_all_is_missing_at_first(launched):
    name = "name='little'"
    seeds = "seed=0,1"
    assert launched() == [[seeds, *PLAIN], [seeds, *WIDE, name], [seeds, *CLEVER, name]]
    assert launched.result == StudyRun(
        Path("outputs/little"),
        tuple(f"{arm}, seeds 0, 1: not started" for arm in ("plain", "wide", "clever")),
    )


def test_what_is_done_is_skipped_whatever_its_folder(launched, house, capsys):
    write(house / "outputs/little/copied/from elsewhere", seed=0)
    write(house / "outputs/little/b", "model.base=8", seed=0)
    write(house / "outputs/little/c", "model.base=8", seed=1)
    name = "name='little'"
    assert launched() == [["seed=1", *PLAIN], ["seed=0,1", *CLEVER, name]]
    content = json.loads((house / "outputs/little/study.json").read_text())
    assert content["runs"] == {"plain": ["copied/from elsewhere"], "wide": ["b", "c"], "clever": []}
    assert "and 2 runs of which nothing is known yet" in capsys.readouterr().out
    assert launched.result.missing[0] == "plain, seed 1: not started"


def test_a_damaged_folder_is_no_run(launched, house):
    write(house / "outputs/little/a")
    for name, text in (("b", "{"), ("c", "{}"), ("d", "[]"), ("e", '{"config": {"seed": 0, "derived": []}}')):
        (house / "outputs/little" / name).mkdir()
        (house / "outputs/little" / name / "run.json").write_text(text)
    assert launched("seeds=0", "questions=width") == [["seed=0", *WIDE, "name='little'"]]


def runs_in(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "study.json").read_text())["runs"]


def test_the_newest_run_counts_and_none_that_was_moved_aside(launched, house):
    for day, name in ((3, "again"), (2, "last"), (4, "again.old1")):
        write(house / "outputs/little" / name, metadata={"end": f"2026-11-0{day}T00:00:00+00:00"})
    write(house / "outputs/little/newer", status="interrupted", metadata={"end": "2026-11-05T00:00:00+00:00"})
    launched("seeds=0")
    assert runs_in(house / "outputs/little")["plain"] == ["again"]


def test_runs_of_other_images_or_code_are_told(launched, house, capsys):
    (house / "study.yml").write_text(
        TWO_CARDS.replace("phantoms/chest", "lab4/task4a").replace("first/capacity", "lab4/task4b"), encoding="utf-8"
    )
    config = OmegaConf.to_container(
        compose_config("experiment=lab4/task4a", "dataset.root=here", *DERIVED), resolve=True
    )
    lungs = RecordedConfig(config, {"dataset": "lungs"})
    now = {"code": code_hash()}
    for seed, session in ((0, now), (1, now), (2, {})):
        write_run(house / f"outputs/two/{seed}", seed=seed, epochs=3, recorded=lungs, session=session)
    words = "images in here, not there: if these are other images, use name=…\n"
    given = ("seeds=0,1,2", "train.epochs=3", "name=two")
    launched(*given, "dataset.root=there")
    assert (
        f"3 runs here were made of the {words}1 run here was made by other code: overwrite=true runs them again\n"
        in (capsys.readouterr().out)
    )
    (again, _) = launched(*given, f"dataset.root={house / 'here'}", "overwrite=true")
    assert again[:2] == ["seed=2", "experiment=lab4/task4a"], "what is of this code and these images stays"
    assert " here w" not in capsys.readouterr().out


def test_runs_from_other_weights_under_the_same_path_are_told(launched, house, capsys):
    file = house / "weights.safetensors"
    file.write_bytes(b"first")
    start = f"train.init_from={file}"
    write(house / "outputs/two/a", start, config={"init_sha256": sha256(file)}, session={"code": code_hash()})
    given = ("seeds=0", "questions=width_dice", "name=two", start)
    launched(*given)
    assert "other weights" not in capsys.readouterr().out
    file.write_bytes(b"second")
    launched(*given)
    words = f"1 run here was made from other weights than {file} has now: overwrite=true runs them again\n"
    assert words in capsys.readouterr().out
    file.unlink()
    launched(*given)
    assert "other weights" not in capsys.readouterr().out


def test_asking_less_afterwards_takes_nothing_back(launched, house):
    def asked() -> tuple[list[int], list[str], int]:
        study = json.loads((house / "outputs/little/study.json").read_text())["study"]
        return study["seeds"], [q["key"] for q in study["questions"]], study["num_questions"]

    write(house / "outputs/little/b", "model.base=8", seed=1)
    launched("questions=width_dice", "seeds=1,0")
    assert asked() == ([1, 0], ["width_dice"], 3)
    commands = launched("questions=more_dice", "seeds=4")
    assert {command[0] for command in commands} == {"seed=4"}, "what was asked before does not run"
    assert len(commands) == 2
    assert asked() == ([0, 1, 4], ["width_dice", "more_dice"], 3)
    assert runs_in(house / "outputs/little") == {"plain": [], "wide": ["b"], "clever": []}
    content = json.loads((house / "outputs/little/study.json").read_text())
    assert content["command"] == "runcard study study.yml seeds=0,1,4 questions=width_dice,more_dice"
    assert [each.partition(",")[0] for each in content["missing"]] == ["plain", "clever"]

    (house / "study.yml").write_text(STUDY.replace("  more_dice:", "  less_dice:"), encoding="utf-8")
    launched("questions=less", "seeds=4")
    assert asked() == ([0, 1, 4], ["width_dice", "less_dice"], 3), "what the file asks no longer"
    (house / "outputs/little/study.json").write_text("{}")
    launched("questions=less", "seeds=4")
    assert asked() == ([4], ["less_dice"], 3)


def test_arms_that_miss_the_same_seeds_are_one_sweep(launched, house):
    (house / "study.yml").write_text(
        STUDY.replace("chest model.base=8", "chest", 1).replace("plain: phantoms/chest", "plain: first/capacity")
    )
    assert launched("questions=width") == [
        ["seed=0,1", "experiment=first/capacity,phantoms/chest", *PLAIN[1:]],
    ]


@pytest.mark.parametrize(
    ("special", "reason"),
    [
        ({"config": {"optimizer.lr": 0.5}}, "not started"),
        ({"epochs": 4}, "not started"),
        ({"status": "interrupted"}, "interrupted"),
        ({"status": "failed", "metadata": {"error": "loss is NaN"}}, "failed: loss is NaN"),
        ({"metadata": {"schema": 2}}, "its schema is 2, this version of runcard reads 5"),
    ],
)
def test_what_is_not_done(launched, house, special, reason):
    write(house / "outputs/little/experiment=phantoms.chest,seed=0", **special)
    assert launched("seeds=0")[0] == ["seed=0", *PLAIN]
    assert launched.result.missing[0] == f"plain, seed 0: {reason}"


def test_what_cannot_change_numbers_is_no_other_config(launched, house):
    write(house / "outputs/little/a", config={"train.num_workers": 4, "name": "x", "weights_sha256": "ab"})
    assert ["seed=0", *PLAIN] not in launched("seeds=0")


def test_what_is_passed_on_reaches_every_run_and_names_the_folder(launched, house):
    given = ["train.num_workers=2", "dataset.num_images=50", "train.cache_dir=/somewhere/here", "hydra/launcher=joblib"]
    commands = launched(*given, "seeds=4", "questions=width_soon", "loss=bce")
    assert len(commands) == 2
    for command in commands:
        assert {*given, "seed=4", "loss=bce", "train.epochs=3"} <= set(command)
        assert "name='little,dataset.num_images=50,loss=bce'" in command
    content = json.loads((house / "outputs/little,dataset.num_images=50,loss=bce/study.json").read_text())
    assert content["study"]["overrides"] == ["train.epochs=3", "dataset.num_images=50", "loss=bce"]
    assert [q["key"] for q in content["study"]["questions"]] == ["width_soon"]
    assert (content["study"]["seeds"], list(content["study"]["arms"])) == ([4], ["plain", "wide"])
    assert content["command"] == (
        "runcard study study.yml train.num_workers=2 dataset.num_images=50 'train.cache_dir=…' hydra/launcher=joblib "
        "seeds=4 questions=width_soon loss=bce"
    )


def test_an_arm_keeps_what_makes_it_one(launched):
    """scale, size or epochs given for all runs do not undo what one arm sets."""
    commands = launched("train.epochs=7", "name=short")
    assert ["train.epochs=5" in command for command in commands] == [False, False, True]
    assert ["train.epochs=7" in command for command in commands] == [True, True, False]
    assert all("name='short'" in command for command in commands)


MISTAKES = [
    ("train.epoch=3", "study.yml: arms.plain: train.epoch: no such option. Did you mean 'train.epochs'?"),
    ("loss=dic", "study.yml: arms.plain: loss=dic: no such file conf/loss/dic.yaml."),
    ("dataset=lungs", "study.yml: arms.plain: dataset.root: this key has no default and must be given: dataset.root=…"),
    ("seed=1", "seed: a study sets it itself, for every run. Use seeds=… or name=…"),
    ("seds=1,2", "seds: one value, for all runs; what differs is a study's arms. Did you mean 'seeds'?"),
    *(
        (
            f"seeds={seeds}",
            "seeds must be different integers >= 0 with commas between them, such as seeds=0,1,2, got '" + seeds,
        )
        for seeds in ("", "1,b", "1,1", "-1", "range(0,3)")
    ),
    ("questions=wide", "questions: none is called wide."),
    (
        "questions=",
        "questions must be names with commas between them, such as questions=4b,4c, got ''. There are width_",
    ),
    ("--multirun", "--multirun: a study takes key=value: seeds=…, questions=…, name=…, or Hydra's."),
    ("name=../x", "name must be a folder's name, got '../x'."),
]


@pytest.mark.parametrize(("argument", "words"), MISTAKES)
def test_a_mistake_is_told_before_anything_runs(launched, house, argument, words):
    with pytest.raises(UserError) as caught:
        launched(argument)
    assert str(caught.value).startswith(words)
    assert not [*(house / "outputs").rglob("*.json")]


def test_an_arm_that_names_no_config_first(launched, house):
    for text in ("loss=dice,(", "phantoms/chest model.base=[8"):
        (house / "study.yml").write_text(STUDY.replace("phantoms/chest train.epochs=5 model.base=8", f"'{text}'"))
        with pytest.raises(UserError, match=rf"arms\.clever must begin with a config .*got '{re.escape(text)}'"):
            launched()


def test_a_margin_of_a_metric_that_no_question_is_about_is_refused(house):
    for name in ("margin", "threshold"):
        text = STUDY.replace("primary: dice", f"primary: dise\n{name}: 0.05")
        (house / "study.yml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=rf"{name}: it is one of dise \(primary\), .* 'dice'\?$"):
            read_study(house / "study.yml")


def test_a_metric_that_no_arm_measures(launched, house):
    (house / "study.yml").write_text(STUDY.replace("measure: dice", "measure: dise", 1))
    with pytest.raises(UserError, match=r"questions\.width_dice: dise is no metric of phantoms/chest .* 'dice'\?"):
        launched()


def test_a_study_runs_in_any_folder(launched, house):
    (house / "train.py").unlink()
    (house / "conf").unlink()
    assert len(launched()) == 3


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").rglob("*.yml")), ids=lambda path: path.parent.name)
def test_the_studies_of_the_house(file, launched, house, monkeypatch):
    """Every arm composes, every measure is one of its config's, and each factor is a key or group of it."""
    monkeypatch.setattr("runcard.study.register._hash_data", lambda config: None)  # the course's images are not here
    (house / "study.yml").write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    asked = read_study(file)
    root = ["dataset.root=anywhere"] if "lab4" in file.parts else []
    commands = launched(*root)
    configs = {name for command in commands for name in command[1].removeprefix("experiment=").split(",")}
    assert configs == {arm.split()[0] for arm in asked.arms.values()}
    assert {arm for q in asked.questions for arm in (q.first, q.second)} == set(asked.arms), "an arm is asked nothing"
    for first, factor in {(asked.arms[q.first].split()[0], q.factor) for q in asked.questions}:
        assert OmegaConf.select(compose_config(f"experiment={first}"), factor) is not None


def test_without_its_images_a_study_is_not_registered(launched, house):
    (house / "study.yml").write_text(
        TWO_CARDS.replace("phantoms/chest", "lab4/task4a").replace("first/capacity", "lab4/task4b"), encoding="utf-8"
    )
    with pytest.raises(UserError, match="nowhere: no such folder"):
        launched("dataset.root=nowhere")
    assert not [*(house / "outputs").rglob("*.json")]


def test_a_claim_stands_in_the_report():
    """The words between [...] stand in the report, letter by letter."""
    report = ROOT.parent / "shared" / "seed" / "lab4-report.txt"
    if not report.exists():
        pytest.skip("the report is not here")
    words = " ".join(report.read_text(encoding="utf-8").split())
    asked = read_study(ROOT / "experiments" / "lab4" / "study.yml")
    for claim in {q.claim for q in asked.questions}:
        assert all(part.strip() in words for part in claim.split("[...]")), claim


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_interrupted_it_goes_on(house):
    (house / "study.yml").write_text(TWO_CARDS, encoding="utf-8")
    code = "import sys; from pathlib import Path; from runcard.study.runner import run_study; "
    code += "print(run_study(Path('study.yml'), sys.argv[1:]).missing)"
    command = [sys.executable, "-c", code, *TINY, "train.epochs=15", "model.depth=2", "train.pictures=0", "name=two"]
    first, second = (
        house / f"outputs/two/experiment={config},seed=0" for config in ("phantoms.chest", "first.capacity")
    )
    with subprocess.Popen(command, env=ONE_THREAD, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (second / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
    done, stopped = (json.loads((folder / "run.json").read_text()) for folder in (first, second))
    assert (done["status"], stopped["status"]) == ("completed", "interrupted")
    runs = json.loads((house / "outputs/two/study.json").read_text())["runs"]
    assert runs == {"one": [first.name], "other": []}

    again = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=120, check=True)
    assert again.stdout.endswith("()\n"), again.stdout
    assert "going on after epoch" in again.stdout
    assert json.loads((first / "run.json").read_text()) == done
    assert len(json.loads((second / "run.json").read_text())["sessions"]) == 2
    runs = json.loads((house / "outputs/two/study.json").read_text())["runs"]
    assert runs == {"one": [first.name], "other": [second.name]}
