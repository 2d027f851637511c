"""Interrupted equals uninterrupted, bit for bit; and a run made longer equals one that long from the start."""

from __future__ import annotations

import json
import time

import pytest
from conftest import TINY, blank_figures, compose_config
from evidence import numbers, read_csv, run_json, scalars

from runcard.errors import UserError
from runcard.experiment.run import run
from runcard.loggers.run import RunLogger
from runcard.training.checkpoint import Checkpoint

# Everything that is random or has a memory is on. 16 training images in batches of 4: four steps an epoch.
FULL = (*TINY, "train.epochs=3", "train.pictures=0", "augmentation=light", "model.dropout=0.2", "model.batchnorm=true")
PLATEAU = ("scheduler=plateau", "scheduler.rule.patience=0", "scheduler.rule.threshold=0.9")  # lr falls every epoch
SCHEDULERS = {"onecycle": (*FULL, "scheduler=onecycle"), "plateau": (*FULL, *PLATEAU)}
# (class, method, epoch, step): the interrupt comes when this call returns. Steps are counted within the epoch.
MOMENTS = {
    "first step": (RunLogger, "step", 1, 1),
    "mid-epoch": (RunLogger, "step", 2, 3),
    "before the first checkpoint": (RunLogger, "epoch", 1, None),
    "after the first checkpoint": (Checkpoint, "save", 1, None),
    "best weights written, epoch not": (Checkpoint, "save_best", 2, None),
    "row written, checkpoint not": (RunLogger, "epoch", 2, None),
    "after a checkpoint": (Checkpoint, "save", 2, None),
    "all epochs done, results not": (Checkpoint, "save", 3, None),
}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """The folders in which the configs of SCHEDULERS ran without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    with blank_figures():
        for name, overrides in SCHEDULERS.items():
            run(compose_config(*overrides), folder / name, overrides, choices={})
    return folder


def interrupt(monkeypatch, owner, method, epoch, step):
    """Lets the call of method in this epoch (and step) do its work, and then presses Ctrl-C."""
    original = getattr(owner, method)
    counted = {"epoch": 0}

    def call(self, *arguments, **named):
        original(self, *arguments, **named)
        if method == "step":
            now = arguments[:2]
        elif method == "epoch":
            now = (arguments[0]["epoch"], None)
        elif method == "save":
            now = (arguments[0].epoch, None)
        else:  # save_best says no epoch: the second time that there is a better one
            counted["epoch"] += 1
            now = (counted["epoch"], None)
        if now == (epoch, step):
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, method, call)


def next_second():
    """Waits for another second: TensorBoard orders a run's event files by the second in their names."""
    time.sleep(1 - time.time() % 1 + 0.01)


@pytest.mark.parametrize(
    ("scheduler", "moment"),
    [("onecycle", moment) for moment in MOMENTS]
    + [("plateau", moment) for moment in ("mid-epoch", "row written, checkpoint not", "after a checkpoint")],
)
def test_interrupted_equals_uninterrupted(wholes, scheduler, moment, run_config, monkeypatch, tmp_path):
    overrides, folder = SCHEDULERS[scheduler], wholes / scheduler
    owner, method, epoch, step = MOMENTS[moment]
    with monkeypatch.context() as patch:
        interrupt(patch, owner, method, epoch, step)
        with pytest.raises(KeyboardInterrupt):
            run_config("a", *overrides)
    between = run_json(tmp_path / "a")
    assert (between["status"], between["error"]) == ("interrupted", None)
    assert not (tmp_path / "a" / "per_image.csv").exists()

    next_second()
    run_config("a", *overrides)
    assert numbers(tmp_path / "a") == numbers(folder)
    record, expected = run_json(tmp_path / "a"), run_json(folder)
    assert (record["status"], len(record["sessions"])) == ("completed", 2)
    assert (record["best"], record["last"]) == (expected["best"], expected["last"])
    shown = scalars(tmp_path / "a")
    assert shown.keys() == scalars(folder).keys()
    assert {tag: [s for s, _ in values] for tag, values in shown.items()} == {tag: [1, 2, 3] for tag in shown}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_scheduler_moved(wholes, scheduler):
    lrs = [float(row["lr"]) for row in read_csv(wholes / scheduler / "metrics.csv")]
    assert len(set(lrs)) > 1, "a constant rate would prove nothing about resuming the scheduler"


def test_interrupted_twice_in_one_epoch(wholes, run_config, monkeypatch, tmp_path):
    overrides, folder = SCHEDULERS["plateau"], wholes / "plateau"
    for step in (2, 4):
        with monkeypatch.context() as patch:
            interrupt(patch, RunLogger, "step", 2, step)
            with pytest.raises(KeyboardInterrupt):
                run_config("a", *overrides)
        next_second()
    run_config("a", *overrides)
    assert numbers(tmp_path / "a") == numbers(folder)
    assert len(run_json(tmp_path / "a")["sessions"]) == 3
    assert [step for step, _ in scalars(tmp_path / "a")["val/dice"]] == [1, 2, 3]


def test_a_run_with_few_checkpoints_goes_on_from_the_last_one(wholes, run_config, monkeypatch, tmp_path):
    overrides = [*SCHEDULERS["onecycle"], "train.checkpoint_every=3", "metric.monitor=val/specificity"]
    run_config("whole", *overrides)
    saved, save = [], Checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", lambda *arguments: (saved.append(arguments[1].epoch), save(*arguments)))
        interrupt(patch, RunLogger, "step", 3, 2)
        with pytest.raises(KeyboardInterrupt):
            run_config("a", *overrides)
    assert saved == [1], "the second epoch is not better"
    next_second()
    run_config("a", *overrides)
    assert numbers(tmp_path / "a") == numbers(tmp_path / "whole")
    assert [step for step, _ in scalars(tmp_path / "a")["val/dice"]] == [1, 2, 3]


def test_interrupted_between_folder_and_first_epoch(run_config, monkeypatch, tmp_path):
    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("runcard.runs.writer.commit", stop)  # asks git: the slowest thing while run.json is being made
        with pytest.raises(KeyboardInterrupt):
            run_config("a", *TINY)
    run_config("a", *TINY)
    assert run_json(tmp_path / "a")["status"] == "completed"


def test_diverged_run_is_reported(run_config, tmp_path):
    for session in (1, 2):  # given again it goes on, and fails again
        with pytest.raises(UserError, match=r"(?s)at epoch \d, step \d+: training has diverged.*optimizer\.lr"):
            run_config("a", *TINY, "optimizer.lr=1e30")
        record = run_json(tmp_path / "a")
        assert (record["status"], len(record["sessions"])) == ("failed", session)
        assert "training has diverged" in record["error"]
        assert record["end"] >= record["start"]


def test_our_own_bug_is_recorded(run_config, monkeypatch, tmp_path):
    def broken(*_):
        raise ZeroDivisionError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr(RunLogger, "step", broken)
        with pytest.raises(ZeroDivisionError):
            run_config("a", *TINY)
    assert run_json(tmp_path / "a")["status"] == "failed"
    assert "a bug of ours" in run_json(tmp_path / "a")["error"]


EXTENDED = (*FULL, "train.epochs=2")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A run of two epochs, to be made longer."""
    folder = tmp_path_factory.mktemp("extend") / "parent"
    with blank_figures():
        run(compose_config(*EXTENDED), folder, EXTENDED, choices={})
    return folder


def test_extended_equals_that_long_from_the_start(parent, run_config, monkeypatch, tmp_path):
    longer = (*EXTENDED, "train.epochs=4")
    whole = run_config("whole", *longer)
    before = numbers(parent)
    with monkeypatch.context() as patch:  # interrupted on its way, too
        interrupt(patch, RunLogger, "step", 4, 2)
        with pytest.raises(KeyboardInterrupt):
            run_config("long", *longer, f"train.extend={parent}")
    next_second()
    run_config("long", *longer, f"train.extend={parent}")
    assert numbers(tmp_path / "long") == numbers(whole)
    assert numbers(parent) == before
    record = run_json(tmp_path / "long")
    assert record["parent"] == str(parent)
    assert (record["epochs"], record["best"], record["last"]) == (
        4,
        run_json(whole)["best"],
        run_json(whole)["last"],
    )


def test_extended_run_shows_all_epochs(parent, run_config):
    long = run_config("long", *EXTENDED, "train.epochs=3", f"train.extend={parent}")
    assert [step for step, _ in scalars(long)["val/dice"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("scheduler=onecycle",), r"scheduler\.rule"),
        (("scheduler=cosine",), r"scheduler\.rule"),
        (("model.base=5",), r"model\.base \(4 there, 5 here\)"),
        (("seed=1",), r"seed \(0 there, 1 here\)"),
        (("dataset.seed=7",), "the data"),
        (("train.epochs=1",), "must exceed the 2"),
        (("train.epochs=2",), "must exceed the 2"),
        (("train.extend=nowhere",), "nowhere is not a run folder"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_refuses_to_extend(parent, run_config, tmp_path, overrides, words):
    with pytest.raises(UserError, match=words) as raised:
        run_config("long", *EXTENDED, "train.epochs=4", f"train.extend={parent}", *overrides)
    assert str(raised.value).startswith("train.extend: ")
    assert not (tmp_path / "long").exists()


def test_extend_needs_the_same_scheduler(parent, run_config):
    with pytest.raises(UserError, match=r"scheduler\.rule"):
        run_config("long", *EXTENDED, "train.epochs=4", "scheduler=plateau", f"train.extend={parent}")


def test_a_schedule_over_all_steps_cannot_be_extended(run_config):
    run_config("short", *EXTENDED, "scheduler=cosine")
    with pytest.raises(UserError, match="depends on the number of steps: use scheduler=none"):
        run_config("long", *EXTENDED, "train.epochs=4", "scheduler=cosine", "train.extend=short")


def test_run_json_is_strict_json(parent):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((parent / "run.json").read_text(), parse_constant=refuse)
