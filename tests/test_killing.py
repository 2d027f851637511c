"""Kills the real command with SIGKILL at random moments until the run is done; every number must be the same.

That kills fell mid-epoch and inside a checkpoint write is read off what each killed process left, not assumed.
"""

from __future__ import annotations

import random
import re
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Timer

import pytest
from commands import Command
from evidence import numbers, run_json

EPOCHS, STEPS = 16, 3  # 12 training images in batches of 4
KILLS = 10  # at least; more while one kind of kill has not occurred
MAX_KILLS = 40
# A wide network on tiny images: an epoch takes 0.6 s, a third or more of it to write a checkpoint of 104 MB.
CONFIG = (
    "dataset.num_images=15",
    "dataset.image_size_px=16",
    "model.base=32",
    "model.dropout=0.2",
    "augmentation=light",
)
CONFIG += ("scheduler=onecycle", f"train.epochs={EPOCHS}", "train.batch_size=4", "train.accelerator=cpu")
CONFIG += ("train.precision=32", "train.log_every_steps=1", "train.pictures=0")
STEP_LINE = re.compile(r"epoch (\d+)/\d+  step (\d+)/(\d+)")
EPOCH_LINE = re.compile(r"epoch +(\d+)/\d+  train/loss")


@dataclass(frozen=True)
class Life:
    """What was seen of one process: how it ended, the lines it had printed, and when they came (seconds)."""

    returncode: int
    lines: list[str]
    times: list[float]

    @property
    def last_step(self) -> tuple[int, int] | None:
        """Epoch and step, where the last line read was a step's."""
        found = STEP_LINE.match(self.lines[-1]) if self.lines else None
        return (int(found[1]), int(found[2])) if found else None


def live(folder: Path, delay: float | None) -> Life:
    """Run the command; send SIGKILL delay seconds after its first step line, or let it end by itself."""
    lines, times, timer = [], [], None
    command = Command("train.py", *CONFIG, f"run_dir={folder}", folder=folder.parent)
    for line in command.lines():
        lines.append(line.rstrip())
        times.append(time.perf_counter())
        if delay is not None and timer is None and STEP_LINE.match(line):
            timer = Timer(delay, command.send_signal, [signal.SIGKILL])
            timer.start()
    if timer is not None:
        timer.cancel()
    return Life(command.wait().returncode, lines, times)


def unfinished(folder: Path) -> dict[str, int]:
    """Return the temporary files in checkpoints/, with the times of their last write."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "checkpoints").glob(".*.tmp*")}


def kind_of_kill(life: Life, before: dict[str, int], after: dict[str, int]) -> str:
    """Say where a kill fell, by what is left: a file that this process had begun, or the last line it printed."""
    begun = [name for name, written in after.items() if before.get(name) != written]
    if begun:
        return "writing " + " and ".join(sorted(name.partition(".tmp")[0].lstrip(".") for name in begun))
    if life.last_step:
        return "mid-epoch" if life.last_step[1] < STEPS else "in evaluation"
    return "between epochs" if EPOCH_LINE.match(life.lines[-1]) else "after the last epoch"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_at_random_equals_undisturbed(tmp_path):
    started = time.perf_counter()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = live(whole, delay=None)
    assert undisturbed.returncode == 0, "\n".join(undisturbed.lines)
    assert [line for line in undisturbed.lines if STEP_LINE.match(line)][-1].startswith(
        f"epoch {EPOCHS}/{EPOCHS}  step {STEPS}/{STEPS}"
    )
    ends = [t for line, t in zip(undisturbed.lines, undisturbed.times, strict=True) if EPOCH_LINE.match(line)]
    period = statistics.median(later - earlier for earlier, later in pairwise(ends))  # an epoch and its checkpoint

    delays, kinds, report = random.Random(0), Counter(), []
    while sum(kinds.values()) < MAX_KILLS:
        enough = sum(kinds.values()) >= KILLS and kinds["mid-epoch"] and kinds["writing last.ckpt"]
        delay = None if enough else delays.uniform(0, 1.5 * period)
        before = unfinished(killed)
        life = live(killed, delay)
        if life.returncode == 0:
            break
        assert life.returncode == -9, "\n".join(life.lines)
        kind = kind_of_kill(life, before, unfinished(killed))
        kinds[kind] += 1
        report.append(f"{delay:5.2f} s after the first step: {kind:30} {life.lines[-1][:40]}")
        assert run_json(killed)["status"] == "running"

    seconds = time.perf_counter() - started
    print(
        f"\n{sum(kinds.values())} kills in {seconds:.0f} s, {period:.2f} s an epoch: {dict(kinds)}", *report, sep="\n"
    )
    assert life.returncode == 0, "not done after so many kills"
    assert sum(kinds.values()) >= KILLS, "the run was done before that many kills"
    assert kinds["mid-epoch"] >= 1
    assert kinds["writing last.ckpt"] >= 1

    record = run_json(killed)
    assert (record["status"], len(record["sessions"])) == ("completed", 1 + sum(kinds.values()))
    assert numbers(killed) == numbers(whole)
    assert unfinished(killed) == {}
