"""Run the campaign: `make faults`, or PYTHONPATH=tests:tests/faults python -m campaign --help."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from campaign.processes import ROOT, warm_up
from campaign.table import CLASSES, print_table, write_table
from campaign.trials import FAILED, rng, shown

RESULTS = ROOT / "outputs" / "faults" / "results.jsonl"
EXIT_FAILED = 1


def main() -> None:
    """Run the trials that have no result yet; print the table."""
    options = _parser().parse_args()
    done = {} if options.anew else read_results(options.results)
    if not options.table:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        if options.anew:
            options.results.unlink(missing_ok=True)
        warm_up()
        _choose(options.commands)
        _run_trials(options, done)
    results = list(read_results(options.results).values())
    print_table(results)
    if options.page:
        write_table(options.page, results, options.seed)
    sys.stdout.flush()
    os._exit(EXIT_FAILED if any(result["outcome"] == FAILED for result in results) else 0)  # libraries report leaks


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("classes", nargs="*", help=f"of {', '.join(CLASSES)}; none: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a JSON line for each trial; goes on from there")
    parser.add_argument("--anew", action="store_true", help="forget the results that are there")
    parser.add_argument("--again", action="store_true", help="run again what failed")
    parser.add_argument("--sample", type=int, metavar="N", help="only N trials of each class, drawn by the seed")
    parser.add_argument("--commands", nargs="+", help="of those that are disturbed: segmentation, predict; none: all")
    parser.add_argument("--only", metavar="TEXT", help="only trials whose name has this in it")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--page", type=Path, help="write the table between the markers of this page")
    return parser


def _choose(commands: list[str] | None) -> None:
    """Disturb only these commands."""
    from campaign.scenarios import SCENARIOS

    for name in [name for name in SCENARIOS if commands and name not in commands]:
        del SCENARIOS[name]


def read_results(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last result of each trial: by class, name and seed."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["class"], line["trial"], line["seed"]): line for line in lines}


def _run_trials(options: argparse.Namespace, done: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """Run all trials that are wanted and have no result, in as many processes as asked."""
    children = []
    for job in range(1, options.jobs):
        if not (pid := os.fork()):
            _run_share(options, done, job)
            os._exit(0)
        children.append(pid)
    _run_share(options, done, 0)
    for pid in children:
        os.waitpid(pid, 0)


def _run_share(options: argparse.Namespace, done: dict[tuple[str, str, int], dict[str, Any]], job: int) -> None:
    from campaign.scenarios import remove_kept

    try:
        for name in options.classes or CLASSES:
            trials = list(importlib.import_module(f"campaign.{name}").trials(options.seed))
            if options.only:
                trials = [trial for trial in trials if options.only in trial.name]
            if options.sample and options.sample < len(trials):
                trials = rng(options.seed, name).sample(trials, options.sample)
            for trial in trials[job :: options.jobs]:
                before = done.get((name, trial.name, options.seed))
                if before and not (options.again and before["outcome"] == FAILED):
                    continue
                started = _cpu_seconds()
                result = trial.run()
                line = {"class": name, "trial": trial.name, "seed": options.seed, "outcome": result.outcome}
                line |= {"seen": shown(result.seen), "seconds": round(_cpu_seconds() - started, 2)}
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                if result.outcome == FAILED:
                    print(f"{name}: {trial.name}: {shown(result.seen)}", flush=True)
    finally:
        remove_kept()


def _cpu_seconds() -> float:
    """Return what this process and those that it has waited for have used of a core."""
    times = os.times()
    return sum(times[:4])


if __name__ == "__main__":
    main()
