"""Sweeps of the real command: shared by two commands at once, gone on with after a kill, through other launchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import pytest
from commands import Command
from conftest import ONE_THREAD, ROOT, TINY
from evidence import numbers, run_json

from runcard.errors import UserError
from runcard.experiment.plugins import use_plugins
from runcard.experiment.sweep import Job, RunSweeper
from runcard.runs.folders import run_folders
from runcard.runs.sweep import state_of

SMALL = (*TINY, "train.pictures=0", "train.log_every_steps=1")
JOBS = ("loss=bce,dice", "model.dropout=0,2")  # the last is a mistake: two runs are done, two have failed


def start(folder, *arguments):
    """Start a sweep in folder; return its process."""
    return Command("train.py", "-m", *SMALL, *arguments, folder=folder)


def table(output):
    """Return the table of a sweep without the times: what became of each run, and its folder."""
    rows = output[output.rindex("best value") :].splitlines()[1:]
    return [(row.partition("  ")[0], row.rstrip().rpartition("  ")[2]) for row in rows if row.strip()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A sweep that one command ran alone: its folder, table and exit code."""
    folder = tmp_path_factory.mktemp("alone")
    done = start(folder, *JOBS).wait()
    return folder, table(done.stdout), done.returncode


def assert_same(folder, alone):
    """Check that the runs below folder are those of the sweep alone, bit for bit, each trained once."""
    for expected in run_folders(alone):
        run = folder / expected.relative_to(alone)
        assert numbers(run) == numbers(expected)
        weights = "checkpoints/best.safetensors"
        assert (run / weights).read_bytes()[-64:] == (expected / weights).read_bytes()[-64:]
    assert len(run_folders(folder)) == len(run_folders(alone))


def test_a_sweep_with_failures(alone):
    folder, rows, returncode = alone
    assert returncode == 2
    assert [what.partition(":")[0] == "failed" for what, _ in rows] == [False, True, False, True]
    assert [state_of(folder / path).state for _, path in rows] == ["done", "failed", "done", "failed"]
    assert "dropout must be" in rows[1][0]


def test_the_basic_launcher_imports_torch_once(tmp_path):
    """Neither again for each job, nor in a process that does nothing else."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "seed=0,1", "record=lean"]
    environment = {**ONE_THREAD, "PYTHONPROFILEIMPORTTIME": "1"}  # Python's own: a line on stderr for each import
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert len(run_folders(tmp_path)) == 2
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert imported.count("torch") == 1


def test_two_commands_at_once_share_the_jobs(alone, tmp_path):
    folder, rows, returncode = alone
    both = [start(tmp_path, *JOBS) for _ in range(2)]
    done = [command.wait() for command in both]
    assert [(table(each.stdout), each.returncode) for each in done] == [(rows, returncode), (rows, returncode)]
    assert_same(tmp_path, folder)
    for run in run_folders(tmp_path):
        assert len(run_json(run)["sessions"]) == 1, "never trained twice"
        assert sum(f"run folder   {run.relative_to(tmp_path)}\n" in each.stdout for each in done) == 1


def test_a_command_takes_over_what_a_killed_one_left(alone, tmp_path):
    folder, rows, returncode = alone
    killed = start(tmp_path, *JOBS)
    for line in killed.lines():
        if line.startswith("epoch 2/2  step"):
            break
    waiting = start(tmp_path, *JOBS)
    time.sleep(1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = waiting.wait()
    assert (table(done.stdout), done.returncode) == (rows, returncode)
    assert_same(tmp_path, folder)


def test_the_same_command_tries_again_what_failed_unless_told_not_to(alone, tmp_path):
    """Nothing else is trained again."""
    folder, rows, returncode = alone
    (tmp_path / "outputs").symlink_to(folder / "outputs")
    times = {run: (run / "run.json").stat().st_mtime_ns for run in run_folders(folder)}
    for options, tries in (((), 2), (("hydra.sweeper.retry_failed=false",), 0)):
        done = start(tmp_path, *JOBS, *options).wait()
        assert (table(done.stdout), done.returncode) == (rows, returncode)
        assert done.stderr.count("dropout must be") == tries
        assert done.stdout.count("completed before, ") == 2
    assert {run: (run / "run.json").stat().st_mtime_ns for run in run_folders(folder)} == times


@pytest.mark.parametrize("launcher", ["joblib", "slurm_local"])
def test_other_launchers(alone, tmp_path, launcher):
    package = {"joblib": "hydra_joblib_launcher", "slurm_local": "hydra_submitit_launcher"}[launcher]
    pytest.importorskip(f"hydra_plugins.{package}")
    folder, rows, returncode = alone
    done = start(tmp_path, *JOBS, f"hydra/launcher={launcher}").wait()
    assert (table(done.stdout), done.returncode) == (rows, returncode), done.stderr
    assert_same(tmp_path, folder)


def test_ray_starts_the_run_of_a_killed_worker_again(alone, tmp_path):
    pytest.importorskip("ray")
    folder, rows, returncode = alone
    command = start(tmp_path, *JOBS, "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")
    for line in command.lines():
        if "epoch 1/2  step" in line:
            break
    prefix, _, _ = line.partition(")")  # (loss=bce,model.dropout=0 pid=4711)
    os.kill(int(prefix.rpartition("pid=")[2]), signal.SIGKILL)
    done = command.wait()
    assert (table(done.stdout), done.returncode) == (rows, returncode), done.stderr
    assert "its worker was lost, retry 1 of 3" in done.stderr
    assert_same(tmp_path, folder)


def test_a_launcher_that_loses_a_worker_does_not_end_the_sweep(capsys):
    def lose(overrides, initial_job_idx):
        raise ChildProcessError("a worker was killed")

    sweeper = RunSweeper(None, True, None)
    sweeper.launcher = SimpleNamespace(launch=lose)
    sweeper.launch([Job([], None, None, {})])
    assert "ChildProcessError: a worker was killed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choice", "extra"),
    [("launcher=joblib", "sweep"), ("launcher=slurm", "sweep"), ("launcher=ray", "ray"), ("sweeper=optuna", "sweep")],
)
def test_a_plugin_that_is_not_installed(monkeypatch, choice, extra):
    use_plugins([])  # Hydra loads its plugins once in a process
    monkeypatch.setattr(metadata, "distributions", lambda name: [])
    with pytest.raises(UserError, match=f"hydra/{choice}: is not installed: pip install 'runcard\\[{extra}"):
        use_plugins(["-m", f"hydra/{choice}"])


@pytest.mark.parametrize("choice", ["slurm", "submitit_slurm"])
def test_slurm_that_is_not_there(monkeypatch, choice):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=f"^hydra/launcher={choice}: srun or sbatch is missing.*try it here: hydra"):
        use_plugins(["-m", f"hydra/launcher={choice}"])
