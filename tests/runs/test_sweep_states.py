"""What `runcard status` and the table of a sweep say of its runs, read from their folders."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from conftest import TINY, blank_figures, compose_config
from typer.testing import CliRunner

from runcard.cli import app
from runcard.experiment.run import run
from runcard.fileio import write_json
from runcard.runs.hold import DEAD_AFTER_SECONDS, RUNNING
from runcard.runs.reader import find_runs
from runcard.runs.sweep import (
    MAX_OF_STATE,
    MAX_ROWS,
    RunState,
    count,
    forget_failure,
    read_jobs,
    record_failure,
    record_jobs,
    runs_of,
    state_of,
    state_rows,
)

CONFIG = (*TINY, "train.pictures=0")


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """A completed run of two epochs."""
    folder = tmp_path_factory.mktemp("completed") / "a"
    with blank_figures():
        run(compose_config(*CONFIG), folder, [*CONFIG], choices={"dataset": "phantom_chest"})
    return folder


@pytest.fixture
def sweep(completed, tmp_path):
    """A sweep of four jobs: one is done, one was killed in its second epoch, one failed, one has not begun."""
    folder = tmp_path / "outputs" / "losses"
    record_jobs(folder, {f"seed={i}": [f"seed={i}"] for i in range(4)})
    for i in range(2):
        shutil.copytree(completed, folder / f"seed={i}")
    metadata = json.loads((folder / "seed=1" / "run.json").read_text())
    write_json(folder / "seed=1" / "run.json", metadata | {"status": "running"})
    lines = (folder / "seed=1" / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "seed=1" / "metrics.csv").write_text("".join(lines[:2]))
    record_failure(folder / "seed=2", "dataset.root: no such folder.\nSet it.", 2, "Traceback: …")
    return folder


def beat(folder, seconds_ago):
    """Let a process of another machine hold the folder; its last sign of life is that long ago."""
    (folder / RUNNING).write_text('{"host": "node7", "pid": 4711}')
    then = time.time() - seconds_ago
    os.utime(folder / RUNNING, (then, then))


def test_states(sweep):
    states = [state_of(folder) for folder in runs_of(sweep)]
    assert [(s.folder.name, s.state, s.exit_code) for s in states] == [
        ("seed=0", "done", 0),
        ("seed=1", "interrupted", 1),
        ("seed=2", "failed", 2),
        ("seed=3", "missing", 1),
    ]
    best = json.loads((sweep / "seed=0" / "run.json").read_text())["best"]
    assert states[0].detail == f"val/dice {best['value']:.4f} (epoch {best['epoch']})"
    assert states[1].detail == "after epoch 1/2"
    assert states[2].detail == "dataset.root: no such folder."
    assert count(states) == "1 done, 1 interrupted, 1 failed, 1 missing"


def test_a_run_that_another_machine_holds(sweep):
    beat(sweep / "seed=1", 10)
    seconds = json.loads((sweep / "seed=1" / "run.json").read_text())["seconds"]["per_epoch"]
    state = state_of(sweep / "seed=1")
    assert state.state == "running"
    assert state.detail.startswith("node7, process 4711, epoch 2/2, ")
    assert seconds < 60
    assert state.detail.endswith(" s left")
    beat(sweep / "seed=1", 2 * DEAD_AFTER_SECONDS)
    assert state_of(sweep / "seed=1").state == "interrupted"
    (sweep / "seed=3").mkdir()
    beat(sweep / "seed=3", 0)
    assert state_of(sweep / "seed=3").detail == "node7, process 4711, preparing"


def test_a_job_that_is_tried_again_has_not_failed(sweep):
    forget_failure(sweep / "seed=2")
    assert state_of(sweep / "seed=2").state == "missing"


def test_jobs_of_a_later_command_join_those_of_the_first(sweep):
    record_jobs(sweep, {"seed=3": ["seed=3"], "seed=4": ["seed=4"]})
    assert read_jobs(sweep) == {f"seed={i}": [f"seed={i}"] for i in range(5)}


def test_the_command(sweep, monkeypatch):
    monkeypatch.chdir(sweep.parents[1])
    done = CliRunner().invoke(app, ["status", "outputs"])
    assert done.exit_code == 1, done.output
    rows = [line.split() for line in done.output.splitlines()]
    assert [row[-1] for row in rows[1:5]] == [f"outputs/losses/seed={i}" for i in range(4)]
    assert done.output.splitlines()[-1] == "1 done, 1 interrupted, 1 failed, 1 missing"
    assert CliRunner().invoke(app, ["status", "outputs/losses/seed=0"]).exit_code == 0
    assert CliRunner().invoke(app, ["status", "outputs/losses/seed=0", "--watch"]).exit_code == 0


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        ("best", {"checkpoints/last.ckpt"}),
        ("last", {"checkpoints/best.safetensors"}),
        ("record", {"checkpoints/last.ckpt", "checkpoints/best.safetensors", *(f"previews/{i}" for i in range(4))}),
    ],
)
def test_prune_removes_what_is_not_kept_of_completed_runs(sweep, keep, gone):
    done, killed = sweep / "seed=0", sweep / "seed=1"
    before = {run: {path for path in run.rglob("*") if path.is_file()} for run in (done, killed)}
    listed = CliRunner().invoke(app, ["prune", str(sweep), "--keep", keep])
    assert listed.exit_code == 0, listed.output
    assert "of 1 run can go: the same command with --yes removes them" in listed.output
    assert "1 run not completed: left as they are" in listed.output
    assert {path for path in done.rglob("*") if path.is_file()} == before[done]
    assert "of 1 run removed" in CliRunner().invoke(app, ["prune", str(sweep), "--keep", keep, "--yes"]).output
    removed = {path.relative_to(done).as_posix() for path in before[done] if not path.exists()}
    assert {name for name in removed if not name.startswith("previews")} == {
        name for name in gone if not name.startswith("previews")
    }
    assert len(removed) == len(gone)
    assert all(path.exists() for path in before[killed])
    assert len(find_runs([str(sweep)]).runs) == 1, "it can still be compared"


def test_prune_never_removes_the_last_weights(sweep):
    """Weights that were to be kept before are all that is left."""
    weights = sweep / "seed=0" / "checkpoints" / "best.safetensors"
    for keep in ("best", "last"):
        assert CliRunner().invoke(app, ["prune", str(sweep), "--keep", keep, "--yes"]).exit_code == 0
    assert weights.exists()


@pytest.mark.parametrize("content", ['{"status": "completed"}', '{"status": "running"}', "{", "[]"])
def test_a_damaged_record_is_a_failure(sweep, content):
    (sweep / "seed=0" / "run.json").write_text(content)
    state = state_of(sweep / "seed=0")
    assert (state.state, state.exit_code) == ("failed", 1)
    assert "damaged" in state.detail


def test_of_many_runs_only_those_not_done_are_listed(tmp_path, monkeypatch):
    done = [RunState(tmp_path / f"seed={i}", "done", "", 0.9, 60.0, 0) for i in range(MAX_ROWS)]
    failed = [RunState(tmp_path / f"seed={100 + i}", "failed", "no such folder") for i in range(MAX_OF_STATE + 3)]
    running = [RunState(tmp_path / "seed=200", "running", "node7, process 4711")]
    assert len(state_rows(done)[1]) == MAX_ROWS
    assert len(state_rows([*done, *failed, *running], show_all=True)[1]) == MAX_ROWS + MAX_OF_STATE + 4
    rows = state_rows([*done, *failed, *running])[1]
    assert rows[0][0] == "running: node7, process 4711"
    assert [row[0] for row in rows[1:-1]] == ["failed: no such folder"] * MAX_OF_STATE
    assert rows[-1] == ["and 3 more failed", "", ""]
    record_jobs(tmp_path / "sweep", {f"seed={i}": [f"seed={i}"] for i in range(MAX_ROWS + 1)})
    lines = CliRunner().invoke(app, ["status", str(tmp_path / "sweep")]).output.splitlines()
    assert lines[-1] == f"{MAX_ROWS + 1} missing (every run: --all)"
    assert len(lines) == MAX_OF_STATE + 4
    assert (
        len(CliRunner().invoke(app, ["status", str(tmp_path / "sweep"), "--all"]).output.splitlines()) == MAX_ROWS + 4
    )
