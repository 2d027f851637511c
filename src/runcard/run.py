"""One run: parts -> training -> record. From the first epoch on, whatever happens is written down."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from runcard.checkpoint import Checkpoint
from runcard.errors import UserError
from runcard.facts import UNHASHED, code_hash, config_hash, data_fingerprint, flatten
from runcard.gallery import Gallery
from runcard.parts import Parts, compose
from runcard.progress import Progress
from runcard.record import Record, check_parent, copy_training
from runcard.results import print_summary, save_figure, write_results
from runcard.tracking import Tracker


def run(cfg: DictConfig, folder: Path, overrides: Sequence[str], choices: dict[str, str]) -> float:
    """Runs one card in folder and returns its best monitored value, which is what a sweep optimises.

    A folder that holds the same card goes on where it stopped; a completed one gives its recorded value. overrides
    are recorded beside the card; choices names the file chosen per config group, for messages.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    parts = compose(cfg, choices)
    samples, split = parts.data.samples, parts.data.split
    fingerprint = data_fingerprint(split, samples.ids, samples.digests)
    record = Record.open(folder, parts.config, fingerprint, parts.overwrite)
    try:
        if record.content.get("status") == "completed":
            return _recorded(record, console)
        parent = None
        if parts.train.extend and not (folder / "checkpoints" / "last.ckpt").exists():
            parent = Path(parts.train.extend)
            check_parent(parent, parts.config, fingerprint, parts.total_matters)
        _announce(parts, record, choices, console)
        record.start(
            parts.card,
            overrides,
            session={"device": str(parts.fabric.device), "precision": parts.precision},
            choices=choices,
            config=parts.config,
            config_hash=config_hash(parts.config),
            data=fingerprint,
            num_parameters=parts.num_parameters,
            parent=parts.train.extend,
        )
        if parent:
            copy_training(parent, folder)
        record.write_split(split, samples.ids, parts.data.groups)
        return _train(parts, record, console)
    finally:
        record.release()


def _announce(parts: Parts, record: Record, choices: dict[str, str], console: Console) -> None:
    """Prints what is about to be trained, and where."""
    counts = ", ".join(f"{len(members)} {part}" for part, members in parts.data.split.items() if members)
    dataset, model, loss = (choices.get(group, group) for group in ("dataset", "model", "loss"))
    console.print(record.folder, style="bold")
    console.print(f"{dataset}: {counts} · {model}: {parts.num_parameters:,} parameters · {loss} · ", end="")
    console.print(f"{parts.fabric.device} {parts.precision}")
    before = record.content["sessions"][-1]["precision"] if record.content else parts.precision
    if before != parts.precision:
        console.print(f"warning: this run began in {before} and goes on in {parts.precision}.", style="yellow")


def _train(parts: Parts, record: Record, console: Console) -> float:
    """Trains, writes the results, and says in run.json how it ended."""
    folder, started = record.folder, perf_counter()
    checkpoint = Checkpoint(folder, parts.model, parts.optimizer, parts.schedule.rule, parts.config)
    state = checkpoint.resume()
    if state.epoch:
        console.print(f"going on after epoch {state.epoch}")
    gallery = Gallery(parts)
    progress = Progress(console, parts.train, len(parts.loaders.train), parts.monitor.name)
    tracker = Tracker(folder, state.epoch, progress, gallery)
    ending: dict[str, Any] = {"status": "interrupted"}
    try:
        tracker.start(parts.card, _hparams(parts, record))
        if state.epoch == 0:
            first_batch = gallery.first_batch()
            save_figure(first_batch, folder / "figures" / "first_batch.png")
            tracker.figure("train/first_batch", first_batch, 0)
        state = parts.fit(state, checkpoint, tracker)
        progress.close()
        results = write_results(parts, state, tracker, gallery, checkpoint, record)
        ending = {"status": "completed", **results}
        print_summary(console, parts, results, folder)
        return float(results["best"]["value"])
    except KeyboardInterrupt:
        progress.close()
        console.print(
            f"\ninterrupted after epoch {state.epoch}. The same command goes on from there; a single run with "
            f"run_dir={folder} added."
        )
        raise
    except Exception as error:
        ending = {"status": "failed", "error": str(error)}
        raise
    finally:
        with suppress(UserError):  # a full disk: the first error is the one to hear of
            tracker.close(ending["status"])
            record.finish(perf_counter() - started, **ending)


def _recorded(record: Record, console: Console) -> float:
    """Returns the value that a completed run left in run.json."""
    best = record.content["best"]
    console.print(f"{record.folder}: completed before, {best['monitor']} {best['value']:.4f} (epoch {best['epoch']})")
    if record.content["sessions"][-1]["code"] != code_hash():
        console.print("warning: runcard's code has changed since; overwrite=true runs it again.", style="yellow")
    return float(best["value"])


def _hparams(parts: Parts, record: Record) -> dict[str, Any]:
    """Returns every value of the card that a run may differ in, with lists as text, for TensorBoard's HPARAMS."""
    leaves = {key: value for key, value in flatten(parts.config).items() if key.split(".")[0] not in UNHASHED}
    leaves |= {"num_parameters": record.content["num_parameters"], **record.content["choices"]}
    return {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in leaves.items()}
