"""Training on several devices: where the processes of the other ranks come from, and what each of them does.

torchrun and srun start all ranks themselves, each with the same command. Else train.devices=2 lets the process of that
command start the others, on this machine. Either way the first rank keeps the record; the others only train with it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runcard.config.diff import flatten
from runcard.config.schema import parse_config, to_plain
from runcard.data.datamodule import open_source
from runcard.errors import EXIT_USER_ERROR, UserError
from runcard.interrupts import GO_ON

if TYPE_CHECKING:
    from runcard.training.ranks import Ranks

Place = tuple[int, int, int]  # a rank: which, of how many, and which of this machine
LOCALHOST = "127.0.0.1"
GRACE_SECONDS = 20.0  # for the first rank to notice by itself that another is lost; waiting for a GPU it can't


def launched_place(devices: object) -> Place | None:
    """Return the place of this process among those that torchrun or srun started to train one run; None: it is alone.

    The tasks of srun train one run where train.devices says that it has several devices, else each its own.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        if devices == 1 or os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
            return None
    rank, size, local_rank = (int(os.environ[name]) for name in names)
    if devices not in (1, size):
        raise UserError(f"train.devices={devices}: {size} processes were started to train this run.")
    return rank, size, local_rank


@contextmanager
def leading(place: Place | None, cfg: DictConfig, choices: dict[str, str], devices: int) -> Iterator[Ranks]:
    """Give the first rank its Ranks; where nobody started the others, they run within the block."""
    from runcard.training.ranks import ALONE, Ranks  # imports torch

    if devices == 1 and place is None:
        yield ALONE
    elif place:
        ranks = Ranks(*place, store=_shared_store(place))
        try:
            yield ranks
        finally:
            ranks.leave()
            ranks.dismiss()
    else:
        with _started(cfg, choices, devices) as ranks:
            yield ranks


@contextmanager
def _started(cfg: DictConfig, choices: dict[str, str], devices: int) -> Iterator[Ranks]:
    """Run the other ranks as processes of this machine, and share its cores among all."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from runcard.training.ranks import SETUP, Ranks

    threads = torch.get_num_threads()
    store = TCPStore(LOCALHOST, 0, is_master=True, timeout=SETUP, wait_for_workers=False)
    ranks, of_each = Ranks(0, devices, 0, store), max(1, threads // devices)
    arguments = (_portable(cfg), choices, store.port, of_each)
    spawn = get_context("spawn")
    others = [spawn.Process(target=_other, args=((rank, devices, rank), *arguments)) for rank in range(1, devices)]
    ended, told = Event(), Event()
    try:
        torch.set_num_threads(of_each)
        for process in others:
            process.start()
        Thread(target=_watch, args=(others, ranks, ended, told), daemon=True).start()
        yield ranks
    except Exception:
        if not ranks.over.is_set():  # this rank may notice a loss before the thread does
            wait([process.sentinel for process in others], timeout=0.5)
            _tell_lost(others, told)
        raise
    finally:
        ended.set()
        ranks.leave()
        torch.set_num_threads(threads)
        for process in others:
            if process.pid is not None:
                process.kill()  # one that is stopped would not hear of a gentler end
                process.join()


def _tell_lost(others: list[SpawnProcess], told: Event) -> None:
    """Print once which process ended that the first rank needs."""
    lost = next((i for i, process in enumerate(others) if process.exitcode), None)
    if lost is None or told.is_set():
        return
    told.set()
    code = others[lost].exitcode
    print(f"rank {lost + 1} (process {others[lost].pid}) ended with exit code {code}.", file=sys.stderr, flush=True)


def _watch(others: list[SpawnProcess], ranks: Ranks, ended: Event, told: Event) -> None:
    """Make it known when a process ends that the first rank needs; end that too, if it does not within GRACE_SECONDS.

    Between GPUs it can wait in a call that nothing interrupts.
    """
    while not any(process.exitcode for process in others) and not ended.is_set():
        wait([process.sentinel for process in others if process.exitcode is None], timeout=0.5)
    if ended.is_set() or ranks.over.is_set():
        return
    _tell_lost(others, told)
    ranks.report_lost()
    if not ended.wait(GRACE_SECONDS):
        for process in others:
            process.kill()
        print("Training cannot go on. The same command does, after the last epoch saved.", file=sys.stderr, flush=True)
        os._exit(EXIT_USER_ERROR)


def _other(place: Place, cfg: DictConfig, choices: dict[str, str], port: int, threads: int) -> None:
    """Be another rank, in a process of its own: until the end of training, or of the first rank's process."""
    for number in filter(None, (signal.SIGINT, GO_ON)):
        signal.signal(number, signal.SIG_IGN)  # the first rank decides what an interrupt means
    os.environ["OMP_NUM_THREADS"] = str(threads)
    Thread(target=_end_with_parent, daemon=True).start()
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from runcard.training.ranks import SETUP

    try:
        follow(place, cfg, choices, TCPStore(LOCALHOST, port, place[1], is_master=False, timeout=SETUP))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(EXIT_USER_ERROR)


def follow(place: Place, cfg: DictConfig, choices: dict[str, str], store: Any = None) -> float:
    """Train as a rank that is not the first, and return NaN: it has no record. Raises UserError that names it."""
    from runcard.experiment.session import train_along  # imports torch
    from runcard.training.ranks import Ranks, is_of_ranks

    ranks = Ranks(*place, store=store or _shared_store(place))
    try:
        config, _ = parse_config(cfg)
        source = open_source(config.dataset, config.trust, choices.get("dataset"))
        train_along(ranks, cfg, config, source, choices)
    except UserError as error:
        ranks.report_lost()
        raise UserError(f"rank {ranks.rank}: {error}") from None
    except RuntimeError as error:
        if not is_of_ranks(error):
            ranks.report_lost()
            raise
        raise UserError(f"rank {ranks.rank}: another rank was lost.") from None
    finally:
        ranks.leave()
    return math.nan


def _shared_store(place: Place) -> Any:
    """Return the store of the ranks that a launcher started."""
    from torch.distributed import rendezvous  # type: ignore[attr-defined]

    from runcard.training.ranks import SETUP

    if "TORCHELASTIC_RUN_ID" not in os.environ:
        from lightning_fabric.plugins.environments import SLURMEnvironment  # type: ignore[attr-defined]

        node = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
        step = int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
        os.environ.setdefault("MASTER_ADDR", node)
        os.environ.setdefault("MASTER_PORT", str(15_000 + step % 10_000))  # all tasks find it, and it is hardly taken
    return next(rendezvous("env://", place[0], place[1], timeout=SETUP))[0]


def _portable(cfg: DictConfig) -> DictConfig:
    """Return a config with what its interpolations give here; but for those of values derived from the data."""
    portable = cfg.copy()
    for key, value in flatten(to_plain(cfg, resolve=False)).items():
        if "${" in str(value):
            with suppress(OmegaConfBaseException):
                OmegaConf.update(portable, key, OmegaConf.select(cfg, key))
    return portable
