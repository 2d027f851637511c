"""Atomic writes: files are written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from PIL import Image

from runcard.errors import UserError
from runcard.figures import FIGURE_DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_write(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to path if the block succeeds.

    What is at path until then is renamed to previous, where such a name is given.

    The temporary name is fixed, so that files left by killed processes are overwritten and do not accumulate. Raises
    UserError if the disk is full; an existing file at path is then kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")  # keeps the suffix, which image writers need
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if previous and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise UserError(
                f"{path}: cannot be written, the disk is full. Free some space and give the same command again: "
                "it goes on from what is there."
            ) from None
        raise


def _flush_folder(folder: Path) -> None:
    """Let a rename in folder survive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the block end before an interrupt (Ctrl-C, SIGTERM) takes effect; a second one takes effect at once.

    Libraries in C turn an interrupt within them into an error of their own: of a file that cannot be written, say.
    """
    if current_thread() is not main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if came:
            handlers[number](number, frame)
        came.append(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(each)):
            handlers[each] = handler
            signal.signal(each, keep)
    try:
        yield
    finally:
        for number, known in handlers.items():
            signal.signal(number, known)
        if came:
            handlers[came[0]](came[0], None)


def is_disk_full(error: BaseException) -> bool:
    """Whether the error is that of a full disk or quota."""
    return isinstance(error, OSError) and error.errno in DISK_FULL


def write_text(path: Path, text: str) -> None:
    """Write text to path, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write content to path as indented JSON, atomically. NaN and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table as CSV, floats at full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same keys to path as CSV, atomically."""
    header = list(rows[0])
    write_text(path, csv_text(header, ([row[key] for key in header] for row in rows)))


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read the header and the rows of a CSV file. Raises ValueError if there are no rows, or a row is truncated."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if not rows:
        raise ValueError(f"{path.name} is empty")
    if cut := [i for i, row in enumerate(rows, start=2) if len(row) != len(header)]:
        raise ValueError(f"{path.name}: line {cut[0]} has {len(rows[cut[0] - 2])} values, not {len(header)}")
    return header, rows


def write_figure(path: Path, figure: Figure, *, palette: bool = False) -> None:
    """Write figure to path as PNG, atomically; with a palette of 256 colours it takes half the bytes."""
    with uninterrupted(), atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=FIGURE_DPI)
        if palette:
            with Image.open(temporary, formats=["PNG"]) as picture:
                reduced = picture.convert("RGB").quantize(256)
            reduced.save(temporary, optimize=True)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def hash_lines(lines: Iterable[str]) -> str:
    """Compute the SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(paths: Sequence[Path], made: Sequence[bytes] = ()) -> str:
    """Hash the bytes of files, or generated bytes if given."""
    contents = made or (path.read_bytes() for path in paths)
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()
