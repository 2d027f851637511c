"""Measures one sweep by each launcher, and whether kills change it.

    .venv/bin/python benchmarks/sweeps.py [rounds] [way …]   # 3 by default; of WAYS, only those that begin so
    .venv/bin/python benchmarks/sweeps.py --kills [times]    # 10 by default
    .venv/bin/python benchmarks/sweeps.py --overhead         # what a job costs beyond its training
    .venv/bin/python benchmarks/sweeps.py --kills [times] --launcher ray

The sweep is twelve runs, four configs with three seeds, of a small U-Net. Every way of running it must leave the same
run folders, bit for bit but for times. The kills, of sweeps of six runs, are SIGKILL at random instants: of two of
three identical commands, of a command with its workers left alone, and of one of its workers. With --launcher ray,
sweeps of three runs go on while workers of Ray are killed, some of them several times in one run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from runcard.console import print_table
from runcard.fileio import read_csv
from runcard.runs.folders import read_metadata, read_metrics, run_folders
from runcard.runs.hold import holder_of

TRAIN = Path(__file__).parents[1] / "train.py"
CONFIG = ["dataset.num_images=60", "dataset.image_size_px=64", "model.base=8", "train.epochs=6", "train.precision=32"]
CONFIG += ["train.accelerator=cpu", "train.pictures=0"]
SWEPT = ["loss=bce,dice", "model.dropout=0,0.2", "seed=0,1,2"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
TIMES = ("seconds", "images_per_second")  # columns of metrics.csv
WAYS = {  # name -> arguments, and threads of each process: null, what the launcher gives
    "one process, two threads": ([], "2"),
    "one process, one thread": ([], "1"),
    "joblib, two processes of one thread": (JOBLIB, None),
    "two identical commands of one thread": ([], "1"),
    "slurm_local, twelve processes at once": (["hydra/launcher=slurm_local"], None),
    "ray, two workers of one thread": (["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"], None),
}


def start(
    folder: Path, arguments: Sequence[str], threads: str | None, swept: Sequence[str] = SWEPT
) -> subprocess.Popen[bytes]:
    """Start the sweep in folder."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment |= {} if threads is None else {"OMP_NUM_THREADS": threads}
    command = [sys.executable, str(TRAIN), "-m", *CONFIG, *swept, *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=quiet, stderr=quiet)


def content(folder: Path) -> dict[str, tuple[list[dict[str, str]], bytes]]:
    """Read metrics.csv without times, and the weights, of each run, by its place in the folder."""
    found = {}
    for run in run_folders(folder):
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_csv(run / "metrics.csv")]
        weights = (run / "checkpoints" / "best.safetensors").read_bytes()
        length = int.from_bytes(weights[:8], "little")  # of the header, which has the config and with it the folder
        found[run.relative_to(folder).as_posix()] = (rows, weights[8 + length :])
    return found


def main() -> None:
    """Print the seconds of each way, and whether its runs are those of the first with as many threads."""
    rounds = next((int(each) for each in sys.argv[1:] if each.isdigit()), 3)
    named = tuple(each for each in sys.argv[1:] if not each.isdigit())
    ways = {way: how for way, how in WAYS.items() if way.startswith(named or ("",))}
    if find_spec("ray") is None:
        ways = {way: how for way, how in ways.items() if not way.startswith("ray")}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    same: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as top:
        reference: dict[str, tuple[list[dict[str, str]], bytes]] = {}
        for number in range(rounds):
            for way, (arguments, threads) in ways.items():
                folder = Path(top) / str(number) / way.replace(" ", "_")
                folder.mkdir(parents=True)
                began = time.perf_counter()
                commands = [start(folder, arguments, threads) for _ in range(2 if way.startswith("two") else 1)]
                codes = [command.wait() for command in commands]
                seconds[way].append(time.perf_counter() - began)
                assert not any(codes), (way, codes)
                print(f"{way}: {seconds[way][-1]:.1f} s", flush=True)
                found = content(folder)
                assert len(found) == 12
                reference = reference or (found if "two threads" not in way else {})
                if "two threads" not in way:
                    same[way] = same.get(way, True) and found == reference
    rows = []
    for way, each in seconds.items():
        is_same = {True: "yes", False: "NO"}[same[way]] if way in same else "–"
        rows.append([way, f"{statistics.median(each):.1f}", f"{min(each):.1f} to {max(each):.1f}", is_same])
    print_table(Console(), ["twelve runs", "s, median", "range", "same bits"], rows)


def kills(times: int) -> None:
    """Print how many sweeps that were killed in three ways ended as the undisturbed one."""
    swept = SWEPT[::2]  # six runs
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "undisturbed"
        folder.mkdir()
        began = time.perf_counter()
        assert start(folder, [], "1", swept).wait() == 0
        whole, expected = time.perf_counter() - began, content(folder)
        for what, disturb in {
            "two of three identical commands": _kill_commands,
            "the parent of two joblib workers": _kill_parent,
            "a joblib worker": _kill_worker,
        }.items():
            rng, equal, at, interrupted = random.Random(0), 0, [], 0
            for number in range(times):
                folder = Path(top) / f"{number}"
                folder.mkdir()
                began = time.perf_counter()
                left = disturb(folder, swept, rng, whole)
                at.append(time.perf_counter() - began)
                interrupted += len(list(folder.glob("outputs/**/.running")))
                code = left.wait()
                tries = 0
                while code != 0 and tries < 3:
                    code = start(folder, JOBLIB, None, swept).wait()
                    tries += 1
                equal += code == 0 and content(folder) == expected
                shutil.rmtree(folder)
            print(
                f"{times} sweeps, killed {what} after {min(at):.0f} to {max(at):.0f} s, {interrupted} runs in progress "
                f"then: {equal} ended as the undisturbed one ({whole:.0f} s)",
                flush=True,
            )


def _kill_commands(folder: Path, swept: Sequence[str], rng: random.Random, whole: float) -> subprocess.Popen[bytes]:
    """Start three identical commands, kill two at random instants, and return the one that is left."""
    commands = [start(folder, [], "1", swept) for _ in range(3)]
    left = commands.pop(rng.randrange(3))
    began = time.perf_counter()
    instants = sorted(rng.uniform(0.1, 0.6) * whole for _ in commands)
    for instant, command in zip(instants, commands, strict=True):
        time.sleep(max(0.0, began + instant - time.perf_counter()))
        command.send_signal(signal.SIGKILL)
        command.wait()
    return left


def _kill_parent(folder: Path, swept: Sequence[str], rng: random.Random, whole: float) -> subprocess.Popen[bytes]:
    """Start a sweep through joblib, kill the command alone, and give it again."""
    command = start(folder, JOBLIB, None, swept)
    time.sleep(rng.uniform(0.1, 0.6) * whole)
    command.send_signal(signal.SIGKILL)
    command.wait()
    return start(folder, JOBLIB, None, swept)


def _kill_worker(folder: Path, swept: Sequence[str], rng: random.Random, whole: float) -> subprocess.Popen[bytes]:
    """Start a sweep through joblib, and kill one of the processes that train."""
    command = start(folder, JOBLIB, None, swept)
    time.sleep(rng.uniform(0.1, 0.6) * whole)
    while command.poll() is None:
        running = sorted(folder.glob("outputs/**/.running"))
        if running and (holder := holder_of(rng.choice(running).parent)):
            os.kill(holder.pid, signal.SIGKILL)
            break
        time.sleep(0.1)
    return command


def overhead() -> None:
    """Print what a job costs beyond its training, of a full and a lean record: seconds, files and bytes.

    The time of a sweep of ten jobs less that of one of two, and less what their epochs took: start-up is in both.
    """
    rows = []
    for record in ("full", "lean"):
        seconds, runs = [], []
        with tempfile.TemporaryDirectory() as top:
            for number in (2, 10):
                folder = Path(top) / str(number)
                folder.mkdir()
                began = time.perf_counter()
                swept = f"seed={','.join(map(str, range(number)))}"
                assert start(folder, [swept, f"record={record}", "train.epochs=2"], "2", swept=[]).wait() == 0
                runs = run_folders(folder)
                trained = sum(read_metadata(run)["seconds"]["total"] for run in runs)
                seconds.append(time.perf_counter() - began - trained)
            files = [path for path in runs[0].rglob("*") if path.is_file()]
            weights = (runs[0] / "checkpoints" / "best.safetensors").stat().st_size
            num_bytes = sum(path.stat().st_size for path in files)
        per_job = f"{(seconds[1] - seconds[0]) / 8:.2f}"
        rows.append([record, per_job, str(len(files)), f"{num_bytes / 1e6:.2f}", f"{num_bytes / weights:.2f}"])
    print_table(Console(), ["record", "s per job", "files", "MB", "× weights"], rows)


def kills_of_workers(times: int) -> None:
    """Print how many sweeps through Ray, of which workers were killed, ended as the undisturbed one."""
    rng, swept = random.Random(0), ["seed=0,1,2"]
    kept: list[int] = []  # epochs behind it, of the run of each killed worker
    ray = ["hydra/launcher=ray", f"hydra.launcher.ray.remote.max_retries={times}"]
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "undisturbed"
        folder.mkdir()
        assert start(folder, [], "1", swept).wait() == 0
        expected, sweeps, equal = content(folder), 0, 0
        while len(kept) < times:
            folder = Path(top) / str(sweeps)
            folder.mkdir()
            command = start(folder, ray, None, swept)
            behind: dict[Path, int] = {}  # epochs of each run when its worker was killed last
            while command.poll() is None and len(kept) < times:
                time.sleep(rng.uniform(0.0, 2.0))
                for run in sorted(file.parent for file in folder.glob("outputs/**/.running")):
                    holder, epochs = holder_of(run), len(read_metrics(run / "metrics.csv"))
                    if holder and epochs > behind.get(run, 0):
                        os.kill(holder.pid, signal.SIGKILL)
                        behind[run] = epochs
                        kept.append(epochs)
            equal += command.wait() == 0 and content(folder) == expected
            sweeps += 1
    Console().print(
        f"{len(kept)} workers of Ray killed, their runs after epoch {', '.join(map(str, kept))} of 6: {equal} of "
        f"{sweeps} sweeps ended as one without Ray, undisturbed",
        soft_wrap=True,
    )


if __name__ == "__main__":
    number = next((int(each) for each in sys.argv if each.isdigit()), 10)
    if "--overhead" in sys.argv:
        overhead()
    elif "--kills" in sys.argv:
        kills_of_workers(number) if "ray" in sys.argv else kills(number)
    else:
        main()
