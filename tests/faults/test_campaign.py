"""A share of the campaign of `make faults`, drawn by a fixed seed; and that the campaign sees what is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from campaign.processes import Ended
from campaign.table import BEGIN, CLASSES, END, write_table
from campaign.trials import FAILED, fault_of, rng
from conftest import ONE_THREAD, ROOT

SAMPLE = 3  # trials of each class
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the campaign forks")


def campaign(results: Path, *arguments: str, code: str = "") -> tuple[int, list[dict[str, Any]]]:
    """Run the campaign in a process of its own, code first; return its exit code and the results."""
    paths = [ROOT / "src", ROOT / "tests", ROOT / "tests" / "faults"]
    environment = ONE_THREAD | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "NO_ALBUMENTATIONS_UPDATE": "1"}
    program = f"{code}\nfrom campaign.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, "--results", str(results), *arguments]
    done = subprocess.run(command, cwd=results.parent, env=environment, capture_output=True, text=True, timeout=1500)
    assert results.exists(), done.stderr[-3000:]
    return done.returncode, [json.loads(line) for line in results.read_text().splitlines()]


def test_a_share_of_the_trials(tmp_path):
    code, results = campaign(tmp_path / "results.jsonl", "--sample", str(SAMPLE))
    assert [result for result in results if result["outcome"] == FAILED] == []
    assert code == 0
    assert Counter(result["class"] for result in results) == dict.fromkeys(CLASSES, SAMPLE)


BROKEN = """
from contextlib import contextmanager
from runcard import fileio

@contextmanager
def not_atomic(path, previous=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path

fileio.atomic_write = not_atomic
"""


def test_files_that_are_not_written_atomically_are_seen(tmp_path):
    code, results = campaign(tmp_path / "results.jsonl", "kills", "--commands", "predict", code=BROKEN)
    failed = [result for result in results if result["outcome"] == FAILED]
    assert code == 1
    assert 0 < len(failed) < len(results)
    assert any("predictions.json" in result["seen"] for result in failed), failed


def ended(returncode: int, stderr: str = "", *, timed_out: bool = False) -> Ended:
    return Ended(("x",), returncode, "", stderr, 1.0, 1.0, [], timed_out)


@pytest.mark.parametrize(
    ("end", "wrong"),
    [
        (ended(2, "key: rule, value, fix"), ""),
        (ended(2, "one\ntwo\nthree\nfour"), ""),
        (ended(2, "one\ntwo\nthree\nfour\nfive"), "a message of 5 lines"),
        (ended(2), "a message of 0 lines"),
        (ended(1, "Traceback (most recent call last):\nOSError: x"), "traceback, exit code 1: OSError: x"),
        (ended(2, "Traceback (most recent call last):\nOSError: x"), "traceback, exit code 2"),
        (ended(0), "exit code 0"),
        (ended(-9), "exit code -9"),
        (ended(-9, timed_out=True), "hangs"),
    ],
)
def test_what_is_no_message(end, wrong):
    assert fault_of(end).startswith(wrong)
    assert bool(fault_of(end)) == bool(wrong)


def test_trials_are_drawn_by_the_seed():
    assert rng(0, "a", 1).random() == rng(0, "a", 1).random() != rng(1, "a", 1).random()


def test_table_is_written_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    results = [{"class": "kills", "outcome": outcome, "seconds": 30.0} for outcome in ("equal", "equal", FAILED)]
    for _ in range(2):
        write_table(page, results, seed=0)
        text = page.read_text()
        assert text.startswith(f"before\n{BEGIN}\n| fault ")
        assert text.endswith(f"\nSeed 0, 2 minutes of one core.\n{END}\nafter\n")
        assert "| killed at each change of a file | 3 | 2 | 0 | 0 | 1 |" in text
