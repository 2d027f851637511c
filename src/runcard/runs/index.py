"""The index of a folder with many runs: what comparisons ask of each completed one, in one SQLite file.

It is a cache. A run whose files have other times or sizes than the index noted is read from its folder again, and
whoever deletes the file loses nothing but time. It is written as a whole, under another name, and renamed, so that no
reader ever waits; of two processes that write it, the last one counts. Numbers are the float64 of the run, bit for
bit, and every entry has a checksum: what is damaged is not believed.

What many runs share (choices, most of the config, versions, the split, the images' ids) is stored once, is parsed once,
and is one object in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runcard.errors import UserError
from runcard.fileio import atomic_write, digest
from runcard.runs.folders import FILES
from runcard.runs.run import Array, Images, Run, one_object

FILE = ".index.sqlite"
MIN_RUNS = 50  # fewer are read as fast without an index
FRESH_SECONDS = 2.0  # a file changed so recently may change again and keep its time: no file system counts finer
PART = "\0"  # the key of a reference to a part, a JSON text that runs share
MIN_PART, MAX_ITEMS = 64, 8  # characters of a part; items of a list that may be parts each
FLOAT = np.dtype("<f8")
TABLES = """
CREATE TABLE version (reader TEXT);
CREATE TABLE parts (key TEXT PRIMARY KEY, text TEXT);
CREATE TABLE runs (place TEXT PRIMARY KEY, stamp TEXT, content TEXT, numbers BLOB, checksum TEXT);
"""


class Entry(NamedTuple):
    """A row of the table of runs."""

    place: str  # of the run folder, relative to that of the index
    stamp: str
    content: str  # JSON: run.json, split.json and what numbers are which
    numbers: bytes
    checksum: str


class RunIndex:
    """The index of the runs below a folder, as it was when it was opened; empty where there is none to be read."""

    def __init__(self, top: Path) -> None:
        self.file = top / FILE
        self._top = str(top)
        self._entries: dict[str, Entry] = {}
        self._parts: dict[str, str] = {}
        self._objects: dict[str, Any] = {}  # the parts that were parsed
        self._num_new = self._num_replaced = 0
        with suppress(OSError, sqlite3.Error):
            self._load()

    def get(self, folder: Path, stamp: str) -> Run | None:
        """Return the run in a folder where the index has it with this stamp (see stamp_of), else None."""
        entry = self._entries.get(self._place(folder))
        if entry is None or not stamp or entry.stamp != stamp:
            return None
        try:
            if entry.checksum != _checksum(*entry[:-1]):
                return None
            return _unpack(folder, self._parse(entry.content), np.frombuffer(entry.numbers, FLOAT).astype(np.float64))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):  # a part is lost or damaged
            return None

    def add(self, run: Run, stamp: str) -> None:
        """Enter a run that was read from its folder, whose stamp this was before."""
        numbers = [column for columns in _columns(run) for column in columns.values()]
        place, content = self._place(run.folder), json.dumps(self._share(_content(run), is_part=False))
        made = (place, stamp, content, b"".join(each.astype(FLOAT).tobytes() for each in numbers))
        self._num_replaced += place in self._entries
        self._num_new += 1
        self._entries[place] = Entry(*made, _checksum(*made))

    def save(self) -> None:
        """Write the index where that pays: where more than a fiftieth of it is new, or of runs that are gone.

        Where it cannot be written, it is not: the disk is full, or the folder belongs to somebody else.
        """
        gone = [place for place in self._entries if not Path(self._top, place, FILES[0]).exists()]
        for place in gone:
            del self._entries[place]
        if 50 * (self._num_new + len(gone)) > len(self._entries):
            if gone or self._num_replaced:
                needed: dict[str, str] = {}
                for entry in self._entries.values():
                    self._collect(entry.content, needed)
                self._parts = needed
            with suppress(OSError, sqlite3.Error, UserError), atomic_write(self.file) as temporary:
                self._write(temporary)

    def _load(self) -> None:
        with closing(sqlite3.connect(f"{self.file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            if database.execute("SELECT reader FROM version").fetchone() == (_reader(),):
                self._parts = dict(database.execute("SELECT key, text FROM parts"))
                self._entries = {row[0]: Entry(*row) for row in database.execute("SELECT * FROM runs")}

    def _write(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # of a process that was killed
        with closing(sqlite3.connect(path)) as database:
            database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {TABLES}")
            database.execute("INSERT INTO version VALUES (?)", (_reader(),))
            database.executemany("INSERT INTO parts VALUES (?, ?)", self._parts.items())
            database.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", self._entries.values())
            database.commit()

    def _collect(self, text: str, needed: dict[str, str]) -> None:
        """Add the parts that a text refers to, and those that these refer to."""

        def add(item: dict[str, Any]) -> None:
            key = item.get(PART)
            if isinstance(key, str) and key in self._parts and key not in needed:
                needed[key] = self._parts[key]
                self._collect(needed[key], needed)

        json.loads(text, object_hook=add)

    def _place(self, folder: Path) -> str:
        return os.path.relpath(folder, self._top)

    def _share(self, value: Any, is_part: bool = True) -> Any:
        """Return value with its larger parts replaced by references to them."""
        if isinstance(value, dict):
            value = {key: self._share(each) for key, each in value.items()}
        elif isinstance(value, list) and len(value) <= MAX_ITEMS:
            value = [self._share(each) for each in value]
        elif not isinstance(value, list):
            return value
        text = json.dumps(value)
        if not is_part or len(text) < MIN_PART:
            return value
        key = _checksum(text)
        self._parts[key] = text
        return {PART: key}

    def _parse(self, text: str) -> Any:
        """Return what _share made text of. Raises LookupError or ValueError where a part is lost or damaged."""
        return json.loads(text, object_hook=self._resolve)

    def _resolve(self, item: dict[str, Any]) -> Any:
        if PART not in item:
            return item
        key = item[PART]
        if key not in self._objects:
            if _checksum(self._parts[key]) != key:
                raise ValueError("damaged")
            self._objects[key] = self._parse(self._parts[key])
        return self._objects[key]


def stamp_of(folder: Path) -> str:
    """Format time, size and number of each of FILES; "" where one is missing, or so new that it may yet change."""
    try:
        found = [(folder / name).stat() for name in FILES]
    except OSError:
        return ""
    if time.time() - max(each.st_mtime for each in found) < FRESH_SECONDS:
        return ""
    return " ".join(f"{each.st_mtime_ns},{each.st_size},{each.st_ino}" for each in found)


def _content(run: Run) -> dict[str, Any]:
    tables = [
        [*part, list(images.ids), list(images.groups), list(images.targets), list(images.values)]
        for part, images in run.tables.items()
    ]
    return {"metadata": run.metadata, "split": run.split_members, "curves": list(run.curves), "tables": tables}


def _columns(run: Run) -> list[dict[str, Array]]:
    return [run.curves, *(images.values for images in run.tables.values())]


def _unpack(folder: Path, content: dict[str, Any], numbers: Array) -> Run:
    """Return the run that _content and _columns are of."""
    num_values = sum(len(ids) * len(names) for *_, ids, _, _, names in content["tables"])
    num_epochs = (len(numbers) - num_values) // len(content["curves"])
    end = num_epochs * len(content["curves"])
    curves = dict(zip(content["curves"], numbers[:end].reshape(len(content["curves"]), num_epochs), strict=True))
    tables = {}
    for split, checkpoint, ids, groups, targets, names in content["tables"]:
        start, end = end, end + len(ids) * len(names)
        values = dict(zip(names, numbers[start:end].reshape(len(names), len(ids)), strict=True))
        texts = [one_object(tuple(each)) for each in (ids, groups, targets)]
        tables[split, checkpoint] = Images(texts[0], texts[1], values, texts[2])
    return Run.of(folder, content["metadata"], content["split"], curves, tables)


def _checksum(*of: str | bytes) -> str:
    found = hashlib.blake2b(digest_size=16)
    for each in of:
        encoded = each.encode() if isinstance(each, str) else each
        found.update(len(encoded).to_bytes(8, "little") + encoded)
    return found.hexdigest()


@cache
def _reader() -> str:
    """Return a hash of the code that reads and checks runs: what another version read counts no more."""
    return digest(sorted(Path(__file__).parent.glob("*.py")))
