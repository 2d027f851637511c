"""Measures a training step of ours against Lightning, MONAI and Keras, as a beginner writes them: images per second.

    make peers                                        # installs them into .peers, then measures all networks
    .venv/bin/python benchmarks/peers.py 1 unet-8     # one round, of one network

Every peer trains the same network (Keras one of the same layers) with the same loss, Adam and batches of 8, in a
process of its own, for WARM_UP + STEPS steps; its time is the median of the STEPS. Rounds go through all peers in turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".peers" / "bin" / "python"  # made by make peers
NETWORKS = {"unet-8": 256, "unet-16": 256, "unet-32": 256, "vgg16-8": 128, "vgg16-64": 128}  # name-base -> pixels
WITHOUT_PEERS = ("Runcard", "the best bare loop", "plain PyTorch")  # all others need what make peers installs
BATCH, WARM_UP, STEPS = 8, 3, 8
MEASURE = "--measure"
Tick = Callable[[], None]  # is called after each step


def main() -> None:
    """Print a table of all peers and networks."""
    from rich.console import Console

    from runcard.console import print_table
    from runcard.runs.environment import hardware

    rounds = next((int(each) for each in sys.argv[1:] if each.isdigit()), 3)
    networks = [each for each in sys.argv[1:] if each in NETWORKS] or list(NETWORKS)
    peers = [who for who in MEASURED if has_bf16() or "bf16" not in who]  # emulated, it is twenty times as slow
    rates: dict[tuple[str, str], list[float]] = {(network, who): [] for network in networks for who in peers}
    for _ in range(rounds):
        for network, who in rates:
            rates[network, who].append(rate(who, network, NETWORKS[network]))
            print(f"{network}  {who}: {rates[network, who][-1]:.2f} images/s", flush=True)
    rows = []
    for (network, who), values in rates.items():
        ratio = statistics.median(map(float.__truediv__, rates[network, "Runcard"], values))
        rows.append([network, who, f"{statistics.median(values):.2f}", f"{ratio:.2f}"])
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{hardware()}, {rounds} rounds")
    print_table(console, ["network", "trained by", "images/s", "Runcard / this"], rows)


def rate(who: str, network: str, size_px: int) -> float:
    """Return the images per second of a peer, measured in a process of its own."""
    python = sys.executable if who in WITHOUT_PEERS else PEERS
    command = [python, __file__, MEASURE, who, network, str(size_px)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{who}, {network}, {size_px} px:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def measure(train: Callable[[str, int, int, Tick], None], network: str, size_px: int) -> float:
    """Return the images per second of a way to train."""
    ticks: list[float] = []
    name, _, base = network.partition("-")
    train(name, int(base), size_px, lambda: ticks.append(perf_counter()))
    steps = [after - before for before, after in zip(ticks[WARM_UP - 1 :], ticks[WARM_UP:], strict=False)]
    assert len(steps) >= STEPS, len(ticks)
    return BATCH / statistics.median(steps[:STEPS])


def runcard(name: str, base: int, size_px: int, tick: Tick) -> None:
    """Train one epoch as train.py does."""
    import tempfile

    from epoch import built

    from runcard.experiment.session import fit_setup
    from runcard.training.checkpoint import Checkpoint
    from runcard.training.types import State

    class Clock:
        def step(self, *_: object) -> None:
            tick()

        def epoch(self, *_: object) -> None:
            pass

    data = "phantom_chest" if name == "unet" else "phantom_bone"
    config = [f"dataset={data}", "dataset.num_images=120", f"dataset.image_size_px={size_px}", f"model={name}"]
    config += [f"model.base={base}", "model.batchnorm=true", "loss=bce", f"train.batch_size={BATCH}", "train.epochs=1"]
    config += ["augmentation=none", f"train.limit_batches={WARM_UP + STEPS}"]
    setup = built(config)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder), setup.model, setup.optimizer, setup.schedule.rule, setup.config)
        fit_setup(setup, State(), checkpoint, Clock())


def _torch_parts(name: str, base: int, size_px: int) -> tuple[Any, Any, Any]:
    """Return a network, its loss, and a loader of random images with targets."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from runcard.models.unet import UNet
    from runcard.models.vgg16 import VGG16

    torch.manual_seed(0)
    images = torch.rand((WARM_UP + STEPS) * BATCH, 1, size_px, size_px)
    targets = (images > 0.5).float() if name == "unet" else (torch.rand(len(images), 1) > 0.5).float()
    network = UNet(1, 1, base, batchnorm=True) if name == "unet" else VGG16(1, 1, size_px, base, batchnorm=True)
    return network, torch.nn.BCEWithLogitsLoss(), DataLoader(TensorDataset(images, targets), BATCH, shuffle=True)


def has_bf16() -> bool:
    """Whether this CPU computes in bfloat16 itself."""
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def plain(name: str, base: int, size_px: int, tick: Tick) -> None:
    """Train in the loop of PyTorch's tutorials."""
    import torch

    network, loss, loader = _torch_parts(name, base, size_px)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for images, targets in loader:
        optimizer.zero_grad()
        value = loss(network(images), targets)
        value.backward()
        optimizer.step()
        value.item()
        tick()


def bare(name: str, base: int, size_px: int, tick: Tick) -> None:
    """Train in the fastest loop that is easily written: channels_last, and bfloat16 where the CPU has it."""
    import torch

    network, loss, loader = _torch_parts(name, base, size_px)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for images, targets in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            value = loss(network(images.to(memory_format=torch.channels_last)), targets)
        value.backward()
        optimizer.step()
        value.item()
        tick()


def lightning(name: str, base: int, size_px: int, tick: Tick, **options: Any) -> None:
    """Train with Lightning's Trainer."""
    import lightning as L
    import torch

    network, loss, loader = _torch_parts(name, base, size_px)

    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> Any:
            images, targets = batch
            value = loss(self.network(images), targets)
            self.log("loss", value)
            return value

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

        def on_train_batch_end(self, *_: Any) -> None:
            tick()

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(max_epochs=1, accelerator="cpu", **quiet, **options).fit(Module(), loader)


def lightning_bf16(name: str, base: int, size_px: int, tick: Tick) -> None:
    """Train with Lightning's Trainer in mixed precision."""
    lightning(name, base, size_px, tick, precision="bf16-mixed")


def monai(name: str, base: int, size_px: int, tick: Tick) -> None:
    """Train with MONAI's SupervisedTrainer."""
    import torch
    from ignite.engine import Events
    from monai.engines import SupervisedTrainer

    network, loss, loader = _torch_parts(name, base, size_px)
    samples: Any = [{"image": image, "label": target} for image, target in loader.dataset]
    pairs = torch.utils.data.DataLoader(samples, BATCH, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    trainer = SupervisedTrainer(torch.device("cpu"), 1, pairs, network, optimizer, loss)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, tick)
    trainer.run()


def keras(name: str, base: int, size_px: int, tick: Tick) -> None:
    """Train with Keras on TensorFlow."""
    import numpy as np
    from tensorflow import keras

    layers = keras.layers

    def convolutions(x: Any, channels: int, number: int) -> Any:
        for _ in range(number):
            x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same")(x)))
        return x

    images = inputs = keras.Input((size_px, size_px, 1))
    if name == "unet":
        skipped = []
        for level in range(4):
            skipped.append(convolutions(images, base * 2**level, 2))
            images = layers.MaxPooling2D()(skipped[-1])
        images = convolutions(images, base * 16, 2)
        for level in reversed(range(4)):
            up = layers.Conv2DTranspose(base * 2**level, 3, strides=2, padding="same")(images)
            images = convolutions(layers.Concatenate()([skipped[level], up]), base * 2**level, 2)
        outputs = layers.Conv2D(1, 1)(images)
    else:
        for number, multiple in ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)):
            images = layers.MaxPooling2D()(convolutions(images, base * multiple, number))
        images = layers.Flatten()(images)
        for _ in range(2):
            images = layers.Dropout(0.4)(layers.Dense(64, activation="relu")(images))
        outputs = layers.Dense(1)(images)
    network = keras.Model(inputs, outputs)
    network.compile(keras.optimizers.Adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x = rng.random(((WARM_UP + STEPS) * BATCH, size_px, size_px, 1), np.float32)
    y = (x > 0.5).astype(np.float32) if name == "unet" else rng.integers(0, 2, (len(x), 1)).astype(np.float32)
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: tick())
    network.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, callbacks=[clock])


MEASURED: dict[str, Callable[[str, int, int, Tick], None]] = {
    "Runcard": runcard,
    "the best bare loop": bare,
    "plain PyTorch": plain,
    "Lightning": lightning,
    "Lightning, bf16-mixed": lightning_bf16,
    "MONAI": monai,
    "Keras on TensorFlow": keras,
}

if __name__ == "__main__":
    if MEASURE in sys.argv:
        who, network, size_px = sys.argv[-3:]
        print(json.dumps(measure(MEASURED[who], network, int(size_px))))
    else:
        main()
