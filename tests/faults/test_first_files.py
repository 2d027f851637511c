"""What a run leaves that is killed before its first run.json: the same command goes on, and nobody else's files go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import TINY, compose_config

from runcard.errors import UserError
from runcard.experiment.run import run
from runcard.fileio import atomic_write, is_temporary
from runcard.runs.hold import LOCK, RUNNING
from runcard.runs.writer import recorded_run

CONFIG = ("train.epochs=1", "record=lean", *(each for each in TINY if each != "train.epochs=2"))


class Killed(BaseException):
    """Ends a process in a test: nothing but what is on the disk by then may count."""


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """Make a run folder whose process ended between the writing and the renaming of the first run.json."""

    def kill(descriptor):
        if (tmp_path / "a") in Path(f"/proc/self/fd/{descriptor}").readlink().parents:
            raise Killed

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing up
        with pytest.raises(Killed):
            run(compose_config(*CONFIG), tmp_path / "a", list(CONFIG), choices={})
    left = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert left == [LOCK, ".run.json.tmp.json", RUNNING]
    return tmp_path / "a"


def test_the_same_command_goes_on(killed):
    run(compose_config(*CONFIG), killed, list(CONFIG), choices={})
    assert json.loads((killed / "run.json").read_text())["status"] == "completed"
    assert not [path for path in killed.rglob("*") if is_temporary(path.name)]


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


HARMLESS = [
    [".run.json.tmp.json"],
    [".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "train.log"],  # of hydra.output_subdir=.hydra
    [".hydra/.config.yaml.tmp.yaml"],
    [".nfs000000000123456700000001", LOCK],
]


@pytest.mark.parametrize("names", HARMLESS)
def test_what_comes_before_run_json_is_no_other_run(tmp_path, names):
    assert recorded_run(fill(tmp_path / "a", names), {}, {}, (), overwrite=False) == {}


@pytest.mark.parametrize(
    "names", [["thesis.tex"], ["run.json.bak"], [".hydra/thesis.tex"], [".hidden"], [".run.json.tmp.json/thesis.tex"]]
)
def test_anything_else_is_refused(tmp_path, names):
    with pytest.raises(UserError, match="is not empty and not a run folder"):
        recorded_run(fill(tmp_path / "a", names), {}, {}, (), overwrite=False)


@pytest.mark.parametrize("name", ["run.json", "a", "x" * 250 + ".png", "events.out.tfevents.1", ".lock"])
def test_temporary_names_are_known(tmp_path, name):
    with atomic_write(tmp_path / name) as temporary:
        temporary.touch()
        assert is_temporary(temporary.name)
    assert not is_temporary(name)
