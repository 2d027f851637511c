"""Errors of the disk at each write, flush and rename: a message, and the same command then finishes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial

from campaign.events import Fault
from campaign.processes import run
from campaign.scenarios import SCENARIOS, Scenario, undisturbed, workplace
from campaign.trials import EQUAL, FAILED, MAX_LINES, REFUSED, Result, Trial, again, compare, fault_of

ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EROFS, errno.EACCES)
KINDS = ("write", "fsync", "rename")
WHOLE = ("segmentation", "predict", "export")  # with every error at every event; the others with one error at each


def trials(seed: int) -> Iterator[Trial]:
    """Yield a trial for each event and error."""
    for scenario in SCENARIOS.values():
        number = sum(kind in KINDS for kind, _ in undisturbed(scenario.name).ended.events)
        for i in range(1, number + 1):
            for error in ERRORS if scenario.name in WHOLE else (ERRORS[i % len(ERRORS)],):
                fault = Fault(i, error, kinds=KINDS)
                name = f"{scenario.name}, {errno.errorcode[error]} at {i}"
                yield Trial(name, partial(disturbed, scenario, fault))


def disturbed(scenario: Scenario, fault: Fault) -> Result:
    """Inject an error: the command ends as undisturbed, or with a message after which it can be given again."""
    with workplace(scenario) as folder:
        ended = run(*scenario.argv, folder=folder, fault=fault)
        events = [event for event in ended.events if event[0] in fault.kinds]
        kind, path = events[fault.number - 1] if len(events) >= fault.number else ("no", "event")
        where = f"{errno.errorcode[fault.error or 0]} at {kind} {path.removeprefix(f'{folder.resolve()}/')}"
        where += f": exit code {ended.returncode}"
        # A sweep with unfinished runs exits with 1, if none of them has a larger code.
        codes = (0, 1, 2) if scenario.name == "sweep" else (0, 2)
        if wrong := fault_of(ended, codes, MAX_LINES * scenario.max_messages):
            return Result(FAILED, f"{where}: {wrong}")
        if not ended.returncode and not compare(scenario, folder, ended.stdout):
            return Result(EQUAL, where)
        result = again(scenario, folder, where, ended.stdout)
        return Result(REFUSED, where) if result.outcome == EQUAL and ended.returncode else result
