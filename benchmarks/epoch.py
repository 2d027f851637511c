"""Measures one epoch of ours, with everything on, against bare hand-written loops over the same images.

    make bench

The bare loop trains on the same batches and evaluates the same images (validation and as many training images) for the
same loss and a hard Dice: the same arithmetic, without metrics, record, checkpoint, pictures or TensorBoard. Rounds are
interleaved, so that all loops see the same machine; what counts is the ratio within a round, not the seconds.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from runcard.config.compose import compose_config
from runcard.config.schema import parse_config
from runcard.console import print_table
from runcard.data.datamodule import open_source
from runcard.data.loaders import Batch
from runcard.experiment.predictions import PredictionFigures
from runcard.experiment.session import fit_setup
from runcard.experiment.setup import ExperimentSetup, make_setup
from runcard.loggers.progress import Progress
from runcard.loggers.run import RunLogger
from runcard.loggers.tensorboard import TensorBoardLogger
from runcard.runs.environment import hardware
from runcard.training.checkpoint import Checkpoint
from runcard.training.types import State

CONFIG = ["dataset.image_size_px=128", "model.base=16", "loss=dice", "train.batch_size=8"]
ROUNDS = 9
EPOCHS_OF_A_RUN = 150  # the lab's: how often pictures are drawn follows from it


def built(overrides: Sequence[str]) -> ExperimentSetup:
    """Build what a run with these overrides trains with."""
    cfg = compose_config(overrides)
    config, _ = parse_config(cfg)
    return make_setup(cfg, config, open_source(config.dataset), {})


def main() -> None:
    """Print the table of benchmarks/README.md; arguments are further overrides of the config."""
    ours, bare, plain = (
        built([*CONFIG, f"train.epochs={EPOCHS_OF_A_RUN}", *sys.argv[1:], *more])
        for more in ([], [], ["train.precision=32"])
    )
    plain.model.to(memory_format=torch.contiguous_format)
    with tempfile.TemporaryDirectory() as folder:
        rounds = {
            "Runcard, everything on": our_epochs(ours, Path(folder)),
            "bare loop, same precision and memory format": bare_epoch(bare, torch.channels_last),
            "bare loop, float32, contiguous": bare_epoch(plain, torch.contiguous_format),
        }
        for epoch in rounds.values():
            epoch()  # the first is a warm-up
        seconds: dict[str, list[float]] = {name: [] for name in rounds}
        for _ in range(ROUNDS):
            for name, epoch in rounds.items():
                started = perf_counter()
                epoch()
                seconds[name].append(perf_counter() - started)
    first = seconds["Runcard, everything on"]
    images = len(ours.loaders.train_sampler)
    rows = []
    for name, values in seconds.items():
        median, spread = statistics.median(values), f"{min(values):.2f} to {max(values):.2f}"
        ratio = statistics.median(ours_s / this_s for ours_s, this_s in zip(first, values, strict=True))
        rows.append([name, f"{median:.2f}", spread, f"{images / median:.1f}", f"{ratio:.3f}"])
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{hardware()} torch {torch.__version__} {ours.precision}")
    console.print(f"{images} training and 2 x {len(ours.data.split['val'])} evaluated images, {ROUNDS} rounds")
    print_table(console, ["epoch of", "seconds", "range", "training images/s", "ours / this"], rows)


def our_epochs(setup: ExperimentSetup, folder: Path) -> Callable[[], None]:
    """Return a function that trains one more epoch as train.py does: metrics, record, checkpoint, pictures."""
    checkpoint = Checkpoint(folder, setup.model, setup.optimizer, setup.schedule.rule, setup.config)
    progress = Progress(Console(file=io.StringIO()), setup.train, len(setup.loaders.train), setup.monitor.name)
    trackers = {"tensorboard": TensorBoardLogger()}
    tracker = RunLogger(folder, [], progress, PredictionFigures(setup).epoch, trackers)
    run = {"config": setup.config, "num_parameters": 0, "choices": {}}
    tracker.start(setup.config_yaml, run, setup.monitor.name)
    state = State()

    def epoch() -> None:
        one_more = replace(setup, train=setup.train.model_copy(update={"epochs": state.epoch + 1}))
        fit_setup(one_more, state, checkpoint, tracker)

    return epoch


def bare_epoch(setup: ExperimentSetup, memory_format: torch.memory_format) -> Callable[[], None]:
    """Return the loop that a good notebook has, on the same loaders."""
    model, loss, optimizer = setup.model, setup.loss, setup.optimizer
    device = setup.fabric.device
    mixed = setup.precision != "32-true"

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.to(device, memory_format=memory_format)
        with torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext():
            return model(images).float(), batch.targets.to(device)

    def evaluate(loader: DataLoader[Batch]) -> tuple[float, float]:
        model.eval()
        losses, dices = [], []
        with torch.inference_mode():
            for batch in loader:
                logits, targets = forward(batch)
                losses.append(loss(logits, targets) * len(targets))
                predicted = logits[:, 0] > 0
                overlap = (predicted & (targets == 1)).sum((1, 2))
                dices.append(2 * overlap / (predicted.sum((1, 2)) + targets.sum((1, 2))))
        return torch.stack(losses).sum().item(), torch.cat(dices).mean().item()

    def epoch() -> None:
        model.train()
        for batch in setup.loaders.train:
            logits, targets = forward(batch)
            value = loss(logits, targets)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            value.item()
        evaluate(setup.loaders.train_eval)
        evaluate(setup.loaders.val)

    return epoch


if __name__ == "__main__":
    main()
