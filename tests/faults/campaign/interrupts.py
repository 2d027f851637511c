"""SIGINT or SIGTERM at a random instant of a command; the same command then finishes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial

from campaign.processes import Command
from campaign.scenarios import SCENARIOS, Scenario, undisturbed, workplace
from campaign.trials import EQUAL, FAILED, Result, Trial, again, compare, fault_of, rng

NUMBERS = {"segmentation": 80, "cached features": 30, "sweep": 40, "study": 30, "predict": 20, "export": 20}
EXIT_INTERRUPTED = 130


def trials(seed: int) -> Iterator[Trial]:
    """Yield trials at instants spread over the time that each scenario takes."""
    for name, number in ((name, NUMBERS[name]) for name in SCENARIOS):
        for i in range(number):
            kind = (signal.SIGINT, signal.SIGTERM)[i % 2]
            share = rng(seed, "interrupts", name, i).uniform(0, 1.05)
            yield Trial(f"{name}, {kind.name} {i}", partial(_interrupt, SCENARIOS[name], kind, share))


def _interrupt(scenario: Scenario, kind: signal.Signals, share: float) -> Result:
    seconds = share * undisturbed(scenario.name).ended.seconds
    with workplace(scenario) as folder:
        command = Command(*scenario.argv, folder=folder)
        command.wait_until(seconds)
        command.signal(kind)
        ended = command.wait()
        when = f"{kind.name} after {share:.0%}: exit code {ended.returncode}"
        if not ended.returncode:
            wrong = compare(scenario, folder)
            return Result(FAILED, f"{when}: {wrong}") if wrong else Result(EQUAL, f"{when}: it was done")
        if wrong := fault_of(ended, codes=(EXIT_INTERRUPTED,)):
            return Result(FAILED, f"{when}: {wrong}")
        return again(scenario, folder, when)
