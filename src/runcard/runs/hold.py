"""The hold on a run folder: one process at a time runs in it, and others see that it does."""

from __future__ import annotations

import _thread
import errno
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
LOCK = ".lock"
OWN_FILES = (LOCK, RUNNING)
BEAT_SECONDS = 10.0
HERE = socket.gethostname()
LOOK_SECONDS = 0.1  # longer than holder_of has the lock, to see whether another process does
MAX_TRIES = 1000  # to make a folder that others make and remove at the same time
DEAD_AFTER_SECONDS = 60.0  # without a new time: the process is gone, or its machine is


class HeldError(UserError):
    """Another process holds the folder."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder."""

    host: str
    pid: int  # 0: not known

    def __str__(self) -> str:
        """Format "node7, process 4711"."""
        return f"{self.host}, process {self.pid or 'unknown'}"


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
        self._lock = FileLock(folder / LOCK)
        self._lock_file: tuple[int, int] | None = None  # which file the lock is on
        self._released = Event()

    @classmethod
    def take(cls, folder: Path) -> Hold:
        """Hold folder, which is made where it is missing. Raise HeldError where another process does."""
        hold = cls(folder)
        try:
            hold._make_and_acquire()
        except OSError:  # the drive is full, or read-only
            hold.release()
            raise
        Thread(target=hold._beat, daemon=True).start()
        return hold

    def move_aside(self, free_name: Path) -> None:
        """Rename the folder to free_name, and hold an empty one in its place. Raise HeldError where another was faster.

        The lock is let go when the folder has its new name and no lock file any more: nobody gets in before.
        """
        if os.name == "nt":  # where a folder with an open file cannot be renamed
            self._let_go()
        self.folder.rename(free_name)
        before, self._lock = self._lock, FileLock(self.folder / LOCK)
        try:
            self._make_and_acquire()
        finally:
            for name in OWN_FILES:
                (free_name / name).unlink(missing_ok=True)
            before.release()

    def release(self) -> None:
        """Let another process hold the folder; remove it where it was made for this hold and is empty."""
        self._released.set()
        self._let_go()
        if self._is_new:
            with suppress(OSError):
                self.folder.rmdir()

    def _make_and_acquire(self) -> None:
        for left in reversed(range(MAX_TRIES)):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._acquire()
                return
            except (FileExistsError, FileNotFoundError):  # in between, another process removed its empty folder
                if not left or (self.folder.exists() and not self.folder.is_dir()):
                    raise

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=LOOK_SECONDS, poll_interval=LOOK_SECONDS / 10)
        except Timeout:
            raise _held(self.folder, _read(self.folder / RUNNING)) from None
        descriptor = self._lock._context.lock_file_fd
        self._lock_file = _identity(self.folder / LOCK if descriptor is None else descriptor)
        if not self._is_mine():  # the folder was renamed while the file was opened
            self._lock.release()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder / LOCK))
        other = _read_alive(self.folder)
        if other and other.host != HERE:  # the lock says nothing of other machines on some file systems
            self._unlock()
            raise _held(self.folder, other)
        self.holder = Holder(HERE, os.getpid())
        (self.folder / RUNNING).write_text(json.dumps(vars(self.holder)), encoding="utf-8")

    def _let_go(self) -> None:
        """Unlock the folder, unless it was removed meanwhile: then its name may be another process's."""
        if self._lock.is_locked and self._is_mine():
            with suppress(OSError):  # a drive that has become read-only
                (self.folder / RUNNING).unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        """Unlock the folder. The lock file of a run folder stays; what is no run folder is left as it was.

        The file goes before the lock does. Whoever has opened it until then gets a lock on a file without a name, which
        FileLock takes for none; in the other order, a second process could lock it and a third a new file.
        """
        if self._lock.is_locked and self._is_mine() and not (self.folder / "run.json").exists():
            with suppress(OSError):
                (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release()

    def _is_mine(self) -> bool:
        return self._lock_file is not None and _identity(self.folder / LOCK) == self._lock_file

    def _beat(self) -> None:
        path = self.folder / RUNNING
        while not self._released.wait(BEAT_SECONDS):
            with suppress(OSError):  # a network drive that is away for a while
                os.utime(path)
                if _read(path) not in (self.holder, None) and not self._released.is_set():
                    print(f"{self.folder}: another machine runs in this folder too. Interrupting this one.", flush=True)
                    _thread.interrupt_main()


def holder_of(folder: Path) -> Holder | None:
    """Return the process that runs in a folder now, as far as can be seen from this machine; else None.

    One that holds the lock runs even if it has given no sign for a while: on an overloaded machine, after a leap of the
    clock, or in a container, whose processes have other numbers.
    """
    if holder := _read_alive(folder):
        return holder
    if not (folder / LOCK).exists():
        return None
    try:
        with FileLock(folder / LOCK, blocking=False):
            return None
    except Timeout:
        return _read(folder / RUNNING) or Holder(HERE, 0)
    except OSError:  # a folder that is not this user's
        return None


def _read_alive(folder: Path) -> Holder | None:
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


def _identity(file: Path | int) -> tuple[int, int] | None:
    """Return what tells a file, by its path or descriptor, from another one that has its name later; None: no file."""
    try:
        status = os.stat(file)  # noqa: PTH116  a descriptor, too
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
