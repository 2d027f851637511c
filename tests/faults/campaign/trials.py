"""What a trial is, how it can end, and how that is judged."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.processes import Ended, run
from campaign.scenarios import Scenario, difference, undisturbed

EQUAL, REFUSED, REPAIRED, FAILED = "equal", "refused", "repaired", "failed"
MAX_LINES = 4  # of a message
PICTURES = re.compile(r"(figures|previews)/")
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


def compare(scenario: Scenario, folder: Path, stdout: str = "") -> str:
    """Say in what the outputs differ from the undisturbed ones, but for pictures whose lack stdout has warned of."""
    try:
        expected, found = undisturbed(scenario.name).outputs, scenario.outputs(folder)
        if "warning: no " in stdout:
            expected, found = _without_pictures(expected), _without_pictures(found)
        return difference(expected, found)
    except Exception as error:
        return f"outputs cannot be read: {type(error).__name__}: {str(error)[:SAID]}"


def _without_pictures(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return outputs without the names of figures and previews."""
    kept = {}
    for place, of_place in outputs.items():
        kept[place] = of_place
        if isinstance(of_place, dict) and "files" in of_place:
            kept[place] = of_place | {"files": [name for name in of_place["files"] if not PICTURES.match(name)]}
    return kept


def again(scenario: Scenario, folder: Path, first: str, stdout: str = "") -> Result:
    """Give the same command again, undisturbed, and judge the result; first and stdout say how the disturbed ended."""
    ended = run(*scenario.argv, folder=folder)
    if wrong := fault_of(ended, codes=(0,)):
        return Result(FAILED, f"{first}; then again: {wrong}")
    if wrong := compare(scenario, folder, stdout):
        return Result(FAILED, f"{first}; then again: {wrong}")
    return Result(EQUAL, first)


def shown(outcome: Any) -> str:
    """Format what was seen on one line."""
    return " ".join(str(outcome).split())[: 2 * SAID]
