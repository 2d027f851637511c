"""Config files are found from any folder; a project's conf/ and experiments/ come before Runcard's own."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import typer
from commands import Command
from conftest import ROOT
from hydra.core.object_type import ObjectType

from runcard.cli import app
from runcard.config.compose import compose_config
from runcard.config.project import choices_of
from runcard.config.schema import parse_config
from runcard.config.search_path import ExperimentsSource
from runcard.errors import UserError
from runcard.study.spec import read_study

TINY_YAML = "defaults:\n  - phantom_chest\nnum_images: 20\nimage_size_px: 32\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current folder: a project with a dataset, a loss of Runcard's name and an experiment."""
    for file, text in {
        "conf/dataset/tiny.yaml": TINY_YAML,
        "conf/loss/dice.yaml": "_target_: torch.nn.CrossEntropyLoss\n",
        "conf/project/default.yaml": "# @package _global_\nseed: 7\ntrust: [mine]\n",
        "experiments/mine/small.yaml": "# @package _global_\ndefaults:\n  - override /dataset: tiny\n",
        "experiments/note.yml": "no config\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_project_adds_choices_replaces_some_and_keeps_the_rest(project):
    config = compose_config(["experiment=mine/small"])
    assert config.dataset.num_images == 20
    assert config.loss._target_ == "torch.nn.CrossEntropyLoss"
    assert config.model._target_ == "runcard.models.unet.UNet"
    assert (config.seed, config.trust) == (7, ["mine"])
    assert compose_config(["experiment=first/lungs", "dataset.root=x"]).seed == 7, "Runcard's own are there too"


def test_choices_are_those_of_both(project):
    assert {"tiny", "lungs"} <= set(choices_of("dataset"))
    assert {"mine/small", "lab4/task4b"} <= set(choices_of("experiment"))
    with pytest.raises(
        UserError, match=r"^experiment=mine/smal: no such file experiments/mine/smal\.yaml\..*Did you mean 'small'\?"
    ):
        compose_config(["experiment=mine/smal"])


def test_outside_a_project_runcards_own_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose_config([]).seed == 0


def test_a_conf_of_another_project_is_refused(project):
    (project / "conf" / "dataset" / "tiny.yaml").unlink()
    (project / "conf" / "dataset").rmdir()
    (project / "conf" / "config.yaml").write_text("lr: 1\n")
    with pytest.raises(UserError, match=r"config\.yaml: not Runcard's"):
        compose_config([])


def test_the_source_of_experiments_lists_as_hydra_expects(project):
    source = ExperimentsSource("project", f"experiments://{project / 'experiments'}")
    assert source.list("", None) == ["experiment"]
    assert source.list("experiment", None) == ["mine"], "a .yml is no config"
    assert source.list("experiment/mine", ObjectType.CONFIG) == ["small"]
    assert source.list("experiment/mine", ObjectType.GROUP) == []
    assert source.is_group("experiment/mine")
    assert not source.is_group("dataset")
    assert source.is_config("experiment/mine/small")
    assert not source.is_config("experiment/mine")


def test_a_saved_config_is_not_mixed_with_a_project(run_config, project):
    """`make rerun` gives Hydra a run's .hydra/ as the whole config: a project's config.yaml must not take its place."""
    (project / "conf" / "config.yaml").write_text((ROOT / "conf" / "config.yaml").read_text())
    first = run_config("first", "dataset=tiny", "model.base=2", "train.epochs=1", "loss=bce", "seed=5")
    command = [
        "runcard",
        "train",
        "-cp",
        str(first / ".hydra"),
        "-cn",
        "config",
        "run_dir=again",
        "hydra.run.dir=again",
    ]
    command += ["hydra.output_subdir=null", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled"]
    done = Command(*command, folder=project).wait()
    assert done.returncode == 0, done.stderr
    again = json.loads((project / "again" / "run.json").read_text())
    assert again["config_hash"] == json.loads((first / "run.json").read_text())["config_hash"]


def test_init_writes_a_project_that_trains(tmp_path):
    def runcard(*arguments: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return Command("runcard", *arguments, folder=folder).wait()

    assert "runcard train experiment=first" in runcard("init", "my project").stdout
    done = runcard("train", "experiment=first", "run_dir=run", "train.epochs=2", folder=tmp_path / "my project")
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "my project" / "run" / "run.json").read_text())
    assert run["config"]["dataset"]["_target_"] == "circles.Circles"
    again = runcard("init", "my project")
    assert again.returncode == 2
    assert again.stderr == "my project: is there already and not empty. Name a new folder.\n"


def test_init_of_another_template_is_refused(tmp_path):
    done = Command("runcard", "init", "mine", "--template", "cours", folder=tmp_path).wait()
    assert done.returncode == 2
    assert "--template must be one of project, course, paper, got 'cours'. Did you mean 'course'?" in done.stderr
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("template", ["course", "paper"])
def test_a_template_has_a_study_whose_arms_compose(tmp_path, monkeypatch, template):
    done = Command("runcard", "init", "mine", "--template", template, folder=tmp_path).wait()
    assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.chdir(tmp_path / "mine")
    study = read_study(Path("study.yml"))
    for arm in study.arms.values():
        experiment, *more = arm.split()
        config, _ = parse_config(compose_config([f"experiment={experiment}", *more, *study.overrides]))
        assert config.dataset.split.seal == (template == "paper")
    assert len(study.arms) == {"course": 14, "paper": 2}[template]
    readme = Path("README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^    runcard ([\w-]+)", readme, re.MULTILINE))
    assert {"doctor", "audit", "study", "power"} <= commands <= set(typer.main.get_command(app).commands)


def test_the_study_of_a_paper_is_registered_answered_and_unsealed(tmp_path):
    Command("runcard", "init", "mine", "--template", "paper", folder=tmp_path).wait()
    small = ("train.epochs=1", "model.base=2", "train.accelerator=cpu")
    done = Command("runcard", "study", "study.yml", "seeds=0,1", *small, folder=tmp_path / "mine").wait()
    assert done.returncode == 0, done.stderr
    (registered,) = (tmp_path / "mine" / "outputs").glob("*/preregistration.json")
    opened = Command("runcard", "unseal", str(registered.parent), "--trust", "circles", folder=tmp_path / "mine").wait()
    assert opened.returncode == 0, opened.stderr
