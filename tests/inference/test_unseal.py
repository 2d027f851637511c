"""A sealed test split: no run evaluates it, runcard unseal does, and every look is counted."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ONE_EPOCH, TINY, blank_figures, compose_config
from evidence import run_json
from PIL import Image

from runcard.config.diff import functional_leaves
from runcard.data.loaders import SampleDataset
from runcard.errors import UserError
from runcard.experiment.run import run
from runcard.fileio import sha256
from runcard.runs.reader import read_run
from runcard.study.spec import read_study
from runcard.training.restore import open_run

SPLIT = "dataset.split.test_fraction=0.3"
SEALED = ("dataset=phantom_chest", *TINY, "train.epochs=1", SPLIT, "dataset.split.seal=true")
CHOICES = {"dataset": "phantom_chest"}
ARMS = {"narrow": "model.base=4", "wide": "model.base=8"}
STUDY = """
name: seal
title: Is it better?
primary: dice
seeds: [0, 1]
arms: {narrow: phantoms/chest, wide: phantoms/chest model.base=8}
questions: {width_dice: {text: is it better, compare: [wide, narrow], measure: dice}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a study's folder with two arms of two sealed runs."""
    top = tmp_path_factory.mktemp("sealed")
    runs = {name: [f"{name}{seed}" for seed in (0, 1)] for name in ARMS}
    with pytest.MonkeyPatch.context() as patch, blank_figures():
        patch.chdir(top)
        for name, override in ARMS.items():
            for seed in (0, 1):
                overrides = [*SEALED, override, f"seed={seed}"]
                run(compose_config(*overrides), top / "outputs" / "seal" / f"{name}{seed}", overrides, CHOICES)
    (top / "study.yml").write_text(STUDY, encoding="utf-8")
    content = {"study": asdict(read_study(top / "study.yml")), "command": "runcard study study.yml", "runs": runs}
    (top / "outputs" / "seal" / "study.json").write_text(json.dumps(content), encoding="utf-8")
    return top


@pytest.fixture
def study(trained: Path, tmp_path: Path) -> Path:
    """Copy the study, into which looks are logged."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return Path("outputs/seal")


@pytest.fixture
def unseal(runcard_command: Callable) -> Callable:
    """Return a function that gives the command `runcard unseal`."""
    return partial(runcard_command, "unseal")


def ask(study: Path, *seeds: int) -> None:
    """Let the study have the runs of these seeds."""
    content = json.loads((study / "study.json").read_text())
    runs = {name: [f"{name}{seed}" for seed in seeds] for name in ARMS}
    (study / "study.json").write_text(json.dumps(content | {"runs": runs}), encoding="utf-8")


def looks(file: Path) -> list[dict[str, str]]:
    """Read a table of looks."""
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def images_read(run_config: Callable, monkeypatch: pytest.MonkeyPatch, name: str, *overrides: str) -> set[str]:
    """Return the names of the splits of which a run's loaders read an image."""
    read: set[int] = set()
    ids: list[str] = []
    original = SampleDataset.__getitems__

    def spy(dataset, keys):
        keys = list(keys)
        read.update(i for _, i in keys)
        ids[:] = dataset.samples.ids
        return original(dataset, keys)

    monkeypatch.setattr(SampleDataset, "__getitems__", spy)
    folder = run_config(name, *SEALED, *overrides)
    monkeypatch.setattr(SampleDataset, "__getitems__", original)
    split = json.loads((folder / "split.json").read_text())
    parts = {member["id"]: part for part in ("train", "val", "test") for member in split[part]}
    return {parts[ids[i]] for i in read}


def test_no_image_of_a_sealed_test_split_reaches_the_model(run_config, monkeypatch):
    assert images_read(run_config, monkeypatch, "sealed") == {"train", "val"}
    assert images_read(run_config, monkeypatch, "open", "dataset.split.seal=false") == {"train", "val", "test"}


def test_a_run_folder_has_no_value_of_a_sealed_image(study, tmp_path, runcard_command):
    folder = tmp_path / "outputs/seal/narrow0"
    run_, reason = read_run(folder)
    assert run_ is not None, reason
    assert (run_.split, run_.split_sizes["test"], run_.is_sealed) == ("val", 6, True)
    hidden = [member["id"] for member in run_.split_members["test"]]
    shown = run_.split_ids["val"][0]
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "split.json"}
    assert any(shown.encode() in text for text in texts.values())
    for path, text in texts.items():
        assert not [name for name in hidden if name.encode() in text or name in path.name], path
        assert b"test/" not in text or path.suffix == ".ckpt", path
    code, out, _ = runcard_command("verify", folder)
    assert code == 0, out


def test_a_comparison_says_that_the_test_split_is_sealed(study, runcard_command):
    code, out, _ = runcard_command("compare", study)
    assert code == 0
    assert "the test split of 6 images is sealed" in out
    assert "look at this test set" not in out


def test_every_look_is_counted_and_stated(study, unseal, runcard_command, tmp_path):
    with blank_figures():
        ask(study, 0)
        code, out, errors = unseal("study.yml")
        assert (code, errors) == (0, "")
        assert "first look at this test set of 6 images" in out
        ask(study, 0, 1)
        for _ in ("new", "seen"):  # the same runs again give the same values
            code, out, errors = unseal(study)
            assert (code, errors) == (0, "")
            assert "second look at this test set of 6 images" in out
    assert [each["look"] for each in looks(study / "looks.csv")] == ["1", "2"]
    assert looks(study / "looks.csv") == looks(Path("outputs/looks.csv"))
    places = [Path(each["folder"]) for each in looks(study / "looks.csv")]
    assert len(set(places)) == 2
    for place, number, num_runs in zip(places, ("first", "second"), (2, 4), strict=True):
        assert f"{number} look at this test set" in (place / "report.html").read_text()
        assert len(list(place.glob("*/run.json"))) == num_runs
    own, _ = read_run(study / "wide0")
    assert own is not None
    assert [Path(each["folder"]).parent for each in own.evaluations] == places
    first, _ = read_run(places[0] / "wide0")
    assert first is not None
    assert first.metadata["evaluation"]["look"] == 1
    assert sorted(first.images().ids) == sorted(own.split_ids["test"])
    code, out, _ = runcard_command("compare", study, "--on", places[1])
    assert code == 0
    assert "second look at this test set" in out
    assert "is sealed" not in out


def test_a_look_is_counted_though_a_ledger_or_a_run_is_removed(study, unseal):
    with blank_figures():
        assert unseal(study)[0] == 0
        (study / "looks.csv").unlink()
        for name in ("narrow0", "narrow1", "wide0", "wide1"):
            (study / name / "evaluations.csv").unlink()
        ask(study, 0)
        code, out, _ = unseal(study)
    assert code == 0
    assert "second look" in out


def test_an_interrupted_look_goes_on_as_the_same_one(study, unseal, monkeypatch):
    from runcard.inference import evaluate

    whole, written = evaluate.write_evaluation, []

    def interrupted(run_, *arguments, **metadata):
        if written:
            raise UserError("disk full")
        written.append(run_)
        whole(run_, *arguments, **metadata)

    with blank_figures():
        monkeypatch.setattr(evaluate, "write_evaluation", interrupted)
        assert unseal(study)[0] == 2
        assert not (study / "looks.csv").exists()
        monkeypatch.setattr(evaluate, "write_evaluation", whole)
        code, out, _ = unseal(study)
    assert code == 0
    assert "first look" in out
    assert len(looks(study / "looks.csv")) == 1


def test_a_look_without_unseal_is_refused(study, runcard_command):
    own = study / "narrow0"
    code, _, errors = runcard_command("evaluate", own, "--split", "test")
    assert code == 2
    assert "its sealed test split has 6 of these 6 images" in errors
    assert "runcard unseal STUDY" in errors
    assert not (own / "evaluations.csv").exists()
    assert not Path("outputs/evaluations").exists()
    with blank_figures():
        assert runcard_command("evaluate", own)[0] == 0, "its validation images are no secret"
    with pytest.raises(UserError, match=r"--split=test: the test split of .* is sealed. Choose --split=val"):
        open_run(own).images(None, "test")
    assert len(open_run(own).images(None, "val")[1]) == 5


def test_sealed_images_are_known_by_their_bytes(run_config, runcard_command, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        for folder, pixels in (("Image", rng.integers(0, 255, (40, 40))), ("Mask", 255 * (rng.random((40, 40)) > 0.5))):
            (tmp_path / "pairs" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pairs" / folder / f"{i}.png")
    data = ("dataset=image_mask", "dataset.root=pairs", "model.base=2", *ONE_EPOCH, SPLIT, "dataset.split.seal=true")
    folder = tmp_path / "files"
    with blank_figures():
        run(compose_config(*data), folder, list(data), {"dataset": "image_mask"})
    hidden = json.loads((folder / "split.json").read_text())["test"][0]["id"]
    for kind in ("Image", "Mask"):
        (tmp_path / "others" / kind).mkdir(parents=True)
        shutil.copy(tmp_path / "pairs" / kind / f"{Path(hidden).stem}.png", tmp_path / "others" / kind / "new.png")
    code, _, errors = runcard_command("evaluate", folder, "dataset.root=others")
    assert code == 2
    assert "its sealed test split has 1 of these 1 image." in errors


def test_mistakes(study, unseal, run_config, tmp_path):
    with pytest.raises(UserError, match=r"no test split to seal. Set dataset.split.test_fraction=0.2"):
        run_config("nothing", *SEALED, "dataset.split.test_fraction=0")
    code, _, errors = unseal(study / "narrow0")
    assert code == 2
    assert "no study" in errors
    (study / "looks.csv").write_text("time,look\n1,2\n")
    code, _, errors = unseal(study)
    assert code == 2
    assert "looks.csv: cannot be read (a column is missing)" in errors
    (study / "looks.csv").unlink()
    for name in ("narrow0", "narrow1", "wide0", "wide1"):
        shutil.rmtree(study / name)
    overrides = [*SEALED, "dataset.split.seal=false"]
    with blank_figures():
        run(compose_config(*overrides), study / "narrow0", overrides, CHOICES)
    code, _, errors = unseal(study)
    assert code == 2
    assert "its test split is not sealed" in errors


def test_test_images_that_changed_are_refused(study, unseal, monkeypatch):
    monkeypatch.setattr("runcard.inference.unseal.hash_images", lambda members: {"hash": "0" * 64})
    code, _, errors = unseal(study)
    assert code == 2
    assert "not the files any more that its split.json sealed" in errors
    assert not (study / "looks.csv").exists()


def test_a_study_with_missing_runs_stays_sealed(study, unseal):
    content = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(content | {"missing": ["wide, seed 2: interrupted"]}))
    code, _, errors = unseal(study)
    assert code == 2
    assert errors.startswith(f"{study}: stays sealed while runs are missing; runcard study runs them:\nwide, seed 2")
    assert not (study / "looks.csv").exists()


def test_a_registered_question_keeps_its_claim_on_the_sealed_images(study, unseal):
    """The evaluated images are not those that were registered for training, and that is no change."""
    content = json.loads((study / "study.json").read_text())
    recorded = {name: run_json(study / folders[0]) for name, folders in content["runs"].items()}
    registered = {
        "time": "2000-01-01T00:00:00+00:00",
        "code": "",
        "study": content["study"],
        "design": None,
        "configs": {name: functional_leaves(each["config"]) for name, each in recorded.items()},
        "data": {name: each["data"] for name, each in recorded.items()},
    }
    (study / "preregistration.json").write_text(json.dumps(registered))
    known = sha256(study / "preregistration.json")
    (study / "study.json").write_text(json.dumps(content | {"preregistration": known}))
    assert unseal(study)[0] == 0
    (report,) = (study.parent / "evaluations").glob("*/report.html")
    assert "It was asked before its runs." in report.read_text(encoding="utf-8")
