"""The run folder: whose it is, when it is given back, refused or moved aside, and what run.json says."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import TINY, blank_figures, compose_config
from evidence import numbers, run_json
from omegaconf import OmegaConf

from runcard.config.diff import config_hash, differing_keys, flatten
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.experiment.run import run
from runcard.runs.hold import LOCK
from runcard.training.checkpoint import Checkpoint

CONFIG = (*TINY, "train.pictures=0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A completed run."""
    folder = tmp_path_factory.mktemp("finished") / "a"
    with blank_figures():
        run(compose_config(*CONFIG, "seed=3"), folder, [*CONFIG, "seed=3"], choices={"model": "unet", "loss": "dice"})
    return folder


@pytest.fixture
def a(finished, tmp_path):
    """A copy of the completed run, to do harm to."""
    return shutil.copytree(finished, tmp_path / "a")


def contents(folder):
    """Return {path: bytes} of everything in folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def start(folder, *overrides):
    with blank_figures():
        return run(compose_config(*CONFIG, "seed=3", *overrides), folder, list(overrides), choices={})


# Whose folder it is


def test_a_completed_run_gives_its_recorded_value(a, capsys):
    before, times = contents(a), {p: p.stat().st_mtime_ns for p in a.rglob("*")}
    value = start(a)
    assert value == run_json(a)["best"]["value"]
    assert contents(a) == before
    assert {p: p.stat().st_mtime_ns for p in a.rglob("*") if p != a} == {p: t for p, t in times.items() if p != a}
    shown = capsys.readouterr().out
    assert f"completed before, val/dice {value:.4f}" in " ".join(shown.split())
    assert "warning" not in shown


@pytest.mark.parametrize(
    "free",
    ["name=other", "run_dir=elsewhere", "train.num_workers=1", "train.pictures=3", "train.log_every_steps=7"],
)
def test_what_cannot_change_a_number_is_not_another_config(a, free):
    assert start(a, free) == run_json(a)["best"]["value"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.base=5",), ["model.base (4 there, 5 here)"]),
        (("optimizer.lr=0.1", "seed=4"), ["optimizer.lr (0.001 there, 0.1 here)", "seed (3 there, 4 here)"]),
        (("loss=bce",), ["loss._target_", "losses.dice", "losses.bce", "loss.smooth (1.0 there, absent here)"]),
        (("train.epochs=3",), ["train.epochs (2 there, 3 here)"]),
        (("train.clip_grad_norm=1",), ["train.clip_grad_norm (None there, 1 here)"]),
        (("dataset.seed=9",), ["dataset.seed (0 there, 9 here)"]),
        (("dataset.split.seed=9",), ["dataset.split.seed"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_another_config_is_refused(a, overrides, words):
    before = contents(a)
    with pytest.raises(UserError) as raised:
        start(a, *overrides)
    message = str(raised.value)
    assert [word for word in [str(a), "name=", "run_dir=", "overwrite=true", *words] if word not in message] == []
    assert len(message.splitlines()) <= 4
    assert contents(a) == before, "nothing is touched, and no lock is left"


def test_overwrite_moves_the_old_folder_aside(a, tmp_path):
    before = contents(a)
    for number, seed in ((1, 4), (2, 5)):
        start(a, "overwrite=true", f"seed={seed}", "train.epochs=1")
        assert (run_json(a)["config"]["seed"], run_json(a)["status"]) == (seed, "completed")
        assert (tmp_path / f"a.old{number}" / "run.json").exists()
    assert contents(tmp_path / "a.old1") == {name: content for name, content in before.items() if name != LOCK}
    assert run_json(tmp_path / "a.old2")["config"]["seed"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.old1", "a.old2"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_refused_or_moved(tmp_path, overwrite):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("irreplaceable")
    if overwrite:
        start(folder, "overwrite=true", "train.epochs=1")
        assert run_json(folder)["status"] == "completed"
        assert contents(tmp_path / "thesis.old1") == {"chapter1.tex": b"irreplaceable"}
    else:
        with pytest.raises(UserError, match=r"not a run folder: it has chapter1\.tex"):
            start(folder)
        assert contents(folder) == {"chapter1.tex": b"irreplaceable"}


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "a").mkdir()
    start(tmp_path / "a", "train.epochs=1")
    assert run_json(tmp_path / "a")["status"] == "completed"


def test_one_process_at_a_time(a):
    holder = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]).acquire(); print(1, flush=True); input()"
    command = [sys.executable, "-c", holder, str(a / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        assert start(a) == run_json(a)["best"]["value"], "what is completed can be read"
        whole = (a / "run.json").read_text()
        (a / "run.json").write_text(whole.replace('"completed"', '"interrupted"'))
        for overrides in ((), ("overwrite=true", "seed=4")):
            with pytest.raises(UserError, match="another process runs in this folder"):
                start(a, *overrides)
        (a / "run.json").write_text(whole)
        process.kill()
    assert start(a) == run_json(a)["best"]["value"], "the lock of a killed process is no lock"


# Code and data


def changed_code(monkeypatch):
    monkeypatch.setattr("runcard.experiment.recorded.code_hash", lambda: "another")
    monkeypatch.setattr("runcard.runs.writer.code_hash", lambda: "another")


def test_changed_code_is_reported(a, monkeypatch, capsys):
    changed_code(monkeypatch)
    assert start(a) == run_json(a)["best"]["value"]
    assert "warning: runcard's code has changed since" in capsys.readouterr().out


def test_overwrite_runs_it_again_as_the_warning_says(a, monkeypatch, tmp_path):
    changed_code(monkeypatch)
    start(a, "overwrite=true")
    assert run_json(a)["sessions"][-1]["code"] == "another"
    assert (tmp_path / "a.old1").exists()


@pytest.fixture
def lungs(tmp_path):
    """Ten images with masks, as users have them."""
    rng = np.random.default_rng(0)
    for folder in ("Image", "Mask"):
        (tmp_path / "lungs" / folder).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (32, 32)) if folder == "Image" else 255 * (np.indices((32, 32))[0] > 10 + i)
            cv2.imwrite(str(tmp_path / "lungs" / folder / f"{i}.png"), pixels.astype(np.uint8))
    return tmp_path / "lungs"


LUNGS = ("dataset=lungs", "dataset.image_size_px=32", "model.base=2", *TINY[3:], "train.epochs=1", "train.pictures=0")


def test_other_data_are_refused(lungs, tmp_path):
    cfg = compose_config(*LUNGS, f"dataset.root={lungs}")
    run(copy.deepcopy(cfg), tmp_path / "a", [], choices={})
    moved = lungs.rename(tmp_path / "mounted elsewhere")
    cfg.dataset.root = str(moved)
    assert run(copy.deepcopy(cfg), tmp_path / "a", [], choices={}) >= 0, "the same files under another root"

    image = moved / "Image" / "3.png"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")  # one byte after the image's end: no pixel differs, the file does
    with pytest.raises(UserError, match="a run of the same config on other data"):
        run(copy.deepcopy(cfg), tmp_path / "a", [], choices={})
    image.write_bytes(content)
    assert run(cfg, tmp_path / "a", [], choices={}) >= 0


def test_fingerprints_tell_what_changed():
    ids, digests, split = ["a", "b", "c"], ["1", "2", "3"], {"train": [0, 1], "val": [2], "test": []}
    one = data_fingerprint(split, ids, digests)
    assert set(one) == {"hash", "train", "val", "test", "split_hash"}

    def changed(**other):
        now = data_fingerprint(**{"split": split, "ids": ids, "digests": digests} | other)
        return {key for key in one if now[key] != one[key]}

    assert changed() == set()
    assert changed(digests=["1", "2", "x"]) == {"hash", "val"}
    assert changed(ids=["a", "x", "c"]) == {"hash", "train", "split_hash"}
    assert changed(split={"train": [0], "val": [2, 1], "test": []}) == {"train", "val", "split_hash"}


# The hash of a config

NEUTRAL = ["name=b", "run_dir=b", "overwrite=true", "train.num_workers=2", "train.persistent_workers=false"]
NEUTRAL += ["train.log_every_steps=1", "train.pictures=0", "train.explain_images=0", "train.cache_dir=b"]
NEUTRAL += ["train.cache_gb=1", "audit.cache_gb=null", "images.cache_dir=b", "images.cache_gb=1"]
NEUTRAL += ["train.devices=2", "train.data_on_device=never", "train.checkpoint_every=4", "train.checkpoint_every=5min"]
NEUTRAL += ["dataset.root=/b", "chosen_by=b", "record=lean", "logger=[tensorboard,wandb]"]
COUNTING = ["model.base=5", "seed=1", "train.epochs=3", "train.batch_size=2", "train.accumulate_steps=2"]
COUNTING += ["train.clip_grad_norm=1", "train.early_stopping=2", "train.precision=bf16", "train.accelerator=gpu"]
COUNTING += [
    "train.sync_batchnorm=false",
    "train.eval_every=2",
    "train.deterministic=true",
    "train.limit_batches=1",
    "train.extend=b",
    "optimizer.lr=0.1",
]
COUNTING += ["train.cache_features=never", "smoke_test=true", "train.init_from=b", "train.freeze=[b]"]
COUNTING += ["train.init_without=[b]"]
COUNTING += ["dataset.image_size_px=64", "dataset.split.seed=1", "dataset.folder=b", "metric.monitor=val/iou"]
COUNTING += ["dataset.split.seal=true", "dataset.resize=letterbox", "dataset.ignore_value=255"]
COUNTING += ["dataset.split.exclude=[b]"]
COUNTING += ["augmentation=light", "scheduler=plateau", "model.dropout_at=[pool]", "dataset.normalization=symmetric"]


def hash_of(*overrides):
    return config_hash(
        OmegaConf.to_container(compose_config("dataset=lungs", "dataset.root=/a", *overrides), resolve=False)
    )


@pytest.mark.parametrize(("override", "counts"), [(o, False) for o in NEUTRAL] + [(o, True) for o in COUNTING])
def test_the_hash_covers_what_can_change_a_number(override, counts):
    assert (hash_of(override) != hash_of()) == counts


def test_every_train_key_is_placed():
    keys = {f"train.{key}" for key in compose_config().train}
    assert keys == {o.partition("=")[0] for o in NEUTRAL + COUNTING if o.startswith("train.")}


def test_flatten_keeps_lists_and_empty_dicts():
    assert flatten({"a": {"b": [1, {"c": 2}], "d": {}}, "e": None}) == {"a.b": [1, {"c": 2}], "a.d": {}, "e": None}


def test_differing_keys():
    one, other = {"a": 1, "name": "x", "m": {"b": None, "c": 2}}, {"a": 1, "name": "y", "m": {"b": 3}}
    assert differing_keys(one, other) == ["m.b (None there, 3 here)", "m.c (2 there, absent here)"]
    assert differing_keys(one, other, but=("m.b",)) == ["m.c (2 there, absent here)"]
    assert differing_keys({"m": {"b": None}}, {"m": {}}) != [], "a key that is null and one that is absent differ"


def test_a_config_of_before_dataset_resize_stretches():
    of_before, stretch, letterbox = (
        {"dataset": {"channels": 1} | more} for more in ({}, {"resize": "stretch"}, {"resize": "letterbox"})
    )
    assert config_hash(of_before) == config_hash(stretch) != config_hash(letterbox)
    assert differing_keys(of_before, stretch) == []
    assert differing_keys(of_before, letterbox) == ["dataset.resize (stretch there, letterbox here)"]


# What is written


def test_run_json_is_complete(finished):
    record = run_json(finished)
    session = record["sessions"][0]
    assert (record["schema"], record["status"], record["error"], record["parent"]) == (5, "completed", None, None)
    assert record["config"]["model"]["base"] == 4
    assert record["config"]["derived"]["out_channels"] == 1
    assert record["config"]["seed"] == 3
    assert record["config_hash"] == config_hash(record["config"])
    assert record["choices"] == {"model": "unet", "loss": "dice"}
    assert set(record["data"]) == {"hash", "train", "val", "test", "split_hash"}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in (*record["data"].values(), session["code"]))
    assert session["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", session["commit"])
    assert {"python", "torch", "numpy", "albumentations", "hydra-core"} <= set(session["versions"])
    assert all(session["versions"].values())
    assert session["hardware"]["cores"] == os.cpu_count()
    assert {"cpu", "threads", "gpu"} <= set(session["hardware"])
    assert (session["precision"], session["device"]) == ("32-true", "cpu")
    assert record["num_parameters"] > 0
    assert (record["model"]["layers"]["convolution"], record["model"]["output_shape"]) == (19, [1, 32, 32])
    assert all(finding["level"] == "warning" and not finding["allowed"] for finding in record["audit"])
    assert (record["better"]["dice"], record["better"]["loss"], record["better"]["bce"]) == ("max", "min", "min")
    assert (record["bounds"]["dice"], record["bounds"]["bce"]) == ([0.0, 1.0], [0.0, None])
    assert datetime.fromisoformat(record["start"]) <= datetime.fromisoformat(record["end"])
    assert datetime.fromisoformat(record["start"]).tzinfo is not None
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row["seconds"]) for row in rows]
    assert record["seconds"]["total"] == pytest.approx(sum(seconds))
    assert record["seconds"]["per_epoch"] == pytest.approx(sum(seconds) / 2)
    assert (record["epochs"], record["last"]["epoch"]) == (2, 2)
    assert record["last"]["values"]["val/dice"] == float(rows[-1]["val/dice"])
    best = max(rows, key=lambda row: float(row["val/dice"]))
    assert (record["best"]["epoch"], record["best"]["monitor"]) == (int(best["epoch"]), "val/dice")
    assert record["best"]["value"] == float(best["val/dice"]) == record["best"]["values"]["val/dice"]


def test_split_json_has_every_image_once(finished):
    split = json.loads((finished / "split.json").read_text())
    ids = [member["id"] for members in split.values() for member in members]
    assert {part: len(members) for part, members in split.items()} == {"train": 16, "val": 4, "test": 0}
    assert len(set(ids)) == 20
    assert all(set(member) == {"id", "group", "sha256"} for members in split.values() for member in members)


def test_a_session_may_differ_and_is_recorded(a, monkeypatch):
    content = run_json(a)
    content["status"] = "interrupted"
    (a / "run.json").write_text(json.dumps(content))
    changed_code(monkeypatch)
    start(a)
    record = run_json(a)
    assert [session["code"] == "another" for session in record["sessions"]] == [False, True]
    assert record["start"] == content["start"]


def test_files_have_the_umask_rights(finished):
    os.umask(umask := os.umask(0))
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in finished.rglob("*") if p.is_file()}
    assert {name: mode for name, mode in modes.items() if mode != oct(0o666 & ~umask)} == {}


# A full disk: /dev/full stands in the way of one file, and answers every write with ENOSPC as a real disk does


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "checkpoints/best.safetensors", "metrics.csv"])
def test_a_full_disk_in_mid_training(tmp_path, monkeypatch, name):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "a"
    start(undisturbed, "train.epochs=3")
    original, path = Checkpoint.save, folder / name

    def save_and_fill(self, state):
        original(self, state)
        if state.epoch == 1:
            path.with_name(f".{path.name}.tmp{path.suffix}").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_and_fill)
        with pytest.raises(UserError, match=r"the disk is full. Free some space and give the same command again"):
            start(folder, "train.epochs=3")
    went_on(folder, undisturbed, name)


def went_on(folder, undisturbed, name):
    """Check what a full disk left at epoch 1, and that the run, given again, ends as if nothing had been."""
    record = run_json(folder)
    assert record["status"] == "failed"
    assert "the disk is full" in record["error"]
    assert name in record["error"]
    assert (folder / ".lock").exists(), "another process may hold it by now"
    assert [p for p in folder.rglob(".*.tmp*") if p.is_symlink()] == []
    start(folder, "train.epochs=3")
    assert numbers(folder) == numbers(undisturbed)
    assert len(run_json(folder)["sessions"]) == 2
