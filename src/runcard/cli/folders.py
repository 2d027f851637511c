"""Commands that look after run folders: status, prune."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from runcard.cli.app import EXIT_FOUND, app
from runcard.console import counted, print_table
from runcard.errors import UserError, check_config_choice

PANEL = "Look after runs"


@app.command(rich_help_panel=PANEL)
def status(
    folders: Annotated[list[Path], typer.Argument(help="sweeps, studies or runs: outputs/losses", show_default=False)],
    watch: Annotated[bool, typer.Option(help="show it anew every few seconds until all have ended")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="list every run, of thousands too")] = False,
) -> None:
    """Say how far the runs of a sweep or a study are, wherever they run. Exits with 1 unless all are done."""
    from runcard.runs.sweep import LOOK_EVERY_SECONDS, MAX_ROWS, count, runs_of, state_of, state_rows

    console = Console(soft_wrap=True, highlight=False, markup=False)
    while True:
        runs = [run for folder in folders for run in runs_of(folder)]
        if not runs:
            raise UserError(f"{folders[0]}: no run here or below, and no sweep that is to make one.")
        states = [state_of(run) for run in runs]
        if watch and console.is_terminal:
            console.clear()
        columns, rows = state_rows(states, show_all)
        if rows:
            print_table(console, columns, rows)
            console.print()
        console.print(f"{count(states)}{'' if show_all or len(states) <= MAX_ROWS else ' (every run: --all)'}")
        if not watch or all(state.is_final for state in states):
            break
        time.sleep(LOOK_EVERY_SECONDS)
    if any(state.exit_code for state in states):
        raise typer.Exit(EXIT_FOUND)


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
