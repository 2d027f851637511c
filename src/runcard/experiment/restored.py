"""Build again, of its saved config, what a completed run was trained with, and draw its figures from its weights.

The folder may be another person's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from runcard.config.compose import SavedConfig, read_saved_config
from runcard.config.saved import HARMLESS
from runcard.config.schema import Config, check_recorded, parse_config, to_plain
from runcard.data.datamodule import open_source
from runcard.data.source import Source
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.experiment.finalize import explain_validation, positive_title
from runcard.experiment.predictions import PredictionFigures, first_batch
from runcard.experiment.setup import ExperimentSetup, make_setup
from runcard.figures.charts import curves_figure
from runcard.fileio import write_figure
from runcard.runs.folders import BEST, file_of, place_in, read_metrics
from runcard.runs.reader import read_run
from runcard.runs.run import Run
from runcard.training.checkpoint import load_weights
from runcard.training.evaluation import evaluate


def trusted_config(folder: Path, saved: SavedConfig, trust: Sequence[str]) -> DictConfig:
    """Return the saved config of a folder, which trusts nobody but trust. Raises UserError where it names others."""
    cfg = saved.config
    cfg.trust = list(trust)
    check_recorded(to_plain(cfg, resolve=False), trust, str(folder), HARMLESS)
    return cfg


def open_data(folder: Path, cfg: DictConfig, root: Path | None) -> tuple[Config, Source]:
    """Parse a saved config and find its images; root is where they lie now, if elsewhere. Raises UserError."""
    if root:
        if OmegaConf.select(cfg, "dataset.root") is None:
            raise UserError(f"--root: the data of {folder} are not files ({cfg.dataset._target_}).")
        cfg.dataset.root = str(root)
    config, _ = parse_config(cfg, f"{folder}: ")
    return config, open_source(config.dataset, config.trust)


def restored_setup(
    run: Run, cfg: DictConfig, config: Config, source: Source, choices: dict[str, str], begins: bool = False
) -> ExperimentSetup:
    """Build what the run was trained with; begins says whether with the weights that its training began with.

    Raises UserError where the images are not those of the run.
    """
    setup = make_setup(cfg, config, source, choices, begins=begins)
    samples = setup.data.samples
    if data_fingerprint(setup.data.split, samples.ids, samples.digests) != run.metadata["data"]:
        raise UserError(f"{run.folder}: the images are not those it was made of. Name their folder: --root …")
    return setup


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
        place_in(folder, name)
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
