"""The losses of two short trainings are what they were: a change that should not change numbers must not."""

from __future__ import annotations

import json

import pytest
from golden.regenerate import COLUMNS, PATH, measure


def test_losses_equal_the_golden_trace():
    golden, now = json.loads(PATH.read_text()), measure()
    assert now["traces"].keys() == golden["traces"].keys() == {"masks", "classes"}
    for name, expected in golden["traces"].items():
        for column in COLUMNS:
            values = now["traces"][name][column]
            assert values == pytest.approx(expected[column], rel=golden["tolerance"]), f"{name}: {column}"
