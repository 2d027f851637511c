"""What a command does to the files below a folder, counted, and disturbed at one place."""

from __future__ import annotations

import builtins
import io
import mmap
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT  # flags of an open() that may change a file
OF_AUDIT = {"os.rename": ("rename", 1), "os.remove": ("unlink", 0), "os.mkdir": ("mkdir", 0), "os.rmdir": ("rmdir", 0)}
KINDS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "rmdir")


@dataclass(frozen=True)
class Fault:
    """What happens at the number-th event of some kinds: the process is killed, or the call fails with an error."""

    number: int
    error: int | None = None  # an errno; None: SIGKILL
    onward: bool = False  # at all later events of these kinds too
    kinds: tuple[str, ...] = KINDS


class Events:
    """Counts, logs and disturbs the events of this process from install() on. It cannot be removed again."""

    def __init__(self, folder: Path, log: Path, fault: Fault | None) -> None:
        self.folder, self.fault = f"{folder.resolve()}{os.sep}", fault
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.counter = mmap.mmap(-1, 8)  # of this process and those that it forks
        self.lock = Lock()

    def install(self) -> None:
        """Watch all calls of Python code from here on."""
        sys.addaudithook(self._audit)
        real_open, real_fsync = io.open, os.fsync

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, int) or not set("wax+") & set(mode) or not self.is_inside(file):
                return real_open(file, mode, *args, **kwargs)
            return _open(self, file, mode, *args, **kwargs)

        def fsync(descriptor: int) -> None:
            self.happens("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
            real_fsync(descriptor)

        io.open = builtins.open = opened
        os.fsync = fsync

    def is_inside(self, path: Any) -> bool:
        """Whether a path lies below the folder that is watched."""
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)  # noqa: PTH100  # follows no links

    def happens(self, kind: str, path: Any, before_kill: Callable[[], object] = lambda: None) -> None:
        """Count an event that is about to happen; disturb it where it is the one."""
        if not self.is_inside(path):
            return
        with self.lock:
            os.write(self.log, f"{kind} {os.fsdecode(path)}\n".encode())
            if self.fault is None or kind not in self.fault.kinds:
                return
            counted = int.from_bytes(self.counter[:], "little") + 1
            self.counter[:] = counted.to_bytes(8, "little")
            if counted < self.fault.number or (counted > self.fault.number and not self.fault.onward):
                return
        if self.fault.error is not None:
            raise OSError(self.fault.error, os.strerror(self.fault.error), os.fsdecode(path))
        before_kill()
        os.killpg(0, signal.SIGKILL)

    def _audit(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "open":
            path, mode, flags = args
            is_path = isinstance(path, (str, bytes, os.PathLike))
            changes = isinstance(flags, int) and flags & CHANGING
            if is_path and changes and not ("a" in (mode or "") and Path(os.fsdecode(path)).exists()):
                self.happens("open", path)
        elif name in OF_AUDIT:
            kind, position = OF_AUDIT[name]
            path = args[position]
            if not isinstance(path, int) and not (kind == "mkdir" and Path(os.fsdecode(path)).is_dir()):
                self.happens(kind, path)


class _Raw(io.FileIO):
    """A file whose writes are events; a kill leaves the first half of the write."""

    events: Events

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self.events.happens("write", self.name, lambda: io.FileIO.write(self, view[: len(view) // 2]))
        return super().write(view)


def _open(
    events: Events,
    file: Any,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """Open a file for writing as io.open does."""
    raw = _Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    raw.events = events
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text
