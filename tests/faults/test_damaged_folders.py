"""Damaged run folders: every command that reads one answers in a few lines, and believes none of it silently."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from folders import write_run
from rich.console import Console
from safetensors.torch import load_file, save_file

from runcard.errors import UserError
from runcard.experiment.recorded import report_recorded
from runcard.models.pretrained import read_state_dict
from runcard.runs.sweep import state_of

DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000
CONTENTS = {
    "empty": lambda old: b"",
    "garbage": lambda old: bytes(range(256)) * 20,
    "text": lambda old: b"hello, world\n",
    "half": lambda old: old[: len(old) // 2],
    "NUL": lambda old: b"\0" * len(old),
    "deep": lambda old: DEEP.encode(),
    "list": lambda old: b"[]",
    "null": lambda old: b"null",
    "surrogate": lambda old: b'{"train": [{"id": "\\ud800", "group": "a"}], "val": [], "test": []}',
    "folder": None,
    "absent": None,
}
READERS = (["compare", "{run}"], ["report", "{run}", "--output", "out"], ["power", "{run}"], ["card", "{run}"])
WEIGHTS = "checkpoints/best.safetensors"
RESTORERS = (
    ["predict", "{run}", "images", "-o", "predictions"],
    ["explain", "{run}"],
    ["export", "{run}", "-o", "out.safetensors", "--format", "safetensors"],
    ["evaluate", "{run}"],
)


def damage(path, kind):
    """Replace a file by a damaged one."""
    old = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes(CONTENTS[kind](old))


def put(path, key, value):
    """Put a value under a dotted key of a JSON file."""
    content = json.loads(path.read_text())
    inner, (*above, name) = content, key.split(".")
    for step in above:
        inner = inner[int(step) if step.isdigit() else step]
    inner[int(name) if name.isdigit() else name] = value
    path.write_text(json.dumps(content))


def check_answers(runcard_command, run, commands, codes=(2,)):
    """Give commands, and check that each ends with a short message; an exception would fail the test."""
    for command in commands:
        code, _, err = runcard_command(*(argument.format(run=run) for argument in command))
        assert code in codes, (command, err)
        assert len(err.splitlines()) <= 4, (command, err)
        assert all(len(line) < 600 for line in err.splitlines()), (command, err)


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("file", ["run.json", "metrics.csv", "per_image.csv", "split.json"])
def test_readers_of_records(tmp_path, runcard_command, file, kind):
    run = write_run(tmp_path / "run")
    damage(run / file, kind)
    check_answers(runcard_command, run, READERS)
    check_answers(runcard_command, run, [["status", "{run}"]], codes=(0, 1, 2))
    check_answers(runcard_command, run, [["prune", "{run}"]], codes=(0, 2))


KEYS = ["config", "config.scheduler", "config.augmentation", "config.train.batch_size", "sessions.0.hardware", "images"]
KEYS += ["shortcut", "model", "num_trained_parameters", "bounds.dice", "search", "evaluation", "left_out", "best.epoch"]


@pytest.mark.parametrize("value", [None, [1], {"a": {}}, "x", 10**30], ids=str)
@pytest.mark.parametrize("key", KEYS)
def test_wrong_types_in_run_json(tmp_path, runcard_command, key, value):
    run = write_run(tmp_path / "run")
    put(run / "run.json", key, value)
    check_answers(runcard_command, run, READERS, codes=(0, 2))


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, 5])
@pytest.mark.parametrize("key", ["val", "val.0", "val.0.id", "val.0.group", "val.0.sha256", "test"])
def test_wrong_types_in_split_json(tmp_path, runcard_command, key, value):
    run = write_run(tmp_path / "run")
    put(run / "split.json", key, value)
    check_answers(runcard_command, run, READERS, codes=(0, 2) if key == "val.0.sha256" else (2,))


@pytest.fixture
def trained(trained_runs, tmp_path):
    """Copy a trained run and one of its previews as an image to predict."""
    run = shutil.copytree(trained_runs / "classes", tmp_path / "run")
    (tmp_path / "images").mkdir()
    shutil.copy(next((run / "previews").glob("*.png")), tmp_path / "images")
    return run


def test_undamaged_run_is_answered_by_every_command(runcard_command, trained):
    check_answers(runcard_command, trained, (*READERS[:2], *READERS[3:], *RESTORERS), codes=(0,))


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("file", ["run.json", "split.json", WEIGHTS, "checkpoints/last.ckpt"])
def test_users_of_weights(runcard_command, trained, file, kind):
    damage(trained / file, kind)
    predict, *others = RESTORERS
    if file == "checkpoints/last.ckpt":
        return check_answers(runcard_command, trained, RESTORERS[3:], codes=(0, 2) if kind == "absent" else (2,))
    if file != "split.json":
        check_answers(runcard_command, trained, [predict])
    return check_answers(runcard_command, trained, others)


HEADERS = {"text": "hello", "list": "[]", "null": "null", "empty": "{}", "deep": DEEP}


@pytest.mark.parametrize("kind", HEADERS)
def test_config_in_the_header(runcard_command, trained, kind):
    save_file(load_file(trained / WEIGHTS), trained / WEIGHTS, metadata={"config": HEADERS[kind]})
    check_answers(runcard_command, trained, RESTORERS)


NODES = ["model", "model._target_", "model.base", "dataset", "dataset.split", "dataset.image_size_px", "dataset.window"]
NODES += ["derived", "derived.classes", "metric.scores", "loss", "audit", "augmentation", "train.batch_size"]


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, "x", 10**20], ids=str)
@pytest.mark.parametrize("key", NODES)
def test_wrong_types_in_the_header(runcard_command, trained, tmp_path, key, value):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads((trained / "run.json").read_text())["config"]))
    put(config, key, value)
    save_file(load_file(trained / WEIGHTS), trained / WEIGHTS, metadata={"config": config.read_text()})
    check_answers(runcard_command, trained, RESTORERS, codes=(0, 2))


def test_weights_of_another_model(runcard_command, trained, trained_runs):
    for file in (WEIGHTS, "checkpoints/last.ckpt"):
        shutil.copy(trained_runs / "masks/seed0" / file, trained / file)
    check_answers(runcard_command, trained, RESTORERS[1:])


@pytest.mark.parametrize("how", ["absent", "empty"])
@pytest.mark.parametrize("name", ["per_image.csv", "metrics.csv", "split.json"])
def test_completed_run_whose_record_is_not_whole_is_not_believed(tmp_path, name, how):
    run = write_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    assert state_of(run).state == "done"
    damage(run / name, how)
    assert (state_of(run).state, state_of(run).detail) == ("failed", f"completed, but without {name}")
    with pytest.raises(UserError, match=rf"completed before, but {name} is missing or empty. overwrite=true"):
        report_recorded(run, record, Console())


@pytest.mark.parametrize("how", ["absent", "empty"])
def test_lost_weights_are_said(tmp_path, capsys, how):
    run = write_run(tmp_path / "run")
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / WEIGHTS).write_bytes(b"x")
    damage(run / WEIGHTS, how)
    assert report_recorded(run, json.loads((run / "run.json").read_text()), Console()) > 0
    assert "its best weights are not there any more" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [{1: torch.zeros(1)}, {"a": "text"}, {"a": {"b": torch.zeros(1)}}, [torch.zeros(1)], "text", torch.zeros(1), None],
    ids=["integer key", "text", "nested", "list", "str", "tensor", "none"],
)
def test_pth_that_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match="must be a state dict"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("kind", ["empty", "garbage", "text", "NUL", "deep", "list"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_weights_that_are_none(tmp_path, suffix, kind):
    (tmp_path / f"x{suffix}").write_bytes(CONTENTS[kind](b"\0" * 100))
    with pytest.raises(UserError, match="weights cannot be read") as caught:
        read_state_dict(tmp_path / f"x{suffix}")
    assert len(str(caught.value).splitlines()) == 1
