"""The figures of a run that has a lean record, or of which they were removed: drawn from its best weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from runcard.config.compose import read_saved_config
from runcard.errors import UserError
from runcard.experiment.finalize import explain_validation, positive_title
from runcard.experiment.predictions import PredictionFigures, first_batch
from runcard.experiment.restored import open_data, restored_setup, trusted_config
from runcard.figures.charts import curves_figure
from runcard.fileio import inside, write_figure
from runcard.runs.folders import BEST, file_of, read_metrics
from runcard.runs.reader import read_run
from runcard.training.checkpoint import load_weights
from runcard.training.evaluation import evaluate


def draw_figures(folder: Path, root: Path | None, trust: Sequence[str], console: Console) -> None:
    """Write figures/ and previews/ of a completed run into its folder; root is where its data lie now, if elsewhere.

    Those of predictions are of the best epoch, whose weights a run keeps. Raises UserError where the folder holds no
    completed run with weights, or the data are not those of the run.
    """
    saved = read_saved_config(folder, "runcard figures")
    run, reason = read_run(folder)
    if run is None:
        raise UserError(f"{folder}: {reason}")
    cfg = trusted_config(folder, saved, trust)
    for name in ("figures", "previews"):
        try:
            inside(folder, name)
        except ValueError as error:
            raise UserError(f"{folder}: {error}. Remove that link.") from None
    config, source = open_data(folder, cfg, root)
    setup = restored_setup(run, cfg, config, source, saved.choices)
    rows, best = read_metrics(folder / "metrics.csv"), run.metadata["best"]
    load_weights(file_of(folder, BEST), setup.model)
    val = evaluate(setup.network, setup.loss, setup.metrics, setup.loaders.val)
    write_figure(folder / "figures" / "first_batch.png", first_batch(setup))
    write_figure(folder / "figures" / "curves.png", curves_figure(rows, best["monitor"], positive_title(setup.data)))
    PredictionFigures(setup).write(folder, val, f"best epoch ({best['epoch']})")
    _, maps = explain_validation(setup, console)
    if maps:
        write_figure(folder / "figures" / "activation_maps.png", maps)
