"""Every file of a completed and of an interrupted run, damaged in five ways, under every command that reads it."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import unified_diff
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from campaign.events import Fault
from campaign.processes import Ended, run
from campaign.scenarios import CLASSES, VGG, difference, keep_folder, of_files, of_runs, trained, write_images
from campaign.trials import EQUAL, FAILED, REFUSED, Result, Trial, fault_of, rng

TRAIN = ("train", *CLASSES, *VGG, "run_dir=run")
COMMANDS = {
    "resume": TRAIN,
    "compare": ("compare", "run"),
    "report": ("report", "run", "--output", "out"),
    "explain": ("explain", "run"),
    "predict": ("predict", "run", "images", "-o", "out"),
    "export": ("export", "run", "-o", "out.safetensors", "--format", "safetensors"),
    "verify": ("verify", "run"),
}
STATES = ("completed", "interrupted")
# What no number of a run is read from. Verify does not look at these, and only looks whether a picture is one.
NOT_READ = re.compile(r"^\.lock$|^\.running$|tfevents|^(figures|previews)/")
RECORD = re.compile(r"^(checkpoints/|metrics\.csv|per_image\.csv|split\.json)")  # what a command that refuses keeps
SAID = re.compile(
    r"the file in the run folder is (not there|damaged)|its best weights are (not there|damaged)|author: their causes"
)
PICTURE = re.compile(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+")
WHEN = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?|\d+ ms")


def _flip(old: bytes, draw: Random) -> bytes:
    if not old:
        return b"\1"
    place = draw.randrange(len(old))
    return old[:place] + bytes([old[place] ^ (1 << draw.randrange(8))]) + old[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, bytes | None, Random], bytes | None]] = {
    "empty": lambda old, other, draw: b"",
    "half": lambda old, other, draw: old[: len(old) // 2],
    "one bit": lambda old, other, draw: _flip(old, draw),
    "of another run": lambda old, other, draw: other,
    "gone": lambda old, other, draw: None,
}


def trials(seed: int) -> Iterator[Trial]:
    """Yield a trial for each state, file, damage and command."""
    for state in STATES:
        folder = _run_in(state)
        for path in sorted(path for path in (folder / "run").rglob("*") if path.is_file()):
            name = str(path.relative_to(folder / "run"))
            for damage in DAMAGES:
                for command in COMMANDS:
                    draw = rng(seed, "damage", state, name, damage)
                    shown = re.sub(r"events\.out.*", "events", name)
                    yield Trial(
                        f"{state}, {shown} {damage}, {command}", partial(_try, state, name, damage, command, draw)
                    )


@cache
def _run_in(state: str) -> Path:
    """Return a folder with a run in this state."""
    completed = trained("classes")
    if state == "completed":
        return completed
    place = keep_folder("interrupted-")
    whole = run(*TRAIN, folder=place, watch=True).events
    shutil.rmtree(place / "run")
    second = [i for i, (kind, path) in enumerate(whole, 1) if kind == "open" and path.endswith(".last.ckpt.tmp.ckpt")][
        1
    ]
    run(*TRAIN, folder=place, fault=Fault(second + 1))
    assert (place / "run" / "checkpoints" / "last.ckpt").exists()
    return place


@contextmanager
def _place(state: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="place-", ignore_cleanup_errors=True) as place:
        shutil.copytree(_run_in(state) / "run", Path(place) / "run", symlinks=True)
        write_images(Path(place))
        yield Path(place)


def _view(command: str, ended: Ended, folder: Path, state: str) -> Any:
    """Return what a command that succeeds has to say, without times and pictures."""
    if command == "resume" and state == "interrupted":
        return of_runs(folder)
    if command == "report":
        return (
            PICTURE.sub("", WHEN.sub("", (folder / "out" / "report.html").read_text())) if not ended.returncode else ""
        )
    if command == "explain":
        return of_files("run/explain")(folder)
    if command in ("predict", "export"):
        return of_files("out", "out.safetensors")(folder)
    return "" if command == "verify" else ended.stdout


@cache
def _undamaged(state: str, command: str) -> tuple[int, Any]:
    with _place(state) as folder:
        ended = run(*COMMANDS[command], folder=folder)
        if wrong := fault_of(ended, codes=(0, 2)):
            raise RuntimeError(f"{state}, {command}, undamaged: {wrong}")
        return ended.returncode, _view(command, ended, folder, state)


def _try(state: str, name: str, damage: str, command: str, draw: Random) -> Result:
    with _place(state) as folder:
        path = folder / "run" / name
        other = _counterpart(name)
        changed = DAMAGES[damage](path.read_bytes(), other, draw)
        if changed == path.read_bytes():
            return Result(EQUAL, "both runs have the same file")
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        before = _digests(folder / "run")
        ended = run(*COMMANDS[command], folder=folder)
        if wrong := fault_of(ended, codes=(0, 2)):
            return Result(FAILED, wrong)
        if ended.returncode:
            after = _digests(folder / "run")
            lost = [each for each in before if RECORD.match(each) and after.get(each) != before[each]]
            return Result(FAILED, f"refused, and changed {lost}") if lost else Result(REFUSED, ended.stderr)
        if command == "verify":
            seen = NOT_READ.search(name) or "not checked  checkpoint" in ended.stdout
            return Result(EQUAL, "nothing that is read") if seen else Result(FAILED, "verify has not seen it")
        code, view = _undamaged(state, command)
        if code:
            return Result(FAILED, f"succeeds, where the undamaged run gives exit code {code}")
        found = _view(command, ended, folder, state)
        if isinstance(view, str) and (said := _said(view, found)):
            return Result(EQUAL, f"but for what is said: {said}")
        if wrong := difference(view, found):
            return Result(FAILED, f"exit code 0, but not the same: {wrong}")
        return Result(EQUAL)


def _said(expected: str, found: str) -> str:
    """Return the first line in which two texts differ, if all such lines say of the file that it is gone or damaged."""
    changes = [line for line in unified_diff(expected.splitlines(), found.splitlines(), n=0, lineterm="") if line[2:]]
    added = [line[1:].strip() for line in changes if line[0] == "+" and not line.startswith("+++")]
    return added[0][-200:] if added and all(SAID.search(line) for line in added) else ""


def _counterpart(name: str) -> bytes | None:
    """Return the same file of a run with another seed; None where it has none."""
    path = trained("other_classes") / "run" / name
    if "tfevents" in name:
        path = next((trained("other_classes") / "run").glob("*tfevents*"))
    return path.read_bytes() if path.exists() else None


def _digests(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
