"""Predictions of trained runs: what evaluation computes, at the size of the images, whatever interrupts them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ONE_THREAD, ROOT
from PIL import Image

import runcard
from runcard.data.preprocessing import place
from runcard.datasets.image_mask import LungCT
from runcard.errors import UserError
from runcard.inference.inputs import find_inputs
from runcard.inference.predict import _Folder
from runcard.inference.predictor import trained_flips
from runcard.runs.hold import Hold
from runcard.training.restore import open_run


@pytest.fixture
def predict(runcard_command):
    """Return a function that gives the command `runcard predict`."""
    return partial(runcard_command, "predict")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_predictions_are_those_of_the_evaluation(trained_runs):
    folder = trained_runs / "masks" / "seed0"
    samples, indices, _ = open_run(folder).images(None, "val")
    predictor = runcard.load(folder)
    with (folder / "per_image.csv").open() as file:
        recorded = {
            r["id"]: float(r["dice"]) for r in csv.DictReader(file) if (r["split"], r["checkpoint"]) == ("val", "best")
        }
    for i in indices:
        mask, truth = predictor.predict(samples.images[i][..., 0]).mask, samples.targets[i]
        total = mask.sum(dtype=int) + truth.sum(dtype=int)
        dice = 2 * (mask & truth).sum() / total if total else 1.0
        assert dice == pytest.approx(recorded[samples.ids[i]], abs=1e-6)


def test_masks_have_the_size_of_their_images(trained_runs, images, predict, tmp_path):
    code, out, _ = predict(trained_runs / "masks" / "seed0", images, "-o", "out", "--values", "0,255")
    assert (code, out.splitlines()[-1]) == (0, "5 images predicted: out/")
    for i, name in enumerate(["im0", "im1", "im2", "im3", "deep/im4"]):
        mask = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
        assert mask.shape == (140 + i, 150)
        assert set(np.unique(mask)) <= {0, 255}
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(record["images"]) == ["deep/im4", "im0", "im1", "im2", "im3"]
    assert sum(record["images"]["im0"]["pixels"].values()) == 140 * 150
    assert not (tmp_path / "out" / "disagreement").exists()


def test_a_letterboxed_run_predicts_what_it_evaluated_without_the_padding(letterboxed, predict, tmp_path):
    images = tmp_path / "pairs" / "Image"
    samples, indices, _ = open_run(letterboxed).images(None, "val")
    predictor = runcard.load(letterboxed)
    assert predict(letterboxed, images, "-o", "out")[0] == 0
    for i in indices:
        name = f"{samples.ids[i]}.png"
        height, width = np.asarray(Image.open(images / name)).shape
        evaluated = predictor.members[0].probabilities(samples.images[i][None])[0]
        inside = place(height, width, 32, "letterbox")
        of_image = evaluated[:, inside.top : inside.top + inside.height, inside.left : inside.left + inside.width]
        expected = np.stack([cv2.resize(each, (width, height)) for each in of_image])
        prediction = predictor.predict(images / name)
        np.testing.assert_allclose(prediction.probs, expected, atol=1e-6)
        assert np.array_equal(Image.open(tmp_path / "out" / name), prediction.mask)
        assert prediction.mask.shape == (height, width)


def test_runs_that_resize_differently_predict_together(letterboxed, trained_runs, tmp_path):
    from runcard.inference.predictor import Predictor

    both = [open_run(letterboxed), open_run(trained_runs / "masks" / "seed0")]
    both[1].config["derived"]["classes"] = both[0].config["derived"]["classes"]
    image = tmp_path / "pairs" / "Image" / "0.png"
    one, other = (Predictor([run]).predict(image).probs for run in both)
    np.testing.assert_allclose(Predictor(both).predict(image).probs, (one + other) / 2, atol=1e-6)


def test_several_runs_predict_their_mean_and_how_they_differ(trained_runs, images, predict, tmp_path):
    code, _, errors = predict(trained_runs / "masks", images, "-o", "out", "--probabilities", "--overlay")
    assert (code, errors) == (0, "")
    one, other = (
        runcard.load(trained_runs / "masks" / seed).predict(images / "im0.png") for seed in ("seed0", "seed1")
    )
    with np.load(tmp_path / "out" / "probabilities" / "im0.npz") as stored:
        np.testing.assert_allclose(stored["probabilities"], (one.probs + other.probs) / 2, atol=1e-6)
        assert list(stored["classes"]) == ["background", "lung"]
    entry = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]["im0"]
    mean = (one.probs + other.probs).argmax(axis=0)
    assert entry["disagreement"] == pytest.approx(np.mean([one.mask != mean, other.mask != mean]))
    spread = np.asarray(Image.open(tmp_path / "out" / "disagreement" / "im0.png"))
    assert abs(spread - 255 * np.abs(one.probs - other.probs).max(axis=0)).max() < 1
    assert np.asarray(Image.open(tmp_path / "out" / "overlay" / "im0.png")).shape == (140, 150, 3)


def test_classes_are_one_table(trained_runs, images, predict, tmp_path):
    assert predict(trained_runs / "classes", images, "-o", "out")[0] == 0
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["deep/im4", "im0", "im1", "im2", "im3"]
    classes = list(rows[0])[2:]
    for row in rows:
        probs = [float(row[name]) for name in classes]
        assert sum(probs) == pytest.approx(1)
        assert row["label"] == classes[int(np.argmax(probs))]
    prediction = runcard.load(trained_runs / "classes").predict(images / "im0.png")
    assert prediction.label == rows[1]["label"]
    with pytest.raises(ValueError, match="one class per image"):
        prediction.mask  # noqa: B018


@pytest.mark.parametrize("one", [{"label": "normal"}, {"pixels": {"normal": 9, "lesion": 0}}])
def test_one_answer_for_every_image_is_warned_of(tmp_path, one):
    def lines(*entries: dict) -> list[str]:
        images = {f"im{i}": entry for i, entry in enumerate(entries)}
        return list(_Folder(tmp_path, {"classes": ["normal", "lesion"]}, images).lines())

    (line,) = lines(*5 * [one])
    assert line.startswith("all 5 images are called normal and nothing else.")
    assert not lines(*4 * [one]), "too few"
    assert not lines(*5 * [one], {"label": "lesion"})
    assert not lines(*5 * [{"pixels": {"normal": 9, "lesion": 1}}])


def test_an_interrupted_prediction_goes_on_to_the_same_bytes(trained_runs, images, predict, tmp_path, monkeypatch):
    command = (trained_runs / "masks", images, "--batch-size", 2, "-o")
    assert predict(*command, "whole")[0] == 0
    from runcard.inference.predictor import Predictor

    calls, original = [], Predictor.predict_batch

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Predictor, "predict_batch", interrupted)
    code, _, errors = predict(*command, "again")
    assert (code, errors) == (130, "interrupted: the same command goes on from here.\n")
    assert len(list((tmp_path / "again").glob("**/im*.png"))) == 2 * 2  # masks and disagreement of the first batch
    assert predict(*command, "again")[1].splitlines()[-1] == "3 images predicted, 2 were done before: again/"
    assert files(tmp_path / "again") == files(tmp_path / "whole")


def test_an_image_that_is_predicted_again_gets_the_same_bits(trained_runs, images, predict, tmp_path):
    """In a batch of its own its probabilities would differ in the last bit."""
    command = (trained_runs / "masks", images, "--probabilities", "-o", "out")
    assert predict(*command)[0] == 0
    file = tmp_path / "out" / "probabilities" / "im1.npz"
    before = np.load(file)["probabilities"]
    (tmp_path / "out" / "im1.png").unlink()
    assert predict(*command)[1].splitlines()[-1] == "1 image predicted, 4 were done before: out/"
    assert np.array_equal(np.load(file)["probabilities"], before)


def test_a_prediction_that_was_killed_before_its_record_goes_on(trained_runs, images, predict, tmp_path, monkeypatch):
    command = (trained_runs / "masks" / "seed0", images, "--batch-size", 2, "-o")
    assert predict(*command, "whole")[0] == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".predictions.json.tmp.json").write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr("runcard.inference.predict._Folder.add", lambda *_: [][0])  # after the masks of a batch
        patch.setattr("runcard.inference.predict._Folder.finish", lambda *_: None)
        with pytest.raises(IndexError):
            predict(*command, "out")
    assert (tmp_path / "out" / "im0.png").exists()
    assert predict(*command, "out")[0] == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_one_process_at_a_time_predicts_into_a_folder(trained_runs, images, predict, tmp_path):
    command = (trained_runs / "masks" / "seed0", images, "-o", "out")
    hold = Hold.take(tmp_path / "out")
    code, _, errors = predict(*command)
    assert (code, "another process runs in this folder" in errors) == (2, True)
    hold.release()
    assert predict(*command)[0] == 0
    assert {".lock", ".running"} & set(files(tmp_path / "out")) == set()
    (tmp_path / "file").write_text("")
    assert predict(*command[:-1], "file")[1:] == ("", "-o file: is no folder. Name another one.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's, and answers as a full disk does")
def test_a_full_disk_stops_it_and_the_same_command_goes_on(trained_runs, images, predict, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(trained_runs / "masks" / "seed0", images, "-o", whole)
    predict(trained_runs / "masks" / "seed0", images / "im0.png", "-o", out)
    (out / ".im2.png.tmp.png").symlink_to("/dev/full")
    code, _, errors = predict(trained_runs / "masks" / "seed0", images, "-o", out)
    assert code == 2
    assert "im2.png: cannot be written, the disk is full. Free some space and give the same command again" in errors
    code, shown, _ = predict(trained_runs / "masks" / "seed0", images, "-o", out)
    assert code == 0
    assert "were done before" in shown
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert [(out / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]


def test_a_changed_image_is_predicted_again(trained_runs, images, predict):
    assert predict(trained_runs / "masks" / "seed0", images, "-o", "out")[0] == 0
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(images / "im2.png")
    assert "1 image predicted, 4 were done before" in predict(trained_runs / "masks" / "seed0", images, "-o", "out")[1]


def test_an_unreadable_image_is_named_and_stops_nothing(trained_runs, images, predict, tmp_path):
    (images / "im9.png").write_bytes(b"no image")
    code, out, errors = predict(trained_runs / "masks" / "seed0", images, "-o", "out")
    assert code == 2
    assert "5 images predicted" in out
    assert errors.splitlines()[0] == "1 image could not be read:"
    assert f"{images / 'im9.png'}: not an image" in errors
    assert (tmp_path / "out" / "im3.png").exists()


def test_other_images_than_those_of_training_are_warned_of(trained_runs, predict, tmp_path):
    Image.fromarray(np.zeros((5000, 40, 3), np.uint8)).save(tmp_path / "other.png")
    out = predict(trained_runs / "masks" / "seed0", "other.png", "-o", "out")[1]
    assert "warning: 1 image of another kind than in training (8-bit grey" in out
    assert "warning: 1 image far from the sizes of training" in out


@pytest.mark.parametrize("depth", [8, 16])
def test_inverted_images_are_warned_of(trained_runs, predict, tmp_path, depth):
    samples, indices, _ = open_run(trained_runs / "masks" / "seed0").images(None, "val")
    (tmp_path / "new").mkdir()
    for number, i in enumerate(indices[:20]):
        pixels = 255 - samples.images[i][..., 0] if number < 3 else samples.images[i][..., 0]
        pixels = pixels if depth == 8 else pixels.astype(np.uint16) * 257
        Image.fromarray(pixels).save(tmp_path / "new" / f"im{number:02}.png")
    out = predict(trained_runs / "masks" / "seed0", "new", "-o", "out")[1]
    (line,) = [line for line in out.splitlines() if "inverted" in line]
    assert line.startswith("warning: 3 images with inverted greys relative to training")
    assert line.endswith(": im00, im01, im02")


def test_images_of_another_look_are_warned_of(trained_runs, predict, tmp_path):
    folder = trained_runs / "masks" / "seed0"
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    samples, split = LungCT(["background", "lung"]), json.loads((folder / "split.json").read_text())
    known = [samples.files[samples.ids.index(member["id"])][0] for member in split["train"][::9]]
    out = predict(folder, *known, "noise.png", "-o", "out")[1]
    assert "warning: 1 image of a brightness, contrast or texture far from those of training: noise\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{runs}/masks/seed0", "nowhere.png"), "nowhere.png: no such file or folder."),
        (("{images}",), "no run is named"),
        (("{runs}/masks",), "no images are named"),
        (("{runs}/masks", "{runs}/classes", "{images}"), "classes: predicts "),
        (
            ("{runs}/masks", "{images}", "--values", "0"),
            "--values must be one grey value for each of background, lung.",
        ),
        (("{runs}/masks", "{images}", "--values", "0,999"), "--values must be integers from 0 to 255"),
        (("{runs}/masks", "{images}", "--tta", "turns"), "--tta must be flips, got 'turns'"),
        (("{runs}/classes", "{images}", "--tta", "flips"), "was trained without flips. Leave the option out."),
        (("{runs}/masks", "{images}", "{images}/../images2"), "would have one output. Predict them into folders"),
    ],
)
def test_mistakes(trained_runs, images, predict, tmp_path, arguments, message):
    (tmp_path / "images2").mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "images2" / "im0.png")
    code, _, errors = predict(*(each.format(runs=trained_runs, images=images) for each in arguments), "-o", "out")
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_a_named_run_without_weights_is_not_left_out(trained_runs, images, predict, tmp_path):
    run = shutil.copytree(trained_runs / "masks" / "seed0", tmp_path / "run")
    (run / "checkpoints" / "best.safetensors").unlink()
    for runs in ([run], [trained_runs / "masks" / "seed0", run]):
        code, _, errors = predict(*runs, images, "-o", "out")
        assert code == 2
        assert str(run) in errors
        assert "no run is named" not in errors


def test_a_folder_with_something_else_is_left_alone(trained_runs, images, predict, tmp_path):
    assert predict(trained_runs / "masks" / "seed0", images, "-o", "out")[0] == 0
    before = files(tmp_path / "out")
    for run_folder in ("masks/seed1", "masks"):
        code, _, errors = predict(trained_runs / run_folder, images, "-o", "out")
        assert (code, errors) == (
            2,
            "-o out: holds predictions of other runs, or with other options. Name another folder.\n",
        )
    assert (
        predict(trained_runs / "masks" / "seed0", images, "-o", images)[2]
        == f"-o {images}: holds something else. Name another folder.\n"
    )
    assert files(tmp_path / "out") == before


def test_flips_are_those_of_the_augmentation(trained_runs, images):
    assert trained_flips({"transforms": {}}) == []
    plain, flipped = (runcard.load(trained_runs / "masks" / "seed0", flips=flips) for flips in (False, True))
    image = np.asarray(Image.open(images / "im0.png"))
    expected = (plain.predict(image).probs + plain.predict(np.ascontiguousarray(image[:, ::-1])).probs[..., ::-1]) / 2
    np.testing.assert_allclose(flipped.predict(image).probs, expected, atol=1e-5)


def test_inputs(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [each.name for each in find_inputs(["images"])] == ["deep/im4", "im0", "im1", "im2", "im3"]
    assert [each.name for each in find_inputs(["images/im[01].png", "images/im0.png"])] == ["im0", "im1"]
    (tmp_path / "table.csv").write_text("patient,image\na,images/im1.png\nb,images/deep/im4.png\n")
    assert [(each.name, each.path.exists()) for each in find_inputs(["table.csv"])] == [
        ("images/im1", True),
        ("images/deep/im4", True),
    ]
    (tmp_path / "table.csv").write_text("file\nimages/im1.png\n")
    with pytest.raises(UserError, match="has no column image, only file"):
        find_inputs(["table.csv"])


def test_the_config_of_a_foreign_run_builds_nothing(trained_runs, images, predict, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(trained_runs / "masks" / "seed0", tmp_path / "foreign")
    path = tmp_path / "foreign" / "checkpoints" / "best.safetensors"
    config = open_run(tmp_path / "foreign").config | {"model": {"_target_": "pathlib.Path.touch", "self": "hit"}}
    save_file(load_file(path), path, metadata={"config": json.dumps(config)})
    code, _, errors = predict("foreign", images, "-o", "out")
    assert code == 2
    assert "model._target_: pathlib.Path.touch is not an object of a trusted package." in errors
    assert not (tmp_path / "hit").exists()


def test_the_readmes_lines_of_python_work(trained_runs, images, tmp_path):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    assert code.startswith("import runcard\n")
    code = code.replace("outputs/run/<stamp>", str(trained_runs / "masks" / "seed0"))
    code = code.replace("image.png", str(images / "im0.png"))
    done = subprocess.run([sys.executable, "-c", code], env=ONE_THREAD, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("(2, 140, 150) UNet(")
