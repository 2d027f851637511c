"""Exported files compute what the run computes, and say how far that was checked."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import ONE_THREAD
from PIL import Image
from safetensors import safe_open

import runcard
from runcard.data.preprocessing import resize_image, with_channels
from runcard.inference import export
from runcard.inference.export import Exported

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (71, 83), (200, 45), (20, 70), (11, 9), (32, 31), (3000, 7)])
def test_the_graph_resizes_as_opencv_does(size, resize):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    averaged = min(size) >= 32 or (resize == "letterbox" and max(size) >= 32)
    for channels in (3, 1):
        resized = resize_image(with_channels(image, channels), 32, resize)
        seen = []
        model = torch.nn.Identity()
        model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0] * 255))
        Exported(model, 32, channels, "unit", resize)(torch.from_numpy(image[None]))
        difference = np.abs(seen[0][0].permute(1, 2, 0).numpy() - resized)
        assert difference.max() < 1.01, "one grey level: OpenCV rounds in fixed-point arithmetic"
        assert (difference > 0.5).mean() < (0.02 if averaged else 0.2)


@pytest.mark.parametrize("run", ["masks/seed0", "classes"])
@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
def test_a_file_says_what_it_predicts_and_how_it_was_checked(trained_runs, runcard_command, tmp_path, run, kind):
    code, out, errors = runcard_command("export", trained_runs / run, "--format", kind, "-o", f"model.{kind}")
    assert (code, errors) == (0, "")
    assert out.count("validation images differ") == 2
    path = tmp_path / f"model.{kind}"
    if kind == "onnx":
        written = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map["runcard"]
    elif kind == "pt2":
        extra = {"runcard": ""}
        torch.export.load(str(path), extra_files=extra)
        written = extra["runcard"]
    else:
        with safe_open(path, "pt") as file:
            written = file.metadata()["runcard"]
    metadata = json.loads(written)
    assert metadata["classes"] == runcard.load(trained_runs / run).classes
    assert metadata["verified"]["file"]["largest_difference"] < 1e-4
    assert metadata["verified"]["file"]["images"] > 3


@pytest.mark.parametrize("run", ["masks/seed0", "classes"])
def test_onnx_and_pt2_take_any_number_and_size_of_images(trained_runs, runcard_command, tmp_path, run):
    for kind in ("onnx", "pt2"):
        assert runcard_command("export", trained_runs / run, "--format", kind, "-o", f"model.{kind}")[0] == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    module = torch.export.load(str(tmp_path / "model.pt2")).module()
    for shape in ((1, 32, 32, 3), (3, 40, 61, 3), (5, 20, 300, 3)):
        images = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
        probs = session.run(None, {"images": images})[0]
        assert probs.shape[:2] == (shape[0], 2)
        np.testing.assert_allclose(probs, module(torch.from_numpy(images)).detach().numpy(), atol=1e-4)
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("run", ["masks/seed0", "classes"])
def test_predict_from_onnx_equals_the_run_and_needs_no_torch(trained_runs, runcard_command, images, tmp_path, run):
    assert runcard_command("export", trained_runs / run, "-o", "model.onnx")[0] == 0
    assert runcard_command("predict", trained_runs / run, images, "-o", "by_run", "--probabilities")[0] == 0
    without_torch = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv = ['runcard', 'predict', 'model.onnx', 'images', '-o', 'by_file', '--probabilities']\n"
        "import runcard.cli as cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without_torch], cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "by_run" / "probabilities").rglob("*.npz"):
        other = tmp_path / "by_file" / path.relative_to(tmp_path / "by_run")
        np.testing.assert_allclose(np.load(path)["probabilities"], np.load(other)["probabilities"], atol=0.02)


def test_a_letterboxed_run_is_exported_with_its_padding(letterboxed, runcard_command, tmp_path):
    for kind in ("onnx", "pt2"):
        code, out, errors = runcard_command("export", letterboxed, "--format", kind, "-o", f"model.{kind}")
        assert (code, errors) == (0, "")
        assert out.count("decisions on 3 validation images differ") == 2
    images = tmp_path / "pairs" / "Image"
    for source, folder in ((letterboxed, "by_run"), ("model.onnx", "by_file")):
        assert runcard_command("predict", source, images, "-o", folder, "--probabilities")[0] == 0
    for path in (tmp_path / "by_run" / "probabilities").glob("*.npz"):
        probs, other = (np.load(p)["probabilities"] for p in (path, tmp_path / "by_file" / "probabilities" / path.name))
        assert probs.shape[1:] == np.asarray(Image.open(images / f"{path.stem}.png")).shape
        np.testing.assert_allclose(probs, other, atol=0.02)


def test_a_file_that_disagrees_is_not_written(trained_runs, runcard_command, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "TOLERANCE", -1)
    code, _, errors = runcard_command("export", trained_runs / "masks" / "seed0", "--format", "pt2", "-o", "model.pt2")
    assert code == 2
    assert "disagrees with PyTorch, so it was not written" in errors
    assert not (tmp_path / "model.pt2").exists()


def test_no_file_is_replaced_and_none_is_called_another_format(trained_runs, runcard_command, tmp_path):
    run = trained_runs / "classes"
    (tmp_path / "model.onnx").write_bytes(b"precious")
    code, _, errors = runcard_command("export", run, "-o", "model.onnx")
    assert (code, errors) == (2, "model.onnx: is there already. Name another file.\n")
    assert (tmp_path / "model.onnx").read_bytes() == b"precious"
    code, _, errors = runcard_command("export", run, "-o", "model.pt2")
    assert code == 2
    assert errors == "--output=model.pt2: does not end in .onnx, which --format=onnx writes. Change one of them.\n"
    assert not (tmp_path / "model.pt2").exists()


def test_torch_warns_of_nothing(trained_runs, runcard_command, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runcard_command("export", trained_runs / "classes", "--format", "pt2", "-o", "model.pt2")[0] == 0


def test_mistakes(trained_runs, runcard_command, images, tmp_path):
    assert (
        "--format must be one of onnx, pt2, safetensors"
        in runcard_command("export", trained_runs / "classes", "--format", "tf", "-o", "x")[2]
    )
    assert "no run with trained weights" in runcard_command("export", tmp_path, "-o", "x")[2]
    named = f"Name one of the runs below it: {trained_runs / 'masks' / 'seed0'}, {trained_runs / 'masks' / 'seed1'}.\n"
    assert runcard_command("export", trained_runs / "masks", "-o", "x")[2].endswith(named)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    assert "damaged.onnx: cannot be read as ONNX" in runcard_command("predict", "damaged.onnx", images, "-o", "out")[2]
    import onnx

    foreign = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["a"], ["b"])],
            "g",
            [onnx.helper.make_tensor_value_info("a", 1, [1])],
            [onnx.helper.make_tensor_value_info("b", 1, [1])],
        ),
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid("", 20)],
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    assert "foreign.onnx: not exported by Runcard" in runcard_command("predict", "foreign.onnx", images, "-o", "out")[2]
