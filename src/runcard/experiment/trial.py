"""A trial of a search, where it runs: Optuna hears of each epoch in it, and may stop it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.utils import instantiate
from omegaconf import DictConfig

from runcard.errors import UserError, how_to_install

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial, Trial

    from runcard.training.types import Evaluation, Logger

Direction = Literal["minimize", "maximize"]
JOURNAL = "search.journal"
RUN = "run"  # the attribute of a trial with the name of its run folder


class Pruned(Exception):  # noqa: N818
    """Optuna stops this trial."""


class PruningLogger:
    """Passes everything on to another logger, and lets Optuna stop the trial after an evaluated epoch, not the last."""

    def __init__(self, logger: Logger, trial: Trial, monitor: str, num_epochs: int) -> None:
        self.logger, self.trial, self.monitor, self.num_epochs = logger, trial, monitor, num_epochs

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Pass on one optimizer step."""
        self.logger.step(epoch, step, num_images, loss)

    def epoch(self, row: dict[str, Any], val: Evaluation | None, is_best: bool) -> None:
        """Pass on one finished epoch, and tell Optuna its value. Raise Pruned where Optuna stops the trial."""
        self.logger.epoch(row, val, is_best)
        if val is None:
            return
        import optuna

        epoch, value = row["epoch"], row[self.monitor]
        try:
            self.trial.report(value, epoch)
        except optuna.exceptions.UpdateFinishedTrialError:  # Optuna knew its end before, such as a failure
            return
        if epoch < self.num_epochs and self.trial.should_prune():
            raise Pruned(f"the search stopped it after epoch {epoch}/{self.num_epochs}, {self.monitor} {value:.4f}")


def find_trial(folder: Path, pruner: DictConfig | None) -> Trial | None:
    """Return the last trial whose run folder this is, ended or not; None where no search has asked for this run."""
    if not (folder.parent / JOURNAL).exists():
        return None
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(how_to_install(error)) from None

    found = None
    for name in optuna.get_all_study_names(open_journal(folder.parent)):
        study = open_study(folder.parent, name, pruner)
        for trial in study.trials:
            if trial.user_attrs.get(RUN) == folder.name:
                found = writable(study, trial)
    return found


def open_study(folder: Path, name: str, pruner: DictConfig | None = None, direction: Direction | None = None) -> Study:
    """Open the study of this name in the journal of a folder; begin it, where a direction is given."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage, rule = open_journal(folder), instantiate(pruner) if pruner else optuna.pruners.NopPruner()
    if direction is None:
        return optuna.load_study(study_name=name, storage=storage, pruner=rule)
    return optuna.create_study(study_name=name, storage=storage, pruner=rule, direction=direction, load_if_exists=True)


def open_journal(folder: Path) -> JournalStorage:
    """Open the journal of a folder, which several processes may write, on network drives too."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

    path = str(folder / JOURNAL)
    lock = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
    return JournalStorage(JournalFileBackend(path, lock_obj=lock(path)))


def writable(study: Study, trial: FrozenTrial | Trial) -> Trial:
    """Return a trial such that it can be written."""
    from optuna.trial import Trial

    return trial if isinstance(trial, Trial) else Trial(study, trial._trial_id)
