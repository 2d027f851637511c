"""One run. All that can be checked without torch, which takes seconds to import, is checked before it is imported."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from runcard.audit.findings import check_allowed
from runcard.config.diff import UNKNOWN, flatten
from runcard.config.schema import Config, parse_config
from runcard.config.sweep import remove_if_empty
from runcard.console import plain_console
from runcard.data.datamodule import open_source
from runcard.data.source import Source
from runcard.errors import UserError
from runcard.experiment.launch import follow, launched_place, leading
from runcard.experiment.recorded import is_run_of, report_recorded
from runcard.fileio import NOT_USABLE, cannot_write, sha256, write_json
from runcard.runs.hold import Hold
from runcard.runs.reader import weights_file
from runcard.runs.search import chosen_by
from runcard.runs.writer import recorded_run

if TYPE_CHECKING:
    from optuna.trial import Trial


def run(
    cfg: DictConfig, folder: Path, overrides: Sequence[str], choices: dict[str, str], trial: Trial | None = None
) -> float:
    """Run a composed config in folder and return its best monitored value, which is what a sweep optimises.

    A folder that holds the same config goes on where it stopped; a completed one gives its recorded value. overrides
    are recorded beside the config; choices names the file chosen per config group, for messages; trial is that of a
    search which may stop the run, and it returns NaN then. Raises UserError, and HeldError where another process runs
    in the folder.
    """
    place = launched_place(OmegaConf.select(cfg, "train.devices", throw_on_resolution_failure=False))
    if place and place[0] > 0:
        remove_if_empty(folder)  # Hydra made it; the first rank has the record
        return follow(place, cfg, choices)
    console = plain_console()
    config, source, recorded = _recorded(cfg, folder, choices)
    if recorded and place is None:
        return report_recorded(folder, recorded, console)

    try:
        hold = Hold.take(folder)
        try:
            with leading(place, cfg, choices, config.train.devices) as ranks:
                from runcard.experiment.session import train_experiment  # imports torch

                return train_experiment(cfg, config, source, hold, overrides, choices, console, trial, ranks)
        finally:
            hold.release()
    except OSError as error:
        if message := cannot_write(folder, error, NOT_USABLE):
            raise UserError(message) from None
        raise


def is_completed(cfg: DictConfig, folder: Path, choices: dict[str, str]) -> bool:
    """Whether folder certainly holds this config's run on the same data, completed; print its value then."""
    with suppress(UserError):  # which the run itself reports
        _, _, recorded = _recorded(cfg.copy(), folder, choices)
        if recorded:
            report_recorded(folder, recorded, plain_console())
            return True
    return False


def _recorded(cfg: DictConfig, folder: Path, choices: dict[str, str]) -> tuple[Config, Source, dict[str, Any]]:
    """Return the parsed config, its dataset, and the record in folder where that is certainly this run's, completed."""
    config, plain = parse_config(cfg)
    check_allowed(config.audit.allow)
    source = open_source(config.dataset, config.trust, choices.get("dataset"))
    unknown = [key for key, value in flatten(plain).items() if UNKNOWN in str(value)]
    if config.train.init_from:
        weights = weights_file(config.train.init_from)
        if (folder / "run.json").exists():  # else the setup alone hashes the file
            plain["init_sha256"] = sha256(weights)
    recorded = recorded_run(folder, plain, choices, [*unknown, "weights_sha256"], config.overwrite)
    done = recorded.get("status") == "completed" and is_run_of(recorded, source, folder)
    if done and config.chosen_by and not recorded.get("search"):  # named only now
        recorded["search"] = chosen_by(config.chosen_by)
        write_json(folder / "run.json", recorded)
    return config, source, recorded if done else {}
