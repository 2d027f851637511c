"""runcard explain, and the panel at the end of a run: which images, which classes, which files, and every refusal."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ONE_THREAD, TINY
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models.vgg import cfgs, make_layers

from runcard import __version__
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.errors import UserError
from runcard.experiment import finalize as results
from runcard.explain.explain import explain_run
from runcard.training.restore import open_run

BONE = [o.replace("model.base=4", "model.base=2") for o in TINY]
BONE += ["dataset=phantom_bone", "model=vgg16", "model.batchnorm=true", "loss=bce"]
FRACTURES = ("AFF", "NFF")


def explained(
    folder: Path, *paths: Path, split: str = "val", method: str = "GradCAM", layer: str | None = None
) -> Path:
    """Runs runcard explain, and returns the folder that it wrote."""
    explain_run(folder, paths, split=split, method=method, layer=layer, root=None)
    return folder / "explain" / f"{method}-{layer or 'features.40'}-{'images' if paths else split}"


def content(folder: Path) -> dict:
    return json.loads((folder / "explanation.json").read_text())


def test_a_run_with_classes_ends_with_a_panel_and_the_probe(run_config):
    folder = run_config("a", *BONE)
    assert Image.open(folder / "figures" / "activation_maps.png").width > 256
    findings = json.loads((folder / "run.json").read_text())["shortcut"]
    assert [finding["region"] for finding in findings] == ["border", "printed markers"]
    assert {finding["num_images"] for finding in findings} == {4}
    assert not any(finding["alarm"] for finding in findings), "four images say nothing"


def test_fewer_images_or_none_may_be_explained(run_config):
    few = run_config("few", *BONE, "train.explain_images=2")
    assert {f["num_images"] for f in json.loads((few / "run.json").read_text())["shortcut"]} == {2}
    for name, overrides in (("none", [*BONE, "train.explain_images=0"]), ("masks", TINY)):
        folder = run_config(name, *overrides)
        assert json.loads((folder / "run.json").read_text())["shortcut"] == []
        assert not (folder / "figures" / "activation_maps.png").exists()


def test_explains_the_runs_own_images_with_its_best_weights(run_config):
    folder = run_config("a", *BONE)
    written = explained(folder)
    rows = [row for row in csv.DictReader((folder / "per_image.csv").open()) if row["checkpoint"] == "best"]
    shown = content(written)["images"]
    assert [(row["id"], row["true"]) for row in shown] == [(row["id"], row["target"]) for row in rows]
    for row, of_run in zip(shown, rows, strict=True):
        assert row["probability"] == pytest.approx(float(of_run[f"prob_{row['predicted']}"]), abs=1e-5)
    sheets = {path.stem for path in written.glob("*.png")}
    verdicts = {row["id"]: "correct" if row["true"] == row["predicted"] else "wrong" for row in shown}
    assert sheets == {f"{row['true']}_{verdicts[row['id']]}" for row in shown}
    maps = np.load(written / "maps.npz")
    assert maps["ids"].tolist() == [row["id"] for row in shown]
    assert maps["maps"].shape == (4, 32, 32)
    assert 0 <= maps["maps"].min() <= maps["maps"].max() <= 1
    assert len(content(explained(folder, split="train"))["images"]) == 16


def test_another_layer_and_method_give_other_maps(run_config):
    folder = run_config("a", *BONE)
    found = [np.load(explained(folder, **how) / "maps.npz")["maps"] for how in ({}, {"layer": "features.3"})]
    found.append(np.load(explained(folder, method="EigenCAM") / "maps.npz")["maps"])
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.fixture
def films(tmp_path):
    """A folder of class folders, as a clinic would send it."""
    source = PhantomBone(num_images=10, size_px=48, seed=5)
    for image, target, name in (source[i] for i in range(10)):
        path = tmp_path / "films" / FRACTURES[target] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "films"


def test_explains_other_images_with_their_classes_where_the_folder_tells(run_config, films):
    of_phantoms = run_config("a", *BONE)
    loose = content(explained(of_phantoms, films))
    assert len(loose["images"]) == 10
    assert {row["true"] for row in loose["images"]} == {None}, "phantoms have no layout on disk"
    assert loose["shortcut"] == []
    config = [o for o in BONE if not o.startswith(("dataset=", "dataset.num"))]
    config += [
        "dataset=image_folder",
        f"dataset.root={films}",
        "dataset.split.kind=holdout",
        "dataset.split.val_fraction=0.4",
    ]
    of_films = run_config("b", *config, "dataset.channels=1", "dataset.split.val_fraction=0.4")
    labelled = content(explained(of_films, films))
    assert {row["id"]: row["true"] for row in labelled["images"]} == {
        path.relative_to(films).as_posix(): path.parent.name for path in films.rglob("*.png")
    }
    assert len(labelled["shortcut"]) == 2
    one = next(films.rglob("*.png"))
    assert [row["true"] for row in content(explained(of_films, one))["images"]] == [None]
    (films / "AFF").rename(films.parent / "elsewhere")
    assert len(content(explained(of_films, films.parent / "elsewhere"))["images"]) == len(
        list((films.parent / "elsewhere").iterdir())
    )


OF_FILMS = [
    "dataset=image_folder",
    "dataset.split.kind=holdout",
    "dataset.split.val_fraction=0.4",
    "dataset.channels=1",
]
OF_FILMS += [o for o in BONE if not o.startswith(("dataset=", "dataset.num"))]


def test_val_is_what_the_run_validated_on_whatever_was_added_since(run_config, films, capsys):
    folder = run_config("a", *OF_FILMS, f"dataset.root={films}")
    before = [row["id"] for row in content(explained(folder))["images"]]
    for i in range(7):
        Image.new("L", (48, 48), 20 * i).save(films / "AFF" / f"added_{i}.png")
    assert [row["id"] for row in content(explained(folder))["images"]] == before
    assert "not the bytes" not in capsys.readouterr().out
    Image.new("L", (48, 48), 99).save(films / before[0])
    explained(folder)
    assert "warning: these are not the bytes that the run saw." in capsys.readouterr().out
    (films / before[0]).unlink()
    with pytest.raises(UserError, match=f"1 of its val images are not in the data any more, such as {before[0]}"):
        explained(folder)


def test_sheets_of_an_earlier_time_do_not_stay(run_config, films):
    folder = run_config("a", *BONE)
    (folder / "explain" / "GradCAM-features.40-val").mkdir(parents=True)
    (folder / "explain" / "GradCAM-features.40-val" / "Mel_wrong.png").write_bytes(b"")
    assert not (explained(folder) / "Mel_wrong.png").exists()


def test_a_model_that_cannot_be_explained_keeps_its_training(run_config, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise UserError("the model has no nn.Conv2d")

    monkeypatch.setattr(results, "explain", refuse)
    folder = run_config("a", *BONE)
    assert json.loads((folder / "run.json").read_text())["status"] == "completed"
    assert "no activation maps: the model has no nn.Conv2d" in capsys.readouterr().out


def test_a_saved_run_needs_its_weights_file_no_more(run_config, tmp_path):
    path = tmp_path / "convolutions.safetensors"
    save_file({f"features.{name}": t for name, t in make_layers(cfgs["D"]).state_dict().items()}, path)
    config = [o for o in BONE if not o.startswith("model")]
    folder = run_config("a", *config, "model=vgg16_pretrained", f"model.weights={path}")
    expected = load_file(path)["features.28.weight"]
    path.unlink()
    assert torch.equal(open_run(folder).model.features[28].weight, expected)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"split": "test"}, "--split=test: the run has no such images"),
        ({"split": "vall"}, "--split must be one of train, val, test, got 'vall'"),
        ({"layer": "features.7777"}, "layer must be a name of the model's"),
        ({"method": "GradCAMM"}, "Did you mean 'GradCAM'"),
    ],
)
def test_refuses(run_config, how, message):
    folder = run_config("a", *BONE)
    with pytest.raises(UserError, match=message):
        explained(folder, **how)
    assert not (folder / "explain").exists()


def test_masks_have_no_activation_maps(run_config):
    with pytest.raises(UserError, match="one class per image"):
        explain_run(run_config("a", *TINY), [], split="val", method="GradCAM", layer=None, root=None)


def test_data_that_are_made_have_no_root(run_config):
    with pytest.raises(UserError, match=r"--root: the data of .* are not files"):
        explain_run(run_config("a", *BONE), [], split="val", method="GradCAM", layer=None, root=Path("/data"))


def runcard(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from runcard.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ONE_THREAD)


def test_the_command_answers_a_mistake_in_words(tmp_path):
    done = runcard("explain", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}: no run with trained weights. Name a folder such as outputs/<name>/<stamp>.\n"
    assert runcard("--version").stdout == f"runcard {__version__}\n"
    assert runcard("explian").returncode == 2
    assert "explain" in runcard("--help").stdout
