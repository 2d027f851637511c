"""Compute again what a run folder records: its values from its weights, and its first epochs; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from runcard.config.schema import Config
from runcard.console import counted
from runcard.data.source import Source
from runcard.errors import UserError, join_first
from runcard.experiment.finalize import LOSS_TOLERANCE, evaluate_splits, per_image_rows, same
from runcard.experiment.restored import restored_setup
from runcard.experiment.session import Nowhere, fit_setup
from runcard.experiment.setup import ExperimentSetup, with_cached_features
from runcard.fileio import read_csv
from runcard.runs.environment import code_hash, hardware, versions
from runcard.runs.folders import BEST, file_of, read_metrics
from runcard.runs.run import TEXTS, Run
from runcard.training.checkpoint import read_weights
from runcard.training.restore import load_epoch
from runcard.training.types import Evaluation, State

SCORE_TOLERANCE = 0.01  # of the mean of a score, where only rounding is the same
TIMES = ("seconds", "images_per_second")  # columns of metrics.csv that no two trainings share


class _Enough(Exception):  # noqa: N818  # no error: the epochs that were asked for are done
    pass


class _FirstEpochs(Nowhere):
    """The logger and the checkpoint of a training that ends after a number of epochs."""

    def __init__(self, setup: ExperimentSetup, num_epochs: int) -> None:
        self.setup, self.num_epochs = setup, num_epochs
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}

    def epoch(self, row: dict[str, Any], val: Evaluation | None, is_best: bool) -> None:  # noqa: ARG002
        """Keep the row and, of the best epoch, the weights."""
        self.rows.append(row)
        if is_best:
            weights = self.setup.model.state_dict()
            self.best = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
        if len(self.rows) == self.num_epochs:
            raise _Enough


def repeat_epochs(
    setup: ExperimentSetup, num_epochs: int, console: Console
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Train num_epochs from the beginning; return their rows of metrics.csv, and the weights of the best of them.

    The length of the whole training, which schedulers depend on, stays that of the config.
    """
    trained = with_cached_features(setup, console)[0] if setup.cache_features else setup
    kept = _FirstEpochs(setup, num_epochs)
    with suppress(_Enough):
        fit_setup(trained, State(), checkpoint=kept, logger=kept)
    return kept.rows, kept.best


def evaluate_again(run: Run, cfg: DictConfig, config: Config, source: Source, choices: dict[str, str]) -> str:
    """Check that the weights give the values of per_image.csv."""
    setup = restored_setup(run, cfg.copy(), config, source, choices)
    recorded = read_csv(run.folder / "per_image.csv")
    reasons = _other_machine(run.session, setup)
    checked = []
    for weights in ("last", "best"):
        if not load_epoch(setup.model, run, weights):
            continue
        again = per_image_rows(setup, weights, evaluate_splits(setup))
        old = [row for row in recorded if row["checkpoint"] == weights]
        if fault := _difference(old, again, 0.0 if not reasons else SCORE_TOLERANCE):
            raise ValueError(f"per_image.csv, {weights} epoch: {fault}")
        checked.append(weights)
    why = join_first(reasons)
    how = f"to rounding (means to {SCORE_TOLERANCE:g}), as {why}" if reasons else "bit for bit"
    return f"the weights, evaluated again, give per_image.csv {how}: {' and '.join(checked)} epoch"


def _difference(old: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, Any]], tolerance: float) -> str:
    """Say in what rows of per_image.csv differ from those computed again; of the means where there is a tolerance."""
    if [[row.get(key) for key in TEXTS] for row in old] != [[row.get(key) for key in TEXTS] for row in new]:
        return "other images, groups or targets than the data have"
    if [row.keys() for row in old] != [row.keys() for row in new]:
        return "other columns than the config gives"
    numbers = [key for key in new[0] if key not in TEXTS] if new else []
    if tolerance:
        for key in numbers:
            was, now = (float(np.mean([float(str(row[key]) or "nan") for row in rows])) for rows in (old, new))
            if not same(was, now, tolerance, tolerance):
                return f"mean {key} was {was:.6g} and is now {now:.6g}"
        return ""
    for was_row, now_row in zip(old, new, strict=True):
        for key in numbers:
            if was_row[key] != str(now_row[key]):
                return f"{key} of {now_row['id']} was {was_row[key]} and is now {now_row[key]}"
    return ""


def train_again(run: Run, cfg: DictConfig, config: Config, source: Source, choices: dict[str, str], epochs: int) -> str:
    """Check that training again gives the first rows of metrics.csv and, where these are all, the best weights."""
    rows = read_metrics(run.folder / "metrics.csv")
    if epochs > len(rows):
        raise UserError(f"--retrain={epochs}: the run has {counted(len(rows), 'epoch')}")
    with TemporaryDirectory(prefix="runcard-") as folder:
        cfg = cfg.copy()
        cfg.train.cache_dir = folder
        train = config.train.model_copy(update={"cache_dir": folder})
        config = config.model_copy(update={"train": train})
        setup = restored_setup(run, cfg, config, source, choices, begins=True)
        reasons = [reason for session in run.sessions for reason in _other_machine(session, setup)]
        again, best = repeat_epochs(setup, epochs, Console(quiet=True))
    for was, now in zip(rows, again, strict=False):
        for key in (key for key in was if key not in TIMES):
            is_loss = key.endswith("/loss")
            if not same(was[key], now[key], LOSS_TOLERANCE if reasons else 0.0) and (is_loss or not reasons):
                raise ValueError(f"{key} of epoch {was['epoch']} was {was[key]} and is now {now[key]}")
    if epochs < len(rows) or reasons:
        why = join_first(reasons)
        how = f"with the same losses to {LOSS_TOLERANCE:.0%}, as {why}" if reasons else "bit for bit"
        return f"trained again, the first {counted(epochs, 'epoch')} of metrics.csv: {how}"
    kept, _ = read_weights(file_of(run.folder, BEST))
    if kept.keys() != best.keys() or not all(kept[name].equal(best[name]) for name in kept):
        raise ValueError(f"{BEST}: training again gives other weights")
    return f"trained again: all {counted(epochs, 'epoch')} of metrics.csv and the best weights, bit for bit"


def _other_machine(session: Mapping[str, Any], setup: ExperimentSetup) -> list[str]:
    """Say why what a session computed may differ here in the last bits; nothing where it must not."""
    was, now = session["hardware"] | session["versions"], hardware() | versions()
    keys = (*hardware(), *session["versions"])
    reasons = [f"{key} was {was.get(key)}, here {now.get(key)}" for key in keys if was.get(key) != now.get(key)]
    if session["code"] != code_hash():
        reasons.append("the code of Runcard was another")
    if session.get("devices", 1) > 1:
        reasons.append(f"it was trained on {session['devices']} devices")
    if session["precision"] != setup.precision or session["device"] != str(setup.fabric.device):
        reasons.append(f"it ran on {session['device']} in {session['precision']}")
    if session["reproducible"] != "bit for bit":
        reasons.append("the run was reproducible to rounding only")
    return reasons
