"""SIGINT, SIGTERM or SIGUSR1 at a random instant of a command; the same command then finishes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial

from campaign.processes import Command
from campaign.scenarios import SCENARIOS, Scenario, undisturbed, workplace
from campaign.trials import EQUAL, FAILED, Result, Trial, again, compare, fault_of, rng
from runcard.interrupts import EXIT_GO_ON, EXIT_INTERRUPTED, GO_ON

NUMBERS = {"segmentation": 80, "cached features": 30, "sweep": 40, "study": 30, "predict": 20, "export": 20}
KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
BEGIN_SECONDS = 0.05  # until a command watches for signals; a new interpreter takes longer


def trials(seed: int) -> Iterator[Trial]:
    """Yield trials at instants spread over the time that each scenario takes."""
    for name, number in ((name, NUMBERS[name]) for name in SCENARIOS):
        for i in range(number):
            kind = KINDS[i % len(KINDS)]
            share = rng(seed, "interrupts", name, i).uniform(0, 1.05)
            yield Trial(f"{name}, {kind.name} {i}", partial(_interrupt, SCENARIOS[name], kind, share))


def _interrupt(scenario: Scenario, kind: signal.Signals, share: float) -> Result:
    seconds = share * undisturbed(scenario.name).ended.seconds
    with workplace(scenario) as folder:
        command = Command(*scenario.argv, folder=folder)
        command.wait_until(BEGIN_SECONDS + seconds)
        command.signal(kind)
        ended = command.wait()
        when = f"{kind.name} after {share:.0%}: exit code {ended.returncode}"
        if ended.returncode in (0, -kind):  # a signal after the last line of a command ends the interpreter
            wrong = compare(scenario, folder)
            return Result(FAILED, f"{when}: {wrong}") if wrong else Result(EQUAL, f"{when}: it was done")
        if wrong := fault_of(ended, codes=(EXIT_GO_ON if kind == GO_ON else EXIT_INTERRUPTED,)):
            return Result(FAILED, f"{when}: {wrong}")
        return again(scenario, folder, when)
