"""What becomes of a job whose worker Ray has lost, with a Ray that loses what it is told to; a real one comes in
test_shared_sweeps.py, where Ray is installed."""

from __future__ import annotations

import json
import math
import os
import time
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from runcard.errors import UserError
from runcard.experiment import ray_launcher
from runcard.experiment.ray_launcher import RayLauncher
from runcard.runs.hold import DEAD_AFTER_SECONDS, RUNNING
from runcard.runs.sweep import state_of


class RayError(Exception):
    """As in Ray, the base of all that becomes of a task."""


class RayTaskError(RayError):
    """As in Ray, an exception that the task raised."""


class LosingRay:
    """Runs nothing: task returns the name of its job, or is lost as many times as losses says."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, losses):
        self.losses, self.tries = dict(losses), []

    def remote(self, **resources):
        self.resources = resources

        def start(*arguments):
            self.tries.append((self.name, arguments[-1]))
            return self.name

        def options(name):
            self.name = name
            return SimpleNamespace(remote=start)

        return lambda function: SimpleNamespace(options=options)

    def cluster_resources(self):
        return {"CPU": 2.0}

    def wait(self, pending):
        return [pending[-1]], pending[:-1]

    def get(self, name):
        if self.losses.get(name, 0):
            self.losses[name] -= 1
            raise RayError("The node is dead. Advice of many words.\nMore of it.")
        return name


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Return a function that launches the jobs a, b and c on a Ray that loses some."""

    def launch_them(losses, address="local", **resources):
        def job_config(_, overrides):
            return OmegaConf.create({"hydra": {"job": {}, "sweep": {"dir": str(tmp_path), "subdir": overrides[0]}}})

        ray, loader = LosingRay(losses), SimpleNamespace(load_sweep_config=job_config)
        monkeypatch.setattr(ray_launcher, "_connect", lambda init: ray)
        monkeypatch.setattr(ray_launcher, "OUTPUT_SECONDS", 0.0)
        launcher = RayLauncher(OmegaConf.create({"init": {"address": address}, "remote": resources}))
        launcher.setup(hydra_context=SimpleNamespace(config_loader=loader), task_function=print, config=None)
        return ray, launcher.launch([["a"], ["b"], ["c"]], 0)

    return launch_them


def test_results_are_in_the_order_of_the_jobs(launch):
    ray, returns = launch({}, num_cpus=2, num_gpus=0, max_retries=3)
    assert returns == ["a", "b", "c"]
    assert ray.resources == {"num_cpus": 2, "num_gpus": 0, "max_retries": 0}, "the launcher itself retries"


def test_a_lost_job_is_tried_again(launch, tmp_path, capsys):
    ray, returns = launch({"b": 2}, max_retries=2)
    assert returns == ["a", "b", "c"]
    assert [tries for name, tries in ray.tries if name == "b"] == [0, 1, 2]
    lost = "b: its worker was lost, retry {} of 2 (The node is dead)\n"
    assert capsys.readouterr().err == lost.format(1) + lost.format(2)
    assert state_of(tmp_path / "b").state == "missing"


def test_a_job_lost_too_often_has_failed_and_stops_no_other(launch, tmp_path):
    _, returns = launch({"b": 2}, max_retries=1)
    assert (returns[0], returns[2]) == ("a", "c")
    assert math.isnan(returns[1].return_value)
    state = state_of(tmp_path / "b")
    assert (state.state, state.detail, state.exit_code) == (
        "failed",
        "its worker was lost, 2 times (The node is dead)",
        1,
    )


def test_what_this_machine_does_not_have_is_refused_and_a_cluster_may_grow(launch):
    with pytest.raises(UserError, match=r"ray.remote.num_gpus=0.5: this machine has 0 GPUs"):
        launch({}, num_gpus=0.5)
    launch({}, address="auto", num_gpus=0.5)


def test_the_hold_of_a_lost_node_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_launcher, "LOOK_EVERY_SECONDS", 0.05)
    (tmp_path / RUNNING).write_text(json.dumps({"host": "a-lost-node", "pid": 1}))
    then = time.time() - DEAD_AFTER_SECONDS + 0.5
    os.utime(tmp_path / RUNNING, (then, then))
    began = time.monotonic()
    ray_launcher._wait_for_the_lost(tmp_path)
    assert 0.2 < time.monotonic() - began < 10
