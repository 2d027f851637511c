"""The hold on a run folder: one process at a time, seen from elsewhere, and over when its process is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from runcard.runs import hold as module
from runcard.runs.hold import DEAD_AFTER_SECONDS, HERE, RUNNING, HeldError, Hold, Holder, holder_of

ELSEWHERE = Holder("another-machine", 1)
HAMMER = """
import os, sys, time
from pathlib import Path
from runcard.runs.hold import HeldError, Hold

folder, took, overlaps = Path(sys.argv[1]), 0, 0
alone = folder.with_name("alone")

def stay():
    global overlaps
    try:
        alone.mkdir()
    except FileExistsError:  # another process is here
        overlaps += 1
        return
    time.sleep(0.001)
    alone.rmdir()

ends = time.monotonic() + 2
while time.monotonic() < ends:
    try:
        hold = Hold.take(folder)
    except HeldError:
        time.sleep(0.001)
        continue
    stay()
    if sys.argv[2] == "moved aside":
        (folder / "run.json").touch()
        try:
            hold.move_aside(folder.with_name(f"old-{os.getpid()}-{took}"))
            stay()
        except HeldError:  # another process was faster
            pass
    hold.release()
    took += 1
print(took, overlaps)
"""


def pretend(folder, holder, seconds_ago=0.0):
    """Write what another process that holds the folder would have written, this long ago."""
    folder.mkdir(exist_ok=True)
    (folder / RUNNING).write_text(json.dumps(vars(holder)))
    then = time.time() - seconds_ago
    os.utime(folder / RUNNING, (then, then))


def test_a_folder_is_held_once(tmp_path):
    hold = Hold.take(tmp_path / "a")
    assert holder_of(tmp_path / "a") == Holder(HERE, os.getpid())
    with pytest.raises(HeldError, match=f"another process runs in this folder \\({HERE}, process {os.getpid()}\\)"):
        Hold.take(tmp_path / "a")
    hold.release()
    assert not (tmp_path / "a").exists(), "nothing was written into it"
    Hold.take(tmp_path / "a").release()


def test_what_is_written_stays(tmp_path):
    hold = Hold.take(tmp_path / "a")
    (tmp_path / "a" / "run.json").touch()
    hold.release()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".lock", "run.json"]
    assert holder_of(tmp_path / "a") is None


def test_another_machine_that_lives_holds_the_folder(tmp_path):
    pretend(tmp_path / "a", ELSEWHERE, DEAD_AFTER_SECONDS / 2)
    assert holder_of(tmp_path / "a") == ELSEWHERE
    with pytest.raises(HeldError, match="another-machine"):
        Hold.take(tmp_path / "a")


@pytest.mark.parametrize(
    ("holder", "seconds"), [(ELSEWHERE, 2 * DEAD_AFTER_SECONDS), (Holder(HERE, 2**22 + 1), 0.0)], ids=["old", "gone"]
)
def test_who_is_dead_holds_nothing(tmp_path, holder, seconds):
    pretend(tmp_path / "a", holder, seconds)
    assert holder_of(tmp_path / "a") is None
    Hold.take(tmp_path / "a").release()


@pytest.mark.parametrize("loss", ["old", "other_pid", "removed"])
def test_who_has_the_lock_runs_whatever_its_sign(tmp_path, loss):
    """As on an overloaded machine, or seen from outside its container; whoever is gone has no lock."""
    hold = Hold.take(tmp_path / "a")
    if loss == "removed":
        (tmp_path / "a" / RUNNING).unlink()
    else:
        pretend(tmp_path / "a", Holder(HERE, 2**22 + 1 if loss == "other_pid" else os.getpid()), 2 * DEAD_AFTER_SECONDS)
    holder = holder_of(tmp_path / "a")
    assert holder is not None
    assert str(holder) == f"{HERE}, process {holder.pid or 'unknown'}"
    assert (holder.pid == os.getpid()) == (loss == "old")
    (tmp_path / "a" / "run.json").touch()
    hold.release()
    assert holder_of(tmp_path / "a") is None
    Hold.take(tmp_path / "a").release()


def test_a_killed_process_loses_the_hold(tmp_path):
    code = (
        "import sys; from pathlib import Path; from runcard.runs.hold import Hold; hold = Hold.take(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", f"{code}; print(1, flush=True); input()", str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        assert holder_of(tmp_path / "a") == Holder(HERE, process.pid)
        with pytest.raises(HeldError, match=f"process {process.pid}"):
            Hold.take(tmp_path / "a")
        process.kill()
    assert holder_of(tmp_path / "a") is None
    Hold.take(tmp_path / "a").release()


def test_the_time_is_renewed_and_a_lost_hold_interrupts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    hold = Hold.take(tmp_path / "a")
    pretend(tmp_path / "a", Holder(HERE, os.getpid()), 30)
    time.sleep(0.2)
    assert time.time() - (tmp_path / "a" / RUNNING).stat().st_mtime < 5
    pretend(tmp_path / "b", ELSEWHERE)
    (tmp_path / "b" / RUNNING).rename(tmp_path / "a" / RUNNING)  # on a file system whose locks do not reach it
    with pytest.raises(KeyboardInterrupt):
        time.sleep(5)
    hold.release()
    assert "another machine runs in this folder too" in capsys.readouterr().out


def test_a_folder_is_moved_aside_while_it_is_held(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").touch()
    hold = Hold.take(tmp_path / "a")
    hold.move_aside(tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.tex"]
    with pytest.raises(HeldError):
        Hold.take(tmp_path / "a")
    hold.release()


@pytest.mark.parametrize("kept", ["run folder", "empty folder", "no folder", "moved aside"])
def test_processes_that_take_turns_never_meet(tmp_path, kept):
    if kept in ("run folder", "empty folder"):  # else each release removes it
        (tmp_path / "a").mkdir()
    if kept == "run folder":  # else each release removes the lock file
        (tmp_path / "a" / "run.json").touch()
    command = [sys.executable, "-c", HAMMER, str(tmp_path / "a"), kept]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [int(overlaps) for _, overlaps in outputs] == [0, 0, 0], "one found another in the folder"
    assert sum(int(took) for took, _ in outputs) > 50


def test_a_removed_folder_is_let_go_without_the_hold_of_the_next_process(tmp_path):
    lost = Hold.take(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    hold = Hold.take(tmp_path / "a")
    lost.release()
    assert holder_of(tmp_path / "a")
    with pytest.raises(HeldError):
        Hold.take(tmp_path / "a")
    hold.release()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_left_as_it_was(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        for folder in ("a", "b"):
            with pytest.raises(OSError, match=os.strerror(number)):
                Hold.take(tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert list((tmp_path / "a").iterdir()) == []
    Hold.take(tmp_path / "a").release()


def test_a_folder_that_another_machine_holds_is_left_as_it_was(tmp_path):
    pretend(tmp_path / "a", ELSEWHERE)
    with pytest.raises(HeldError):
        Hold.take(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == [RUNNING]


def test_a_folder_that_cannot_be_made_is_said():
    with pytest.raises(FileNotFoundError):
        Hold.take(Path("/proc/nowhere/a"))


def test_a_lock_without_a_name_is_a_hold(tmp_path):
    """Between the lock and the name a process may be seen, or be of an older version."""
    (tmp_path / "a").mkdir()
    with FileLock(tmp_path / "a" / ".lock"), pytest.raises(HeldError, match="another process runs in this folder\\. "):
        Hold.take(tmp_path / "a")
