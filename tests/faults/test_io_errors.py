"""Drives that fail while a run is written: a few lines with the file and the system's reason, and the run goes on."""

from __future__ import annotations

import builtins
import errno
import io
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, blank_figures, compose_config

from runcard.errors import UserError
from runcard.experiment.run import run
from runcard.fileio import write_text
from runcard.loggers.progress import Progress
from runcard.loggers.run import RunLogger
from runcard.runs.folders import lost_files, read_metadata

CONFIG = (*TINY, "record=lean")
NUMBERS = [errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES, errno.ENOSPC]


def start(folder: Path, *overrides: str) -> float:
    with blank_figures():
        return run(compose_config(*CONFIG, *overrides), folder, [*CONFIG, *overrides], choices={})


def check_message(error: UserError, reason: str, place: Path) -> None:
    """A message has at most four lines, and says which file or folder of the run, and why."""
    assert len(str(error).splitlines()) <= 4, error
    assert reason in str(error)
    assert str(error).startswith(str(place)), error


class Drive:
    """A drive that fails at one of the calls of an operation on files below a folder."""

    def __init__(self, folder: Path, operation: str, number: int, at: int) -> None:
        self.folder, self.operation, self.number, self.left = folder, operation, number, at

    def check(self, path: object) -> None:
        """Raise at the call that is to fail."""
        if isinstance(path, (str, os.PathLike)) and Path(path).is_relative_to(self.folder):
            self.left -= 1
            if self.left == 0:
                raise OSError(self.number, os.strerror(self.number), str(path))

    def break_it(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the operation."""
        opened, fsync, replace = io.open, os.fsync, os.replace

        def open_(path: object, mode: str = "r", *args: object, **kwargs: object) -> object:
            if {*mode} & {*"wax"}:
                self.check(path)
            return opened(path, mode, *args, **kwargs)

        def fsync_(descriptor: int) -> None:
            if not (path := Path(f"/proc/self/fd/{descriptor}")).is_dir():
                self.check(path.readlink())
            fsync(descriptor)

        def replace_(one: object, other: object) -> None:
            self.check(one)
            replace(one, other)

        if self.operation == "open":
            patch.setattr(io, "open", open_)
            patch.setattr(builtins, "open", open_)
        elif self.operation == "fsync":
            patch.setattr(os, "fsync", fsync_)
        else:
            patch.setattr(os, "replace", replace_)
            patch.setattr(Path, "replace", lambda one, other: replace_(one, other))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the value of the run that nothing disturbs."""
    return start(tmp_path_factory.mktemp("undisturbed") / "a")


@pytest.mark.parametrize("operation", ["open", "fsync", "rename"])
@pytest.mark.parametrize(("number", "at"), list(zip(NUMBERS, (1, 2, 4, 7, 9), strict=True)))
def test_a_drive_that_fails_is_said_and_the_same_command_goes_on(
    tmp_path, monkeypatch, operation, number, at, undisturbed
):
    folder = tmp_path / "a"
    drive = Drive(folder, operation, number, at)
    with monkeypatch.context() as patch:
        drive.break_it(patch)
        with pytest.raises(UserError) as caught:
            start(folder)
    assert drive.left <= 0, "nothing has failed"
    check_message(caught.value, "disk is full" if number == errno.ENOSPC else os.strerror(number), folder)
    assert start(folder) == undisturbed
    assert (read_metadata(folder)["status"], lost_files(folder)) == ("completed", "")


def test_a_write_says_which_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for number in NUMBERS:
        with monkeypatch.context() as patch:
            Drive(tmp_path, "fsync", number, 1).break_it(patch)
            with pytest.raises(UserError) as caught:
                write_text(path, "new")
        check_message(caught.value, "disk is full" if number == errno.ENOSPC else os.strerror(number), path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.txt", "old")]


def after_epoch(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen as soon as the first epoch is written."""
    epoch = RunLogger.epoch

    def epoch_(self: RunLogger, row: dict[str, object], *args: object) -> None:
        epoch(self, row, *args)
        if row["epoch"] == 1:
            act()

    monkeypatch.setattr(RunLogger, "epoch", epoch_)


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_folder_that_goes_during_the_run_is_not_made_again(tmp_path, monkeypatch, how):
    folder = tmp_path / "a"
    act = (lambda: shutil.rmtree(folder)) if how == "removed" else (lambda: folder.rename(tmp_path / "b"))
    after_epoch(monkeypatch, act)
    with pytest.raises(UserError) as caught:
        start(folder, "train.epochs=3")
    check_message(caught.value, "was removed or renamed", folder)
    assert not folder.exists()


def test_a_run_that_cannot_write_its_end_has_not_ended_well(tmp_path, monkeypatch):
    monkeypatch.setattr("runcard.experiment.session.write_results", lambda *_: shutil.rmtree(tmp_path / "a") or {})
    with pytest.raises(UserError, match="was removed or renamed"):
        start(tmp_path / "a")
    assert not (tmp_path / "a" / "run.json").exists()


def test_a_killed_loader_process_is_said_and_the_same_command_goes_on(tmp_path, monkeypatch, undisturbed):
    def kill(*_: object) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, 9)
            process.join()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", kill)
        with pytest.raises(UserError, match=r"train.num_workers: a loader process (is killed|exited)") as caught:
            start(tmp_path / "a", "train.num_workers=1")
    assert "epoch 0" in str(caught.value)
    assert start(tmp_path / "a", "train.num_workers=1") == undisturbed
