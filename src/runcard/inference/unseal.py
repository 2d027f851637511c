"""The command `runcard unseal`: a study's runs on their sealed test split; every look at it is counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from runcard.errors import UserError
from runcard.inference.evaluate import OUTPUT, evaluate_runs, hash_images, hash_weights
from runcard.runs.folders import run_folders
from runcard.runs.looks import Look, looked_in
from runcard.runs.reader import read_run
from runcard.runs.run import Run
from runcard.runs.writer import log_look


def unseal_runs(study: Path, runs: Sequence[Run], trust: Sequence[str], console: Console) -> tuple[list[Run], Look]:
    """Evaluate a study's runs on their sealed test images, and count the look in looks.csv; return them and it.

    An evaluation that was interrupted goes on as the same look, and one of the same runs is that look again. Raises
    UserError for runs without a seal, or with other test images than the others.
    """
    if open_runs := [run for run in runs if not run.is_sealed]:
        raise UserError(
            f"{open_runs[0].folder}: its test split is not sealed (dataset.split.seal=false). "
            "runcard evaluate measures such runs."
        )
    hashes = {hash_images(run.split_members["test"])["hash"]: run for run in runs}
    if len(hashes) > 1:
        one, other, *_ = hashes.values()
        raise UserError(f"{one.folder} and {other.folder} have other test images, so that no look can show both.")
    data_hash, ledgers = next(iter(hashes)), (study, study.parent)
    done, begun = looked_in(ledgers, runs, data_hash)
    weights = sorted(hash_weights(run.folder) for run in runs)
    for place in done:
        there = [read_run(folder)[0] for folder in run_folders(Path(place))]
        seen = [made for run in there if run and "look" in (made := run.metadata.get("evaluation", {}))]
        if sorted(each["weights_sha256"] for each in seen) == weights:  # the same numbers, so no further look
            number = seen[0]["look"]
            break
    else:
        unfinished = [place for place in begun if Path(place).is_dir()]
        number = len(done) + len(begun) + (not unfinished)
        place = unfinished[-1] if unfinished else str(OUTPUT / f"{study.name}_{data_hash[:6]}_look{number}")
    look = Look(number, str(study), runs[0].split_sizes["test"], data_hash, place)
    _, evaluated = evaluate_runs(runs, [], "test", Path(place), trust, console, look)
    if place not in done:
        log_look(ledgers, look)
    return evaluated, look
