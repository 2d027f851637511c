"""Two and four processes on one folder, and loader processes that are lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from campaign.processes import Command
from campaign.scenarios import SCENARIOS, Scenario, undisturbed, workplace
from campaign.trials import EQUAL, FAILED, REFUSED, Result, Trial, again, compare, fault_of, rng

TOGETHER = {"segmentation": 20, "sweep": 10, "predict": 10}
LOST = 20  # trials with a lost loader process


def trials(seed: int) -> Iterator[Trial]:
    """Yield trials with several processes, and with lost ones."""
    for name, number in ((name, number) for name, number in TOGETHER.items() if name in SCENARIOS):
        for i in range(number):
            delays = [rng(seed, "several", name, i, j).uniform(0, 1) for j in range((2, 4)[i % 2])]
            yield Trial(f"{name}, {len(delays)} processes {i}", partial(_together, SCENARIOS[name], delays))
    for i in range(LOST if "segmentation" in SCENARIOS else 0):
        delay = rng(seed, "several", "lost", i).uniform(0, 0.3)
        yield Trial(f"segmentation, lost loader {i}", partial(_lose_loader, SCENARIOS["segmentation"], delay))


def _together(scenario: Scenario, delays: list[float]) -> Result:
    """Start the same command several times; each ends in the same result or says that another one runs."""
    seconds = undisturbed(scenario.name).ended.seconds
    with workplace(scenario) as folder:
        commands = []
        for delay in sorted(delay - min(delays) for delay in delays):
            if commands:
                commands[0].wait_until(delay * seconds)
            commands.append(Command(*scenario.argv, folder=folder))
        ended = [command.wait() for command in commands]
        codes = [each.returncode for each in ended]
        for each in ended:
            if wrong := fault_of(each, codes=(0, 2)):
                return Result(FAILED, f"exit codes {codes}: {wrong}")
            if each.returncode == 2 and "another process runs" not in each.stderr:
                return Result(FAILED, f"exit codes {codes}: {each.stderr}")
        if 0 not in codes:
            return Result(FAILED, f"exit codes {codes}: none has finished")
        if wrong := compare(scenario, folder):
            return Result(FAILED, f"exit codes {codes}: {wrong}")
        return Result(REFUSED if 2 in codes else EQUAL, f"exit codes {codes}")


def _lose_loader(scenario: Scenario, delay: float) -> Result:
    """Kill the first loader process, delay seconds after it was there; the same command finishes."""
    with workplace(scenario) as folder:
        command = Command(*scenario.argv, "train.num_workers=2", folder=folder)
        while not (loaders := _children(command.pid)) and not command.wait_for(0.01):
            pass
        command.wait_for(delay)
        for pid in loaders[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended = command.wait()
        what = f"{'a' if loaders else 'no'} loader process killed: exit code {ended.returncode}"
        if wrong := fault_of(ended, codes=(0, 2)):
            return Result(FAILED, f"{what}: {wrong}")
        if not ended.returncode and not compare(scenario, folder, ended.stdout):
            return Result(EQUAL, what)
        result = again(scenario, folder, what, ended.stdout)
        return Result(REFUSED, what) if result.outcome == EQUAL else result


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(each) for each in text.split()]
    return []
