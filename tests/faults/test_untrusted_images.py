"""Pictures, names and links of a run folder that came from somebody else: a report shows nothing but that folder."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from folders import shortcut, write_run
from PIL import Image

from runcard.data.image_io import preview_name, read_image, read_picture
from runcard.errors import DataError
from runcard.fileio import inside

SECRET = (211, 17, 99)  # the colour of a picture of the reader's own, somewhere else on the disk
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.fixture
def secret(tmp_path):
    """Make a picture outside of the run folders."""
    path = tmp_path / "home" / "secret.png"
    path.parent.mkdir()
    Image.new("RGB", (24, 8), SECRET).save(path)
    return path


def two_runs(folder, names):
    """Write two runs that differ most in the first and the last of these images, which a report then shows."""
    gain = np.linspace(-0.3, 0.3, len(names))
    for arm, y in {"a": 0.6 + gain, "b": 0.6 - gain / 2}.items():
        run = write_run(folder / arm, images={"dice": y}, ids=names, config={"model.dropout": 0.1 * (arm == "b")})
        (run / "figures").mkdir()
        for place in ("figures/predictions.png", *(f"previews/p{i}.png" for i in range(len(names)))):
            (run / place).parent.mkdir(exist_ok=True)
            Image.new("RGB", (24, 8), (90, 90, 90)).save(run / place)
    return folder


def embedded(report):
    """Return the colours of the pictures in a report."""
    found = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", report.read_text())
    return [
        Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB").resize((1, 1)).getpixel((0, 0)) for each in found
    ]


def is_secret(colour):
    return np.abs(np.subtract(colour, SECRET)).max() < 30


def test_the_test_sees_a_picture_that_is_shown(tmp_path, runcard_command):
    runs = two_runs(tmp_path / "runs", [f"p{i}" for i in range(8)])
    for run in ("a", "b"):
        Image.new("RGB", (24, 8), SECRET).save(runs / run / "figures" / "predictions.png")
    assert runcard_command("report", runs)[0] == 0
    assert any(map(is_secret, embedded(runs / "report.html")))


@pytest.mark.parametrize(
    "name", ["../../../home/secret", "../../../home/secret.png", "{absolute}", "x/../../../../home/secret"]
)
def test_name_of_an_image_leads_out_of_no_folder(tmp_path, runcard_command, secret, name):
    names = [f"p{i}" for i in range(7)] + [name.format(absolute=secret.with_suffix(""))]
    runs = two_runs(tmp_path / "runs", names)
    for command in (["report", runs, "--figures", tmp_path / "figures"], ["compare", runs], ["card", runs / "a"]):
        assert runcard_command(*command)[0] == 0
    assert not any(map(is_secret, embedded(runs / "report.html")))


@pytest.mark.parametrize(
    "link", ["figures/predictions.png", "figures", "previews", *(f"previews/p{i}.png" for i in (0, 7))]
)
def test_links_are_not_followed_out_of_the_folder(tmp_path, runcard_command, secret, link):
    runs = two_runs(tmp_path / "runs", [f"p{i}" for i in range(8)])
    for name in ("predictions", *(f"p{i}" for i in range(8))):
        Image.new("RGB", (24, 8), SECRET).save(secret.with_name(f"{name}.png"))
    for run in ("a", "b"):
        place = runs / run / link
        place.rename(tmp_path / f"moved{run}")
        place.symlink_to(secret if place.suffix else secret.parent)
    assert runcard_command("report", runs)[0] == 0
    assert not any(map(is_secret, embedded(runs / "report.html")))


@pytest.mark.parametrize("name", ["run.json", "metrics.csv", "per_image.csv", "split.json"])
def test_records_are_no_links(tmp_path, runcard_command, name):
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other")
    (run / name).unlink()
    (run / name).symlink_to(other / name)
    for command in ("compare", "report", "card"):
        code, _, err = runcard_command(command, run)
        assert code == 2
        assert f"'{name}' leads out of the folder" in err


@pytest.mark.parametrize("link", ["checkpoints", "checkpoints/last.ckpt", "previews"])
def test_prune_removes_nothing_outside_of_the_run(tmp_path, runcard_command, link):
    run, mine = write_run(tmp_path / "run", previews=True), tmp_path / "mine"
    mine.mkdir()
    for name in ("last.ckpt", "best.safetensors", "a.png"):
        (mine / name).write_bytes(b"mine")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.safetensors").write_bytes(b"weights")
    place = run / link
    if place.is_dir():
        shutil.rmtree(place)
    place.symlink_to(mine / place.name if place.suffix else mine)
    for keep in ("best", "record"):
        assert runcard_command("prune", run, "--keep", keep, "--yes")[0] in (0, 2)
    assert sorted(path.name for path in mine.iterdir()) == ["a.png", "best.safetensors", "last.ckpt"]


def test_explain_removes_nothing_outside_of_the_run(tmp_path, runcard_command, trained_runs):
    run = shutil.copytree(trained_runs / "classes", tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"mine")
    (run / "explain").symlink_to(tmp_path / "mine")
    code, _, err = runcard_command("explain", run)
    assert (code, "leads out of the folder" in err) == (2, True), err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.png"]


def test_links_within_a_folder_and_to_a_folder_are_followed(tmp_path, runcard_command):
    run = write_run(tmp_path / "run")
    (run / "metrics.csv").rename(run / "rows.csv")
    (run / "metrics.csv").symlink_to("rows.csv")
    (tmp_path / "linked").symlink_to(run)
    assert runcard_command("compare", tmp_path / "linked")[0] == 0


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "x" * 5000 + "/../../..", "a\0b", "loop"])
def test_inside(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"leads out of the folder|is no path|null byte"):
        inside(tmp_path / "run", name)


def png(width, height, depth=8, colour=2):
    """Return a PNG that claims a size, without the pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BAD = {
    "eps": EPS,
    "huge": png(50_000, 50_000),
    "huge 16-bit colours": png(12_000, 12_000, 16),
    "gif": b"GIF89a" + bytes(40),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>",
    "empty": b"",
    "cut": png(10, 10)[:40],
}


@pytest.mark.parametrize("kind", BAD)
def test_picture_that_is_none_is_left_out_and_starts_no_program(tmp_path, runcard_command, monkeypatch, kind):
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin64c", "gswin32c"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    runs = two_runs(tmp_path / "runs", [f"p{i}" for i in range(8)])
    for run in ("a", "b"):
        for path in (*(runs / run / "previews").iterdir(), *(runs / run / "figures").iterdir()):
            path.write_bytes(BAD[kind])
    assert runcard_command("report", runs)[0] == 0
    assert embedded(runs / "report.html") == []
    assert read_picture(runs / "a" / "figures" / "predictions.png") is None
    with pytest.raises(DataError) as caught:
        read_image(runs / "a" / "figures" / "predictions.png")
    assert len(str(caught.value)) < 300
    assert not (tmp_path / "canary").exists()


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png") is None


def test_names_and_values_stay_text_in_a_report(tmp_path, runcard_command):
    script = "<script>alert(1)</script>"
    run = write_run(tmp_path / "run", images={"dice": [0.9] * 12}, ids=[f"{script}{i}" for i in range(12)])
    record = json.loads((run / "run.json").read_text())
    record["choices"]["dataset"] = record["config"]["dataset"]["_target_"] = record["error"] = script
    record["audit"] = [{"level": script, "check": script, "what": script, "allowed": False}]
    record["shortcut"] = [shortcut(script, alarm=True, sentence=script)]
    (run / "run.json").write_text(json.dumps(record))
    assert runcard_command("report", run, "--output", tmp_path)[0] == 0
    assert script not in (tmp_path / "report.html").read_text()
    assert script not in runcard_command("card", run)[1]


@pytest.mark.parametrize(
    ("name", "file"),
    [("a/b", "a/b.png"), ("x" * 251, "x" * 251 + ".png")],
)
def test_preview_has_the_name_of_its_image(name, file):
    assert preview_name(name) == file


@pytest.mark.parametrize("name", ["x" * 252, "é" * 200, "../x", "/etc/x", "a//b", "..", "x" * 300 + "/" + "y" * 300])
def test_preview_of_an_image_whose_name_no_file_can_have(tmp_path, name):
    path = inside(tmp_path, preview_name(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert preview_name(name) != preview_name(name + "z")
