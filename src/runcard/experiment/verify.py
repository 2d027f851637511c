"""The command `runcard verify`: is a run folder what its training left, and do its numbers follow from its weights?

Each check compares what a folder says in one place with what it says in another, or with what is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from runcard.config.compose import SavedConfig, read_saved_config
from runcard.config.diff import config_hash, flatten
from runcard.config.schema import UNKNOWN, Config, parse_config
from runcard.console import counted
from runcard.data.image_io import read_picture
from runcard.data.source import Source
from runcard.data.splits import data_fingerprint
from runcard.errors import UserError
from runcard.experiment.finalize import LOSS_TOLERANCE
from runcard.experiment.repeat import TIMES, repeat_epochs
from runcard.experiment.restored import open_data, restored_setup, trusted_config
from runcard.experiment.setup import ExperimentSetup
from runcard.fileio import read_csv, sha256
from runcard.runs.environment import code_hash, hardware, versions
from runcard.runs.folders import BEST, LAST, file_of, has_file, lost_files, read_metadata, read_metrics
from runcard.runs.reader import read_run
from runcard.runs.run import PROBABILITY, Run
from runcard.training.checkpoint import load_tensors, load_weights, read_last, read_weights
from runcard.training.evaluation import evaluate, rows_per_image
from runcard.training.restore import open_run

OK, DAMAGED, NOT_CHECKED = "ok", "damaged", "not checked"
SAVED = (".hydra/config.yaml", ".hydra/overrides.yaml")
MEAN_TOLERANCE = 1e-5  # relative, of a mean over images that was computed in float32
SCORE_TOLERANCE = 0.01  # of the mean of a score, where only rounding is the same
PLACES = ("run_dir", "trust")  # keys of the config that say where a run was made, and by whom
MAX_NAMED = 3  # of what differs, in a message
MAX_SAID = 300  # characters of a message
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
        said = str(fault).splitlines() or [type(fault).__name__]
        return Check(name, DAMAGED, said[0][:MAX_SAID])


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
        if digest and digest not in {sha256(file_of(folder, BEST))}:
            raise ValueError(f"{BEST}: its SHA-256 is not the one that last.ckpt knows")
        return f"of epoch {epoch}: the same command goes on from there"

    yield _check("checkpoint", look)


def _check_files(run: Run) -> str:
    """Check that all files of a completed run are there, and are what was written."""
    lost = [lost_files(run.folder)] if lost_files(run.folder) else []
    lost += [name for name in (*SAVED, BEST) if not has_file(run.folder, name)]
    if lost:
        raise ValueError(f"{', '.join(lost)} missing or empty")
    recorded: dict[str, str] = dict(run.metadata.get("sha256", {}))  # absent in runs of older versions
    if "best_sha256" in run.metadata:
        recorded[BEST] = run.metadata["best_sha256"]
    if changed := [name for name, digest in recorded.items() if sha256(file_of(run.folder, name)) != digest]:
        raise ValueError(f"{', '.join(changed)}: not the SHA-256 that run.json has")
    if not recorded:
        raise _NotCheckedError("all are there; a run of this version's predecessors has no checksums")
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
    """Check that the saved config, and the one beside the weights, are the config that run.json has."""
    _, plain = parse_config(saved.config, "saved config: ")
    recorded = flatten(run.metadata["config"])
    differing = [
        key
        for key, value in flatten(plain).items()
        if key not in PLACES and UNKNOWN not in str(value) and recorded.get(key, value) != value
    ]
    if differing:
        raise ValueError(f"{SAVED[0]}: {_some(differing)} is not as in run.json")
    if has_file(run.folder, BEST) and read_weights(file_of(run.folder, BEST))[1] != run.metadata["config"]:
        raise ValueError(f"{BEST}: the config in its header is not the one in run.json")
    return "the saved config, and that in the header of the weights, are that of run.json"


def _check_split(run: Run) -> str:
    """Check that split.json gives the hashes of the data."""
    members = [member for part in run.split_members.values() for member in part]
    ends = np.cumsum([len(part) for part in run.split_members.values()]).tolist()
    starts = [0, *ends[:-1]]
    split = {part: range(a, b) for part, a, b in zip(run.split_members, starts, ends, strict=True)}
    if any("sha256" not in member for member in members):
        raise _NotCheckedError("a run of an older version: split.json has no SHA-256 of the images")
    digests = [member["sha256"] for member in members]
    found = data_fingerprint(split, [member["id"] for member in members], digests)
    if differing := [key for key, value in run.metadata["data"].items() if found.get(key) != value]:
        raise ValueError(f"split.json: not the images of run.json: data.{_some(differing)} differs")
    return f"split.json gives the hashes of run.json: {counted(len(members), 'image')}"


def _check_metrics(run: Run) -> str:
    """Check that the values in run.json are those of metrics.csv."""
    metadata, rows = run.metadata, read_metrics(run.folder / "metrics.csv")
    last, best = metadata["last"]["values"], metadata["best"]
    exact = run.session["reproducible"] == "bit for bit"
    for name in (name for name in last if name in rows[-1]):
        if not _same(rows[-1][name], last[name], 0.0 if exact else LOSS_TOLERANCE) and (exact or name == "val/loss"):
            raise ValueError(f"{name} is {rows[-1][name]} in the last row of metrics.csv, in run.json {last[name]}")
    monitored, sign = best["monitor"], 1 if metadata["better"][best["monitor"].partition("/")[2]] == "max" else -1
    values = np.array([row[monitored] for row in rows], float)  # None, where not evaluated, becomes NaN
    best_epoch = int(np.nanargmax(sign * values)) + 1
    if best["epoch"] != best_epoch or best["value"] != rows[best_epoch - 1][monitored]:
        raise ValueError(f"the best {monitored} of metrics.csv is in epoch {best_epoch}, in run.json {best['epoch']}")
    if metadata["seconds"]["total"] != sum(row["seconds"] for row in rows):
        raise ValueError("run.json: seconds.total is not the sum of metrics.csv")
    return f"run.json follows from metrics.csv: {counted(len(rows), 'epoch')}, best {monitored} in epoch {best_epoch}"


def _check_images(run: Run) -> str:
    """Check that per_image.csv has the images of split.json, and gives the means that run.json has."""
    parts = [part for part in ("val", "test") if run.split_members[part]]
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
                if not _same(mean, recorded, MEAN_TOLERANCE):
                    raise ValueError(f"per_image.csv: mean {name} of {part}, {weights}: {mean}, in run.json {recorded}")
    return f"run.json follows from per_image.csv: {counted(len(groups), 'image')}, last and best epoch"


def _check_pictures(run: Run) -> str:
    """Check that every picture can be read."""
    pictures = [path for name in ("figures", "previews") for path in sorted((run.folder / name).rglob("*.png"))]
    if bad := [str(path.relative_to(run.folder)) for path in pictures if read_picture(path) is None]:
        raise ValueError(f"{_some(bad)} cannot be read")
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
        if of_file.keys() != kept.keys() or not all(_same(of_file[key], kept[key], 0.0) for key in kept):
            raise ValueError(f"metrics.csv: epoch {kept['epoch']} is not as {LAST} has it")
    if content.get("config", run.metadata["config"]) != run.metadata["config"]:
        raise ValueError(f"{LAST}: its config is not the one in run.json")
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
        reason = str(error).splitlines()[0][:MAX_SAID]
        yield Check("evaluation", NOT_CHECKED, f"the data are not there: {reason}")
        return
    if options.data:
        yield _check("evaluation", lambda: _evaluate_again(run, cfg, config, source, saved.choices))
    if options.epochs:
        epochs = options.epochs
        yield _check("training", lambda: _train_again(run, cfg, config, source, saved.choices, epochs))


def _evaluate_again(run: Run, cfg: DictConfig, config: Config, source: Source, choices: dict[str, str]) -> str:
    """Check that the weights give the values of per_image.csv."""
    setup = restored_setup(run, cfg.copy(), config, source, choices)
    recorded = _recorded_rows(run)
    reasons = _other_machine(run.session, setup)
    checked = []
    for weights in ("last", "best"):
        if weights == "best" or run.metadata["epochs"] == run.metadata["best"]["epoch"]:
            load_weights(file_of(run.folder, BEST), setup.model)
        elif has_file(run.folder, LAST):
            path = file_of(run.folder, LAST)
            load_tensors(setup.model, read_last(path, "so it cannot be evaluated", "")["model"], path)
        else:
            continue
        again = _rows_again(setup, weights)
        old = [row for row in recorded if row["checkpoint"] == weights]
        if fault := _difference(old, again, 0.0 if not reasons else SCORE_TOLERANCE):
            raise ValueError(f"per_image.csv, {weights} epoch: {fault}")
        checked.append(weights)
    how = f"to rounding ({_rounding()}), as {_some(reasons)}" if reasons else "bit for bit"
    return f"the weights, evaluated again, give per_image.csv {how}: {' and '.join(checked)} epoch"


def _recorded_rows(run: Run) -> list[dict[str, str]]:
    header, rows = read_csv(run.folder / "per_image.csv")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _rows_again(setup: ExperimentSetup, weights: str) -> list[dict[str, Any]]:
    """Evaluate the model as it is now, and return the rows of per_image.csv."""
    loaders = {"val": setup.loaders.val} | ({"test": setup.loaders.test} if setup.loaders.test else {})
    samples, data = setup.data.samples, setup.data
    return [
        {"split": split, "checkpoint": weights, **row}
        for split, loader in loaders.items()
        for row in rows_per_image(
            evaluate(setup.network, setup.loss, setup.metrics, loader),
            samples.ids,
            data.groups,
            samples.targets,
            data.classes,
        )
    ]


def _difference(old: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, Any]], tolerance: float) -> str:
    """Say in what rows of per_image.csv differ from those computed again; of the means where there is a tolerance."""
    texts = ("split", "checkpoint", "id", "group", "target")
    if [[row.get(key) for key in texts] for row in old] != [[row.get(key) for key in texts] for row in new]:
        return "other images, groups or targets than the data have"
    if [row.keys() for row in old] != [row.keys() for row in new]:
        return "other columns than the config gives"
    numbers = [key for key in new[0] if key not in texts] if new else []
    if tolerance:
        for key in numbers:
            was, now = (float(np.mean([float(str(row[key]) or "nan") for row in rows])) for rows in (old, new))
            if not _same(was, now, tolerance, tolerance):
                return f"mean {key} was {was:.6g} and is now {now:.6g}"
        return ""
    for was_row, now_row in zip(old, new, strict=True):
        for key in numbers:
            if was_row[key] != str(now_row[key]):
                return f"{key} of {now_row['id']} was {was_row[key]} and is now {now_row[key]}"
    return ""


def _train_again(
    run: Run, cfg: DictConfig, config: Config, source: Source, choices: dict[str, str], epochs: int
) -> str:
    """Check that training again gives the first rows of metrics.csv and, where these are all, the best weights."""
    rows = read_metrics(run.folder / "metrics.csv")
    if epochs > len(rows):
        raise UserError(f"--retrain={epochs}: the run has {counted(len(rows), 'epoch')}")
    with TemporaryDirectory(prefix="runcard-") as folder:
        cfg = cfg.copy()
        cfg.train.cache_dir = folder
        train = config.train.model_copy(update={"cache_dir": folder})
        config = config.model_copy(update={"train": train})
        setup = restored_setup(run, cfg, config, source, choices, begins=True)
        reasons = [reason for session in run.sessions for reason in _other_machine(session, setup)]
        again, best = repeat_epochs(setup, epochs, Console(quiet=True))
    for was, now in zip(rows, again, strict=False):
        for key in (key for key in was if key not in TIMES):
            is_loss = key.endswith("/loss")
            if not _same(was[key], now[key], LOSS_TOLERANCE if reasons else 0.0) and (is_loss or not reasons):
                raise ValueError(f"{key} of epoch {was['epoch']} was {was[key]} and is now {now[key]}")
    if epochs < len(rows) or reasons:
        how = f"with the same losses to {LOSS_TOLERANCE:.0%}, as {_some(reasons)}" if reasons else "bit for bit"
        return f"trained again, the first {counted(epochs, 'epoch')} of metrics.csv: {how}"
    kept, _ = read_weights(file_of(run.folder, BEST))
    if kept.keys() != best.keys() or not all(kept[name].equal(best[name]) for name in kept):
        raise ValueError(f"{BEST}: training again gives other weights")
    return f"trained again: all {counted(epochs, 'epoch')} of metrics.csv and the best weights, bit for bit"


def _other_machine(session: Mapping[str, Any], setup: ExperimentSetup) -> list[str]:
    """Say why what a session computed may differ here in the last bits; nothing where it must not."""
    here, there = hardware(), session["hardware"]
    reasons = [f"{key} was {there.get(key)}, here {value}" for key, value in here.items() if there.get(key) != value]
    installed = versions()
    reasons += [
        f"{name} was {version}, here {installed.get(name)}"
        for name, version in session["versions"].items()
        if installed.get(name) != version
    ]
    if session["code"] != code_hash():
        reasons.append("the code of Runcard was another")
    if session.get("devices", 1) > 1:
        reasons.append(f"it was trained on {session['devices']} devices")
    if session["precision"] != setup.precision or session["device"] != str(setup.fabric.device):
        reasons.append(f"it ran on {session['device']} in {session['precision']}")
    if session["reproducible"] != "bit for bit":
        reasons.append("the run was reproducible to rounding only")
    return reasons


def _same(one: float | None, other: float | None, tolerance: float, absolute: float = 1e-6) -> bool:
    """Whether two values are equal, or as near as the tolerance says; None, as JSON has it, is not a number."""
    a, b = (math.nan if value is None else value for value in (one, other))
    if not math.isfinite(a) or not math.isfinite(b):
        return not math.isfinite(a) and not math.isfinite(b)
    return a == b or bool(tolerance and math.isclose(a, b, rel_tol=tolerance, abs_tol=absolute))


def _rounding() -> str:
    return f"means to {SCORE_TOLERANCE:g}"


def _some(names: Sequence[str]) -> str:
    """Name the first few."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"
