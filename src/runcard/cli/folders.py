"""Commands that look after what runs leave on the disk: status, verify, tensorboard, prune, cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from runcard.cli.app import EXIT_FOUND, ConfigDir, Root, Trust, app
from runcard.cli.conclusions import find_arms, study_folder
from runcard.console import counted, plain_console, print_table
from runcard.errors import UserError, check_config_choice

if TYPE_CHECKING:
    from runcard.caching import Cache, CachedFile

PANEL = "Look after runs"
CACHES = ("features", "audit", "images")
MAX_DAMAGED = 3  # runs that a message names


@app.command(rich_help_panel=PANEL)
def status(
    folders: Annotated[list[Path], typer.Argument(help="sweeps, studies or runs: outputs/losses", show_default=False)],
    watch: Annotated[bool, typer.Option(help="show it anew every few seconds until all have ended")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="list every run, of thousands too")] = False,
) -> None:
    """Say how far the runs of a sweep or a study are, wherever they run. Exits with 1 unless all are done."""
    from runcard.runs.sweep import LOOK_EVERY_SECONDS, MAX_ROWS, count, runs_of, state_of, state_rows

    console = plain_console()
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
def verify(
    runs: Annotated[list[str], typer.Argument(help="run folders, sweeps or patterns: outputs/run", show_default=False)],
    data: Annotated[bool, typer.Option("--data/--no-data", help="evaluate the weights on the run's images")] = True,
    retrain: Annotated[int | None, typer.Option(min=1, help="train so many epochs again, and compare them")] = None,
    root: Root = None,
    trust: Trust = None,
) -> None:
    """Check that completed runs are whole, and that their numbers follow from their weights. Exits with 2 otherwise."""
    from runcard.experiment.verify import DAMAGED, Options, verify_run
    from runcard.runs.reader import find_folders

    options, damaged, folders = Options(data, retrain, root, trust or []), [], find_folders(runs)
    for folder in folders:
        print(folder, flush=True)
        bad = []
        for check in verify_run(folder, options):
            print(f"  {check.verdict:12} {check.name:11} {check.text}", flush=True)
            bad += [check.name] if check.verdict == DAMAGED else []
        if bad:
            damaged.append(f"{folder}: damaged: {', '.join(bad)}")
    if damaged:
        more = [f"and {len(damaged) - MAX_DAMAGED} more"] if len(damaged) > MAX_DAMAGED else []
        raise UserError("\n".join([*damaged[:MAX_DAMAGED], *more]))


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
    from runcard.runs.folders import run_folders
    from runcard.runs.reader import find_folders

    console = plain_console()
    if len(runs) == 1 and (study := study_folder(Path(runs[0]))):
        found = analysis.read_study_folder(study)
        arms, left_out = found.arms, found.left_out
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
    console = plain_console()
    print_table(console, ["size", "what", "run folder"], rows)
    for pruning in prunings if yes else ():
        pruning.apply()
    if unfinished:
        console.print(f"\n{counted(len(unfinished), 'run')} not completed: left as they are")
    done = "removed" if yes else "can go: the same command with --yes removes them"
    console.print(f"\n{sum(p.num_bytes for p in prunings) / 1e6:,.1f} MB of {counted(len(prunings), 'run')} {done}")


@app.command(rich_help_panel=PANEL)
def cache(
    overrides: Annotated[list[str] | None, typer.Argument(help="train.cache_dir=… audit.cache_gb=…")] = None,
    clear: Annotated[str | None, typer.Option(help="features, audit, images or all: remove what is kept there")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it nothing is")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Show what is kept for the next run and how much room it takes, or remove it: it is made again when needed."""
    if clear:
        check_config_choice("--clear", clear, (*CACHES, "all"))
    elif yes:
        raise UserError(f"--yes: say what to remove: --clear {', '.join(CACHES)} or all.")
    caches = _caches(overrides or [], config_dir)
    files = {name: each.files() for name, each in caches.items()}
    console = plain_console()
    columns = ["cache", "holds", "folder", "files", "size", "limit", "oldest use", "last use"]
    print_table(console, columns, [[name, *_row(each, files[name])] for name, each in caches.items()])
    if not clear:
        console.print(
            "\nAt its limit (train.cache_gb, audit.cache_gb, images.cache_gb) a cache loses what was not used for the "
            "longest time. To empty it: --clear features, --clear audit, --clear images, or --clear all."
        )
        return
    chosen = [(caches[name], file) for name in (CACHES if clear == "all" else (clear,)) for file in files[name]]
    going = [file for each, file in chosen if not yes or each.remove(file)]
    what = f"{counted(len(going), 'file')}, {decimal(sum(file.num_bytes for file in going))}"
    console.print(f"\n{what} {'removed' if yes else 'can go: the same command with --yes removes them'}")
    if kept := len(chosen) - len(going):
        console.print(f"{counted(kept, 'file')} in use or of another user: left as they are")


def _caches(overrides: Sequence[str], config_dir: Path | None) -> dict[str, Cache]:
    """Return the caches that a config names, by their names in CACHES. The rest of the config may lack values."""
    from runcard.caching import open_cache
    from runcard.config.compose import compose_config
    from runcard.config.schema import AuditConfig, ImagesConfig, TrainConfig, parse_section, to_plain

    composed = compose_config(overrides, config_dir)
    kinds: list[type[TrainConfig | AuditConfig | ImagesConfig]] = [TrainConfig, AuditConfig, ImagesConfig]
    caches = {}
    for name, section, kind in zip(CACHES, ("train", "audit", "images"), kinds, strict=True):
        config = parse_section(kind, to_plain(composed[section]), f"{section}.")
        caches[name] = open_cache(section, config.cache_dir, config.cache_gb)
    return caches


def _row(cache: Cache, files: Sequence[CachedFile]) -> list[str]:
    """Format what a cache holds, where, how much, its limit, and the oldest and the last use of a file."""
    limit = "none" if cache.limit_gb is None else f"{cache.limit_gb:g} GB"
    times = [datetime.fromtimestamp(file.last_used) for file in files]
    used = [f"{time:%Y-%m-%d %H:%M}" for time in (min(times), max(times))] if times else ["", ""]
    size = decimal(sum(file.num_bytes for file in files))
    return [cache.holds, str(cache.folder), f"{len(files):,}", size, limit, *used]
