"""Measures how often verdicts err: data whose true difference is known, drawn thousands of times and tested.

    make simulate

Ours is held against what is often done instead: a bootstrap over runs and images, and Wilcoxon's and Student's paired
tests of the images' means over runs. Of each: how often it says "different" of two equal arms, how often its interval
covers a true difference, and how often it finds that one. The difference is the one that ours calls detectable, in the
median over pairs of equal arms: 80 % is promised, of arms that scatter as those do. At 0.05 and at the level of the
first of six questions under Holm, 0.0083, ours is also held against itself without the second test, that on the run
means ("crossed alone").

Three kinds of values: normal; like Dice, where 1 − Dice is log-normal, so that bad images scatter most; right or wrong,
where a latent normal value passes a threshold. In the last two a worse arm also scatters more, as it does in life.
Then equal arms alone: values like Dice of which 2 % fail and lie near 0.1, mostly of the same images; and studies of
six and of ten questions without a difference, under Holm: in how many of them any question is answered with one.
Prints the rows of 47 images and writes all to src/runcard/stats/simulation.json.
"""

from __future__ import annotations

import itertools
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from rich.console import Console
from scipy import stats

from runcard.console import print_table
from runcard.fileio import write_json
from runcard.stats.mrmc import ALPHA, Array, Effect, difference, mean

FILE = Path(__file__).parents[1] / "src/runcard/stats/simulation.json"
SEED = 0
REPLICATES = 4000  # a share of 0.83 % is known to within 0.3 %
TAIL = ALPHA / 6  # the level at which Holm holds the smallest p of six questions
RESAMPLES, BOOTSTRAPPED = 500, 400  # the bootstrap takes long: it sees the first replicates, and 47 images only
MEAN = 0.9  # of the better arm
IMAGE_SD, ARM_IMAGE_SD, RESIDUAL_SD = 0.04, 0.01, 0.015  # of images in both arms alike, in one arm, of what remains
PRINTED = 47  # images of the printed rows
NUM_RUNS = ((2, 2), (3, 3), (5, 5), (2, 5))  # of the two arms
RUN_SD = ((0.0, 0.0), (0.006, 0.006), (0.012, 0.012), (0.0, 0.012))  # of the two arms, from run to run
FAILURES = 0.02  # of the values
FAMILIES, STUDIES = (6, 10), 1000
# From normal deviations, their sd and a mean to values of this mean.
KINDS: dict[str, Callable[[Array, float, float], Array]] = {
    "normal": lambda z, _, m: m + z,
    "like Dice": lambda z, sd, m: 1 - (1 - m) * np.exp(z / (1 - MEAN) - (sd / (1 - MEAN)) ** 2 / 2),
    "right or wrong": lambda z, sd, m: (z < sd * stats.norm.ppf(m)).astype(float),
}


def main() -> None:
    """Print the table of benchmarks/README.md and writes simulation.json."""
    rng = np.random.default_rng(SEED)
    sizes = [("normal", 12), *((kind, PRINTED) for kind in KINDS), ("normal", 200)]
    settings = itertools.product(sizes, NUM_RUNS, RUN_SD)
    rows = [simulated(rng, kind, num_images, num_runs, run_sd) for (kind, num_images), num_runs, run_sd in settings]
    content = {
        "command": "make simulate",
        "seed": SEED,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "replicates": REPLICATES,
        "bootstrap": {"replicates": BOOTSTRAPPED, "resamples": RESAMPLES},
        "mean": MEAN,
        "sd": {"image": IMAGE_SD, "arm and image": ARM_IMAGE_SD, "residual": RESIDUAL_SD},
        "rows": rows,
    }
    failing = [with_failures(rng, num_runs, run_sd) for num_runs in NUM_RUNS[1:3] for run_sd in RUN_SD[1:3]]
    families = [family(rng, num, num_runs) for num in FAMILIES for num_runs in NUM_RUNS[1:3]]
    content |= {"rare_failures": failing, "families": families}
    write_json(FILE, content)
    shown = [row for row in rows if row["num_images"] == PRINTED]
    methods = ("ours", "crossed_alone", "bootstrap", "wilcoxon", "paired_t")
    head = ["values", "runs", "run sd", *(f"false, {name}" for name in methods), "tail, ours", "tail, crossed alone"]
    head += ["covers, ours", "covers, bootstrap", "covers, one arm", "detectable", "power, ours"]
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{PRINTED} images, {REPLICATES} replicates, bootstrap {BOOTSTRAPPED}")
    print_table(console, head, [line(row, methods) for row in shown])
    for row in failing:
        setting = f"2 % fail, {row['num_runs']} runs, run sd {row['run_sd']}"
        console.print(f"{setting}: {row['false']:.4f}, tail {row['false_tail']:.4f}")
    for row in families:
        console.print(f"{row['questions']} questions, {row['num_runs']} runs: {row['false']:.4f} of {STUDIES} studies")


def with_failures(rng: np.random.Generator, num_runs: tuple[int, int], run_sd: tuple[float, float]) -> dict[str, Any]:
    """Return how often equal arms are called different whose values fail at times."""
    lowest = math.hypot(IMAGE_SD, ARM_IMAGE_SD, max(run_sd), RESIDUAL_SD) * stats.norm.ppf(FAILURES)
    arms = drawn(rng, "normal", PRINTED, num_runs, run_sd, 0.0)
    first, second = (np.where(y - MEAN < lowest, 0.1, KINDS["like Dice"](y - MEAN, 0.0, MEAN)) for y in arms)
    effects = [difference(a, b) for a, b in zip(first, second, strict=True)]
    return {"num_runs": num_runs, "run_sd": run_sd, "false": found(effects), "false_tail": found(effects, TAIL)}


def family(rng: np.random.Generator, num_questions: int, num_runs: tuple[int, int]) -> dict[str, Any]:
    """Return in how many studies Holm lets pass any of so many questions about equal arms."""
    smallest = np.ones(STUDIES)
    for _ in range(num_questions):
        arms = drawn(rng, "like Dice", PRINTED, num_runs, RUN_SD[2], 0.0)
        effects = [difference(a, b) for a, b, _ in zip(*arms, range(STUDIES), strict=False)]
        smallest = np.minimum(smallest, [effect.p for effect in effects])
    return {"questions": num_questions, "num_runs": num_runs, "false": share(smallest * num_questions < ALPHA)}


def line(row: dict[str, Any], methods: Sequence[str]) -> list[str]:
    """Return a row of the printed table."""
    setting = [row["values"], " ".join(map(str, row["num_runs"])), " ".join(map(str, row["run_sd"]))]
    shares = [row[name]["false"] for name in methods] + [row[name]["false_tail"] for name in methods[:2]]
    shares += [row["ours"]["coverage"], row["bootstrap"]["coverage"], row["one_arm_coverage"]]
    return [*setting, *(f"{x:.4f}" for x in shares), f"{row['detectable']:.4f}", f"{row['ours']['power']:.3f}"]


def simulated(
    rng: np.random.Generator, kind: str, num_images: int, num_runs: tuple[int, int], run_sd: tuple[float, float]
) -> dict[str, Any]:
    """Return a row of simulation.json: shares of the replicates, each with a standard error of √(p(1 − p)/n)."""
    equal = drawn(rng, kind, num_images, num_runs, run_sd, 0.0)
    effects = [difference(a, b) for a, b in zip(*equal, strict=True)]
    detectable = float(np.median([effect.detectable() for effect in effects]))
    apart = drawn(rng, kind, num_images, num_runs, run_sd, detectable)
    row: dict[str, Any] = {"values": kind, "num_images": num_images, "num_runs": num_runs, "run_sd": run_sd}
    row |= {"detectable": detectable, "one_arm_coverage": covered([mean(y) for y in equal[1]], MEAN)}
    row["ours"] = {"false": found(effects), "false_tail": found(effects, TAIL)} | {
        "coverage": covered(again := [difference(a, b) for a, b in zip(*apart, strict=True)], -detectable),
        "power": found(again),
    }
    crossed_alone = [replace(effect, on_these_images=None) for effect in effects]
    row["crossed_alone"] = {"false": found(crossed_alone), "false_tail": found(crossed_alone, TAIL)}
    for name, test in (("wilcoxon", stats.wilcoxon), ("paired_t", lambda d, axis: stats.ttest_1samp(d, 0, axis=axis))):
        with np.errstate(invalid="ignore"):  # arms that are right on the same images have no p: not different
            ps = [test(a.mean(axis=1) - b.mean(axis=1), axis=1).pvalue for a, b in (equal, apart)]
        row[name] = {"false": share(ps[0] < ALPHA), "power": share(ps[1] < ALPHA)}
    if num_images == PRINTED:
        low, high = bootstrapped(equal)
        row["bootstrap"] = {"false": share((low > 0) | (high < 0))}
        low, high = bootstrapped(apart)
        row["bootstrap"]["coverage"] = share((low <= -detectable) & (-detectable <= high))
        row["bootstrap"]["power"] = share((low > 0) | (high < 0))
    return row


def drawn(
    rng: np.random.Generator,
    kind: str,
    num_images: int,
    num_runs: tuple[int, int],
    run_sd: tuple[float, float],
    worse: float,
) -> tuple[Array, Array]:
    """Return the two arms (replicates, runs, images); the first is worse by so much in the mean."""
    shared = rng.normal(0, IMAGE_SD, (REPLICATES, 1, num_images))
    arms = []
    for num, sd, m in zip(num_runs, run_sd, (MEAN - worse, MEAN), strict=True):
        z = shared + rng.normal(0, ARM_IMAGE_SD, (REPLICATES, 1, num_images)) + rng.normal(0, sd, (REPLICATES, num, 1))
        z += rng.normal(0, RESIDUAL_SD, (REPLICATES, num, num_images))
        arms.append(KINDS[kind](z, math.hypot(IMAGE_SD, ARM_IMAGE_SD, sd, RESIDUAL_SD), m))
    return arms[0], arms[1]


def interval(effects: Sequence[Effect], alpha: float = ALPHA) -> tuple[Array, Array]:
    """Return Effect.interval(alpha) of all, (R,) each, at once."""
    half = np.zeros(len(effects))
    for tests in (effects, [effect.on_these_images or effect for effect in effects]):
        se, df = np.array([(test.se, test.df) for test in tests]).T
        half = np.maximum(half, stats.t.isf(alpha / 2, df) * se)
    estimate = np.array([effect.estimate for effect in effects])
    return estimate - half, estimate + half


def found(effects: Sequence[Effect], alpha: float = ALPHA) -> float:
    """Return the share of intervals at 1 − alpha that leave out 0."""
    low, high = interval(effects, alpha)
    return share((low > 0) | (high < 0))


def covered(effects: Sequence[Effect], truth: float) -> float:
    """Return the share of intervals that cover the truth."""
    low, high = interval(effects)
    return share((low <= truth) & (truth <= high))


def bootstrapped(arms: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the ends of the bootstrap's intervals of the first replicates."""
    some = zip(arms[0][:BOOTSTRAPPED], arms[1][:BOOTSTRAPPED], strict=True)
    low, high = np.array([bootstrap(a, b, RESAMPLES, seed) for seed, (a, b) in enumerate(some)]).T
    return low, high


def bootstrap(a: Array, b: Array, num_resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of mean a (S_a, I) − mean b (S_b, I), runs and images drawn anew."""
    rng = np.random.default_rng(seed)

    def drawn(num: int) -> Array:
        times: Array = rng.multinomial(num, np.full(num, 1 / num), size=num_resamples) / num
        return times

    means = ((drawn(len(a)) @ a - drawn(len(b)) @ b) * drawn(a.shape[1])).sum(axis=1)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def share(yes: Any) -> float:
    """Return the mean of an array of bools."""
    return float(np.mean(yes))


if __name__ == "__main__":
    main()
