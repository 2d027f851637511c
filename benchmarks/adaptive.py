"""Measures a study that adds seeds until it is decided: how often its sentences err, and how many seeds it takes.

    make simulate

Two arms over the same 47 images, values like Dice (inference.py: 1 − Dice log-normal, images, arms × images, runs and
residual), a true difference of 0 to 0.03 and a margin of 0.01. Each replicate goes through what `runcard study
--until-decided` answers with, and what is counted is the sentence: "is better than", "is worse than", "are equivalent".
Beside it: three, four, … ten seeds looked at one after the other at 0.05 each (peeking), and ten seeds at once.
Then six questions of which none has a difference, under Holm: in how many studies any sentence tells arms apart.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from inference import ARM_IMAGE_SD, IMAGE_SD, KINDS, MEAN, RESIDUAL_SD
from rich.console import Console

from runcard.compare.answers import Answer
from runcard.compare.arms import Arm
from runcard.compare.confounds import group_arms
from runcard.compare.looks import Design, answer_in_looks
from runcard.compare.questions import Question
from runcard.console import print_table
from runcard.runs.reader import find_runs
from runcard.stats.mrmc import ALPHA, Array, difference
from runcard.stats.sequential import LOOKS

TESTS = Path(__file__).parents[1] / "tests"
SEED, REPLICATES, STUDIES = 0, 1000, 1000
IMAGES, MARGIN = 47, 0.01
SETTINGS = [  # budget, true difference, run sd of each arm
    *((10, d, (0.012, 0.012)) for d in (0.0, 0.01, 0.02, 0.03)),
    *((20, d, (0.012, 0.012)) for d in (0.0, 0.01, 0.02, 0.03)),
    (10, 0.0, (0.003, 0.003)),
    (10, 0.0, (0.0, 0.012)),
    (10, 0.01, (0.003, 0.003)),
]


def main() -> None:
    """Print the tables of benchmarks/README.md."""
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        template = write_template(Path(folder))
        rows = [simulated(rng, template, *setting) for setting in SETTINGS]
        wrong = sum(any_difference(rng, template) for _ in range(STUDIES))
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{REPLICATES} replicates, {IMAGES} images, margin {MARGIN}, seed {SEED}")
    head = ["budget", "difference", "run sd", "different", "equivalent", "mean seeds", "interval covers"]
    print_table(console, [*head, "peeking", "ten seeds at once"], rows)
    console.print(f"six questions without a difference: {wrong} of {STUDIES} studies tell arms apart in some sentence")


def write_template(folder: Path) -> list[Arm]:
    """Write a run of each arm, whose values are replaced later, and return the arms."""
    sys.path.insert(0, str(TESTS))
    folders: Any = import_module("folders")
    for name in ("a", "b"):
        config = {"loss._target_": f"runcard.losses.{name}"}
        folders.write_run(folder / name, config=config, choices={"loss": name}, images={"dice": np.full(IMAGES, 0.9)})
    arms, _ = group_arms(find_runs([str(folder)]).runs)
    return [Arm(name, arm.runs) for name, arm in zip("ab", arms, strict=True)]


def simulated(
    rng: np.random.Generator, template: Sequence[Arm], budget: int, worse: float, run_sd: tuple[float, float]
) -> list[str]:
    """Return a row of the table."""
    question = Question("q", "Is a better?", "a", "b", "dice", margin=MARGIN)
    told = equal = covers = peeked = at_once = 0
    seeds = []
    for _ in range(REPLICATES):
        values = drawn(rng, budget, worse, run_sd)
        (answer,) = answers([question], template, values, budget, 1)
        told += tells_apart(answer)
        equal += " are equivalent " in answer.verdict.sentence
        seeds.append(answer.path[-1].num_seeds)
        low, high = answer.path[-1].interval
        covers += low <= -worse <= high
        first, second = values
        peeked += any(difference(first[:s], second[:s]).p < ALPHA for s in range(3, 11))
        at_once += difference(first[:10], second[:10]).p < ALPHA
    shares = [f"{100 * count / REPLICATES:.1f} %" for count in (told, equal, covers, peeked, at_once)]
    setting = [str(budget), f"{worse:g}", " ".join(map(str, dict.fromkeys(run_sd)))]
    return [*setting, *shares[:2], f"{np.mean(seeds):.1f}", *shares[2:]]


def any_difference(rng: np.random.Generator, template: Sequence[Arm]) -> bool:
    """Whether any of six questions about equal arms is answered with a difference."""
    questions, arms, values = [], [], []
    for i in range(6):
        for arm, own in zip(template, drawn(rng, 10, 0.0, (0.012, 0.012)), strict=True):
            arms.append(Arm(f"{arm.name}{i}", arm.runs))
            values.append(own)
        questions.append(Question(f"q{i}", "Is a better?", f"a{i}", f"b{i}", "dice", margin=MARGIN))
    return any(map(tells_apart, answers(questions, arms, values, 10, 6)))


def answers(
    questions: Sequence[Question], template: Sequence[Arm], values: Sequence[Array], budget: int, num_questions: int
) -> list[Answer]:
    """Answer as `runcard study --until-decided` does, of runs with these values."""
    arms = sys.modules["folders"].arms_of(template, values)
    design = Design(LOOKS[budget], budget, {arm.name: budget for arm in arms})
    return answer_in_looks(questions, arms, design, num_questions)


def tells_apart(answer: Answer) -> bool:
    """Whether a sentence says that an arm is better than the other."""
    return bool(re.search(" is (better|worse) than ", answer.verdict.sentence))


def drawn(rng: np.random.Generator, num_runs: int, worse: float, run_sd: tuple[float, float]) -> tuple[Array, Array]:
    """Return the values (S, I) of two arms, of which the first is worse by so much in the mean."""
    shared = rng.normal(0, IMAGE_SD, IMAGES)
    arms = []
    for sd, m in zip(run_sd, (MEAN - worse, MEAN), strict=True):
        z = shared + rng.normal(0, ARM_IMAGE_SD, IMAGES) + rng.normal(0, sd, (num_runs, 1))
        z = z + rng.normal(0, RESIDUAL_SD, (num_runs, IMAGES))
        arms.append(KINDS["like Dice"](z, math.hypot(IMAGE_SD, ARM_IMAGE_SD, sd, RESIDUAL_SD), m))
    return arms[0], arms[1]


if __name__ == "__main__":
    main()
