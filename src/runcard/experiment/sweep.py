"""Sweeps: which jobs are run, by whatever launcher, and the table at the end. Run folders say what became of them.

So the same command again goes on: it skips what is complete, resumes what was interrupted and tries again what failed.
Several commands may do so at once, on several machines too: each takes the runs that nobody holds.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from runcard import interrupts
from runcard.config.hydra_errors import as_message
from runcard.config.sweep import chosen_files, folder_name, relative, remove_if_empty
from runcard.console import print_table
from runcard.errors import EXIT_USER_ERROR, UserError
from runcard.runs.hold import HeldError
from runcard.runs.sweep import (
    LOOK_EVERY_SECONDS,
    MAX_ROWS,
    count,
    forget_failure,
    record_failure,
    record_jobs,
    runs_of,
    state_of,
    state_rows,
)

EVERY_JOB = "No run was started: a sweep's keys must fit each of its jobs. Give those that do not a sweep of their own."
MAX_TRIES = 3  # of a job that another command, or a lost worker, left unfinished


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    overrides: list[str]
    folder: Path
    config: DictConfig  # without Hydra's own part
    choices: dict[str, str]  # the file chosen per config group


class RunSweeper(BasicSweeper):
    """Hydra's sweeper of lists and ranges, which sees by the run folders what is left to do."""

    forced: Collection[str] = ()  # the keys that the command line gives with ++; see config.sweep.sweep_arguments

    def __init__(self, max_batch_size: int | None, retry_failed: bool, params: dict[str, str] | None) -> None:
        super().__init__(max_batch_size, params)
        self.retry_failed = retry_failed
        self.returns: list[JobReturn] = []

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the jobs that the arguments ask for, until each is complete or has failed."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        (combinations,) = self.split_arguments(parsed, None)
        if jobs := self.compose(combinations):
            self.prepare(jobs[0].folder.parent, {job.folder.name: job.overrides for job in jobs})
            SweepReporter.folders = [job.folder for job in jobs]
            _run_jobs(jobs, self.launch, self.retry_failed)
        return self.returns

    def compose(self, combinations: Sequence[Sequence[str]]) -> list[Job]:
        """Return the jobs with these overrides. Raise UserError where one lacks a key, before any is run."""
        assert self.config is not None
        assert self.hydra_context is not None
        loader, jobs = self.hydra_context.config_loader, []
        for each in combinations:
            overrides = [text if text.partition("=")[0] in self.forced else text.removeprefix("++") for text in each]
            try:
                config = loader.load_sweep_config(self.config, overrides)
            except HydraException as error:
                rule = "" if isinstance(error, MissingConfigException) else f"\n{EVERY_JOB}"
                raise UserError(f"{as_message(error, overrides)}{rule}") from None
            folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
            choices = chosen_files(config.hydra.runtime.choices)
            with open_dict(config):
                del config["hydra"]
            jobs.append(Job(overrides, folder, config, choices))
        return jobs

    def prepare(self, folder: Path, jobs: Mapping[str, Sequence[str]]) -> None:
        """Make the sweep's folder, and record its jobs there."""
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        record_jobs(folder, jobs)

    def launch(self, jobs: Sequence[Job]) -> None:
        """Let the launcher run jobs."""
        assert self.launcher is not None
        for batch in self.split_overrides_to_chunks([job.overrides for job in jobs], self.max_batch_size):
            try:
                self.returns.extend(self.launcher.launch(batch, initial_job_idx=len(self.returns)))
            except (UserError, HydraException, OmegaConfBaseException):
                raise
            except Exception as error:  # a worker was lost: killed for its memory, by a cluster's limit
                show(error)  # what becomes of its run is seen by the folder


class SweepReporter(Callback):
    """Shows each failure when it happens; after a sweep, one table of all its runs and, if any failed, an exit code."""

    folder: Path | None = None  # of a single run, for train.py: where an interrupt comes before the job starts
    folders: Sequence[Path] = ()  # of the jobs of a sweep, where RunSweeper knows them
    closing = ""  # what is printed below the table of a sweep

    def __init__(self) -> None:
        if not OmegaConf.has_resolver("runcard.folder"):
            OmegaConf.register_resolver("runcard.folder", folder_name)

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Note the folder of a single run, which Hydra makes before it starts the job."""
        SweepReporter.folder = relative(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse run_dir, which a sweep would not obey."""
        if any(override.startswith("run_dir=") for override in config.hydra.overrides.task):
            show(UserError("run_dir: a sweep's folders are outputs/<name>/<overrides>. Use name=… instead."))
            raise SystemExit(EXIT_USER_ERROR)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """In a sweep, say which job this is."""
        if config.hydra.mode == RunMode.MULTIRUN:
            if interrupts.is_to_stop():
                raise interrupts.StopAfterEpoch
            forget_failure(Path(config.hydra.runtime.output_dir))
            print(f"\n#{config.hydra.job.num} {' '.join(config.hydra.overrides.task)}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Show a failure at once, and leave no empty folder behind. A sweep goes on with its other jobs."""
        folder = relative(config.hydra.runtime.output_dir)
        failure = job_return._return_value if job_return.status == JobStatus.FAILED else None
        if failure is None:
            return
        remove_if_empty(folder)
        if isinstance(failure, (KeyboardInterrupt, SystemExit)):  # not of this job: it ends the whole command
            return
        exit_code = EXIT_USER_ERROR if isinstance(failure, UserError) else 1
        if config.hydra.mode != RunMode.MULTIRUN:
            show(failure)
            raise SystemExit(exit_code)
        if isinstance(failure, HeldError):
            print(failure, flush=True)
        else:
            show(failure)
            record_failure(folder, str(failure), exit_code, "".join(traceback.format_exception(failure)))
        # NaN: a sweeper that optimises hears that this point has no value, and goes on
        job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table of the sweep; a sweep of no jobs is an error, not a success.

        Hydra calls this also while an exception ends the sweep, such as a choice without a file: it must get through.
        """
        ends_by_exception = sys.exc_info()[0] is not None
        states = [state_of(folder) for folder in SweepReporter.folders or runs_of(Path(config.hydra.sweep.dir))]
        if ends_by_exception and all(state.state == "missing" for state in states):  # nothing has begun
            return
        if not states:
            show(UserError("the sweep has no jobs: a glob or choice on the command line matches nothing."))
            raise SystemExit(EXIT_USER_ERROR)
        console = Console(highlight=False, soft_wrap=True, markup=False)
        columns, rows = state_rows(states)
        if rows:
            print_table(console, columns, rows)
        if len(states) > MAX_ROWS:
            console.print(f"{count(states)} (every run: runcard status {relative(config.hydra.sweep.dir)} --all)")
        if SweepReporter.closing:
            console.print(SweepReporter.closing)
        exit_code = max(state.exit_code for state in states)
        if exit_code and not ends_by_exception:
            raise SystemExit(exit_code)


def show(failure: BaseException) -> None:
    """Print a person's mistake as it is, and our own bug with its traceback, to stderr."""
    sys.stdout.flush()
    if isinstance(failure, UserError):
        print(failure, file=sys.stderr, flush=True)
    else:
        traceback.print_exception(failure)


def _run_jobs(jobs: Sequence[Job], launch: Callable[[Sequence[Job]], None], retry_failed: bool) -> None:
    """Launch what is not complete; then wait for what others hold, and take over what they leave unfinished."""
    from runcard.experiment.run import (
        is_completed,  # imports OpenCV, a second
    )

    left = [job for job in jobs if not is_completed(job.config, job.folder, job.choices)]
    if not retry_failed:
        left = [job for job in left if state_of(job.folder).state != "failed"]
    for _ in range(MAX_TRIES):
        if not left:
            return
        launch(left)
        left = [job for job in left if _wait_for(job.folder) in ("interrupted", "missing")]


def _wait_for(folder: Path) -> str:
    """Return the state of a run once no process holds it."""
    while (state := state_of(folder).state) == "running":
        time.sleep(LOOK_EVERY_SECONDS)
    return state
