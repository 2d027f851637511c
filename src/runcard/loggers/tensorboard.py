"""The only SummaryWriter of the project: for TensorBoard, of one run and, by loggers/arms.py, of several."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from runcard.errors import UserError
from runcard.loggers.run import Tracker, hyperparameters
from runcard.runs.folders import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYSTEM = "z_system"  # TensorBoard sorts the groups of tags by name: after train, train_eval and val
Curve = Mapping[int, float]  # epoch -> value


class TensorBoardLogger(Tracker):
    """The event file in a run's folder."""

    def start(self, folder: Path, run: Mapping[str, Any], config: str, monitor: str, rows: Sequence[Row]) -> None:
        """Log the config as text, and start the run in the HPARAMS tab with every value of its config."""
        is_new = not any(folder.glob("events.out.tfevents.*"))  # then rows are another run's (train.extend), if any
        threading.excepthook = _report
        self.writer = SummaryWriter(str(folder), purge_step=rows[-1]["epoch"] + 1 if rows else 0)
        for row in rows if is_new else ():
            self.row(row)
        self.writer.add_text("config", f"```yaml\n{config}\n```")
        self.writer.add_custom_scalars(_charts(monitor))
        # The experiment tag that add_hparams also writes is left out: with it, TensorBoard would show only the columns
        # of one run. Session start and end alone combine runs with different keys.
        _, session_start, session_end = hparams(hyperparameters(run), {})  # type: ignore[no-untyped-call]
        self._session_end = session_end
        self._summary(session_start)

    def row(self, row: Row) -> None:
        """Write the row of one finished epoch."""
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(tag_of(name), value, row["epoch"])
        self.writer.flush()

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Show a figure in the IMAGES tab."""
        self.writer.add_figure(tag, figure, epoch)
        self.writer.flush()

    def pr_curve(self, tag: str, is_positive: np.ndarray, scores: np.ndarray, epoch: int) -> None:
        """Show a precision-recall curve in the PR CURVES tab."""
        self.writer.add_pr_curve(tag, is_positive, scores, epoch)

    def close(self, status: str) -> None:
        """End a completed run in the HPARAMS tab, and close the event file."""
        if status == "completed":
            self._summary(self._session_end)
        self.writer.close()

    def _summary(self, summary: Any) -> None:
        self.writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]


def _report(error: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, but not of the writer's own: flush() raises that again, and it becomes a message."""
    if not (isinstance(error.exc_value, OSError) and type(error.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(error)


def tag_of(column: str) -> str:
    """Return the tag under which TensorBoard shows a column of metrics.csv: lr, seconds and the like come last."""
    return column if "/" in column else f"{SYSTEM}/{column}"


def write_curves(folder: Path, curves: Mapping[str, Curve]) -> None:
    """Write curves, by column of metrics.csv, as one entry of TensorBoard: the event file of a folder."""
    with SummaryWriter(str(folder)) as writer:
        for epoch in sorted(set().union(*curves.values())):
            row = {tag_of(column): values[epoch] for column, values in curves.items() if epoch in values}
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in row.items()])
            writer._get_file_writer().add_summary(summary, epoch)  # one event per epoch: far faster than one per value


def write_hparams(folder: Path, monitors: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> None:
    """Write what HPARAMS and CUSTOM SCALARS show of all runs together, given the content of each run.json.

    monitors (val/dice) are the only metrics of HPARAMS. TensorBoard takes this from any of its entries, but from one
    only: where several sweeps are shown together, each with its own, all but one are lost.
    """
    with SummaryWriter(str(folder)) as writer:
        writer.add_custom_scalars(_charts(*monitors))
        writer._get_file_writer().add_summary(_experiment(runs, monitors))


def serve(logdir: Path, port: int | None = None) -> str:
    """Start TensorBoard on a log folder, and return its address. It ends with this process.

    port: None for 6006, or the next free one. Raises UserError where the port is taken.
    """
    from tensorboard.program import TensorBoard, TensorBoardServerException  # a web server, which no training needs

    board = TensorBoard()
    board.configure(argv=("", "--logdir", str(logdir), *(["--port", str(port)] if port is not None else [])))
    try:
        return str(board.launch())
    except TensorBoardServerException as error:
        raise UserError(f"--port: {error}") from None


def _charts(*monitors: str) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Lay out CUSTOM SCALARS: training and validation in one chart, monitored metrics (val/dice) beside the loss.

    A tag is a regular expression that matches the beginning: dice is not to match dice_pooled.
    """
    tags = {"loss": ["train/loss", "train_eval/loss", "val/loss"]}
    for metric in (monitor.partition("/")[2] for monitor in monitors):
        tags.setdefault(metric, [f"train_eval/{metric}", f"val/{metric}"])
    return {"training and validation": {k: ("Multiline", [f"{re.escape(t)}$" for t in v]) for k, v in tags.items()}}


def _experiment(runs: Sequence[Mapping[str, Any]], monitors: Sequence[str]) -> Summary:
    """Describe the columns of HPARAMS. TensorBoard shows those that differ first, then all by name."""
    values: dict[str, list[bool | int | float | str]] = {}
    for run in runs:
        for key, value in hyperparameters(run).items():
            values.setdefault(key, []).append(value)
    experiment = api_pb2.Experiment(
        hparam_infos=[_column(key, of_runs) for key, of_runs in values.items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in dict.fromkeys(monitors)],
    )
    content = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(experiment=experiment))
    value = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=content, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def _column(name: str, values: Sequence[bool | int | float | str]) -> api_pb2.HParamInfo:
    """Describe a column of HPARAMS: its type, the values to filter by, and whether runs that have it differ in it."""
    info = api_pb2.HParamInfo(name=name, differs=len(set(values)) > 1)
    numbers = [value for value in values if not isinstance(value, str)]  # torch writes true as the number 1
    if len(numbers) == len(values):
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = min(numbers), max(numbers)
        return info
    info.type = api_pb2.DATA_TYPE_STRING
    if not numbers:  # else null in some runs: TensorBoard filters them by a regular expression
        info.domain_discrete.extend(sorted({str(value) for value in values}))
    return info
