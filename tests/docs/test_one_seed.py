"""The toy of docs/explanation/one-seed.md computes what src/runcard/stats/mrmc.py does, and errs as often."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

from runcard.stats.mrmc import difference

TOY = ROOT / "docs" / "explanation" / "one_seed.js"
SIMULATION = ROOT / "src" / "runcard" / "stats" / "simulation.json"
STUDIES = 2000

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


def in_node(script: str) -> Any:
    done = subprocess.run(
        ["node", "-"],
        input=f"const toy = require({json.dumps(str(TOY))});\n{script}",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(("seeds", "images", "run_sd"), [(2, 6, 0.01), (3, 47, 0.012), (5, 47, 0.0), (10, 200, 0.006)])
def test_intervals_are_those_of_mrmc(seeds, images, run_sd):
    rng = np.random.default_rng(0)
    arms = [
        0.9 + rng.normal(0, 0.03, images) + rng.normal(0, run_sd, (seeds, 1)) + rng.normal(0, 0.015, (seeds, images))
        for _ in range(2)
    ]
    a, b = (json.dumps(arm.tolist()) for arm in arms)
    ours, paired = in_node(f"console.log(JSON.stringify([toy.twoSources({a}, {b}), toy.pairedT({a}, {b})]))")
    effect = difference(*arms)
    assert ours["estimate"] == pytest.approx(effect.estimate)
    assert ours["half"] == pytest.approx(effect.interval()[1] - effect.estimate, rel=1e-6)
    low, high = stats.ttest_rel(arms[0].mean(axis=0), arms[1].mean(axis=0)).confidence_interval()
    assert paired["half"] == pytest.approx((high - low) / 2, rel=1e-6)


@pytest.mark.parametrize(("seeds", "run_sd"), [(3, 0.012), (5, 0.006)])
def test_rates_are_those_of_the_benchmark(seeds, run_sd):
    rows = json.loads(SIMULATION.read_text())["rows"]
    wanted = {"values": "normal", "num_images": 47, "num_runs": [seeds, seeds], "run_sd": [run_sd, run_sd]}
    (row,) = [row for row in rows if row.items() >= wanted.items()]
    setting = f"{{seedSd: {run_sd}, imageSd: 0.01, seeds: {seeds}, images: 47}}"
    shares = in_node(
        f"""const random = toy.generator(7), winners = [0, 0, 0];
        for (let i = 0; i < {STUDIES}; i++) {{
          toy.testStudy(random, {setting}).forEach((each, i) => {{ winners[i] += toy.declaresWinner(each); }});
        }}
        console.log(JSON.stringify(winners.map((each) => each / {STUDIES})));"""
    )
    one_seed, paired_t, ours = shares
    assert ours == pytest.approx(row["ours"]["false"], abs=0.02)
    assert paired_t == pytest.approx(row["paired_t"]["false"], abs=0.04)
    assert one_seed > paired_t
