"""Loggers that show runs in Weights & Biases, Trackio and MLflow. Their packages are imported when a run begins.

A run that is resumed is shown as a new one there, with all its epochs. Figures are shown only where the config asks
for them: they show images of the data, and these services may be on another machine.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from runcard.errors import UserError, check_choice, check_flag
from runcard.loggers.run import Tracker, hyperparameters
from runcard.runs.folders import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class WandbLogger(Tracker):
    """Weights & Biases. mode: offline | online; entity: a team, or None for the user's own account."""

    package = "wandb"

    def __init__(self, project: str, entity: str | None, mode: str, figures: bool) -> None:
        _check_installed(self.package)
        mode = check_choice("mode", mode, ("offline", "online"))
        self.options: dict[str, Any] = {"project": project, "entity": entity, "mode": mode, "dir": "outputs"}
        self.options |= {"settings": {"console": "off", "silent": True}, "reinit": "create_new"}
        self.has_figures = check_flag("figures", figures)

    def start(self, folder: Path, run: Mapping[str, Any], config: str, monitor: str, rows: Sequence[Row]) -> None:  # noqa: ARG002
        """Begin a run with the values of its config."""
        library = import_module(self.package)
        self.image = library.Image
        self.run = library.init(**self.options, name=str(folder), config=hyperparameters(run))
        for row in rows:
            self.row(row)

    def row(self, row: Row) -> None:
        """Show the row of one finished epoch."""
        self.run.log(_values(row), step=row["epoch"])

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Show a figure, where figures are asked for."""
        if self.has_figures:
            self.run.log({tag: self.image(Image.open(_png(figure)))}, step=epoch)

    def close(self, status: str) -> None:
        """End the run."""
        self.run.finish(exit_code=int(status != "completed"))


class TrackioLogger(WandbLogger):
    """Trackio, which has the calls of Weights & Biases and keeps runs on this machine."""

    package = "trackio"

    def __init__(self, project: str, figures: bool) -> None:
        super().__init__(project, None, "offline", figures)
        self.options = {"project": project, "embed": False}

    def close(self, status: str) -> None:  # noqa: ARG002
        """End the run."""
        self.run.finish()


class MlflowLogger(Tracker):
    """MLflow. tracking_uri: a database, sqlite:///outputs/mlflow.db, or a server, http://…"""

    def __init__(self, experiment: str, tracking_uri: str, figures: bool) -> None:
        _check_installed("mlflow")
        self.experiment, self.tracking_uri = experiment, tracking_uri
        self.has_figures = check_flag("figures", figures)

    def start(self, folder: Path, run: Mapping[str, Any], config: str, monitor: str, rows: Sequence[Row]) -> None:  # noqa: ARG002
        """Begin a run with the values of its config."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient(self.tracking_uri)
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment)
        self.id = self.client.create_run(experiment, run_name=str(folder)).info.run_id
        params = [Param(key, str(value)) for key, value in hyperparameters(run).items()]
        self.client.log_batch(self.id, params=params)
        for row in rows:
            self.row(row)

    def row(self, row: Row) -> None:
        """Show the row of one finished epoch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, row["epoch"]) for key, value in _values(row).items()]
        self.client.log_batch(self.id, metrics=metrics)

    def figure(self, tag: str, figure: Figure, epoch: int) -> None:
        """Keep a figure among the run's artifacts, where figures are asked for."""
        if self.has_figures:
            self.client.log_image(self.id, Image.open(_png(figure)), f"{tag}/{epoch:04}.png")

    def close(self, status: str) -> None:
        """End the run."""
        self.client.set_terminated(self.id, "FINISHED" if status == "completed" else "KILLED")


def _check_installed(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"logger.{package}: the package {package} is not installed: pip install {package}")


def _values(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "epoch" and value is not None}


def _png(figure: Figure) -> io.BytesIO:
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png
