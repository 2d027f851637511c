"""What Runcard adds to Hydra: names of sweep folders, failures as text, and the table after a sweep."""

from __future__ import annotations

import hashlib
import math
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runcard.errors import EXIT_USER_ERROR, UserError

MAX_FOLDER_NAME = 120  # characters; a longer name ends in a hash


class JobReporter(Callback):
    """Shows each failure when it happens; after a sweep, one table of all jobs and, if any failed, exit code 1 or 2."""

    folder: Path | None = None  # of a single run, for train.py: where an interrupt comes before the job starts

    def __init__(self) -> None:
        if not OmegaConf.has_resolver("runcard.folder"):
            OmegaConf.register_resolver("runcard.folder", folder_name)
        self.jobs: list[tuple[str, Path, float | str, float]] = []
        self.exit_code = 0

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Note the folder of a single run, which Hydra makes before it starts the job."""
        JobReporter.folder = relative(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse run_dir, which a sweep would not obey."""
        if any(override.startswith("run_dir=") for override in config.hydra.overrides.task):
            show(UserError("run_dir: a sweep's folders are outputs/<name>/<overrides>. Use name=… instead."))
            raise SystemExit(EXIT_USER_ERROR)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Start the clock; in a sweep, says which job this is."""
        self.started = perf_counter()
        if config.hydra.mode == RunMode.MULTIRUN:
            print(f"\n#{config.hydra.job.num} {' '.join(config.hydra.overrides.task)}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Show a failure at once, and leaves no empty folder behind. A sweep goes on with its other jobs."""
        folder = relative(config.hydra.runtime.output_dir)
        failure = job_return._return_value if job_return.status == JobStatus.FAILED else None
        if isinstance(failure, (KeyboardInterrupt, SystemExit)):  # not of this job: it ends the whole command
            remove_if_empty(folder)
            return
        if failure is not None:
            show(failure)
            remove_if_empty(folder)
            self.exit_code = max(self.exit_code, EXIT_USER_ERROR if isinstance(failure, UserError) else 1)
        if config.hydra.mode != RunMode.MULTIRUN:
            if failure is not None:
                raise SystemExit(self.exit_code)
            return
        outcome = str(failure).partition("\n")[0] if failure is not None else job_return.return_value
        self.jobs.append((" ".join(config.hydra.overrides.task), folder, outcome, perf_counter() - self.started))
        if failure is not None:  # NaN: a sweeper that optimises hears that this point has no value, and goes on
            job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table of the sweep; a sweep of no jobs is an error, not a success.

        Hydra calls this also while an exception ends the sweep, such as a choice without a file: it must get through.
        """
        from rich.console import Console

        from runcard.console import duration, print_table

        ends_by_exception = sys.exc_info()[0] is not None
        if not self.jobs and "BasicLauncher" in config.hydra.launcher._target_:  # others report in their own processes
            sweep = Path(config.hydra.sweep.dir)
            (sweep / "multirun.yaml").unlink(missing_ok=True)
            remove_if_empty(sweep)
            if ends_by_exception:
                return
            show(UserError("the sweep has no jobs: a glob or choice on the command line matches nothing."))
            raise SystemExit(EXIT_USER_ERROR)
        rows = [
            [f"{outcome:.4f}" if isinstance(outcome, float) else f"failed: {outcome}", duration(seconds), str(folder)]
            for _, folder, outcome, seconds in self.jobs
        ]
        print_table(Console(highlight=False), ["best value", "took", "run folder"], rows)
        if self.exit_code and not ends_by_exception:
            raise SystemExit(self.exit_code)


def add_or_override(arguments: Sequence[str]) -> list[str]:
    """Return the command line's arguments with ++ before keys that only some jobs of the sweep may have.

    Before it starts the jobs of -m experiment=a,b dataset.root=x, Hydra composes the config without what is swept, and
    would refuse dataset.root where the default dataset has none. A key that no job has is refused by the job.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    parser, parsed = OverridesParser.create(), {}
    for argument in arguments:
        with suppress(HydraException):  # an option, or a mistake that Hydra tells
            parsed[argument] = parser.parse_override(argument)
    swept = {o.key_or_group for o in parsed.values() if o.is_sweep_override() and "." not in o.key_or_group}

    def unsure(argument: str) -> bool:
        group = parsed[argument].key_or_group.partition(".")[0] if argument in parsed else ""
        return "." in argument.partition("=")[0] and bool(swept & {group, "experiment"}) and group != "hydra"

    return [f"++{argument}" if unsure(argument) and argument[0] not in "+~" else argument for argument in arguments]


def folder_name(overrides: str) -> str:
    """Return a sweep's sub-folder: the job's overrides, . for /; a hash stands for what else is replaced or cut."""
    plain = re.sub(r"(^|,)\+\+", r"\1", overrides).replace("/", ".")
    name = re.sub(r"[^\w.,=+-]+", "_", plain) or "defaults"
    if len(name) <= MAX_FOLDER_NAME and name in (plain, "defaults"):
        return name
    return f"{name[: MAX_FOLDER_NAME - 9]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def show(failure: BaseException) -> None:
    """Print a person's mistake as it is, and our own bug with its traceback, to stderr."""
    sys.stdout.flush()
    if isinstance(failure, UserError):
        print(failure, file=sys.stderr, flush=True)
    else:
        traceback.print_exception(failure)


def relative(folder: str) -> Path:
    """Return folder as a path from here, where it lies below."""
    path = Path(folder)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def remove_if_empty(folder: Path) -> None:
    """Remove folder, and the one above it, where nothing is in them."""
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return
