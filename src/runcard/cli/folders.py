"""Commands that look after run folders: status, tensorboard, prune."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from runcard.cli.app import EXIT_FOUND, app
from runcard.cli.conclusions import find_arms, study_folder
from runcard.console import counted, print_table
from runcard.errors import UserError, check_config_choice

PANEL = "Look after runs"


@app.command(rich_help_panel=PANEL)
def status(
    folders: Annotated[list[Path], typer.Argument(help="sweeps, studies or runs: outputs/losses", show_default=False)],
    watch: Annotated[bool, typer.Option(help="show it anew every few seconds until all have ended")] = False,
) -> None:
    """Say how far the runs of a sweep or a study are, wherever they run. Exits with 1 unless all are done."""
    from runcard.runs.sweep import LOOK_EVERY_SECONDS, count, runs_of, state_of, state_rows

    console = Console(soft_wrap=True, highlight=False, markup=False)
    while True:
        runs = [run for folder in folders for run in runs_of(folder)]
        if not runs:
            raise UserError(f"{folders[0]}: no run here or below, and no sweep that is to make one.")
        states = [state_of(run) for run in runs]
        if watch and console.is_terminal:
            console.clear()
        print_table(console, *state_rows(states))
        console.print(f"\n{count(states)}")
        if not watch or all(state.is_final for state in states):
            break
        time.sleep(LOOK_EVERY_SECONDS)
    if any(state.exit_code for state in states):
        raise typer.Exit(EXIT_FOUND)


@app.command(rich_help_panel=PANEL)
def tensorboard(
    runs: Annotated[list[str], typer.Argument(help="a study's folder; or runs, sweeps, patterns", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="only write the log folder, to this one; not below outputs/")
    ] = None,
    port: Annotated[int | None, typer.Option(help="none: 6006, or the next one that is free")] = None,
) -> None:
    """Show arms in TensorBoard: mean, lowest and highest of the runs that differ only by seed. Ctrl-C ends it."""
    from runcard.compare import analysis
    from runcard.loggers import arms as log_folder
    from runcard.loggers.tensorboard import serve
    from runcard.runs.reader import find_folders, run_folders

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if len(runs) == 1 and (study := study_folder(Path(runs[0]))):
        _, _, arms, left_out = analysis.read_study_folder(study)
        folders = run_folders(study)
    else:
        arms, left_out = find_arms(runs, None)
        folders = find_folders(runs)
    for line in left_out:
        console.print(f"in no arm  {line}", style="yellow")
    counts = f"{counted(len(arms), 'arm')} of {counted(sum(len(arm.runs) for arm in arms), 'run')}"
    with TemporaryDirectory(prefix="runcard-") as temporary:
        logdir = output or Path(temporary) / "arms"
        num_runs = log_folder.write_log_folder(logdir, arms, folders)
        below = f", {counted(num_runs, 'single run')} below" if num_runs else ""
        console.print(f"{counts}{below}: {logdir}")
        if output:
            console.print(f"look at it   tensorboard --logdir {output}")
            return
        url = serve(logdir, port)
        console.print(f"arms         {url}{log_folder.view(arms)}\nall runs     {url}\nCtrl-C ends it")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@app.command(rich_help_panel=PANEL)
def prune(
    folders: Annotated[list[Path], typer.Argument(help="runs, sweeps or studies: outputs/old", show_default=False)],
    keep: Annotated[str, typer.Option(help="best or last: these weights; record: neither, nor previews")] = "best",
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it nothing is")] = False,
) -> None:
    """Remove what completed runs can do without. What comparisons and reports read stays."""
    from runcard.runs.prune import REMOVED, find_prunable

    check_config_choice("--keep", keep, tuple(REMOVED))
    prunings, unfinished = find_prunable(folders, keep)
    rows = [[f"{p.num_bytes / 1e6:.1f} MB", " ".join(path.name for path in p.paths), str(p.folder)] for p in prunings]
    console = Console(soft_wrap=True, highlight=False, markup=False)
    print_table(console, ["size", "what", "run folder"], rows)
    for pruning in prunings if yes else ():
        pruning.apply()
    if unfinished:
        console.print(f"\n{counted(len(unfinished), 'run')} not completed: left as they are")
    done = "removed" if yes else "can go: the same command with --yes removes them"
    console.print(f"\n{sum(p.num_bytes for p in prunings) / 1e6:,.1f} MB of {counted(len(prunings), 'run')} {done}")
