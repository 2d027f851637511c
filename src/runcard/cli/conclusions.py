"""Commands that draw conclusions: compare, power, noise, gate, report; and audit, of the data."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runcard.cli.app import EXIT_FOUND, AsJson, ConfigDir, Trust, app
from runcard.console import plain_console
from runcard.errors import UserError, check_config_choice

if TYPE_CHECKING:
    from runcard.compare.analysis import Findings
    from runcard.compare.arms import Arm


PANEL = "Check and conclude"
BASELINE = "the name of an arm, as the table writes it: compare all others with it alone"
ON = "a folder that runcard evaluate wrote: compare the runs on its images"
DIFFERENCES = [0.005, 0.01, 0.02]  # of Dice or accuracy, that people ask about
FIGURES = (".png", ".svg")  # by suffix

Metric = Annotated[str | None, typer.Option(help="what is compared; none: the monitored metric")]
Margin = Annotated[float | None, typer.Option(help="differences smaller than this do not matter")]


@app.command(rich_help_panel=PANEL)
def audit(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="as `runcard train` takes them: dataset=lungs dataset.root=…")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="a run folder: are these its data?")] = None,
    output: Annotated[Path | None, typer.Option(help="a folder; none: outputs/audit/<the data's>")] = None,
    trust: Trust = None,
    config_dir: ConfigDir = None,
) -> None:
    """Look for what is wrong with data and augmentation, before anything is trained. Exits with 1 at an error."""
    from runcard.audit.command import audit_against, audit_config

    console = plain_console()
    if against and output:
        raise UserError("--output: with --against no files are written. Leave one out.")
    if trust and not against:
        raise UserError(f"--trust: is for the run of --against. For this config: 'trust=[{','.join(trust)}]'")
    if against:
        good = audit_against(against, overrides or [], console, trust or [], config_dir)
    else:
        good = audit_config(overrides or [], output, console, config_dir)
    if not good:
        raise typer.Exit(EXIT_FOUND)


@app.command(rich_help_panel=PANEL)
def compare(
    runs: Annotated[list[str], typer.Argument(help="run folders, sweeps, patterns: outputs/lab*", show_default=False)],
    metric: Metric = None,
    threshold: Annotated[float | None, typer.Option(help="of the metric: who reaches it first?")] = None,
    margin: Margin = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINE)] = None,
    on: Annotated[Path | None, typer.Option(help=ON)] = None,
    details: Annotated[bool, typer.Option(help="print all measures and sentences of many arms")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what runs support, and what not: arms, differences, verdicts. Runs that differ only by seed form an arm."""
    from runcard.compare.report import terminal

    findings = _find(runs, metric, margin, threshold, baseline, on)
    if as_json:
        print(json.dumps(terminal.as_json(findings), indent=1))
    else:
        terminal.print_findings(plain_console(), findings, details)


@app.command(rich_help_panel=PANEL)
def power(
    runs: Annotated[list[str], typer.Argument(help="run folders, sweeps or patterns", show_default=False)],
    difference: Annotated[list[float], typer.Option(help="that should be found; may be said again")] = DIFFERENCES,
    metric: Metric = None,
) -> None:
    """Say how many seeds or images a difference would need, from how far these runs scatter (two seeds at least)."""
    from runcard.compare.report.power_table import print_power

    if wrong := [d for d in difference if not 0 < d < math.inf]:
        raise UserError(f"--difference must be a number greater than 0, got {wrong[0]:g}")
    arms, left_out = find_arms(runs, metric)
    print_power(plain_console(), arms, left_out, metric or arms[0].first.monitored, difference)


@app.command(rich_help_panel=PANEL)
def noise(
    runs: Annotated[list[str], typer.Argument(help="run folders, sweeps or patterns", show_default=False)],
    metric: Metric = None,
    figure: Annotated[Path | None, typer.Option(help="a file, .png or .svg: differences against seeds")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how large a difference must be to be more than noise (three seeds of one config at least)."""
    from runcard.compare.report import noise_table

    if figure and figure.suffix not in FIGURES:
        raise UserError(f"--figure must end in {' or '.join(FIGURES)}, got {figure}")
    console = plain_console()
    arms, left_out = find_arms(runs, metric)
    found, too_few = noise_table.measure_noise(arms, metric or arms[0].first.monitored)
    left_out += too_few
    if as_json:
        print(json.dumps(noise_table.as_json(found, left_out), indent=1))
    else:
        noise_table.print_noise(console, found)
        for line in left_out:
            console.print(f"left out  {line}", style="yellow")
    if figure:
        from runcard.fileio import write_figure

        write_figure(figure, noise_table.draw(found))
        if not as_json:
            print(figure)


@app.command(rich_help_panel=PANEL)
def gate(
    baseline: Annotated[Path, typer.Argument(help="a folder with the baseline's runs, one for each seed")],
    candidate: Annotated[Path, typer.Argument(help="a folder with the candidate's runs")],
    metric: Metric = None,
    margin: Margin = None,
    candidates: Annotated[
        int | None, typer.Option(help="how many will be held against this baseline in all; none: 20")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether to keep a candidate: exit code 0 keep, 1 discard, 3 more seeds. For scripts and research loops."""
    from runcard.compare import gate as gates

    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"--margin must be a number greater than 0, got {margin:g}")
    if candidates is not None and candidates < 1:
        raise UserError(f"--candidates must be 1 or more, got {candidates}")
    arms = [_only_arm(folder, metric) for folder in (baseline, candidate)]
    asked = metric or arms[0].first.monitored
    decision = gates.decide(arms[0], arms[1], baseline, asked, margin, candidates)
    print(json.dumps(gates.as_json(decision), indent=1) if as_json else decision.sentence)
    raise typer.Exit(gates.EXIT_CODES[decision.word])


def _only_arm(folder: Path, metric: str | None) -> Arm:
    """Return the one arm whose runs are below a folder, named by it."""
    if not folder.is_dir() or (folder / "run.json").exists():
        what = "a run, with one seed" if folder.is_dir() else "not a folder"
        raise UserError(f"{folder}: is {what}. Name the folder above the runs of all seeds.")
    arms, _ = find_arms([str(folder)], metric)
    if len(arms) > 1:
        raise UserError(f"{folder}: has runs of {len(arms)} configs: {', '.join(arm.name for arm in arms)}. Name one.")
    return replace(arms[0], name=folder.name)


@app.command(rich_help_panel=PANEL)
def report(
    runs: Annotated[list[str], typer.Argument(help="a study's folder; or runs, sweeps, patterns", show_default=False)],
    metric: Metric = None,
    threshold: Annotated[float | None, typer.Option(help="of the metric: who reaches it first?")] = None,
    margin: Margin = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINE)] = None,
    on: Annotated[Path | None, typer.Option(help=ON)] = None,
    output: Annotated[Path | None, typer.Option(help="a folder; none: the study's or sweep's")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="a folder for every figure as SVG and PNG, and every table as CSV")
    ] = None,
    images: Annotated[bool, typer.Option(help="show images of the data; without, the report can be shared")] = True,
) -> None:
    """Write report.html, one file that opens offline: verdicts, curves, images, claims, methods."""
    from runcard.compare import analysis
    from runcard.compare.report.html import write_figures, write_report

    first = Path(runs[0])
    if len(runs) == 1 and (folder := study_folder(first)):
        options = {"metric": metric, "threshold": threshold, "margin": margin, "baseline": baseline, "on": on}
        if given := [name for name, value in options.items() if value is not None]:
            raise UserError(f"--{given[0]}: a study is answered as its plan says. Name its runs: {folder}/*")
        found = analysis.of_study(folder)
    else:
        is_sweep = len(runs) == 1 and first.is_dir() and not (first / "run.json").exists()
        folder = on or (first if is_sweep else Path("outputs/report"))
        found = _find(runs, metric, margin, threshold, baseline, on)
    print(write_report(found, output or folder, images))
    if figures:
        write_figures(found, figures, images)
        print(f"{figures}/")


def study_folder(named: Path) -> Path | None:
    """Return the folder of a study, named by that folder or by the file of its questions; else None."""
    if (named / "study.json").exists():
        return named
    if named.suffix != ".yml":
        return None
    from runcard.study.spec import read_study

    name = read_study(named).name
    folders = sorted(file.parent for file in Path("outputs").glob("*/study.json"))
    folders = [folder for folder in folders if f"{folder.name},".startswith(f"{name},")]
    if len(folders) == 1:
        return folders[0]
    found = f"has several folders: {', '.join(map(str, folders))}. Name one" if folders else "has not been run"
    raise UserError(f"{named}: this study {found}. (runcard study {named} … runs it.)")


def _find(
    runs: list[str],
    metric: str | None,
    margin: float | None,
    threshold: float | None,
    baseline: str | None,
    on: Path | None,
) -> Findings:
    """Return what the runs in these folders say about each other."""
    from runcard.compare import analysis

    for name, value in {"margin": margin, "threshold": threshold}.items():
        if value is not None and not (math.isfinite(value) and (value > 0 or name == "threshold")):
            raise UserError(f"--{name} must be a number{' greater than 0' if name == 'margin' else ''}, got {value:g}")
    arms, left_out = find_arms(runs, metric, on)
    if baseline is not None:
        check_config_choice("--baseline", baseline, [arm.name for arm in arms])
    asked = analysis.ask_pairs(arms, metric, margin, threshold, baseline)
    options = {"metric": metric, "margin": margin, "threshold": threshold, "baseline": baseline}
    given = [f"--{name}={value}" for name, value in {**options, "on": on}.items() if value is not None]
    command = shlex.join(["runcard", "report", *runs, *given])
    found = analysis.find(asked, arms, left_out=left_out, command=command, metric=metric)
    warnings = [
        analysis.Remark(
            f"{folder} added seeds until it was decided: its own report alone keeps to 5 % (runcard report {folder})"
        )
        for folder in dict.fromkeys(folder for each in runs for folder in (Path(each), Path(each).parent))
        if analysis.has_looks(folder)
    ]
    return replace(found, remarks=(*warnings, *found.remarks))


def find_arms(runs: list[str], metric: str | None, on: Path | None = None) -> tuple[list[Arm], list[str]]:
    """Return the arms that the runs in these folders form, and the runs left out, each with the reason.

    on: the folder of an evaluation, where the runs are compared instead of on their own images.
    """
    from runcard.compare import confounds, endpoints
    from runcard.runs.reader import evaluations_of, find_runs

    found = find_runs(runs)
    if on:
        found = evaluations_of(found, on)
    if not found.runs:
        raise UserError("\n".join(["There is no completed run to compare:", *found.left_out]))
    arms, again = confounds.group_arms(found.runs, found.failed)
    if metric:
        endpoints.check_measured(arms[0].first, metric)
    return arms, [*found.left_out, *again]
