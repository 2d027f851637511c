"""Which run folders are found, and why some of them cannot be compared; and the commands that read them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from folders import simulate, write_run
from typer.testing import CliRunner

from runcard.cli import app, main
from runcard.errors import UserError
from runcard.runs.reader import find_runs, read_run
from runcard.runs.schema import CompletedRun, Part, Session


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "sweep"
    values = simulate(np.random.default_rng(0), 3, 12, effect=0.03)
    for name, dropout, y in (("a", 0.0, values[0]), ("b", 0.2, values[1])):
        for seed, row in enumerate(y):
            write_run(folder / f"{name}{seed}", seed=seed, images={"dice": row}, config={"model.dropout": dropout})
    return folder


def test_a_folder_a_sweep_a_pattern(sweep, monkeypatch):
    monkeypatch.chdir(sweep.parent)
    assert (
        len(find_runs(["sweep"]).runs)
        == len(find_runs(["sweep/*"]).runs)
        == len(find_runs([str(sweep / "*")]).runs)
        == 6
    )
    assert len(find_runs(["sweep/a*", "sweep/a0", "sweep/b1"]).runs) == 4, "each once"
    assert find_runs(["sweep/a0"]).runs[0].folder.as_posix() == "sweep/a0"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("nowhere", r"^nowhere: no such folder\. Name a run or a sweep\.$"),
        ("sweeep", r"^sweeep: no such folder\. Did you mean 'sweep'\?$"),
        ("sweep/a00", r"Did you mean 'sweep/a0'\?$"),
        ("sweep/c*", r"^sweep/c\*: no such folder"),
        (".", "no run folder here or below"),
    ],
)
def test_no_run_folder(sweep, tmp_path, monkeypatch, pattern, said):
    monkeypatch.chdir(tmp_path if pattern == "." else sweep.parent)
    with pytest.raises(UserError, match=said):
        find_runs([pattern])


def test_ten_comes_after_two(tmp_path):
    for seed in (10, 2, 1):
        write_run(tmp_path / f"seed={seed}", seed=seed)
    assert [run.seed for run in find_runs([str(tmp_path)]).runs] == [1, 2, 10]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "run.json").write_text("{"), "run.json cannot be read"),
        (lambda folder: (folder / "run.json").write_text("[1]"), "run.json cannot be read (it holds [1], no keys)"),
        (lambda folder: (folder / "run.json").write_text('{"schema": 2}'), "its schema is 2, this version"),
        (lambda folder: (folder / "run.json").write_text('{"schema": 99}'), "its schema is 99"),
        (lambda folder: (folder / "metrics.csv").unlink(), "metrics.csv, per_image.csv or split.json"),
        (lambda folder: (folder / "per_image.csv").write_text(""), "metrics.csv, per_image.csv or split.json"),
        (
            lambda folder: (folder / "per_image.csv").write_text("split,checkpoint,id,group,dice\nval,best,a,a,x\n"),
            "metrics.csv, ",
        ),
        (lambda folder: (folder / "split.json").unlink(), "metrics.csv, per_image.csv or split.json"),
    ],
)
def test_damaged_folder_is_reported(tmp_path, damage, reason):
    damage(write_run(tmp_path / "run"))
    run, why = read_run(tmp_path / "run")
    assert run is None
    assert reason in why


def put(content, key, value):
    """Puts value under a dotted key, or takes the key away where value is None."""
    *above, name = key.split(".")
    for step in above:
        content = content[int(step) if step.isdigit() else step]
    content.pop(name) if value is None else content.update({name: value})


def needed_keys(part: type[Part], prefix: str = ""):
    """Lists the dotted keys that the schema needs, with groups of keys before their members."""
    for name, field in part.model_fields.items():
        if field.is_required():
            yield prefix + name
            if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
                yield from needed_keys(field.annotation, f"{prefix}{name}.")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        *((key, None, f"run.json: {key} is missing") for key in [*needed_keys(CompletedRun), "status"]),
        *((f"sessions.0.{key}", None, f"run.json: sessions.0.{key} is missing") for key in needed_keys(Session)),
        ("config", [1], "run.json: config is damaged: [1]"),
        ("config.seed", "1", "run.json: config.seed is damaged: '1'"),
        ("sessions", [], "run.json: sessions is damaged: []"),
        ("sessions.0.versions.torch", 2, "run.json: sessions.0.versions.torch is damaged: 2"),
        ("features", {"reused": True}, "run.json: features.seconds_when_made is missing"),
        ("audit", None, "run.json: audit is missing"),
        ("audit", [{"check": "split", "what": "?"}], "run.json: audit.0.allowed is missing"),
        ("last.values", {"val/dice": "?"}, "run.json: last.values.val/dice is damaged: '?'"),
        ("better.bce", None, "run.json: better says neither max nor min of bce"),
        ("best.monitor", "val/iou", "metrics.csv, per_image.csv or split.json is missing or damaged ('val/iou')"),
        ("epochs", 61, "metrics.csv has 60 epochs, or not in order; run.json says 61"),
    ],
)
def test_damaged_run_json_is_reported(tmp_path, key, value, reason):
    folder = write_run(tmp_path / "run")
    metadata = json.loads((folder / "run.json").read_text())
    put(metadata, key, value)
    (folder / "run.json").write_text(json.dumps(metadata))
    assert read_run(folder) == (None, reason)


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("metrics.csv", lambda lines: lines[:31], "metrics.csv has 30 epochs, or not in order; run.json says 60"),
        (
            "metrics.csv",
            lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
            "metrics.csv has 60 epochs, or not",
        ),
        ("metrics.csv", lambda lines: [*lines[:-1], lines[-1][:40]], "(metrics.csv: line 61 has "),
        ("per_image.csv", lambda lines: lines[:1], "(per_image.csv is empty)"),
        (
            "per_image.csv",
            lambda lines: [lines[0], *lines[3:]],
            "per_image.csv, last epoch: 10 rows, which are not the 12",
        ),
        ("per_image.csv", lambda lines: [*lines[:2], *lines[1:]], "per_image.csv, last epoch: 13 rows, which are not"),
        (
            "per_image.csv",
            lambda lines: [*lines[:2], lines[1], *lines[3:]],
            "per_image.csv, last epoch: 12 rows, which",
        ),
        (
            "per_image.csv",
            lambda lines: lines[:13],
            "per_image.csv, best epoch: 0 rows, which are not the 12 val images",
        ),
        ("per_image.csv", lambda lines: [*lines[:-1], lines[-1][:-30]], "(per_image.csv: line 25 has "),
        (
            "per_image.csv",
            lambda lines: [lines[0].replace("group", "g"), *lines[1:]],
            "or damaged (could not convert string",
        ),
        ("split.json", lambda lines: ["[1]"], "or damaged (list indices must be integers"),
        ("split.json", lambda lines: ['{"train": [], "val": ["a"], "test": []}'], "or damaged (string indices must be"),
    ],
)
def test_inconsistent_files_are_reported(tmp_path, file, change, reason):
    folder = write_run(tmp_path / "run")
    lines = (folder / file).read_text().splitlines()
    (folder / file).write_text("\n".join(change(lines)) + "\n")
    run, why = read_run(folder)
    assert run is None
    assert reason in why


def test_an_infinite_value_is_none(tmp_path):
    write_run(tmp_path / "run", images={"dice": [0.9, np.inf, np.inf, 0.8]}, curves={"val/dice": 0.9, "val/loss": 0.1})
    run, why = read_run(tmp_path / "run")
    assert run, why
    np.testing.assert_array_equal(run.images().values["dice"], [0.9, np.nan, np.nan, 0.8])


def test_damaged_folder_stops_no_other_and_folders_moved_aside_are_ignored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sweep/a", "sweep/a.old1", "sweep/b", "sweep/c.older"):
        write_run(tmp_path / name)
    (tmp_path / "sweep/b/run.json").write_text("[]")
    for pattern in ("sweep", "sweep/*"):
        found = find_runs([pattern])
        assert [run.folder.name for run in found.runs] == ["a", "c.older"]
        assert found.left_out == ("sweep/b: run.json cannot be read (it holds [], no keys)",)
    assert len(find_runs(["sweep/a.old1"]).runs) == 1, "named itself, it is meant"


# The commands


def test_compare(sweep):
    result = CliRunner().invoke(
        app, ["compare", str(sweep), "--threshold", "0.8", "--margin", "0.01"], terminal_width=200
    )
    assert result.exit_code == 0
    assert "1. model.dropout=0.0 is better than model.dropout=0.2: Dice +0.0" in result.output
    assert (
        "On this split of these data: 12 validation images of 128 px, after 60 epochs, 3 and 3 seeds." in result.output
    )
    for row in (
        "seeds",
        "parameters",
        "Dice, best epoch (chosen on these same images)",
        "epochs to Dice 0.8",
        "seconds",
    ):
        assert f"\n{row} " in result.output, row


def test_compare_of_one_config_says_that_there_is_nothing_to_compare(sweep):
    one, two = (CliRunner().invoke(app, ["compare", str(sweep / name)]).output for name in ("a*", "*"))
    assert "One config: nothing to compare it with." in one
    assert "One config" not in two


def test_compare_json(sweep):
    content = json.loads(CliRunner().invoke(app, ["compare", str(sweep), "--json"]).output)
    assert [arm["name"] for arm in content["arms"]] == ["model.dropout=0.0", "model.dropout=0.2"]
    (one,) = content["pairs"]
    assert one["verdict"] == "better"
    assert one["difference"]["interval"][0] < one["difference"]["estimate"] < one["difference"]["interval"][1]
    assert len(content["arms"][0]["last"]["dice"]["runs"]) == 3


def test_power(sweep):
    output = CliRunner().invoke(app, ["power", str(sweep), "--difference", "0.001"]).output
    assert "model.dropout=0.0 against model.dropout=0.2, Dice: 3 seeds each, 12 images" in output
    assert "0.001" in output
    alone = CliRunner().invoke(app, ["power", str(sweep / "a*")]).output
    assert "and one like it, Dice: 3 seeds each, 12 images" in alone


def test_power_leaves_out_the_arms_of_one_seed(sweep):
    some = [str(sweep / name) for name in ("a0", "a1", "a2", "b0")]
    result = CliRunner().invoke(app, ["power", *some])
    assert result.exit_code == 0
    assert "left out  model.dropout=0.2: one seed" in result.output
    assert "model.dropout=0.0 and one like it, Dice: 3 seeds each" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{sweep}", "--metric", "dicee"], "metric: dicee was not measured in "),
        (["compare", "{sweep}", "--metric", "auroc"], "There are loss, bce, soft_dice_loss, dice."),
        (["compare", "{sweep}", "--margin", "0"], "--margin must be a number greater than 0, got 0"),
        (["compare", "nowhere"], "nowhere: no such folder."),
        (["report", "{study}"], "study.yml: this study has not been run."),
        (["power", "{sweep}", "--difference", "-1"], "--difference must be a number greater than 0, got -1"),
        (["power", "{sweep}/a0"], "one seed; how far seeds differ takes at least two. Run seed=0,1."),
    ],
)
def test_mistake_gives_a_message_and_exit_code_2(sweep, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(sweep.parent)
    questions = ROOT / "experiments" / "lab4" / "study.yml"
    monkeypatch.setattr(sys, "argv", ["runcard", *(a.format(sweep=sweep, study=questions) for a in arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_neither_torch_nor_hydra_is_loaded(sweep):
    code = (
        f"import sys; sys.argv = ['runcard', 'compare', {str(sweep)!r}]\n"
        "import runcard.cli as cli\n"
        "try: cli.main()\n"
        "except SystemExit as exit: assert not exit.code\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'albumentations'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
