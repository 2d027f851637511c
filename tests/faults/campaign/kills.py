"""A kill before every single change that a command makes to the file system; the same command then finishes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from campaign.events import Fault
from campaign.processes import run
from campaign.scenarios import SCENARIOS, Scenario, undisturbed, workplace
from campaign.trials import EQUAL, FAILED, Result, Trial, again, compare


def trials(seed: int) -> Iterator[Trial]:
    """Yield a trial for each event of each scenario."""
    for scenario in SCENARIOS.values():
        for number in range(1, len(undisturbed(scenario.name).ended.events) + 1):
            yield Trial(f"{scenario.name}, event {number}", partial(_kill, scenario, number))


def _kill(scenario: Scenario, number: int) -> Result:
    with workplace(scenario) as folder:
        ended = run(*scenario.argv, folder=folder, fault=Fault(number))
        kind, path = ended.events[-1] if ended.events else ("no", "event")
        where = f"killed at {kind} {path.removeprefix(f'{folder.resolve()}/')}"
        if len(ended.events) < number:  # TensorBoard's thread writes now more often, now less
            wrong = compare(scenario, folder)
            return Result(FAILED, f"not killed: {wrong}") if wrong else Result(EQUAL, "not killed: fewer events")
        if ended.returncode != -9:
            return Result(FAILED, f"{where}, and ended with {ended.returncode} {ended.stderr[-80:]}")
        return again(scenario, folder, where)
