"""What has become of the runs of a sweep or a study, read from their folders: whoever started them, and wherever."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from natsort import natsorted

from runcard.console import duration
from runcard.fileio import inside, read_json, write_json
from runcard.runs.folders import is_run, lost_files, read_metadata, read_metrics, walk
from runcard.runs.hold import HERE, Holder, holder_of

JOBS = "sweep.json"  # in a sweep's folder: its jobs, so that those that have not begun are known too
FAILURES = ".failed"  # in a sweep's folder: a file for each job whose last try failed
LOOK_EVERY_SECONDS = 2.0  # at runs that another process holds
NUM_EPOCHS_TIMED = 3  # the last ones, from which the time left is estimated
MAX_ROWS = 40  # of a table of runs; of more runs, only those that are not done are shown
MAX_OF_STATE = 10  # and of these so many of each state

COLUMNS = ["best value", "took", "run folder"]

State = Literal["done", "pruned", "running", "interrupted", "failed", "missing"]


@dataclass(frozen=True)
class RunState:
    """What a run folder says about its run."""

    folder: Path
    state: State
    detail: str  # "val/dice 0.9132 (epoch 10)", or "node7, process 4711, epoch 3/10, 2:10 min left", or the error
    value: float | None = None  # the best of the monitored metric, of a run that is done
    seconds: float | None = None  # of training, of a run that is done
    exit_code: int = 1  # that a command ends with because of this run; 0 where it is done

    @property
    def is_final(self) -> bool:
        """Whether the run waits for nobody: it is done, or was stopped by a search, or has failed."""
        return self.state in ("done", "pruned", "failed")


def state_of(folder: Path) -> RunState:
    """Read the state of the run in a folder; a damaged record is a failure."""
    try:
        metadata = read_metadata(folder) if (folder / "run.json").exists() else {}
        return _state(folder, metadata)
    except (OSError, LookupError, TypeError, ValueError) as error:
        return RunState(folder, "failed", f"run.json or metrics.csv is damaged ({error})")


def _state(folder: Path, metadata: Mapping[str, Any]) -> RunState:
    status = metadata.get("status")
    if status == "completed":
        if lost := lost_files(folder):
            return RunState(folder, "failed", f"completed, but without {lost}")
        best, seconds = metadata["best"], metadata["seconds"]["total"]
        shown = f"{best['monitor']} {best['value']:.4f} (epoch {best['epoch']})"
        return RunState(folder, "done", shown, best["value"], seconds, exit_code=0)
    if holder := holder_of(folder):
        return RunState(folder, "running", _progress(folder, holder, metadata))
    if status == "pruned":
        return RunState(folder, "pruned", str(metadata["error"]), exit_code=0)
    if failure := _failure(folder):
        return RunState(folder, "failed", failure["error"].partition("\n")[0], exit_code=failure["exit_code"])
    if status == "failed":
        return RunState(folder, "failed", str(metadata["error"]).partition("\n")[0])
    if not metadata:
        return RunState(folder, "missing", "")
    epochs = len(read_metrics(inside(folder, "metrics.csv")))
    return RunState(folder, "interrupted", f"after epoch {epochs}/{_num_epochs(metadata)}")


def state_rows(states: Sequence[RunState], show_all: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the table of a sweep: of many runs only those not done, some of each state."""
    if show_all or len(states) <= MAX_ROWS:
        return COLUMNS, [_row(run) for run in states]
    rows = []
    unfinished: tuple[State, ...] = ("running", "failed", "interrupted", "missing")
    for state in unfinished:
        here = [run for run in states if run.state == state]
        rows += [_row(run) for run in here[:MAX_OF_STATE]]
        rows += [[f"and {len(here) - MAX_OF_STATE:,} more {state}", "", ""]] * (len(here) > MAX_OF_STATE)
    return COLUMNS, rows


def _row(run: RunState) -> list[str]:
    what = f"{run.value:.4f}" if run.value is not None else ": ".join(filter(None, [run.state, run.detail]))
    return [what, "" if run.seconds is None else duration(run.seconds), str(run.folder)]


def record_failure(folder: Path, error: str, exit_code: int, trace: str) -> None:
    """Record why a job of a sweep failed, which may be before it had a run folder; trace is for its developer."""
    content = {"error": error, "exit_code": exit_code, "host": HERE, "trace": trace.splitlines()}
    write_json(_failure_file(folder), content)


def forget_failure(folder: Path) -> None:
    """Remove the record of a failure, of a job that is tried again."""
    _failure_file(folder).unlink(missing_ok=True)


def _failure(folder: Path) -> dict[str, Any]:
    try:
        failure = read_json(folder.parent, f"{FAILURES}/{folder.name}.json")
        return {"error": str(failure["error"]), "exit_code": int(failure["exit_code"])}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _failure_file(folder: Path) -> Path:
    return folder.parent / FAILURES / f"{folder.name}.json"


def record_jobs(sweep: Path, jobs: Mapping[str, Sequence[str]]) -> None:
    """Add jobs, the overrides of each by the name of its folder, to those of a sweep."""
    with FileLock(sweep / f".{JOBS}.lock"):  # several commands may share the sweep
        known = read_jobs(sweep)
        if jobs.keys() - known.keys():
            write_json(sweep / JOBS, {"jobs": {**known, **jobs}})


def read_jobs(sweep: Path) -> dict[str, list[str]]:
    """Read the jobs of a sweep, the overrides of each by the name of its folder; none where none are recorded."""
    try:
        jobs: dict[str, list[str]] = dict(read_json(sweep, JOBS)["jobs"])
        for name in jobs:
            inside(sweep, name)
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return jobs


def runs_of(folder: Path) -> list[Path]:
    """Return the folders of all runs in or below a folder: those there are, and those that its sweeps are to make."""
    found: set[Path] = set()
    for each, files in walk(folder):
        if is_run(folder, each, files):
            found.add(each)
        if JOBS in files:
            found.update(each / name for name in read_jobs(each))
    return natsorted(found, key=str)


def count(states: Iterable[RunState]) -> str:
    """Format "7 done, 2 running, 1 failed"."""
    order: tuple[State, ...] = ("done", "pruned", "running", "interrupted", "failed", "missing")
    each = [run.state for run in states]
    return ", ".join(f"{each.count(state):,} {state}" for state in order if state in each)


def _progress(folder: Path, holder: Holder, metadata: Mapping[str, Any]) -> str:
    if metadata.get("status") != "running":
        return f"{holder}, preparing"
    rows, num_epochs = read_metrics(inside(folder, "metrics.csv")), _num_epochs(metadata)
    epoch = f"{holder}, epoch {min(len(rows) + 1, num_epochs)}/{num_epochs}"
    if not rows:
        return epoch
    timed = [row["seconds"] for row in rows[-NUM_EPOCHS_TIMED:]]
    since = time.time() - (folder / "metrics.csv").stat().st_mtime
    left = sum(timed) / len(timed) * (num_epochs - len(rows)) - since
    return f"{epoch}, {duration(max(0.0, left))} left"


def _num_epochs(metadata: Mapping[str, Any]) -> int:
    return int(metadata["config"]["train"]["epochs"])
