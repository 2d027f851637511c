"""The command `runcard verify`: is a run folder what its training left, and do its numbers follow from its weights?

Each check compares what a folder says in one place with what it says in another, or with what is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runcard.config.compose import SavedConfig, read_saved_config
from runcard.config.diff import LONGER, UNKNOWN, config_hash, differing_keys, functional_leaves
from runcard.config.schema import parse_config
from runcard.console import counted
from runcard.data.image_io import read_picture
from runcard.data.splits import data_fingerprint
from runcard.errors import MAX_SAID, UserError, first_line, join_first
from runcard.experiment.finalize import LOSS_TOLERANCE, same
from runcard.experiment.repeat import evaluate_again, train_again
from runcard.experiment.restored import open_data, trusted_config
from runcard.fileio import sha256
from runcard.runs.folders import BEST, LAST, file_of, has_file, lost_files, read_metadata, read_metrics
from runcard.runs.reader import read_run
from runcard.runs.run import PROBABILITY, Run
from runcard.training.checkpoint import read_last, read_weights
from runcard.training.restore import open_run

OK, DAMAGED, NOT_CHECKED = "ok", "damaged", "not checked"
SAVED = (".hydra/config.yaml", ".hydra/overrides.yaml")
MEAN_TOLERANCE = 1e-5  # relative, of a mean over images that was computed in float32
# What a damaged file makes readers raise, beside UserError.
FAULTS = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: str  # OK | DAMAGED | NOT_CHECKED
    text: str


class _NotCheckedError(Exception):
    """Why a check cannot be made."""


@dataclass(frozen=True)
class Options:
    """What is evaluated or trained again, and with what."""

    data: bool = True
    epochs: int | None = None  # to train again
    root: Path | None = None  # of the data, if they lie elsewhere now
    trust: Sequence[str] = ()


def verify_run(folder: Path, options: Options) -> Iterator[Check]:
    """Check a run folder. Raises UserError where its config names objects that are not trusted."""
    run, reason = read_run(folder)
    if run is None:
        yield from _check_unfinished(folder, reason)
        return
    if run.is_evaluation:
        of = run.metadata["evaluation"]["run"]
        yield Check("record", NOT_CHECKED, f"an evaluation on other images; verify the run itself: {of}")
        return
    saved: list[SavedConfig] = []

    def check_config() -> str:
        saved.append(read_saved_config(folder, "its config"))
        return _check_config(run, saved[0])

    yield _check("files", lambda: _check_files(run))
    yield _check("record", lambda: _check_record(run))
    yield _check("config", check_config)
    yield _check("split", lambda: _check_split(run))
    yield _check("metrics", lambda: _check_metrics(run))
    yield _check("images", lambda: _check_images(run))
    yield _check("pictures", lambda: _check_pictures(run))
    yield _check("checkpoint", lambda: _check_checkpoint(run))
    if saved:
        trusted_config(folder, saved[0], options.trust)
    weights = _check("weights", lambda: _check_weights(run, options.trust))
    yield weights
    if saved and weights.verdict == OK:
        yield from _check_again(run, saved[0], options)


def _check(name: str, look: Callable[[], str]) -> Check:
    """Make one check; look says what was found to be right, or raises."""
    try:
        return Check(name, OK, look())
    except _NotCheckedError as reason:
        return Check(name, NOT_CHECKED, str(reason))
    except (UserError, *FAULTS) as fault:
        return Check(name, DAMAGED, first_line(fault))


def _check_unfinished(folder: Path, reason: str) -> Iterator[Check]:
    """Check what there is of a run that did not complete, or whose record cannot be read."""
    yield Check("record", DAMAGED, f"no completed run: {reason.splitlines()[0][:MAX_SAID]}")
    try:
        metadata = read_metadata(folder)
    except ValueError:
        return
    if metadata.get("status") == "completed" or not has_file(folder, LAST):
        return

    def look() -> str:
        content = read_last(file_of(folder, LAST), "so the run cannot go on from it", "")
        if content.get("data", metadata["data"]) != metadata["data"]:
            raise ValueError(f"{LAST} is of other data than run.json says")
        digest, epoch = content.get("best_sha256"), content["state"]["epoch"]
        if digest and digest != sha256(file_of(folder, BEST)):
            raise ValueError(f"{BEST}: its SHA-256 is not the one that last.ckpt knows")
        return f"of epoch {epoch}: the same command goes on from there"

    yield _check("checkpoint", look)


def _check_files(run: Run) -> str:
    """Check that all files of a completed run are there, and are what was written."""
    lost = [lost_files(run.folder)] if lost_files(run.folder) else []
    lost += [name for name in (*SAVED, BEST) if not has_file(run.folder, name)]
    if lost:
        raise ValueError(f"{', '.join(lost)} missing or empty")
    recorded: dict[str, str] = {**run.metadata["sha256"], BEST: run.metadata["best_sha256"]}
    if changed := [name for name, digest in recorded.items() if sha256(file_of(run.folder, name)) != digest]:
        raise ValueError(f"{', '.join(changed)}: not the SHA-256 that run.json has")
    return f"all are there, {len(recorded)} with the SHA-256 that run.json has"


def _check_record(run: Run) -> str:
    """Check what run.json says against itself."""
    metadata = run.metadata
    if config_hash(metadata["config"]) != metadata["config_hash"]:
        raise ValueError("run.json: config is not the one of its config_hash")
    if metadata["epochs"] != metadata["last"]["epoch"]:
        raise ValueError(f"run.json: epochs is {metadata['epochs']}, but last.epoch {metadata['last']['epoch']}")
    early = metadata["epochs"] < metadata["config"]["train"]["epochs"]
    if metadata["epochs"] > metadata["config"]["train"]["epochs"] or metadata["stopped_early"] != early:
        raise ValueError("run.json: epochs, stopped_early and config.train.epochs do not fit each other")
    return "run.json: the config is that of its hash"


def _check_config(run: Run, saved: SavedConfig) -> str:
    """Check that the saved config, and the one beside the weights, give the numbers of the config in run.json."""
    _, plain = parse_config(saved.config, "saved config: ")
    known = {key: value for key, value in functional_leaves(plain).items() if UNKNOWN not in str(value)}
    if differing := [key for key, value in known.items() if run.config.get(key, value) != value]:
        raise ValueError(f"{SAVED[0]}: {join_first(differing)} is not as in run.json")
    if has_file(run.folder, BEST):
        _check_same_config(BEST, read_weights(file_of(run.folder, BEST))[1], run)
    return "the saved config, and that in the header of the weights, are that of run.json"


def _check_same_config(name: str, config: Mapping[str, Any], run: Run) -> None:
    """Check that a file's config gives the run's numbers; best weights may be those of the run that it extends."""
    if differing := differing_keys(config, run.metadata["config"], but=LONGER):
        raise ValueError(f"{name}: its config is not the one in run.json: {join_first(differing)}")


def _check_split(run: Run) -> str:
    """Check that split.json gives the hashes of the data."""
    members = [member for part in run.split_members.values() for member in part]
    ends = np.cumsum([len(part) for part in run.split_members.values()]).tolist()
    starts = [0, *ends[:-1]]
    split = {part: range(a, b) for part, a, b in zip(run.split_members, starts, ends, strict=True)}
    digests = [member["sha256"] for member in members]
    found = data_fingerprint(split, [member["id"] for member in members], digests)
    if differing := [key for key, value in run.metadata["data"].items() if found.get(key) != value]:
        raise ValueError(f"split.json: not the images of run.json: data.{join_first(differing)} differs")
    return f"split.json gives the hashes of run.json: {counted(len(members), 'image')}"


def _check_metrics(run: Run) -> str:
    """Check that the values in run.json are those of metrics.csv."""
    metadata, rows = run.metadata, read_metrics(run.folder / "metrics.csv")
    last, best = metadata["last"]["values"], metadata["best"]
    exact = run.session["reproducible"] == "bit for bit"
    for name in (name for name in last if name in rows[-1]):
        if not same(rows[-1][name], last[name], 0.0 if exact else LOSS_TOLERANCE) and (exact or name == "val/loss"):
            raise ValueError(f"{name} is {rows[-1][name]} in the last row of metrics.csv, in run.json {last[name]}")
    monitored, sign = best["monitor"], 1 if run.mode(run.monitored) == "max" else -1
    values = np.array([row[monitored] for row in rows], float)  # None, where not evaluated, becomes NaN
    best_epoch = int(np.nanargmax(sign * values)) + 1
    if best["epoch"] != best_epoch or best["value"] != rows[best_epoch - 1][monitored]:
        raise ValueError(f"the best {monitored} of metrics.csv is in epoch {best_epoch}, in run.json {best['epoch']}")
    if metadata["seconds"]["total"] != sum(row["seconds"] for row in rows):
        raise ValueError("run.json: seconds.total is not the sum of metrics.csv")
    return f"run.json follows from metrics.csv: {counted(len(rows), 'epoch')}, best {monitored} in epoch {best_epoch}"


def _check_images(run: Run) -> str:
    """Check that per_image.csv has the images of split.json, and gives the means that run.json has."""
    parts = ["val", *(["test"] if run.split_members["test"] and not run.is_sealed else [])]
    groups = {member["id"]: member["group"] for part in parts for member in run.split_members[part]}
    for part in parts:
        for weights in ("last", "best"):
            images = run.tables[part, weights]
            if sorted(images.ids) != sorted(run.split_ids[part]):
                raise ValueError(f"per_image.csv: {part}, {weights}: not the images of split.json")
            if [groups[name] for name in images.ids] != list(images.groups):
                raise ValueError(f"per_image.csv: {part}, {weights}: not the groups of split.json")
            values = run.metadata[weights]["values"]
            for name in (name for name in images.values if not name.startswith(PROBABILITY)):
                mean, recorded = float(np.mean(images.values[name])), values[f"{part}/{name}"]
                if not same(mean, recorded, MEAN_TOLERANCE):
                    raise ValueError(f"per_image.csv: mean {name} of {part}, {weights}: {mean}, in run.json {recorded}")
    return f"run.json follows from per_image.csv: {counted(len(groups), 'image')}, last and best epoch"


def _check_pictures(run: Run) -> str:
    """Check that every picture can be read."""
    pictures = [path for name in ("figures", "previews") for path in sorted((run.folder / name).rglob("*.png"))]
    if bad := [str(path.relative_to(run.folder)) for path in pictures if read_picture(path) is None]:
        raise ValueError(f"{join_first(bad)} cannot be read")
    return f"{counted(len(pictures), 'picture')} can be read"


def _check_checkpoint(run: Run) -> str:
    """Check that last.ckpt is whole and the end of this run."""
    if not has_file(run.folder, LAST):
        raise _NotCheckedError(f"{LAST} is not there; record=lean and runcard prune remove it")
    content = read_last(file_of(run.folder, LAST), "so it cannot be trained longer", "")
    if content["state"]["epoch"] != run.metadata["epochs"]:
        raise ValueError(f"{LAST} is of epoch {content['state']['epoch']}, run.json has {run.metadata['epochs']}")
    rows = read_metrics(run.folder / "metrics.csv")
    for of_file, kept in zip(rows, content["state"]["rows"], strict=True):
        if of_file.keys() != kept.keys() or not all(same(of_file[key], kept[key], 0.0) for key in kept):
            raise ValueError(f"metrics.csv: epoch {kept['epoch']} is not as {LAST} has it")
    _check_same_config(LAST, content.get("config", run.metadata["config"]), run)
    if content.get("data", run.metadata["data"]) != run.metadata["data"]:
        raise ValueError(f"{LAST}: of other data than run.json says")
    best = run.metadata.get("best_sha256")
    if best and content.get("best_sha256", best) != best:
        raise ValueError(f"{LAST}: knows other best weights than run.json")
    return f"{LAST} is whole, and of epoch {content['state']['epoch']}"


def _check_weights(run: Run, trust: Sequence[str]) -> str:
    """Check that the best weights are those of the model that the config describes."""
    model = open_run(run.folder, trust).model
    number = sum(parameter.numel() for parameter in model.parameters())
    if number != run.metadata["num_parameters"]:
        raise ValueError(f"{BEST}: {number:,} parameters, in run.json {run.metadata['num_parameters']:,}")
    return f"{BEST} fits the model: {number:,} parameters"


def _check_again(run: Run, saved: SavedConfig, options: Options) -> Iterator[Check]:
    """Compute the recorded numbers again: from the weights, and from the first epochs on."""
    if not options.data and not options.epochs:
        yield Check("evaluation", NOT_CHECKED, "left out (--no-data)")
        return
    cfg = trusted_config(run.folder, saved, options.trust)
    try:
        config, source = open_data(run.folder, cfg, options.root)
    except (UserError, OSError) as error:
        yield Check("evaluation", NOT_CHECKED, f"the data are not there: {first_line(error)}")
        return
    if options.data:
        yield _check("evaluation", lambda: evaluate_again(run, cfg, config, source, saved.choices))
    if options.epochs:
        epochs = options.epochs
        yield _check("training", lambda: train_again(run, cfg, config, source, saved.choices, epochs))
