"""Results that are kept on disk for the next run, in folders with a size limit: the least recently used ones go first.

An entry is one file, named by a hash of all that it depends on: one that is missing is made again and is the same. The
time of a file says when it was last used.

joblib.Memory and diskcache would do some of this. Both keep pickles; joblib reads times of access, which many disks do
not record, and lets two processes compute the same thing; diskcache needs SQLite, which network drives do not bear.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from rich.filesize import decimal

from runcard.errors import UserError
from runcard.fileio import atomic_write

T = TypeVar("T")
Buffer = bytes | memoryview
HALF_WRITTEN_SECONDS = 24 * 3600  # a temporary file of this age was left by a process that was killed


@dataclass(frozen=True)
class CachedFile:
    """A file of a cache."""

    path: Path
    lock: Path  # is held by the process that reads or makes the entry
    num_bytes: int
    last_used: float  # seconds since 1970
    is_half_written: bool


@dataclass(frozen=True)
class Cache:
    """A folder of results, whose total size stays within a limit."""

    holds: str
    section: str  # of the config: its keys cache_dir and cache_gb are the folder and the limit
    folder: Path
    limit_gb: float | None  # 10^9 bytes; None: no limit
    suffix: str
    fix: str  # what else can be done where the folder cannot be written
    waiting: str  # said when another process makes the same entry

    def load_or_make(
        self,
        name: str,
        load: Callable[[Path], T],
        make: Callable[[], T],
        dump: Callable[[T], bytes | Sequence[Buffer] | None],
        report: Callable[[str], None],
    ) -> tuple[T, bool]:
        """Return the entry of this name, and whether it was there; else make it and keep dump() of it, unless None.

        dump gives the content of the file, whole or as parts that are written one after the other. load raises OSError
        or ValueError for a file that is missing or damaged; what it returns may map the file, which is then readable
        even when it is removed, but must not open it again. While another process makes the same entry this one waits.
        Raises UserError if the folder cannot be written or the disk is full.
        """
        path = self.folder / f"{name}{self.suffix}"
        with self._locked(path, report):
            with suppress(OSError, ValueError):
                return self.load(name, load), True
            made = make()
            if (content := dump(made)) is not None:
                self._store(path, [content] if isinstance(content, bytes) else content, report)
            return made, False

    def load(self, name: str, load: Callable[[Path], T]) -> T:
        """Return the entry of this name. Raises OSError or ValueError where it is missing or damaged."""
        path = self.folder / f"{name}{self.suffix}"
        found = load(path)
        with suppress(OSError):  # another user's file
            os.utime(path)
        return found

    def files(self) -> list[CachedFile]:
        """List the files in the order in which they go: half-written ones, then the least recently used."""
        found = []
        for path in self.folder.glob(f"*{self.suffix}"):
            if not (name := self._name_of(path)):
                continue
            with suppress(OSError):  # removed in between
                stat, is_temporary = path.stat(), path.name.startswith(".")
                if not is_temporary or time.time() - stat.st_mtime > HALF_WRITTEN_SECONDS:
                    lock = self.folder / f"{name}.lock"
                    found.append(CachedFile(path, lock, stat.st_size, stat.st_mtime, is_temporary))
        return sorted(found, key=lambda file: (not file.is_half_written, file.last_used))

    def remove(self, file: CachedFile) -> bool:
        """Remove a file unless another process reads or makes it just now; return whether it is gone."""
        with suppress(OSError), FileLock(file.lock).acquire(timeout=0):
            file.path.unlink(missing_ok=True)
            file.lock.unlink(missing_ok=True)  # a process that waits for it opens it anew
        return not file.path.exists()

    def _store(self, path: Path, parts: Sequence[Buffer], report: Callable[[str], None]) -> None:
        size = sum(memoryview(part).nbytes for part in parts)
        if size > self._limit_bytes:
            report(
                f"{self.section}.cache_gb={self.limit_gb:g}: the {self.holds} take {decimal(size)} and are not "
                "kept for the next run. Raise it to keep them."
            )
            return
        with atomic_write(path) as temporary, temporary.open("wb") as opened:
            opened.writelines(parts)
        files = self.files()
        excess = sum(file.num_bytes for file in files) - self._limit_bytes
        for file in files:
            if file.path != path and (excess > 0 or file.is_half_written) and self.remove(file):
                excess -= file.num_bytes

    @property
    def _limit_bytes(self) -> float:
        return math.inf if self.limit_gb is None else round(self.limit_gb * 1e9)

    def _name_of(self, path: Path) -> str | None:
        """Return the name of the entry that a file is, or is the temporary file of; None of a file of others."""
        suffix = re.escape(self.suffix)
        match = re.fullmatch(rf"\.?((?:[a-z_]+-)?[0-9a-f]{{32}}){suffix}(?:\.tmp{suffix})?", path.name)
        return match and match[1]

    @contextmanager
    def _locked(self, path: Path, report: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock of an entry."""
        lock = FileLock(path.with_suffix(".lock"))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            Path(lock.lock_file).touch()  # in /proc, say, FileLock would try for ever
            try:
                lock.acquire(timeout=0)
            except Timeout:
                report(self.waiting)
                lock.acquire()
        except OSError as error:
            what = f"{self.section}.cache_dir: {self.folder} cannot be written: {error.strerror}."
            raise UserError(f"{what} {self.fix}") from None
        try:
            yield
        finally:
            lock.release()


KINDS = {  # by section of the config: what its cache holds, the suffix, and two texts of Cache
    "train": (
        "features of frozen layers",
        ".safetensors",
        "Choose another folder, or train.cache_features=never.",
        "frozen layers: another run makes the same features, waiting for them",
    ),
    "images": (
        "decoded images",
        ".images",
        "Choose another folder.",
        "images: another run decodes the same files, waiting for it",
    ),
    "audit": (
        "results of the audit's slow detectors",
        ".json",
        "Choose another folder.",
        "audit: another run audits the same data, waiting for it",
    ),
}


def open_cache(section: str, folder: str, limit_gb: float | None) -> Cache:
    """Return the cache of a section of the config, whose keys cache_dir and cache_gb these are."""
    holds, suffix, fix, waiting = KINDS[section]
    return Cache(holds, section, Path(folder).expanduser(), limit_gb, suffix, fix, waiting)
