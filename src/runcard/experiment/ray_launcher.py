"""Runs of a sweep as tasks of Ray: on this machine, or on a cluster whose nodes share the file system."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from runcard.errors import UserError
from runcard.runs.hold import DEAD_AFTER_SECONDS, holder_of
from runcard.runs.sweep import LOOK_EVERY_SECONDS, record_failure

RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}  # its settings: no statistics are sent, no line left out
PASSED_ON = ("CUBLAS_", "RUNCARD_")  # prefixes of environment variables that a run has on any node
CANCEL_SECONDS = 20.0  # for runs to stop at an interrupt; what runs longer is killed
OUTPUT_SECONDS = 1.0  # for the last lines of the runs to arrive
KEY = "hydra.launcher.ray"


class RayLauncher(Launcher):
    """Runs the jobs of a sweep as tasks of Ray, each in the working directory of this process.

    The plugin hydra-ray-launcher has the same keys, but leaves its tasks in the directory that Ray was started in,
    and ends the sweep when one worker is lost. A job whose worker or node is lost is started again, max_retries
    times; then it counts as failed.
    """

    def __init__(self, ray: DictConfig) -> None:
        plain: Any = OmegaConf.to_container(ray, resolve=True)
        self.init, self.resources = plain["init"], plain["remote"]
        self.max_retries = self.resources.pop("max_retries", 0)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what every job needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, and return their results in order; NaN for one whose workers were lost."""
        setup_globals()
        ray = _connect(self.init)
        _check_resources(ray, self.init, self.resources)
        task = ray.remote(max_retries=0, **self.resources)(_run)
        configs = [self._job_config(each, index) for index, each in enumerate(job_overrides, initial_job_idx)]
        state = Singleton.get_state()
        environment = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}

        def start(job: int, tries: int) -> Any:
            return task.options(name=configs[job].hydra.sweep.subdir).remote(
                self.hydra_context, self.task_function, configs[job], state, str(Path.cwd()), environment, tries
            )

        returns: dict[int, JobReturn] = {}
        pending = {start(job, 0): (job, 0) for job in range(len(configs))}
        try:
            while pending:
                (done,), _ = ray.wait(list(pending))
                job, tries = pending.pop(done)
                try:
                    returns[job] = ray.get(done)
                except ray.exceptions.RayTaskError as error:  # the worker is there, but cannot begin the job
                    _failed(configs[job], f"cannot be run: {str(error).strip().splitlines()[-1]}", str(error))
                    returns[job] = JobReturn(status=JobStatus.COMPLETED, _return_value=math.nan)
                except ray.exceptions.RayError as error:
                    _lost(configs[job], error, tries, self.max_retries)
                    if tries < self.max_retries:
                        pending[start(job, tries + 1)] = job, tries + 1
                    else:  # NaN: as of a job that failed, see SweepReporter
                        returns[job] = JobReturn(status=JobStatus.COMPLETED, _return_value=math.nan)
        except KeyboardInterrupt:
            for each in pending:
                ray.cancel(each)
            ray.wait(list(pending), num_returns=len(pending), timeout=CANCEL_SECONDS)
            raise
        finally:
            time.sleep(OUTPUT_SECONDS)
        return [returns[job] for job in range(len(configs))]

    def _job_config(self, overrides: Sequence[str], index: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(index), index
        return config


def _run(
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    state: Mapping[str, Any],
    working_dir: str,
    environment: Mapping[str, str],
    tries: int,
) -> JobReturn:
    """Run a job in a worker of Ray, on whatever node; tries is how often its worker was lost before."""
    os.chdir(working_dir)
    os.environ.update(environment)
    setup_globals()
    Singleton.set_state(state)
    HydraConfig.instance().set_config(config)
    if tries:
        _wait_for_the_lost(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _wait_for_the_lost(folder: Path) -> None:
    """Wait until the hold of a process on a lost node is over. Another command may have taken the run: not for that."""
    ends = time.monotonic() + DEAD_AFTER_SECONDS
    while holder_of(folder) and time.monotonic() < ends:
        time.sleep(LOOK_EVERY_SECONDS)


def _lost(config: DictConfig, error: BaseException, tries: int, max_retries: int) -> None:
    """Say that the worker of a job was lost; record it as a failure where it is not tried again."""
    reason = str(error).partition("\n")[0].partition(". ")[0]  # the rest is long advice about Ray's logs
    if tries < max_retries:
        lost = f"its worker was lost, retry {tries + 1} of {max_retries} ({reason})"
        print(f"{config.hydra.sweep.subdir}: {lost}", file=sys.stderr, flush=True)
    else:
        _failed(config, f"its worker was lost, {tries + 1} times ({reason})", str(error))


def _failed(config: DictConfig, reason: str, trace: str) -> None:
    name = config.hydra.sweep.subdir
    record_failure(Path(config.hydra.sweep.dir) / name, reason, 1, trace)
    print(f"{name}: {reason}", file=sys.stderr, flush=True)


def _connect(init: dict[str, Any]) -> Any:
    """Return Ray, connected. Raise UserError where it cannot be."""
    for key, value in RAY.items():
        os.environ.setdefault(key, value)
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    import ray

    if not ray.is_initialized():
        handler = signal.getsignal(signal.SIGTERM)  # which Ray replaces
        try:
            ray.init(logging_level=logging.ERROR, **init)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{KEY}.init: no connection to Ray at address {init.get('address')}: {reason}\n"
                "`ray start --head` starts it on a first node; address=local needs none."
            ) from None
        signal.signal(signal.SIGTERM, handler)
    return ray


def _check_resources(ray: Any, init: Mapping[str, Any], resources: Mapping[str, Any]) -> None:
    """Raise UserError where this machine has less than a single run asks for, which Ray would wait for in silence."""
    if init.get("address") != "local":  # a cluster may grow
        return
    there = ray.cluster_resources()
    for key, name in {"num_cpus": "CPU", "num_gpus": "GPU"}.items():
        if resources.get(key, 0) > there.get(name, 0):
            raise UserError(f"{KEY}.remote.{key}={resources[key]}: this machine has {there.get(name, 0):g} {name}s.")
