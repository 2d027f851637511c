"""A damaged checkpoint, or one of another run: an error or an exact repair, never other numbers."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from pathlib import Path

import pytest
import torch
from conftest import TINY, compose_config
from evidence import numbers, run_json
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from runcard import interrupts
from runcard.errors import UserError
from runcard.experiment.predictions import PredictionFigures
from runcard.experiment.run import run
from runcard.fileio import write_csv
from runcard.interrupts import uninterrupted
from runcard.loggers.run import RunLogger
from runcard.loggers.tensorboard import TensorBoardLogger
from runcard.runs.folders import read_metrics
from runcard.training.checkpoint import Checkpoint, read_weights
from runcard.training.restore import open_run
from runcard.training.types import State

CONFIG = (*TINY, "train.epochs=4", "train.pictures=0", "augmentation=light")


def start(folder: Path, *overrides: str) -> float:
    return run(compose_config(*CONFIG, *overrides), folder, list(overrides), choices={})


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """Interrupt a run while its fourth epoch is reported; three are saved."""
    original = RunLogger.epoch

    def stop(self: RunLogger, row: dict, *rest: object) -> None:
        if row["epoch"] == 4:
            raise KeyboardInterrupt
        original(self, row, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunLogger, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            start(folder, *overrides)
    return folder / "checkpoints"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        start(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def flip(path: Path, part: float) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 4
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "bit": lambda path: flip(path, 0.5),
    "half": halve,
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, monkeypatch, undisturbed, capsys, damage):
    checkpoints = interrupted(folder, monkeypatch)
    DAMAGES[damage](checkpoints / "last.ckpt")
    start(folder)
    assert "going on from the checkpoint before it, of epoch 2" in capsys.readouterr().out
    assert numbers(folder) == numbers(undisturbed)
    assert {path.name for path in checkpoints.iterdir()} == {"last.ckpt", "best.safetensors"}


def test_two_damaged_checkpoints_are_an_error(folder, monkeypatch):
    checkpoints = interrupted(folder, monkeypatch)
    for name in ("last.ckpt", "previous.ckpt"):
        flip(checkpoints / name, 0.5)
    with pytest.raises(UserError, match=r"last.ckpt: damaged, so the run cannot go on from it .*\noverwrite=true"):
        start(folder)


@pytest.mark.parametrize("part", [0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_no_bit_of_a_checkpoint_changes_unseen(folder, monkeypatch, undisturbed, part):
    checkpoints = interrupted(folder, monkeypatch)
    flip(checkpoints / "last.ckpt", part)
    start(folder)
    assert numbers(folder) == numbers(undisturbed)


def test_a_checkpoint_of_another_run_is_refused(folder, monkeypatch):
    other = interrupted(folder.with_name("other"), monkeypatch, "seed=1")
    checkpoints = interrupted(folder, monkeypatch)
    (other / "last.ckpt").replace(checkpoints / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt: the checkpoint of another run, which differs in seed \(1 there"):
        start(folder)


def test_rows_of_metrics_are_restored(folder, monkeypatch, undisturbed):
    interrupted(folder, monkeypatch)
    rows = read_metrics(folder / "metrics.csv")
    write_csv(folder / "metrics.csv", [rows[0] | {"val/loss": 5.0}, rows[2]])
    start(folder)
    assert numbers(folder) == numbers(undisturbed)


def test_best_weights_are_checked_by_whoever_reads_them(folder, undisturbed):
    copy = folder.with_name("copy")
    shutil.copytree(undisturbed, copy)
    open_run(copy)
    flip(copy / "checkpoints" / "best.safetensors", 0.9)
    with pytest.raises(UserError, match=r"best.safetensors: damaged or replaced: its SHA-256 is not"):
        open_run(copy)


def saved(folder: Path, *best_epochs: int) -> Checkpoint:
    """Save a state after each epoch, whose best one so far is given."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    checkpoint = Checkpoint(folder, model, optimizer, LambdaLR(optimizer, lambda _: 1.0), {})
    for epoch, best_epoch in enumerate(best_epochs, start=1):
        with torch.no_grad():
            model.weight.fill_(epoch)
        checkpoint.save(State(epoch, epoch, 0.5, best_epoch))
    return checkpoint


def test_best_weights_that_were_replaced_come_back(tmp_path):
    checkpoint = saved(tmp_path, 1, 1, 3)
    halve(checkpoint.last)
    assert checkpoint.resume().epoch == 2
    assert read_weights(checkpoint.best)[0]["weight"].unique().tolist() == [1.0]


def test_damaged_best_weights_are_an_error(tmp_path):
    checkpoint = saved(tmp_path, 1, 1)
    flip(checkpoint.best, 0.99)
    with pytest.raises(UserError, match=r"best.safetensors: damaged or replaced: not the weights of epoch 1"):
        checkpoint.resume()


@pytest.mark.parametrize("drawn", [False, True])
def test_an_interrupt_of_which_a_library_makes_an_error_is_one(run_config, monkeypatch, drawn):
    """As a library in C does, in training and where a picture is drawn, whose errors are only warned of."""
    monkeypatch.setattr(interrupts, "_came", came := set())

    def mask(*_: object) -> None:
        came.add(signal.SIGINT)
        raise RuntimeError("the file cannot be written")

    if drawn:
        monkeypatch.setattr(PredictionFigures, "predictions", mask)
    else:
        monkeypatch.setattr(TensorBoardLogger, "row", mask)
    with pytest.raises(KeyboardInterrupt):
        run_config("run", *TINY, "train.pictures=1")
    assert run_json(Path("run"))["status"] == "interrupted"


def test_an_interrupt_that_a_library_drops_ends_training_after_the_step(run_config, monkeypatch):
    monkeypatch.setattr(interrupts, "_came", came := set())
    steps = []

    def drop(*_: object) -> None:
        steps.append(1)
        came.add(signal.SIGTERM)

    monkeypatch.setattr(RunLogger, "step", drop)
    with pytest.raises(KeyboardInterrupt):
        run_config("run", *TINY)
    assert len(steps) == 1


def test_an_interrupt_waits_for_the_end_of_a_write(monkeypatch):
    monkeypatch.setattr(signal, "SIGTERM", signal.SIGUSR2)  # pytest needs the other one
    came: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGUSR2)
            assert came == []
        assert came == [signal.SIGUSR2]
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR2)
            assert came == [signal.SIGUSR2] * 2, "the second takes effect at once"
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_ctrl_c_while_a_checkpoint_is_written_is_an_interrupt(tmp_path, monkeypatch):
    checkpoint = saved(tmp_path, 1)
    original = torch.save

    def interrupt(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        original(*arguments)

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(State(2, 2, 0.5, 1))
    assert checkpoint.resume().epoch == 2, "the write was finished first"


def test_a_folder_that_cannot_be_flushed_fails_no_write(tmp_path, monkeypatch):
    """Some network drives answer EINVAL to the fsync of a folder, when the file has its name already."""
    original = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert saved(tmp_path, 1, 1).resume().epoch == 2
