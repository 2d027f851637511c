"""Files that are whole or absent: written under a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from runcard.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_DPI = 110  # dots per inch of every PNG
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; what was written there becomes path when the block ends well.

    The temporary name is fixed, so a file that a killed process left behind is overwritten, not collected. A full
    disk is a UserError, and whatever stood at path before still does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")  # the suffix stays: image writers go by it
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise UserError(
                f"{path}: cannot be written, the disk is full. Free some space and give the same command again: "
                "the run goes on from its last checkpoint."
            ) from None
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether the error says that nothing more can be written."""
    return isinstance(error, OSError) and error.errno in DISK_FULL


@contextmanager
def exclusive_lock(path: Path, key: str, fix: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Lets no other process make or read the file at path meanwhile; waiting() tells that one does.

    A folder that cannot be written is a UserError about the config's key that names it.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
    except OSError as error:
        raise UserError(f"{key}: {path.parent} cannot be written: {error.strerror}. {fix}") from None
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Writes text to path, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes content to path as indented JSON, atomically. NaN and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n")


def write_figure(path: Path, figure: Figure) -> None:
    """Writes figure to path as PNG, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=FIGURE_DPI)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def hash_lines(lines: Iterable[str]) -> str:
    """Return the SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def digest(paths: Sequence[Path], made: Sequence[bytes] = ()) -> str:
    """Returns a hash over the bytes of files, or over made ones."""
    contents = made or (path.read_bytes() for path in paths)
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()
