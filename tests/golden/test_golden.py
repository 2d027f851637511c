"""The losses of two short trainings are what they were: a change that should not change numbers must not."""

from __future__ import annotations

import json

import pytest
from golden.regenerate import CARDS, PATH, trace


@pytest.mark.parametrize("name", CARDS)
def test_losses_are_what_they_were(name):
    golden = json.loads(PATH.read_text())
    for column, values in trace(CARDS[name]).items():
        assert values == pytest.approx(golden["traces"][name][column], rel=golden["tolerance"]), column
