"""Which run folders are found, and why some of them cannot be compared; and the commands that read them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from folders import simulate, write_run
from typer.testing import CliRunner

from runcard.cli import app, main
from runcard.compare.runs import find_runs, read_run
from runcard.errors import UserError


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


@pytest.mark.parametrize("pattern", ["nowhere", "sweep/c*", "."])
def test_no_run_folder(sweep, tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path if pattern == "." else sweep.parent)
    with pytest.raises(UserError, match=r"no run folder here or below"):
        find_runs([pattern])


def test_ten_comes_after_two(tmp_path):
    for seed in (10, 2, 1):
        write_run(tmp_path / f"seed={seed}", seed=seed)
    assert [run.seed for run in find_runs([str(tmp_path)]).runs] == [1, 2, 10]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "run.json").write_text("{"), "run.json cannot be read"),
        (
            lambda folder: (folder / "run.json").write_text('{"schema": 2}'),
            "its schema is 2, this version",
        ),
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
def test_a_damaged_folder_is_told(tmp_path, damage, reason):
    damage(write_run(tmp_path / "run"))
    run, why = read_run(tmp_path / "run")
    assert run is None
    assert reason in why


# The commands


def test_compare(sweep):
    result = CliRunner().invoke(
        app, ["compare", str(sweep), "--threshold", "0.8", "--margin", "0.01"], terminal_width=200
    )
    assert result.exit_code == 0
    assert "1. model.dropout=0.0 is better than model.dropout=0.2: Dice +0.0" in result.output
    assert "On this split of these data: 12 validation images, last epoch, 3 and 3 seeds." in result.output
    for row in (
        "seeds",
        "parameters",
        "Dice, best epoch (chosen on these same images)",
        "epochs to Dice 0.8",
        "seconds",
    ):
        assert f"\n{row} " in result.output, row


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{sweep}", "--metric", "dicee"], "metric: dicee was not measured in "),
        (["compare", "{sweep}", "--metric", "auroc"], "Use one of loss, bce, soft_dice_loss, dice."),
        (["compare", "{sweep}", "--margin", "0"], "--margin must be greater than 0, got 0"),
        (["compare", "nowhere"], "nowhere: no run folder here or below"),
        (["power", "{sweep}", "--difference", "-1"], "--difference must be greater than 0, got -1"),
        (["power", "{sweep}/a0"], "one seed; how far seeds differ takes at least two. Run seed=0,1."),
    ],
)
def test_a_mistake_is_told_in_words(sweep, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["runcard", *(a.format(sweep=sweep) for a in arguments)])
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
