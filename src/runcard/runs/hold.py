"""The hold on a run folder: one process at a time runs in it, and others see that it does."""

from __future__ import annotations

import _thread
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from filelock import FileLock, Timeout

from runcard.errors import UserError
from runcard.fileio import parse_json

RUNNING = ".running"  # names the process that holds the folder; its time is renewed as long as the process lives
OWN_FILES = (".lock", RUNNING)
BEAT_SECONDS = 10.0
HERE = socket.gethostname()
DEAD_AFTER_SECONDS = 60.0  # without a new time: the process is gone, or its machine is


class HeldError(UserError):
    """Another process holds the folder."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder."""

    host: str
    pid: int

    def __str__(self) -> str:
        """Format "node7, process 4711"."""
        return f"{self.host}, process {self.pid}"


class Hold:
    """The hold of this process on a folder, from take() to release().

    A lock of the operating system decides; it ends with the process, however that ends. The file .running is for other
    machines: it names the holder, and its time is renewed every BEAT_SECONDS. On a file system whose locks do not
    reach other machines it also decides, but for two that start within the same instant: of these, the one whose
    name was overwritten is interrupted at its next beat.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_new = not folder.exists()
        self._lock = FileLock(folder / ".lock")
        self._released = Event()

    @classmethod
    def take(cls, folder: Path) -> Hold:
        """Hold folder, which is made where it is missing. Raise HeldError where another process does."""
        hold = cls(folder)
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                hold._acquire()
                break
            except (FileExistsError, FileNotFoundError):  # in between, another process removed its empty folder
                if folder.exists() and not folder.is_dir():
                    raise
        Thread(target=hold._beat, daemon=True).start()
        return hold

    def move_aside(self, free_name: Path) -> None:
        """Rename the folder to free_name, and hold an empty one in its place."""
        self._let_go()
        self.folder.rename(free_name)
        self.folder.mkdir()
        self._acquire()

    def release(self) -> None:
        """Let another process hold the folder; remove it where it was made for this hold and is empty."""
        self._released.set()
        self._let_go()
        if self._is_new:
            with suppress(OSError):
                self.folder.rmdir()

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise _held(self.folder, holder_of(self.folder)) from None
        other = holder_of(self.folder)
        if other and other.host != HERE:  # the lock says nothing of other machines on some file systems
            self._lock.release()
            raise _held(self.folder, other)
        self.holder = Holder(HERE, os.getpid())
        (self.folder / RUNNING).write_text(json.dumps(vars(self.holder)), encoding="utf-8")

    def _let_go(self) -> None:
        """Unlock the folder. The lock file of a run folder stays: see below. What is no run folder is left as it was.

        Once it is unlocked another process may hold it, and a third would lock a new file of that name.
        """
        (self.folder / RUNNING).unlink(missing_ok=True)
        if not (self.folder / "run.json").exists():
            (self.folder / ".lock").unlink(missing_ok=True)
        self._lock.release()

    def _beat(self) -> None:
        path = self.folder / RUNNING
        while not self._released.wait(BEAT_SECONDS):
            with suppress(OSError):  # a network drive that is away for a while
                os.utime(path)
                if _read(path) not in (self.holder, None) and not self._released.is_set():
                    print(f"{self.folder}: another machine runs in this folder too. Interrupting this one.", flush=True)
                    _thread.interrupt_main()


def holder_of(folder: Path) -> Holder | None:
    """Return the process that runs in a folder now, as far as can be seen from this machine; else None."""
    path = folder / RUNNING
    with suppress(OSError):
        holder, age = _read(path), time.time() - path.stat().st_mtime
        if holder and age < DEAD_AFTER_SECONDS and (holder.host != HERE or _is_alive(holder.pid)):
            return holder
    return None


def _read(path: Path) -> Holder | None:
    try:
        written = parse_json(path.read_text(encoding="utf-8"))
        return Holder(str(written["host"]), int(written["pid"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill would interrupt the process; the time of the file has to do
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    except OverflowError:  # no process has such a number
        return False
    return True


def _held(folder: Path, holder: Holder | None) -> HeldError:
    by = f" ({holder})" if holder else ""
    return HeldError(f"{folder}: another process runs in this folder{by}. Wait for it, or use another name.")
