"""Odd values of the keys of a config: each trains, or is refused before anything is made."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from evidence import run_json

from campaign.processes import Command
from campaign.scenarios import SEGMENTATION, trained
from campaign.trials import EQUAL, FAILED, REFUSED, Result, Trial, fault_of, rng
from runcard.config.diff import flatten

NUMBER = 300
MAX_SECONDS = 30.0  # a training that takes longer was started, which is what was asked for
TRAINS = re.compile(r"epoch +1/\d+")
NUMBERS = ("0", "-1", "1", "2", "3.5", "-0.5", "1e-9", "1e9", "1e400", "nan", "inf", "-inf", "1" + 20 * "0", "0x10")
TEXTS = ("abc", "''", "' '", "'a b'", "ä", "'../x'", "/nope", "a/b", "cpu", "auto", 300 * "x", "'1'", "'\\n'", "None")
OTHERS = ("null", "true", "false", "[]", "[0]", "[a,b]", "[[1],[2]]", "{a: 1}", "{}", "'${seed}'", "'${nope}'")
OTHERS += ("'${oc.env:HOME}'", "'???'", "'${'", "[null]")
GROUPS = ("dataset", "model", "loss", "augmentation", "optimizer", "scheduler", "metric", "scale", "experiment")
FILES = ("nope", "null", "unet", "bce", "vgg16", "masks", "classes", "plateau", "light", "'../x'", "lungs", "[a]", "''")
OF_PLACES = ("run_dir", "name")  # where the run is made


def trials(seed: int) -> Iterator[Trial]:
    """Yield trials with one or two overrides, drawn from the keys and groups of a config and from odd values."""
    config = run_json(trained("masks_lean") / "run")["config"]
    keys = [key for key in flatten(config) if not key.startswith(OF_PLACES)]
    keys = [key for key in keys if not key.endswith("_target_")] + ["model._target_", "loss._target_"]
    for i in range(NUMBER):
        draw = rng(seed, "values", i)
        overrides = []
        for _ in range(draw.choice((1, 1, 2))):
            if draw.random() < 0.1:
                overrides.append(f"{draw.choice(GROUPS)}={draw.choice(FILES)}")
            else:
                sign = draw.choice((*8 * ("",), "+", "++", "~"))
                value = draw.choice(draw.choice((NUMBERS, TEXTS, OTHERS)))
                overrides.append(f"{sign}{draw.choice(keys)}" + ("" if sign == "~" else f"={value}"))
        yield Trial(f"{i}: {' '.join(overrides)[:150]}", partial(_train, overrides))


def _train(overrides: list[str]) -> Result:
    with tempfile.TemporaryDirectory(prefix="place-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        ended = Command(*SEGMENTATION, "record=lean", *overrides, folder=folder).wait(MAX_SECONDS)
        if ended.timed_out and TRAINS.search(ended.stdout):
            return Result(EQUAL, "it trains")
        if wrong := fault_of(ended, codes=(0, 2)):
            return Result(FAILED, wrong)
        if not ended.returncode:
            return Result(EQUAL, "it trains")
        began = TRAINS.search(ended.stdout)
        left = [path.name for path in folder.iterdir() if path.name != "outputs"]
        if left and not began:
            return Result(FAILED, f"refused, and left {left}: {ended.stderr}")
        return Result(REFUSED, ended.stderr)
