"""Files: atomic writes, JSON and CSV, hashes, and paths that stay inside a folder."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image

from runcard.errors import UserError
from runcard.figures import FIGURE_DPI
from runcard.interrupts import uninterrupted

# What torch.load raises for a file that it did not write. LookupError and the like: its unpickler meets foreign bytes.
LOAD_ERRORS = (OSError, RuntimeError, EOFError, UnpicklingError, LookupError, TypeError, ValueError, AttributeError)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MAX_NAME_BYTES = 255  # of a file, on the file systems in use
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet computes, and what csv_text has made of it
TEMPORARY = re.compile(r"\..+\.tmp(\.[^.]+)?", re.DOTALL)
NOT_WRITABLE, NOT_USABLE = "cannot be written", "cannot be read or written"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_write(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to path if the block succeeds.

    What is at path until then is renamed to previous, where such a name is given.

    The temporary name is fixed, so that files left by killed processes are overwritten and do not accumulate. Raises
    UserError if the disk is full, or the system has another reason; an existing file at path is then kept.
    """
    temporary = path.with_name(short_name(f".{path.name}", f".tmp{path.suffix}"))  # image writers need the suffix
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if previous and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (message := cannot_write(path, error)):
            raise UserError(message) from None
        raise


def cannot_write(place: Path, error: OSError, what: str = NOT_WRITABLE) -> str:
    """Return the message for a file, or the files of a folder, that the system refuses; "" where it has no reason.

    The error may name another file: one that is copied, say.
    """
    if is_disk_full(error):
        return (
            f"{place}: cannot be written, the disk is full. Free some space and give the same command again: "
            "it goes on from what is there."
        )
    if not error.strerror:  # a library's own error
        return ""
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes, os.PathLike)) else place
    if named.parent != place.parent or not is_temporary(named.name):
        place = named
    return f"{place}: {what}: {error.strerror}. Once that is fixed, the same command goes on from what is there."


def is_temporary(name: str) -> bool:
    """Whether a file's name is one under which atomic_write writes: what a killed process leaves."""
    return TEMPORARY.fullmatch(name) is not None


def _flush_folder(folder: Path) -> None:
    """Let a rename in folder survive a power cut, where the system can; the file itself is whole in any case."""
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):  # network drives cannot, and the rename is done
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def short_name(name: str, suffix: str = "") -> str:
    """Return name with suffix where a file can have that name, else its beginning with a hash of the whole name."""
    encoded, room = os.fsencode(name), MAX_NAME_BYTES - len(os.fsencode(suffix))
    if len(encoded) <= room:
        return name + suffix
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: room - len(mark)].decode(errors="ignore") + mark + suffix


def inside(folder: Path, name: str) -> Path:
    """Return folder/name. Raises ValueError where it leads out of the folder: by .., an absolute path or a link.

    A run folder may be another person's, and the names of its images are what that person wrote. All that is read from
    a run folder goes through here, so that no command shows or copies another file of its reader's disk.
    """
    path = folder / name
    try:
        leads_out = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself, a name that is too long
        raise ValueError(f"{name!r:.200} is no path") from None
    if leads_out:
        raise ValueError(f"{name!r:.200} leads out of the folder")
    return path


def read_json(folder: Path, name: str) -> Any:
    """Read a JSON file that lies inside a folder. Raises OSError or ValueError."""
    return parse_json(inside(folder, name).read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """Return the content of JSON. Raises ValueError, also where it is nested too deeply or cannot be printed."""
    try:
        content = json.loads(text)
        if SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # raises where half of a pair is alone
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return content


def check_no_aliases(yaml_text: str) -> None:
    """Raise ValueError, or YAMLError, for YAML with aliases, of which a short file can stand for gigabytes."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(yaml_text, Loader=yaml.CSafeLoader)):
        raise ValueError("it has YAML aliases")


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
    """Format a table as CSV, floats at full precision.

    A text that a spreadsheet would compute, such as a class named =HYPERLINK("…"), gets an apostrophe in front, which
    spreadsheets take as "this is text" and read_csv removes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_as_text, header))
    writer.writerows(map(_as_text, row) for row in rows)
    return text.getvalue()


def _as_text(cell: Any) -> Any:
    if not isinstance(cell, str) or not FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same keys to path as CSV, atomically."""
    header = list(rows[0])
    write_text(path, csv_text(header, ([row[key] for key in header] for row in rows)))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file, by column. Raises ValueError if there are none, or one is truncated."""
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:
        raise ValueError(f"{path.name}: {error}") from None
    if "'" in text:
        header, *rows = [[c[1:] if c[:1] == "'" and FORMULA.match(c) else c for c in row] for row in (header, *rows)]
    if not rows:
        raise ValueError(f"{path.name} is empty")
    if cut := [i for i, row in enumerate(rows, start=2) if len(row) != len(header)]:
        raise ValueError(f"{path.name}: line {cut[0]} has {len(rows[cut[0] - 2])} values, not {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows]


def write_figure(path: Path, figure: Figure, *, palette: bool = False) -> None:
    """Write figure to path, a .png or .svg, atomically; with a palette of 256 colours a PNG takes half the bytes."""
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
    """Compute the SHA-256 of a file, in hexadecimal digits. Raises OSError."""
    _check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(paths: Sequence[Path], made: Sequence[bytes] = ()) -> str:
    """Hash the bytes of files, or generated bytes if given. Raises OSError."""
    for path in paths if not made else ():
        _check_regular(path)
    contents = made or (path.read_bytes() for path in paths)
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def _check_regular(path: Path) -> None:
    """Raise OSError for a pipe or a device, of which a read may never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))
