"""Run folders and weights of somebody who means harm: no code of theirs runs. A file, the canary, would show it."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import torch
from test_untrusted_config import EVIL, HOSTILE, forge, node, wrapped

from campaign.processes import run
from campaign.scenarios import trained, write_images
from campaign.trials import EQUAL, FAILED, REFUSED, Result, Trial, fault_of, rng

NUMBER = 60
KEYS = ("model", "dataset", "loss", "augmentation", "optimizer", "metric.scores.evil", "scheduler.rule")
RUN = "outputs/stranger"
COMMANDS = (
    ("predict", RUN, "images", "-o", "out"),
    ("explain", RUN),
    ("export", RUN, "-o", "out.safetensors", "--format", "safetensors"),
    ("evaluate", RUN),
    ("verify", RUN),
    ("verify", RUN, "--retrain", "1"),
    ("figures", RUN),
    ("audit", "--against", RUN),
    ("report", RUN),
    ("compare", RUN),
    ("train", f"train.extend={RUN}", "train.epochs=3", "run_dir=run"),
)
WEIGHTS = ("checkpoints/best.safetensors", "checkpoints/last.ckpt", "evil.pth", "evil.safetensors")
TEXTS = {
    "YAML tag": "!!python/object/apply:os.system ['touch {canary}']\n",
    "search path": 'hydra: {{searchpath: ["file://{folder}"]}}\ndataset: {{}}\nmodel: {{}}\n',
    "resolver": 'name: "${{oc.create:{{_target_: os.system}}}}"\ndataset: {{}}\nmodel: {{}}\n',
}


class _Payload:
    """What runs a command where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.canary}",)


def trials(seed: int) -> Iterator[Trial]:
    """Yield hostile configs in their places, then hostile weights, then hostile texts of the saved config."""
    for i in range(NUMBER):
        draw = rng(seed, "strangers", i)
        if i % 3 == 0:
            file = draw.choice(WEIGHTS)
            yield Trial(f"{i}: pickle as {file}", partial(_try, partial(_poison, file), _of_weights(file, draw)))
        elif i % 6 == 1:
            text = draw.choice(sorted(TEXTS))
            yield Trial(f"{i}: {text} in .hydra/config.yaml", partial(_try, partial(_write_text, text), _any(draw)))
        else:
            target, key = draw.choice(sorted(HOSTILE)), draw.choice(KEYS)
            name = f"{i}: {target or 'no target'} as {key}"
            yield Trial(name, partial(_try, partial(_forge, target, key, draw), _any(draw)))


def _any(draw: Random) -> tuple[tuple[str, ...], ...]:
    return tuple(draw.sample(COMMANDS, 4))


def _of_weights(file: str, draw: Random) -> tuple[tuple[str, ...], ...]:
    if not file.startswith("evil"):
        return _any(draw)
    start = ("train", f"train.init_from={RUN}/{file}", "model.base=2", "run_dir=run", "train.epochs=1")
    other = ("train", "dataset=phantom_bone", "loss=bce", "model=vgg16_pretrained", f"model.weights={RUN}/{file}")
    return start, (*other, "run_dir=run", "train.epochs=1", "dataset.image_size_px=32")


def _forge(target: str, key: str, draw: Random, folder: Path) -> None:
    nodes = wrapped(node(target, folder))
    forge(folder, key, nodes[draw.choice(sorted(nodes))])


def _poison(file: str, folder: Path) -> None:
    canary = folder.parents[1] / "canary"
    if file.endswith(".ckpt"):
        torch.save({"model": _Payload(canary)}, folder / file)
    else:
        (folder / file).write_bytes(pickle.dumps(_Payload(canary)))


def _write_text(name: str, folder: Path) -> None:
    text = TEXTS[name].format(canary=folder.parents[1] / "canary", folder=folder)
    (folder / ".hydra" / "config.yaml").write_text(text)


def _try(make: Callable[[Path], None], commands: tuple[tuple[str, ...], ...]) -> Result:
    with tempfile.TemporaryDirectory(prefix="place-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / RUN
        folder.parent.mkdir()
        shutil.copytree(trained("classes") / "run", folder)
        write_images(Path(place))
        for name in ("evil.py", "hubconf.py", "__init__.py"):
            (folder / name).write_text(EVIL.format(canary=str(Path(place) / "canary")))
        make(folder)
        codes = []
        for command in commands:
            ended = run(*command, folder=Path(place))
            if (Path(place) / "canary").exists():
                return Result(FAILED, f"code ran: {' '.join(command)}")
            if wrong := fault_of(ended, codes=(0, 2) if command[0] != "audit" else (0, 1, 2)):
                return Result(FAILED, f"{' '.join(command)}: {wrong}")
            codes.append(ended.returncode)
        seen = json.dumps(dict(zip((command[0] for command in commands), codes, strict=True)))
        return Result(REFUSED if any(codes) else EQUAL, seen)
