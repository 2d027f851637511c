"""The index of many runs: the same findings with it as without, whatever happens to the runs or to its file."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from folders import BONE, of_classes, write_run

from runcard.cli.conclusions import _find
from runcard.compare.report.terminal import as_json
from runcard.runs import index, reader
from runcard.runs.index import FILE, RunIndex, stamp_of
from runcard.runs.reader import find_runs, read_run

NUM_RUNS = 6


def age(folder, seconds=60):
    """Let the files of a run be older than what may still change."""
    for path in folder.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Two arms of three seeds, with values that no decimal number has, NaN and infinity among them."""
    monkeypatch.setattr(reader, "MIN_RUNS", NUM_RUNS - 1)
    rng = np.random.default_rng(0)
    for i in range(NUM_RUNS):
        dice = 0.9 + rng.normal(0, 0.03, 12) / 3
        dice[0], dice[1] = np.nan, np.inf
        curves = {"val/dice": np.linspace(0.5, rng.uniform(0.9, 0.91), 60), "val/loss": 0.1}
        config = {"model.dropout": 0.2 * (i % 2)}
        age(write_run(tmp_path / "sweep" / f"{i}", seed=i // 2, images={"dice": dice}, curves=curves, config=config))
    return tmp_path / "sweep"


def findings(sweep):
    """Return all that `runcard compare --json` prints."""
    return json.dumps(as_json(_find([str(sweep)], None, None, 0.8, None, None)))


def entries(sweep):
    with closing(sqlite3.connect(sweep / FILE)) as database:
        return {place for (place,) in database.execute("SELECT place FROM runs")}


def count_reads(monkeypatch):
    """Return the list of the folders that are read from now on."""
    read = []
    monkeypatch.setattr(reader, "read_run", lambda folder: read.append(folder.name) or read_run(folder))
    return read


def test_same_findings_with_and_without_an_index(sweep, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(reader, "MIN_RUNS", NUM_RUNS + 1)
        without = findings(sweep)
        assert not (sweep / FILE).exists(), "few runs have no index"
    assert findings(sweep) == without
    assert entries(sweep) == {f"{i}" for i in range(NUM_RUNS)}
    read = count_reads(monkeypatch)
    assert findings(sweep) == without
    assert read == []


@pytest.mark.parametrize("kind", ["masks", "classes"])
def test_a_run_comes_back_bit_for_bit(tmp_path, kind):
    if kind == "classes":
        targets = ["AFF", "NFF"] * 6
        probs = np.random.default_rng(0).dirichlet([1, 1], 12)
        made = write_run(tmp_path / "a", images=of_classes(targets, probs), recorded=BONE, pooled={"auroc": 0.7})
    else:
        made = write_run(tmp_path / "a", split="test", groups=[f"p{i // 2}" for i in range(12)])
    age(made)
    run, reason = read_run(made)
    assert run, reason
    first = RunIndex(tmp_path)
    first.add(run, stamp_of(made))
    first.save()
    again = RunIndex(tmp_path).get(made, stamp_of(made))
    assert again is not None
    assert (again.folder, again.metadata, again.split_members) == (run.folder, run.metadata, run.split_members)
    assert list(again.metadata) == list(run.metadata), "in the same order"
    assert [(k, v.tobytes()) for k, v in again.curves.items()] == [(k, v.tobytes()) for k, v in run.curves.items()]
    assert list(again.tables) == list(run.tables)
    for part, images in run.tables.items():
        one = again.tables[part]
        assert (one.ids, one.groups, one.targets) == (images.ids, images.groups, images.targets)
        assert [(k, v.tobytes()) for k, v in one.values.items()] == [(k, v.tobytes()) for k, v in images.values.items()]


@pytest.mark.parametrize("file", index.FILES)
def test_a_changed_file_is_read_again(sweep, monkeypatch, file):
    find_runs([str(sweep)])
    path = sweep / "3" / file
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    read = count_reads(monkeypatch)
    find_runs([str(sweep)])
    assert read == ["3"]
    find_runs([str(sweep)])
    assert read == ["3", "3"], "so new a file may change again without showing it"
    age(sweep / "3")
    find_runs([str(sweep)])
    find_runs([str(sweep)])
    assert read == ["3", "3", "3"]


def test_another_value_counts(sweep):
    before = findings(sweep)
    path = sweep / "3" / "per_image.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[5].split(",")
    cells[lines[0].split(",").index("dice")] = "0.123"
    path.write_text("\n".join([*lines[:5], ",".join(cells), *lines[6:]]) + "\n", encoding="utf-8")
    assert findings(sweep) != before


def test_runs_that_are_added_removed_or_damaged(sweep, monkeypatch):
    find_runs([str(sweep)])
    shutil.rmtree(sweep / "0")
    (sweep / "1" / "run.json").write_text("{", encoding="utf-8")
    write_run(sweep / "6", seed=5)
    write_run(sweep / "7", seed=6)
    found = find_runs([str(sweep)])
    assert [run.folder.name for run in found.runs] == ["2", "3", "4", "5", "6", "7"]
    assert len(found.left_out) == 1
    assert "0" not in entries(sweep)


@pytest.mark.parametrize("damage", ["no database", "cut", "number", "part", "other version", "other tables"])
def test_a_damaged_index_is_not_believed_and_replaced(sweep, monkeypatch, damage):
    before = findings(sweep)
    file = sweep / FILE
    whole = file.read_bytes()
    commands = {
        "number": "UPDATE runs SET numbers = zeroblob(length(numbers))",
        "part": "UPDATE parts SET text = replace(text, '0', '1')",
        "other version": "UPDATE version SET reader = 'another'",
        "other tables": "DROP TABLE runs",
    }
    if damage in commands:
        with closing(sqlite3.connect(file)) as database:
            database.execute(commands[damage])
            database.commit()
    else:
        file.write_bytes(b"no database" * 999 if damage == "no database" else whole[: len(whole) // 2])
    read = count_reads(monkeypatch)
    assert findings(sweep) == before
    assert len(read) == NUM_RUNS
    assert findings(sweep) == before
    assert len(read) == NUM_RUNS, "it was written anew"


def test_where_it_cannot_be_written(sweep, monkeypatch):
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(index, "atomic_write", refuse)
    assert findings(sweep) == findings(sweep)
    assert not (sweep / FILE).exists()


def test_two_that_write_at_once(sweep):
    """Each has read the folders before the other wrote: the last one counts, and neither harms the other."""
    runs = [run for run, _ in (read_run(sweep / f"{i}") for i in range(NUM_RUNS)) if run]
    one, other = RunIndex(sweep), RunIndex(sweep)
    for run in runs:
        one.add(run, stamp_of(run.folder))
    one.save()
    reading = RunIndex(sweep)
    other.add(runs[0], stamp_of(runs[0].folder))
    other.save()
    assert reading.get(sweep / "5", stamp_of(sweep / "5")) is not None, "what was opened before stays"
    assert entries(sweep) == {"0"}


def test_what_runs_share_is_stored_once(sweep):
    find_runs([str(sweep)])
    found = find_runs([str(sweep)]).runs
    assert len({id(run.split_members) for run in found}) == 1
    assert len({id(run.metadata["choices"]) for run in found}) == 1
    assert len({run.seed for run in found}) == 3
