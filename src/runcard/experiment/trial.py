"""A trial of a search, where it runs: Optuna hears of each epoch in it, and may stop it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.utils import instantiate
from omegaconf import DictConfig

from runcard.errors import UserError, how_to_install

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial, Trial

Direction = Literal["minimize", "maximize"]
JOURNAL = "search.journal"
RUN = "run"  # the attribute of a trial with the name of its run folder


class Pruned(Exception):  # noqa: N818
    """Optuna stops this trial."""


def report_epoch(trial: Trial, row: Mapping[str, Any], monitor: str, num_epochs: int) -> None:
    """Tell Optuna the value of an evaluated epoch. Raise Pruned where it stops the trial, but after the last epoch."""
    import optuna

    epoch, value = row["epoch"], row[monitor]
    try:
        trial.report(value, epoch)
    except optuna.exceptions.UpdateFinishedTrialError:  # Optuna knew its end before, such as a failure
        return
    if epoch < num_epochs and trial.should_prune():
        raise Pruned(f"the search stopped it after epoch {epoch}/{num_epochs}, {monitor} {value:.4f}")


def find_trial(folder: Path, pruner: DictConfig | None) -> Trial | None:
    """Return the last trial whose run folder this is, ended or not; None where no search has asked for this run."""
    if not (folder.parent / JOURNAL).exists():
        return None
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(how_to_install(error)) from None

    names = optuna.get_all_study_names(open_journal(folder.parent))
    studies = [open_study(folder.parent, name, pruner) for name in names]
    found = [(study, each) for study in studies for each in study.trials if each.user_attrs.get(RUN) == folder.name]
    return writable(*found[-1]) if found else None


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
