"""Train the first epochs of a run again, in memory: nothing is written."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rich.console import Console
from torch import Tensor

from runcard.experiment.session import Nowhere, fit_setup
from runcard.experiment.setup import ExperimentSetup, with_cached_features
from runcard.training.types import Evaluation, State

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
        fit_setup(trained, State(), kept, kept)
    return kept.rows, kept.best
