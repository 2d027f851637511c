"""Log a run to metrics.csv, TensorBoard's event file and the terminal.

This is the only SummaryWriter of the project. Other tools read metrics.csv; TensorBoard shows the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from runcard.fileio import write_csv
from runcard.loggers.progress import Progress
from runcard.runs.reader import Row, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from runcard.training.types import Evaluation

LOSS_CHART = {"loss": {"train and validation": ["Multiline", ["train/loss", "train_eval/loss", "val/loss"]]}}


class TensorBoardLogger:
    """A logger of one row per epoch. On resume, rows after the checkpoint's epoch are dropped and computed again."""

    def __init__(
        self,
        folder: Path,
        resumed_epoch: int,
        progress: Progress,
        figures_of: Callable[[int, Evaluation], Mapping[str, Figure]],
    ) -> None:
        self.path = folder / "metrics.csv"
        self.rows = [row for row in read_metrics(self.path) if row["epoch"] <= resumed_epoch]
        extended = bool(self.rows) and not any(folder.glob("events.out.tfevents.*"))  # train.extend: another run's rows
        self.writer = SummaryWriter(str(folder), purge_step=resumed_epoch + 1 if resumed_epoch else 0)
        self.writer.add_custom_scalars(LOSS_CHART)
        self.progress = progress
        self.figures_of = figures_of  # epoch, validation -> the figures of this epoch, by tag
        if extended:
            for row in self.rows:
                self._scalars(row)

    def start(self, config: str, values: Mapping[str, Any]) -> None:
        """Log the config as text, and start the run in the HPARAMS tab with every value of its config."""
        self.writer.add_text("config", f"```yaml\n{config}\n```")
        # The experiment tag that add_hparams also writes is left out: with it, TensorBoard would show only the columns
        # of one run. Session start and end alone combine runs with different keys.
        _, session_start, session_end = hparams(dict(values), {})  # type: ignore[no-untyped-call]
        self._session_end = session_end
        self._summary(session_start)

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Advance the progress bar; write nothing."""
        self.progress.step(epoch, step, num_images, loss)

    def epoch(self, row: Row, val: Evaluation, is_best: bool) -> None:
        """Write the row of one finished epoch to metrics.csv, TensorBoard and the terminal."""
        self.rows.append(row)
        write_csv(self.path, self.rows)
        self._scalars(row)
        for tag, figure in self.figures_of(row["epoch"], val).items():
            self.figure(tag, figure, row["epoch"])
        self.writer.flush()
        self.progress.epoch(row, is_best)

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Show a figure in TensorBoard's IMAGES tab, and close it."""
        self.writer.add_figure(tag, figure, epoch)

    def pr_curve(self, tag: str, is_positive: np.ndarray, scores: np.ndarray, epoch: int) -> None:
        """Show a precision-recall curve in the PR CURVES tab, from true labels and probabilities of any shape."""
        self.writer.add_pr_curve(tag, is_positive, scores, epoch)

    def close(self, status: str) -> None:
        """End a completed run in the HPARAMS tab, and close the event file."""
        if status == "completed":
            self._summary(self._session_end)
        self.writer.close()
        self.progress.close()

    def _summary(self, summary: Any) -> None:
        self.writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def _scalars(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, row["epoch"])
