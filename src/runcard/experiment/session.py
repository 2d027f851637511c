"""One session of a run: setup, audit, training, results. run.json says how it ended."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console

from runcard.audit.audit import audit_before_training, print_findings
from runcard.audit.decoded import decode
from runcard.audit.findings import as_json
from runcard.audit.profiles import Profile, seen_in
from runcard.config.diff import config_hash
from runcard.config.instantiate import build_all
from runcard.config.schema import Config
from runcard.console import counted, print_table
from runcard.data.loaders import make_loaders
from runcard.data.preprocessing import left_out
from runcard.data.source import Samples, Source
from runcard.data.splits import data_fingerprint
from runcard.data.summary import count_classes, describe_images, summary_rows
from runcard.errors import UserError
from runcard.experiment.checks import metric_mode
from runcard.experiment.finalize import print_summary, write_results
from runcard.experiment.model_summary import ModelSummary, summarize_model
from runcard.experiment.predictions import PredictionFigures, first_batch, only_warned_of
from runcard.experiment.recorded import report_recorded
from runcard.experiment.setup import ExperimentSetup, make_setup, with_cached_features
from runcard.experiment.trial import Pruned, report_epoch
from runcard.fileio import NOT_USABLE, cannot_write, write_csv, write_figure
from runcard.interrupts import StopAfterEpoch, unmasked
from runcard.loggers.progress import Progress
from runcard.loggers.run import RunLogger, Tracker
from runcard.runs.folders import LAST
from runcard.runs.hold import Hold
from runcard.runs.search import chosen_by
from runcard.runs.writer import Record, check_parent, copy_training
from runcard.training.checkpoint import Checkpoint, read_last, restore
from runcard.training.evaluation import columns
from runcard.training.feature_cache import Pretrained
from runcard.training.loop import fit
from runcard.training.memory import is_out_of_memory, out_of_memory
from runcard.training.ranks import ALONE, Ranks, is_of_ranks
from runcard.training.types import Evaluation, Logger, Saver, State

if TYPE_CHECKING:
    from optuna.trial import Trial

LOST_WORKER = re.compile(r"DataLoader worker \(pid.*?\d\) (is killed by signal: [^.\n]+|exited unexpectedly)")


def train_experiment(
    cfg: DictConfig,
    config: Config,
    source: Source,
    hold: Hold,
    overrides: Sequence[str],
    choices: dict[str, str],
    console: Console,
    trial: Trial | None,
    ranks: Ranks,
) -> float:
    """Build everything, audit the data, train, and return the best monitored value; see run.run.

    cfg is the composed config, config the same parsed, source its dataset, opened; hold is on the run's folder, and
    this process is the first of ranks.
    """
    search = {"trial": trial.number} if trial else chosen_by(config.chosen_by)
    profiles: dict[int, Profile] = {}

    def read() -> Samples:
        decoded = decode(config, source)
        profiles.update(decoded.profiles)
        return decoded.samples

    trackers = build_all("logger", config.logger, config.trust, Tracker, "logger")
    setup = make_setup(cfg, config, source, choices, read, ranks=ranks)
    samples, split = setup.data.samples, setup.data.split
    fingerprint = data_fingerprint(split, samples.ids, samples.digests)
    built = summarize_model(setup.model, setup.image_shape, setup.config["model"])
    validation = setup.loaders.val
    findings = audit_before_training(setup.data, profiles, setup.augment, validation, config, built.mismatches)
    record = Record.open(hold, setup.config, choices, fingerprint, config.overwrite)
    if record.content.get("status") == "completed":
        return report_recorded(record.folder, record.content, console)
    parent = None
    if setup.train.extend and not (record.folder / LAST).exists():
        parent = Path(setup.train.extend)
        check_parent(parent, setup.config, fingerprint)
    _announce(setup, built, record.folder, choices, console, ranks.size)
    print_findings(findings, config.audit.allow, overrides, console)
    changed = record.start(
        setup.config_yaml,
        overrides,
        session={
            "device": str(setup.fabric.device),
            "devices": ranks.size,
            "precision": setup.precision,
            "reproducible": "bit for bit" if setup.bit_exact else "to rounding",
        },
        choices=choices,
        data=fingerprint,
        audit=as_json(findings, config.audit.allow),
        search=search,
        **_describe(setup, built, profiles),
    )
    if search and not record.content.get("search"):  # named only when the run was resumed
        record.update(search=search)
    if changed:
        what = " and ".join(changed)
        console.print(f"warning: not the {what} of the last session; numbers may differ by it.", style="yellow")
    folder = record.folder
    checkpoint = Checkpoint(folder, setup.model, setup.optimizer, setup.schedule.rule, setup.config, fingerprint)
    with _ending(record, checkpoint, console) as ending:
        if parent:
            copy_training(parent, record.folder)
        record.write_split(split, samples.ids, setup.data.groups, samples.digests)
        ending |= {"status": "completed", **_train(setup, record, checkpoint, console, trial, ranks, trackers)}
    checkpoint.finish(keep_last=not setup.is_lean)
    if ending["status"] == "pruned":
        return math.nan
    print_summary(console, setup, ending, record.folder)
    return float(ending["best"]["value"])


def _describe(setup: ExperimentSetup, built: ModelSummary, profiles: dict[int, Profile]) -> dict[str, Any]:
    """Describe config, model, metrics and data for run.json; profiles are those of the images, by position."""
    samples, split, of_columns = setup.data.samples, setup.data.split, columns(setup.metrics)
    return {
        "config": setup.config,
        "config_hash": config_hash(setup.config),
        "parent": setup.train.extend,
        "num_parameters": built.num_parameters,
        "num_trained_parameters": built.num_trained,
        "model": built.metadata(),
        "balanced_weights": setup.balanced_weights,
        "better": {name: metric_mode(name, setup.metrics) for name in ("loss", *of_columns)},
        "bounds": {name: metric.bounds for name, metric in of_columns.items() if hasattr(metric, "bounds")},
        "units": setup.units,
        "images": {
            **describe_images([samples.originals[i] for i in split["train"]]),
            **seen_in([profiles[samples.positions[i]] for i in split["train"]]),
        },
        "class_counts": count_classes(split, setup.data.classes, samples.labels),
        "left_out": left_out(setup.data.source, samples),
    }


def _announce(
    setup: ExperimentSetup, built: ModelSummary, folder: Path, choices: dict[str, str], console: Console, devices: int
) -> None:
    """Print what is about to be trained, and where."""
    counts = ", ".join(f"{len(members)} {part}" for part, members in setup.data.split.items() if members)
    source = setup.data.source
    lost = len(source) - len(setup.data.samples.ids) + sum(fault.check == "unpaired" for fault in source.faults)
    if lost:
        counts += f", {lost} left out (audit.allow)"
    dataset, model, loss = (choices.get(group, group) for group in ("dataset", "model", "loss"))
    console.print(folder, style="bold")
    samples, groups = setup.data.samples, setup.data.groups
    patients = groups if groups != samples.ids else None
    if rows := summary_rows(setup.data.source, samples.originals, samples.labels, setup.data.split, patients):
        print_table(console, rows[0], rows[1:])
    written, model_built = built.rows()
    print_table(console, written, [model_built])
    if isinstance(setup.model, Pretrained):
        digest = setup.config.get("weights_sha256")
        console.print(f"pretrained weights: {f'a file of SHA-256 {digest[:8]}…' if digest else 'none, random ones'}")
    if setup.train.init_from:
        but = f", but for {', '.join(setup.train.init_without)}" if setup.train.init_without else ""
        digest = setup.config["init_sha256"]
        console.print(f"initial weights: {setup.train.init_from}, SHA-256 {digest[:8]}…{but}")
    for key, weights in setup.balanced_weights.items():
        of_classes = (f"{name} {weight:.3g}" for name, weight in zip(setup.data.classes, weights, strict=True))
        console.print(f"balanced weights of {key}: {', '.join(of_classes)}")
    shared = f" · every batch on {devices} devices" if devices > 1 else ""
    console.print(f"{dataset}: {counts} · {model} · {loss} · {setup.fabric.device} {setup.precision}{shared}")
    if setup.data.sealed:
        sealed = counted(len(setup.data.split["test"]), "image")
        console.print(f"the test split of {sealed} is sealed: runcard unseal evaluates it, once the study is done")
    if setup.config["smoke_test"]:
        console.print("scale=quick: a smoke test of this config. It supports no conclusion.", style="yellow")


@contextmanager
def _ending(record: Record, checkpoint: Checkpoint, console: Console) -> Iterator[dict[str, Any]]:
    """However the block ends, run.json says so: with the metadata that it adds, as pruned, failed or interrupted."""
    started = perf_counter()
    ending: dict[str, Any] = {"status": "interrupted"}
    try:
        with unmasked():
            yield ending
    except Pruned as stop:
        ending |= {"status": "pruned", "error": str(stop)}
        console.print(stop)
    except Exception as error:
        failure = _as_message(error, record.folder, checkpoint.epoch)
        ending |= {"status": "failed", "error": str(failure)}
        if failure is not error:
            raise failure from None
        raise
    except KeyboardInterrupt as stop:
        how = "stopped by SIGUSR1" if isinstance(stop, StopAfterEpoch) else "interrupted"
        console.print(
            f"\n{how} after epoch {checkpoint.epoch}. The same command goes on from there; a single run with "
            f"run_dir='\"{record.folder}\"' added."
        )
        raise
    finally:
        has_failed = ending["status"] in ("failed", "interrupted")  # then its own error is the one to hear of
        with suppress(UserError, OSError) if has_failed else nullcontext():
            record.finish(perf_counter() - started, **ending)


def _as_message(error: Exception, folder: Path, epoch: int) -> Exception:
    """Return a UserError for what the machine refuses or ends, else the error itself."""
    if isinstance(error, OSError) and (message := cannot_write(folder, error, NOT_USABLE)):
        return UserError(message)
    if is_out_of_memory(error):
        return UserError(out_of_memory(error))
    if found := LOST_WORKER.search(str(error)):
        return UserError(
            f"train.num_workers: a loader process {found[1]}, perhaps for want of memory. "
            f"The same command goes on after epoch {epoch}; train.num_workers=0 needs no such processes."
        )
    return error


def _train(
    setup: ExperimentSetup,
    record: Record,
    checkpoint: Checkpoint,
    console: Console,
    trial: Trial | None,
    ranks: Ranks,
    trackers: dict[str, Tracker],
) -> dict[str, Any]:
    """Train from where the folder's checkpoint left off; returns the results that run.json ends with."""
    folder, status = record.folder, "interrupted"
    state = checkpoint.resume(partial(console.print, style="yellow"))
    if state.rows:
        write_csv(folder / "metrics.csv", state.rows)  # whatever became of it
    if state.epoch:
        instead = ", with its weights and not those of train.init_from" if setup.train.init_from else ""
        console.print(f"going on after epoch {state.epoch}{instead}")
    trained = setup
    if setup.cache_features:
        trained, metadata = with_cached_features(setup, console)
        record.update(features=record.content.get("features", metadata))  # what the first session paid
    figures = PredictionFigures(trained)
    progress = Progress(console, setup.train, len(setup.loaders.train), setup.monitor.name)
    logger = RunLogger(folder, list(state.rows), progress, figures.epoch, trackers)
    try:
        logger.start(setup.config_yaml, record.content, setup.monitor.name)
        if not setup.is_lean and not (folder / "figures" / "first_batch.png").exists():
            with only_warned_of("figures/first_batch.png"):
                figure = first_batch(setup)
                write_figure(folder / "figures" / "first_batch.png", figure)
                logger.figure("train/first_batch", figure, 0)
        resumed_epoch = state.epoch
        outputs = InFolder(record, logger, checkpoint, trial)
        try:
            if ranks.size > 1 and ranks.meet():
                last = checkpoint.last.read_bytes() if state.epoch else None
                _join(ranks, setup, {"data": record.content["data"], "last": last})
            state = fit_setup(trained, state, checkpoint=outputs, logger=outputs, ranks=ranks)
            ranks.leave()
        except RuntimeError as error:
            if not is_of_ranks(error):
                raise
            raise UserError(
                f"Another rank was lost, so training ends. The same command goes on after epoch {checkpoint.epoch}."
            ) from None
        progress.close()
        if state.epoch < setup.train.epochs:
            since = f"no better {setup.monitor.name} since epoch {state.best_epoch}"
            patience = f"train.early_stopping={setup.train.early_stopping}"
            console.print(f"stopped early after epoch {state.epoch}: {since} ({patience})")
        # Where no epoch was left to train, another session, perhaps on another machine, evaluated the last one.
        bit_exact = trained.bit_exact and state.epoch > resumed_epoch and ranks.size == 1
        results = write_results(trained, state, logger, figures, checkpoint, record, bit_exact)
        status = "completed"
        return results
    finally:
        with suppress(OSError):
            logger.close(status)


def train_along(ranks: Ranks, cfg: DictConfig, config: Config, source: Source, choices: dict[str, str]) -> None:
    """Train with the first rank, which records the run, if there is anything to train. Raises UserError."""
    setup = make_setup(cfg, config, source, choices, lambda: decode(config, source).samples, ranks=ranks)
    trained = with_cached_features(setup, Console(quiet=True))[0] if setup.cache_features else setup
    if not ranks.meet():
        return
    begun = _join(ranks, setup, None)
    samples = setup.data.samples
    if data_fingerprint(setup.data.split, samples.ids, samples.digests) != begun["data"]:
        raise UserError("dataset: its files here are not those that the first rank has.")
    state = State()
    if begun["last"]:
        last = read_last(BytesIO(begun["last"]), "as the first rank has sent it", "Start it again")
        state = restore(last, setup.model, setup.optimizer, setup.schedule.rule)
    nowhere = Nowhere()
    fit_setup(trained, state, checkpoint=nowhere, logger=nowhere, ranks=ranks)


@dataclass
class InFolder:
    """The logger and the checkpoint of a run, as long as its folder is there: no file of it makes a new one."""

    record: Record
    logger: Logger
    checkpoint: Saver
    trial: Trial | None  # of a search, which may stop the run

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Report one optimizer step."""
        self.logger.step(epoch, step, num_images, loss)

    def epoch(self, row: dict[str, Any], val: Evaluation | None, is_best: bool) -> None:
        """Report one finished epoch. Raise UserError where the folder is gone, and Pruned where the search stops it."""
        self.record.check_there()
        self.logger.epoch(row, val, is_best)
        if self.trial and val:
            config = self.record.content["config"]
            report_epoch(self.trial, row, config["metric"]["monitor"], config["train"]["epochs"])

    def save(self, state: State) -> None:
        """Save the state. Raise UserError where the folder is gone."""
        self.record.check_there()
        self.checkpoint.save(state)


class Nowhere:
    """The logger and the checkpoint of a rank that records nothing."""

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Report nothing."""

    def epoch(self, row: dict[str, Any], val: Evaluation | None, is_best: bool) -> None:
        """Report nothing."""

    def save(self, state: State) -> None:
        """Save nothing."""


def _join(ranks: Ranks, setup: ExperimentSetup, begun: dict[str, Any] | None) -> dict[str, Any]:
    """Connect the ranks and give all the first one's weights; return what it says of its data and its checkpoint."""
    ranks.join(setup.fabric.device)
    ranks.copy_first(setup.model)
    of_first: dict[str, Any] = ranks.of_first(begun)
    return of_first


def fit_setup(setup: ExperimentSetup, state: State, checkpoint: Saver, logger: Logger, ranks: Ranks = ALONE) -> State:
    """Train from state on, and return the final state; see training.loop.fit."""
    loaders, seed = setup.loaders, setup.seed
    if ranks.size > 1:
        plain, augmented = loaders.val.dataset, loaders.train.dataset
        device = setup.fabric.device
        loaders = make_loaders(plain, augmented, setup.data.loaded, setup.train, seed, device, (ranks.rank, ranks.size))
    return fit(
        fabric=setup.fabric,
        model=setup.network,
        loss=setup.loss,
        optimizer=setup.optimizer,
        schedule=setup.schedule,
        loaders=loaders,
        metrics=setup.metrics,
        monitor=setup.monitor,
        train=setup.train,
        seed=seed,
        state=state,
        checkpoint=checkpoint,
        logger=logger,
        ranks=ranks,
    )
