"""Build again, of its saved config, what a completed run was trained with. The folder may be another person's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runcard.config.compose import SavedConfig
from runcard.config.saved import HARMLESS
from runcard.config.schema import Config, check_recorded, parse_config, to_plain
from runcard.data.datamodule import open_source
from runcard.data.source import Source
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.experiment.setup import ExperimentSetup, make_setup
from runcard.runs.run import Run


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
