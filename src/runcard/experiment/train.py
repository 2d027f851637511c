"""What `runcard train` does with the command line, except for --help: Hydra composes configs, and each is run."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import execution_whitelist
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runcard import interrupts
from runcard.config.compose import extended_config, read_saved_config
from runcard.config.hydra_errors import as_message, is_hydras
from runcard.config.project import CONF
from runcard.config.search_path import use_project
from runcard.config.sweep import chosen_files, relative, remove_if_empty, sweep_arguments
from runcard.errors import EXIT_USER_ERROR, UserError
from runcard.experiment.plugins import TRUSTED_BY_HYDRA, use_plugins
from runcard.experiment.sweep import RunSweeper, SweepReporter
from runcard.experiment.trial import find_trial
from runcard.interrupts import unmasked
from runcard.runs.search import search_behind

# Python's 700 would search a million objects of the libraries again and again while these are imported: half a second.
NUM_OBJECTS_BETWEEN_COLLECTIONS = 10_000


def main() -> None:
    """Run the configs that the command line composes; see docs/reference/exit-codes.md for its exit codes."""
    gc.set_threshold(NUM_OBJECTS_BETWEEN_COLLECTIONS)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here, not to Hydra's own printer
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic only with it, and reads it only once
    try:
        with interrupts.watching(), unmasked():
            _run_arguments()
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if not is_hydras(error):
            raise  # a bug of ours
        print(as_message(error, sys.argv[1:]), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:  # Hydra makes the run folder, before any code of ours runs
        where = error.filename or "run_dir"
        print(f"{where}: cannot be made: {error.strerror}. Use another run_dir=…", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt as stop:
        if SweepReporter.folder:  # Hydra made the folder, and no line of run_composed had run
            remove_if_empty(SweepReporter.folder)
        sys.exit(interrupts.exit_code(stop))  # what to do next was said where it is known, in session.py


def _run_arguments() -> None:
    RunSweeper.forced = [each.partition("=")[0] for each in sys.argv[1:] if each.startswith("++")]
    sys.argv[1:] = sweep_arguments(sys.argv[1:])
    if "TORCHELASTIC_RUN_ID" in os.environ and {"-m", "--multirun"} & set(sys.argv):
        raise UserError("torchrun trains one run. For a sweep: runcard train -m train.devices=…, without torchrun.")
    launcher = next((each for each in sys.argv if each.startswith("hydra/launcher=")), "")
    if launcher and not {"-m", "--multirun", "-c", "--cfg"} & set(sys.argv):
        raise UserError(f"{launcher}: a launcher starts the runs of a sweep; this is none. Add -m, or leave it out.")
    use_project()
    use_plugins(sys.argv[1:])
    with execution_whitelist([*TRUSTED_BY_HYDRA]):
        run_composed()


@hydra.main(config_path=str(CONF), config_name="config")
def run_composed(cfg: DictConfig) -> float:
    """Run a composed config in the folder that Hydra chose."""
    job = HydraConfig.get()
    folder = relative(job.runtime.output_dir)
    choices = chosen_files(job.runtime.choices)
    overrides: Any = OmegaConf.to_container(job.overrides.task, resolve=False)
    try:
        saved = None
        main_source = next(source for source in job.runtime.config_sources if source.provider == "main")
        if Path(main_source.path).name == ".hydra":  # make rerun: a saved config
            again = read_saved_config(Path(main_source.path).parent, "RUN")
            choices = again.choices
            if not any(override.startswith("trust=") for override in overrides):
                cfg.trust = []  # a config read from a run folder trusts nobody by itself
            if not any(override.lstrip("+").startswith("logger.") for override in overrides):
                from runcard.config.schema import TENSORBOARD

                OmegaConf.update(cfg, "logger", TENSORBOARD, merge=False, force_add=True)  # nor where a run is shown
            overrides = [*again.overrides, *overrides]
        elif isinstance(OmegaConf.select(cfg, "train.extend"), str):
            saved = extended_config(cfg, overrides)
        if saved:
            cfg, choices, overrides = saved.config, saved.choices, saved.overrides
        _keep_mark_of_search(cfg, Path(main_source.path).parent)
        from runcard.experiment.run import run

        trial = find_trial(folder, job.sweeper.get("pruner")) if job.mode == RunMode.MULTIRUN else None
        with unmasked():
            return run(cfg, folder, overrides, choices, trial)
    except KeyboardInterrupt:
        remove_if_empty(folder)
        raise


def _keep_mark_of_search(cfg: DictConfig, rerun: Path) -> None:
    """Let a run that begins with what another has, by rerun, train.extend or train.init_from, record its search too."""
    origins = [
        rerun,
        *(
            Path(each)
            for key in ("extend", "init_from")
            if isinstance(each := OmegaConf.select(cfg, f"train.{key}"), str)
        ),
    ]
    if not OmegaConf.select(cfg, "chosen_by") and (behind := next(filter(None, map(search_behind, origins)), None)):
        OmegaConf.update(cfg, "chosen_by", behind, force_add=True)
