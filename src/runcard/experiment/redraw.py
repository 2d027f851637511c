"""The figures of a run that has a lean record, or of which they were removed: drawn from its best weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from runcard.config.compose import read_saved_config
from runcard.config.saved import HARMLESS
from runcard.config.schema import check_recorded, parse_config, to_plain
from runcard.data.datamodule import open_source
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.experiment.finalize import explain_validation, positive_title
from runcard.experiment.predictions import PredictionFigures, first_batch
from runcard.experiment.setup import make_setup
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
    cfg = saved.config
    cfg.trust = list(trust)  # a config read from a run folder trusts nobody by itself
    if root:
        if OmegaConf.select(cfg, "dataset.root") is None:
            raise UserError(f"--root: the data of {folder} are not files ({cfg.dataset._target_}).")
        cfg.dataset.root = str(root)
    check_recorded(to_plain(cfg, resolve=False), trust, str(folder), HARMLESS)
    config, _ = parse_config(cfg, f"{folder}: ")
    for name in ("figures", "previews"):
        try:
            inside(folder, name)
        except ValueError as error:
            raise UserError(f"{folder}: {error}. Remove that link.") from None
    setup = make_setup(cfg, config, open_source(config.dataset, config.trust), saved.choices, begins=False)
    samples, rows, best = setup.data.samples, read_metrics(folder / "metrics.csv"), run.metadata["best"]
    if data_fingerprint(setup.data.split, samples.ids, samples.digests) != run.metadata["data"]:
        raise UserError(f"{folder}: the images are not those it was made of. Name their folder: --root …")
    load_weights(file_of(folder, BEST), setup.model)
    val = evaluate(setup.network, setup.loss, setup.metrics, setup.loaders.val)
    write_figure(folder / "figures" / "first_batch.png", first_batch(setup))
    write_figure(folder / "figures" / "curves.png", curves_figure(rows, best["monitor"], positive_title(setup.data)))
    PredictionFigures(setup).write(folder, val, f"best epoch ({best['epoch']})")
    _, maps = explain_validation(setup, console)
    if maps:
        write_figure(folder / "figures" / "activation_maps.png", maps)
