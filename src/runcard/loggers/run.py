"""Log a run to metrics.csv, the terminal and the loggers of its config: TensorBoard, Weights & Biases, MLflow, Trackio.

Other tools read metrics.csv; the loggers show the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from runcard.config.diff import NON_FUNCTIONAL_KEYS, flatten
from runcard.fileio import write_csv
from runcard.loggers.progress import Progress
from runcard.runs.folders import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from runcard.training.types import Evaluation


@runtime_checkable
class Tracker(Protocol):
    """What shows a run: an entry of the config's logger, see conf/logger."""

    def start(self, folder: Path, run: Mapping[str, Any], config: str, monitor: str, rows: Sequence[Row]) -> None:
        """Begin a session of the run in this folder.

        run: the content of run.json; config: as YAML; monitor: the column of metrics.csv whose chart stands beside
        that of the loss; rows: of metrics.csv, of the epochs before this session.
        """

    def row(self, row: Row) -> None:
        """Show the row of one finished epoch; None in it: not evaluated."""

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Show a figure."""

    def pr_curve(self, tag: str, is_positive: np.ndarray, scores: np.ndarray, epoch: int) -> None:
        """Show a precision-recall curve, from true labels and probabilities of any shape."""

    def close(self, status: str) -> None:
        """End the session, completed or interrupted."""


@dataclass
class RunLogger:
    """A logger of one row per epoch.

    A tracker that fails is left out from there on, with a warning; a disk that TensorBoard cannot write is an error.
    """

    folder: Path
    rows: list[Row]  # of metrics.csv: at first, those of the epochs before this session
    progress: Progress
    figures_of: Callable[[int, Evaluation], Mapping[str, Figure]]  # epoch, validation -> the figures of it, by tag
    waiting: Mapping[str, Tracker]  # by their key in the config's logger

    trackers: dict[str, Tracker] = field(init=False, default_factory=dict)  # those that have started and not failed

    def start(self, config: str, run: Mapping[str, Any], monitor: str) -> None:
        """Begin a session in every tracker; see Tracker.start."""
        for name, tracker in self.waiting.items():
            if self._succeeds(name, partial(tracker.start, self.folder, run, config, monitor, self.rows)):
                self.trackers[name] = tracker

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Advance the progress bar; write nothing."""
        self.progress.step(epoch, step, num_images, loss)

    def epoch(self, row: Row, val: Evaluation | None, is_best: bool) -> None:
        """Write the row of one finished epoch to metrics.csv, the trackers and the terminal."""
        self.rows.append(row)
        write_csv(self.folder / "metrics.csv", self.rows)
        self._each(lambda tracker: tracker.row(row))
        for tag, figure in (self.figures_of(row["epoch"], val) if val and self.trackers else {}).items():
            self.figure(tag, figure, row["epoch"])
        self.progress.epoch(row, is_best)

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Show a figure."""
        self._each(lambda tracker: tracker.figure(tag, figure, epoch))

    def pr_curve(self, tag: str, is_positive: np.ndarray, scores: np.ndarray, epoch: int) -> None:
        """Show a precision-recall curve."""
        self._each(lambda tracker: tracker.pr_curve(tag, is_positive, scores, epoch))

    def close(self, status: str) -> None:
        """End the session."""
        try:
            self._each(lambda tracker: tracker.close(status))
        finally:
            self.progress.close()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in reversed(list(self.trackers.items())):  # TensorBoard, whose error ends the run, is last
            if not self._succeeds(name, partial(call, tracker)):
                del self.trackers[name]

    def _succeeds(self, name: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:
            if name == "tensorboard":
                raise
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            self.progress.console.print(f"warning: logger.{name} failed and is left out: {said}", style="yellow")
            return False
        return True


def hyperparameters(run: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return what is shown of a run, given the content of its run.json: config and chosen files; lists as text.

    Classes (_target_) are left out: the chosen file stands for them.
    """
    leaves = {
        key: value
        for key, value in flatten(run["config"]).items()
        if key.split(".")[0] not in NON_FUNCTIONAL_KEYS and not key.endswith("_target_")
    }
    leaves |= {"num_parameters": run["num_parameters"], **run["choices"]}
    return {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in leaves.items()}
