"""A disk that is full from the n-th write on: a message, and once there is room the same command finishes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial

from campaign.events import Fault
from campaign.io_errors import disturbed
from campaign.scenarios import SCENARIOS, undisturbed
from campaign.trials import Trial

LEVELS = 30


def trials(seed: int) -> Iterator[Trial]:
    """Yield up to 30 levels, evenly spread over the writes of each scenario."""
    for scenario in SCENARIOS.values():
        writes = sum(kind == "write" for kind, _ in undisturbed(scenario.name).ended.events)
        for number in sorted({1 + round(i * (writes - 1) / (LEVELS - 1)) for i in range(LEVELS)}):
            fault = Fault(number, errno.ENOSPC, onward=True, kinds=("write",))
            yield Trial(f"{scenario.name}, from write {number} on", partial(disturbed, scenario, fault))
