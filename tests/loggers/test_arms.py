"""Arms in TensorBoard: the curves of the report, and links to the single runs, in a folder that is always whole."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from evidence import scalars
from folders import write_run
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from runcard.compare.confounds import group_arms
from runcard.compare.learning_curves import band
from runcard.compare.questions import Study
from runcard.fileio import write_json
from runcard.loggers import arms as log_folder
from runcard.loggers import tensorboard
from runcard.loggers.arms import view, write_log_folder
from runcard.loggers.tensorboard import write_curves
from runcard.runs.folders import run_folders
from runcard.runs.reader import find_runs

DICE = {8: ([0.1, 0.4, 0.9], [0.3, 0.2], [0.5, 0.3, 0.2]), 16: ([0.25, 0.5],)}  # base -> val/dice of each seed


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Two arms, of three runs and of one, each run with an event file."""
    for base, curves in DICE.items():
        for seed, dice in enumerate(curves):
            add_run(tmp_path / "sweep" / f"model.base={base},seed={seed}", seed, dice, config={"model.base": base})
    return tmp_path / "sweep"


def add_run(folder: Path, seed: int, dice: Sequence[float], config: Mapping[str, Any] | None = None, **special) -> Path:
    """Write a run, perhaps stopped early, with an event file."""
    config = {"train.epochs": 3, **(config or {})}
    curves = {"val/dice": dice, "val/loss": [1 - value for value in dice], "seconds": [2.0] * len(dice)}
    write_run(folder, seed=seed, epochs=len(dice), curves=curves, config=config, **special)
    write_curves(folder, {column: dict(enumerate(values, start=1)) for column, values in curves.items()})
    return folder


def write(folder: Path, *sweeps: Path) -> int:
    arms, _ = group_arms(find_runs([str(sweep) for sweep in sweeps]).runs)
    return write_log_folder(folder, arms, [folder for sweep in sweeps for folder in run_folders(sweep)])


def entries(folder: Path) -> set[str]:
    """What TensorBoard lists, links followed."""
    return set(EventMultiplexer().AddRunsFromDirectory(str(folder)).Runs())


def test_an_entry_per_arm_and_the_single_runs(sweep, tmp_path):
    running = add_run(sweep / "model.base=16,seed=1", 1, [0.5], config={"model.base": 16}, status="running")
    assert write(tmp_path / "log", sweep) == 5
    assert entries(tmp_path / "log") == {
        *("arms/model.base=8", "arms/model.base=8/highest", "arms/model.base=8/lowest"),
        *("runs/model.base=8/seed=0", "runs/model.base=8/seed=1", "runs/model.base=8/seed=2"),
        *("arms/model.base=16", "runs/model.base=16/seed=0"),  # one run: its mean is itself
        f"no_arm/{running.name}",
    }
    assert not run_folders(tmp_path / "log"), "links are no runs to compare"
    shown = scalars(tmp_path / "log" / "runs" / "model.base=8" / "seed=1")["val/dice"]
    assert shown == [(1, pytest.approx(0.3)), (2, pytest.approx(0.2))]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("model.base=8", [0.3, 0.3]),  # as far as the shortest run goes
        ("model.base=8/highest", [0.5, 0.4]),
        ("model.base=8/lowest", [0.1, 0.2]),
        ("model.base=16", [0.25, 0.5]),
    ],
)
def test_curves_are_those_of_the_report(sweep, tmp_path, entry, expected):
    write(tmp_path / "log", sweep)
    shown = scalars(tmp_path / "log" / "arms" / entry)
    assert shown["val/dice"] == [(epoch, pytest.approx(value)) for epoch, value in enumerate(expected, start=1)]
    assert shown["z_system/seconds"] == [(1, 2), (2, 2)]
    (arm,) = (a for a in group_arms(find_runs([str(sweep)]).runs)[0] if a.name == entry.partition("/")[0])
    which = entry.partition("/")[2] or "mean"
    for column in ("val/dice", "val/loss"):
        assert np.array_equal(
            np.array([value for _, value in shown[column]], np.float32),
            getattr(band(arm, column), which).astype(np.float32),
        )


def test_folds_are_told_from_seeds(tmp_path):
    for fold in range(2):
        kfold = {"dataset.split.kind": "kfold", "dataset.split.fold": fold}
        add_run(tmp_path / "folds" / f"{fold}", 0, [0.1 * fold, 0.5], config=kfold)
    write(tmp_path / "log", tmp_path / "folds")
    (arm,) = (tmp_path / "log" / "arms").iterdir()
    assert {f"runs/{arm.name}/fold={fold},seed=0" for fold in range(2)} <= entries(tmp_path / "log")


def test_it_is_written_from_scratch_and_leaves_the_runs_alone(sweep, tmp_path):
    write(tmp_path / "log", sweep)
    before = sorted(path for path in sweep.rglob("*"))
    shutil.rmtree(sweep / "model.base=16,seed=0")
    write(tmp_path / "log", sweep)
    assert not [name for name in entries(tmp_path / "log") if "16" in name]
    assert sorted(sweep.rglob("*")) == [path for path in before if "model.base=16" not in str(path)]


def test_it_is_never_half_written(sweep, tmp_path, monkeypatch):
    write(tmp_path / "log", sweep)
    before = entries(tmp_path / "log")
    monkeypatch.setattr(log_folder, "write_hparams", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "log", sweep)
    assert entries(tmp_path / "log") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "sweep"]


def test_losses_that_differ_are_not_on_top(tmp_path):
    for loss in ("runcard.losses.bce.BCE", "runcard.losses.dice.DiceLoss"):
        add_run(tmp_path / "sweep" / loss, 0, [0.1, 0.2], config={"loss._target_": loss})
    arms, _ = group_arms(find_runs([str(tmp_path / "sweep")]).runs)
    assert len(arms) == 2
    assert parse_qs(urlsplit(view(arms)).query)["pinnedCards"] == ['[{"plugin":"scalars","tag":"val/dice"}]']


def test_the_address_shows_arms_in_a_colour_each(sweep, tmp_path):
    arms, _ = group_arms(find_runs([str(sweep)]).runs)
    options = {key: value for key, (value,) in parse_qs(urlsplit(view(arms)).query).items()}
    write(tmp_path / "log", sweep)
    shown = {name for name in entries(tmp_path / "log") if re.search(options["runFilter"], name)}
    assert shown == {"arms/model.base=8", "arms/model.base=8/highest", "arms/model.base=8/lowest", "arms/model.base=16"}
    kind, _, regex = options["runColorGroup"].partition(":")
    assert kind == "regex"
    colours = {name: re.search(regex, name).group(1) for name in entries(tmp_path / "log")}
    assert all(name.split("/")[1] == colour for name, colour in colours.items())
    assert options["pinnedCards"] == ('[{"plugin":"scalars","tag":"val/dice"},{"plugin":"scalars","tag":"val/loss"}]')


# The command


def test_it_says_what_it_wrote_and_what_is_in_no_arm(sweep, tmp_path, runcard_command):
    (sweep / "model.base=8,seed=1" / "metrics.csv").write_text("epoch,val/dice\n1\n")
    code, out, _ = runcard_command("tensorboard", "sweep", "-o", "log")
    assert code == 0
    left_out, said, how = out.splitlines()
    assert left_out.startswith("in no arm  sweep/model.base=8,seed=1: metrics.csv, per_image.csv or split.json")
    assert said == "2 arms of 3 runs, 4 single runs below: log"
    assert how == "look at it   tensorboard --logdir log"
    assert scalars(tmp_path / "log" / "arms" / "model.base=8" / "lowest")["val/dice"][0] == (1, pytest.approx(0.1))
    assert "no_arm/model.base=8,seed=1" in entries(tmp_path / "log")


def test_the_arms_of_a_study_have_its_names(sweep, tmp_path, runcard_command):
    study = asdict(Study("s", "", "dice", seeds=(0, 1, 2), arms={"narrow": "a", "wide": "b"}, questions=()))
    runs = {"narrow": [f"model.base=8,seed={seed}" for seed in range(3)], "wide": ["model.base=16,seed=0"]}
    write_json(sweep / "study.json", {"study": study, "command": "runcard study s.yml", "runs": runs, "missing": []})
    code, out, error = runcard_command("tensorboard", "sweep", "-o", "log")
    assert code == 0, error
    assert out.startswith("2 arms of 4 runs, 4 single runs below: log")
    assert {"arms/narrow", "arms/narrow/lowest", "arms/wide", "runs/wide/seed=0"} <= entries(tmp_path / "log")


def test_tensorboard_is_served_until_it_is_interrupted(sweep, runcard_command, monkeypatch):
    served: list[Path] = []

    def serve(logdir: Path, port: int | None) -> str:
        assert port == 6010
        assert "arms/model.base=8" in entries(logdir)
        served.append(logdir)
        return "http://localhost:6010/"

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensorboard, "serve", serve)
    monkeypatch.setattr(time, "sleep", interrupted)
    code, out, _ = runcard_command("tensorboard", "sweep", "--port", 6010)
    assert code == 0
    assert "http://localhost:6010/?runFilter=" in out
    assert not served[0].exists(), "the folder was a temporary one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: no such folder."),
        (["sweep", "-o", "mine"], "mine: exists, and was not written by runcard tensorboard. Name a new folder."),
        (["sweep", "-o", "sweep/model.base=16,seed=0/log"], "lies in the folder of a run, sweep/model.base=16,seed=0."),
        (["failed"], "There is no completed run to compare:\nfailed/a: failed"),
    ],
)
def test_mistakes(sweep, tmp_path, runcard_command, arguments, message):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    add_run(tmp_path / "failed" / "a", 0, [0.1, 0.2], status="failed")
    code, _, error = runcard_command("tensorboard", *arguments)
    assert code == 2
    assert message in error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_taken_port_is_named(sweep, tmp_path, runcard_command):
    import socket

    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        code, _, error = runcard_command("tensorboard", "sweep", "--port", taken.getsockname()[1])
    assert code == 2
    assert error.strip().splitlines()[-1].startswith("--port: ")
