"""What a trial is, how it can end, and how that is judged."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.processes import Ended, run
from campaign.scenarios import Scenario, difference, undisturbed

EQUAL, REFUSED, REPAIRED, FAILED = "equal", "refused", "repaired", "failed"
MAX_LINES = 4  # of a message
SAID = 160  # characters of what was seen


@dataclass(frozen=True)
class Result:
    """How a trial ended."""

    outcome: str
    seen: str = ""


@dataclass(frozen=True)
class Trial:
    """One fault in one command; run() injects it and says how that ended."""

    name: str
    run: Callable[[], Result]


def rng(seed: int, *names: object) -> random.Random:
    """Return the generator of a trial, which does not depend on the others."""
    return random.Random("/".join(map(str, (seed, *names))))


def fault_of(ended: Ended, codes: tuple[int, ...] = (2,), max_lines: int = MAX_LINES) -> str:
    """Say what is wrong with the end of a command that was disturbed; "" where it is a message as it should be."""
    lines = ended.stderr.strip().splitlines()
    last = lines[-1][:SAID] if lines else ""
    if ended.timed_out:
        return f"hangs: no end after {ended.seconds:.0f} s"
    if "Traceback (most recent call last)" in ended.stderr + ended.stdout:
        return f"traceback, exit code {ended.returncode}: {last}"
    if ended.returncode not in codes:
        return f"exit code {ended.returncode}: {last}"
    if ended.returncode == 2 and not 0 < len(lines) <= max_lines:
        return f"a message of {len(lines)} lines: {last}"
    return ""


def compare(scenario: Scenario, folder: Path) -> str:
    """Say in what the outputs differ from the undisturbed ones."""
    try:
        return difference(undisturbed(scenario.name).outputs, scenario.outputs(folder))
    except Exception as error:
        return f"outputs cannot be read: {type(error).__name__}: {str(error)[:SAID]}"


def again(scenario: Scenario, folder: Path, first: str) -> Result:
    """Give the same command again, undisturbed, and judge the result; first says how the disturbed one ended."""
    ended = run(*scenario.argv, folder=folder)
    if wrong := fault_of(ended, codes=(0,)):
        return Result(FAILED, f"{first}; then again: {wrong}")
    if wrong := compare(scenario, folder):
        return Result(FAILED, f"{first}; then again: {wrong}")
    return Result(EQUAL, first)


def shown(outcome: Any) -> str:
    """Format what was seen on one line."""
    return " ".join(str(outcome).split())[: 2 * SAID]
