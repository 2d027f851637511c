"""Progress on the terminal: a live bar for the current epoch, and a line per finished epoch.

If the output is not a terminal (a log file, a cluster), a line every train.log_every_steps replaces the bar.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from runcard.config.schema import TrainConfig
from runcard.console import duration


class Progress:
    """The progress display of a training. monitor is the metric shown for every epoch."""

    def __init__(self, console: Console, train: TrainConfig, num_batches: int, monitor: str) -> None:
        self.console = console
        self.num_epochs = train.epochs
        self.steps_per_epoch = math.ceil(num_batches / train.accumulate_steps)
        self.log_every_steps = train.log_every_steps
        self.monitor = monitor
        self.started, self.epochs_done, self.metric = perf_counter(), 0, ""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[metric]}  {task.fields[rate]:.1f} images/s"),
            TimeRemainingColumn(compact=True),
        )
        self.bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("", total=self.steps_per_epoch, loss=0.0, metric="", rate=0.0)
        self.bar.start()

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Show that step `step` of the epoch, over num_images images, is done."""
        title = f"epoch {epoch}/{self.num_epochs}"
        if step == 1:
            self.epoch_started, self.images = perf_counter(), 0
            self.bar.reset(self.task, description=title)
        self.images += num_images
        if self.console.is_terminal:
            elapsed = perf_counter() - self.epoch_started
            rate = (self.images - num_images) / elapsed if step > 1 else 0.0
            self.bar.update(self.task, advance=1, loss=loss, metric=self.metric, rate=rate)
        elif step % self.log_every_steps == 0:
            print(f"{title}  step {step}/{self.steps_per_epoch}  loss {loss:.4f}", file=self.console.file, flush=True)

    def epoch(self, row: dict[str, Any], is_best: bool) -> None:
        """Print the line of one finished epoch; a star marks the best so far."""
        self.epochs_done += 1
        values = f"train/loss {row['train/loss']:.4f}  "
        if row["val/loss"] is not None:  # else this epoch is not evaluated: see train.eval_every
            self.metric = f"{self.monitor} {row[self.monitor]:.4f}"
            values += f"val/loss {row['val/loss']:.4f}  {self.metric}{'*' if is_best else ' '}  "
        seconds = (perf_counter() - self.started) / self.epochs_done * (self.num_epochs - row["epoch"])
        self.console.print(
            f"epoch {row['epoch']:>{len(str(self.num_epochs))}}/{self.num_epochs}  "
            f"{values}{row['images_per_second']:.1f} images/s  {duration(seconds)} left",
            highlight=False,
            soft_wrap=True,
        )
        self.console.file.flush()

    def close(self) -> None:
        """Remove the bar from the screen."""
        self.bar.stop()
