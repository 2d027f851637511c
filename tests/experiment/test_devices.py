"""One run on two devices, here two processes on the CPU: the same numbers to rounding, and no rank waits forever."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from threading import Event

import pytest
import torch
import torch.distributed as dist
from commands import Command
from conftest import ONE_THREAD, ROOT, TINY, compose_config
from torch import nn

from runcard.config.schema import parse_config
from runcard.data.loaders import part
from runcard.errors import UserError
from runcard.experiment import launch
from runcard.experiment.checks import check_shares
from runcard.experiment.launch import launched_place
from runcard.training.ranks import Ranks, SynchronizedBatchNorm, synchronize_batchnorm

TWO = "train.devices=2"
# Plain gradient descent: Adam's first steps have the size of the learning rate, whatever the rounding of a gradient.
# 16 training images in batches of 5: the last batch is a single image, and one rank has none of it.
EXACT = (*TINY, "dataset.num_images=21", "train.batch_size=5", "optimizer=sgd", "optimizer.lr=0.05", "record=lean")
LONG = (*TINY, "train.epochs=2000", "train.pictures=0", "record=lean")
SMOOTH = ("loss", "bce", "grad_norm", "lr", "prob_")
TIMES = ("seconds", "images_per_second")


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def per_image(folder: Path) -> list[dict[str, str]]:
    with (folder / "per_image.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_numbers(rows: list[dict[str, str]], others: list[dict[str, str]]) -> None:
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        for key, value in row.items():
            try:
                one_pixel = 0.0 if any(name in key for name in SMOOTH) else 2e-3  # of a count, on the other side of 0.5
                # One thread and two differ by 2e-4 in a loss, 2 % in a norm: batch norm of one image of 2 × 2 px.
                rel = 0.03 if key == "grad_norm" else 1e-3
                assert float(value) == pytest.approx(float(other[key]), rel=rel, abs=2e-5 + one_pixel), key
            except ValueError:
                assert value == other[key], key


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


MODELS = {
    "unet, batch norm over all": ("model=unet",),
    "unet, several batches a step": ("model=unet", "model.batchnorm=false", "train.accumulate_steps=2"),
    "classes, a frozen front": (
        *("dataset=phantom_bone", "model=vgg16", "model.dropout=0", "loss=bce", "model.base=2", "dataset.channels=3"),
        *("train.explain_images=0", "train.freeze=[features.0.*]"),
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_two_devices_give_the_numbers_of_one(run_config, kind):
    one = run_config("one", *EXACT, *MODELS[kind])
    two = run_config("two", *EXACT, *MODELS[kind], TWO)
    same_numbers(metrics(one), metrics(two))
    same_numbers(per_image(one), per_image(two))
    assert record(two)["config_hash"] == record(one)["config_hash"]
    assert [record(folder)["sessions"][0]["devices"] for folder in (one, two)] == [1, 2]


def test_two_devices_give_the_same_numbers_again(run_config):
    augmented = (*EXACT, "augmentation=light", "model.dropout=0.3", TWO)
    once, again = (run_config(name, *augmented) for name in ("once", "again"))
    assert metrics(once) == metrics(again)


def test_batch_norm_of_shares_is_another_computation(run_config):
    one = run_config("one", *EXACT)
    two = run_config("two", *EXACT, TWO, "train.sync_batchnorm=false")
    losses = [float(metrics(folder)[-1]["train/loss"]) for folder in (one, two)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def children(pid: int) -> list[int]:
    """Return the processes that a process has spawned, but for Python's tracker of resources."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_text()
        except OSError:  # it ended
            continue
        if parent == pid and "spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


def started(folder: Path) -> tuple[Command, list[int]]:
    """Start a long run on two devices; return it in its third epoch, and its other processes."""
    command = Command("train.py", *LONG, TWO, "run_dir=run", folder=folder)
    for line in command.lines():
        if line.split("/")[0].split() == ["epoch", "2"]:
            return command, children(command._process.pid)
    raise AssertionError(command.wait().stderr)


linux = pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found as Linux shows them")


@linux
def test_a_lost_process_ends_the_run_which_goes_on_with_one_device(tmp_path):
    command, (other,) = started(tmp_path)
    os.kill(other, signal.SIGKILL)
    lost = time.monotonic()
    ended = command.wait(60)
    assert time.monotonic() - lost < 60
    assert ended.returncode == 2
    assert f"rank 1 (process {other}) ended with exit code -9." in ended.stderr
    assert "Traceback" not in ended.stderr
    saved = record(tmp_path / "run")
    logged = int(metrics(tmp_path / "run")[-1]["epoch"])
    assert saved["status"] == "failed"
    said = re.search(r"The same command goes on after epoch (\d+)\.", saved["error"])
    assert said is not None
    epoch = int(said[1])  # that the checkpoint has; the row of the next may be written before the loss is noticed
    assert epoch in (logged - 1, logged)
    alone = Command("train.py", *LONG, "run_dir=run", folder=tmp_path)
    for line in alone.lines():
        if line.split("/")[0].split() == ["epoch", str(epoch + 1)]:
            alone.send_signal(signal.SIGTERM)
            break
    assert alone.wait().returncode == 130
    assert [session["devices"] for session in record(tmp_path / "run")["sessions"]] == [2, 1]


@linux
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_the_other_processes_end_with_the_first(tmp_path, number, code):
    command, (other,) = started(tmp_path)
    command.send_signal(number)
    assert command.wait(60).returncode == code
    deadline = time.monotonic() + 60
    while Path(f"/proc/{other}").exists() and "Z" not in Path(f"/proc/{other}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@linux
def test_a_process_lost_before_training_ends_the_run(tmp_path):
    command = Command("train.py", *TINY, TWO, "run_dir=run", folder=tmp_path)
    while not (others := children(command._process.pid)):
        assert command.returncode is None
        time.sleep(0.02)
    os.kill(others[0], signal.SIGKILL)
    ended = command.wait(90)
    assert ended.returncode == 2
    assert "Another rank did not begin to train." in ended.stderr


def test_torchrun_trains_one_run_and_believes_a_completed_one(tmp_path, run_config):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(ROOT / "train.py"), *EXACT, "run_dir=run"]
    for printed in ("run folder", "completed before"):
        done = subprocess.run([*torchrun, *arguments], cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(printed) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "outputs"] == ["run"]
    same_numbers(metrics(run_config("one", *EXACT)), metrics(tmp_path / "run"))
    sweep = [str(ROOT / "train.py"), "-m", *EXACT, "seed=0,1"]
    done = subprocess.run([*torchrun, *sweep], cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode != 0
    assert "torchrun trains one run" in done.stderr


def test_tasks_of_slurm_train_one_run(tmp_path):
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    slurm["SLURM_STEP_NODELIST"] = "localhost"
    command = [sys.executable, str(ROOT / "train.py"), *EXACT, TWO, "run_dir=run"]
    tasks = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**ONE_THREAD, **slurm, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    (printed, said), (nothing, neither) = (task.communicate(timeout=200) for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], said + neither
    assert (printed.count("run folder"), nothing) == (1, "")
    assert record(tmp_path / "run")["sessions"][0]["devices"] == 2


def test_synchronized_batch_norm_computes_what_batch_norm_does():
    x = torch.randn(4, 3, 5, 5)
    plain = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(2), nn.BatchNorm1d(3))
    synchronized = deepcopy(plain)
    synchronize_batchnorm(synchronized, torch.device("cpu"))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        outputs = []
        for model in (plain, synchronized):
            ours = x.clone().requires_grad_()
            for _ in range(2):
                output = model(ours)
            output.square().sum().backward()
            outputs.append([output, ours.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    finally:
        dist.destroy_process_group()
    assert [isinstance(layer, SynchronizedBatchNorm) for layer in synchronized] == [True, False, True]
    for one, other in zip(*outputs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert not any(buffer.requires_grad for buffer in synchronized.buffers()), "it would keep every step's graph"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batch_norm_that_also_activates_is_not_replaced(device):
    class BatchNormAct2d(nn.BatchNorm2d):  # as timm's
        def forward(self, x):
            return super().forward(x).relu()

    model = nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3))
    with pytest.raises(UserError, match=r"^train\.sync_batchnorm=true: 1 is a BatchNormAct2d, .*sync_batchnorm=false"):
        synchronize_batchnorm(model, torch.device(device))


def test_a_first_rank_that_waits_for_a_lost_one_is_ended(monkeypatch, capsys):
    class EndedError(Exception):
        pass

    def end(code: int) -> None:
        assert code == 2
        raise EndedError

    process = get_context("spawn").Process(target=sys.exit, args=(3,))
    process.start()
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(launch.os, "_exit", end)
    with pytest.raises(EndedError):
        launch._watch([process], Ranks(0, 2), Event(), Event())
    assert f"rank 1 (process {process.pid}) ended with exit code 3." in capsys.readouterr().err


def test_parts_have_every_item_once():
    for number in range(1, 6):
        for length in range(8):
            parts = [part(range(length), (which, number)) for which in range(number)]
            assert [item for each in parts for item in each] == list(range(length))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_places_of_launchers(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert launched_place(2) is None
    slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert launched_place(4) == (3, 4, 1)
    assert launched_place(1) is None, "srun -n 4 of a sweep: each task trains runs of its own"
    with pytest.raises(UserError, match=r"train.devices=2: 4 processes were started"):
        launched_place(2)
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert launched_place(1) == launched_place(2) == (1, 2, 0)


def test_each_device_needs_an_image():
    train = parse_config(compose_config("train.batch_size=4"))[0].train
    check_shares(train, {"train": [0, 1], "val": [2, 3, 4, 5]}, 4)
    with pytest.raises(UserError, match=r"train.batch_size has 4 image\(s\), fewer than train.devices=5"):
        check_shares(train, {"train": [0, 1], "val": [2, 3, 4, 5]}, 5)
    with pytest.raises(UserError, match=r"validation has 2 image\(s\), fewer than train.devices=3"):
        check_shares(train, {"train": [0, 1], "val": [2, 3]}, 3)
