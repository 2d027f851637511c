"""The command `runcard unseal`: a study's runs on their sealed test split; every look at it is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.inference.evaluate import OUTPUT, Evaluated, evaluate_runs, hash_weights
from runcard.runs.folders import run_folders
from runcard.runs.looks import Look, looked_in
from runcard.runs.reader import read_run
from runcard.runs.run import Run
from runcard.runs.writer import log_look


@dataclass(frozen=True)
class Unsealed:
    """What unsealing left: the evaluation, and which look at this test set it was."""

    evaluated: Evaluated
    look: Look


def unseal_runs(study: Path, runs: Sequence[Run], trust: Sequence[str], console: Console) -> Unsealed:
    """Evaluate a study's runs on their sealed test images, and count the look in looks.csv.

    An evaluation that was interrupted goes on as the same look, and one of the same runs is that look again. Raises
    UserError for runs without a seal, or with other test images than the others.
    """
    if open_runs := [run for run in runs if not run.is_sealed]:
        raise UserError(
            f"{open_runs[0].folder}: its test split is not sealed (dataset.split.seal=false). "
            "runcard evaluate measures such runs."
        )
    hashes = {_test_hash(run): run for run in runs}
    if len(hashes) > 1:
        one, other, *_ = hashes.values()
        raise UserError(f"{one.folder} and {other.folder} have other test images, so that no look can show both.")
    data_hash, ledgers = next(iter(hashes)), (study, study.parent)
    done, begun = looked_in(ledgers, runs, data_hash)
    weights = sorted(hash_weights(run.folder) for run in runs)
    for place in done:
        there = [read_run(folder)[0] for folder in run_folders(Path(place))]
        seen = [run.metadata["evaluation"] for run in there if run and run.is_evaluation]
        if sorted(each["weights_sha256"] for each in seen) == weights:  # the same numbers, so no further look
            look = Look(seen[0]["look"], str(study), runs[0].split_sizes["test"], data_hash, place)
            return Unsealed(evaluate_runs(runs, [], "test", Path(place), trust, console, look), look)
    unfinished = [place for place in begun if Path(place).is_dir()]
    number = len(done) + len(begun) + (not unfinished)
    place = unfinished[-1] if unfinished else str(OUTPUT / f"{study.name}_{data_hash[:6]}_look{number}")
    look = Look(number, str(study), runs[0].split_sizes["test"], data_hash, place)
    evaluated = evaluate_runs(runs, [], "test", Path(place), trust, console, look)
    log_look(ledgers, look)
    return Unsealed(evaluated, look)


def _test_hash(run: Run) -> str:
    """Hash names and bytes of a run's test images, as split.json has them."""
    members = run.split_members["test"]
    ids, digests = ([member[key] for member in members] for key in ("id", "sha256"))
    return data_fingerprint({"test": range(len(ids))}, ids, digests)["hash"]
