"""Shell completion, as each shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def completions(folder, shell, words):
    """Return what a shell would offer for the last of these words."""
    variables = {"_RUNCARD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": f"runcard {' '.join(words)}"}
    variables |= {"COMP_WORDS": f"runcard {' '.join(words)}", "COMP_CWORD": str(len(words))}
    variables |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "import sys; sys.argv[0] = 'runcard'; from runcard.cli import app; app(prog_name='runcard')"
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True)
    return done.stdout.split()


@pytest.fixture
def project(tmp_path):
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text("a: 1\n")
    return tmp_path


def test_bash_takes_an_equals_sign_for_a_word(project):
    assert completions(project, "bash", ["train", "model", "=", "v"]) == ["vgg16", "vgg16_pretrained"]
    assert completions(project, "bash", ["train", "-m", "loss=dice", "dataset", "="])[-3:] == [
        "mine",
        "phantom_bone",
        "phantom_chest",
    ]
    assert completions(project, "bash", ["train", "opt"]) == ["optimizer=adam", "optimizer=adamw", "optimizer=sgd"]
    assert completions(project, "bash", ["doc"]) == ["doctor"]


def test_fish_and_zsh_complete_the_whole_word(project):
    assert "logger=wandb" in " ".join(completions(project, "zsh", ["train", "logger=w"]))
    assert completions(project, "fish", ["train", "seed=1", "logger=x"]) == []


def test_the_options_of_hydra_reach_it_in_order(monkeypatch):
    from typer.testing import CliRunner

    from runcard.cli import app

    given = ["-m", "seed=0,1", "--cfg", "job", "model.base=4", "-cd", "conf", "--help"]
    monkeypatch.setattr("runcard.experiment.command.main", lambda: print(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["runcard"])
    assert CliRunner().invoke(app, ["train", *given]).output.strip() == str(given)
    assert str(["name=demo", "seed=1"])[1:] in CliRunner().invoke(app, ["demo", "seed=1"]).output
