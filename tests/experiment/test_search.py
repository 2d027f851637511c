"""Searches by Optuna: what is proposed, what is stopped, what a killed command leaves, and what may be concluded."""

from __future__ import annotations

import math
import signal

import pytest
from conftest import MASKS, compose_config
from evidence import numbers, run_json
from folders import write_run
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_shared_sweeps import start

from runcard.compare import analysis
from runcard.compare.confounds import group_arms
from runcard.errors import UserError
from runcard.experiment.run import run as run_experiment
from runcard.experiment.search import SearchSweeper, _direction, _distribution
from runcard.fileio import write_json
from runcard.runs.folders import run_folders
from runcard.runs.reader import read_run
from runcard.runs.search import search_behind
from runcard.runs.sweep import state_of

optuna = pytest.importorskip("optuna")

SEARCH = (
    "hydra/sweeper=optuna",
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "model.dropout=0,0.1",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.sampler.n_startup_trials=1",
    "hydra.sweeper.pruner.n_startup_trials=1",
    "hydra.sweeper.pruner.n_warmup_steps=1",
)


def trials(folder):
    """Return number, state, values and folder of each trial in the journal below folder."""
    (journal,) = folder.glob("outputs/run/*/search.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    return [(t.number, t.state.name, t.params, t.value, t.user_attrs["run"]) for t in study.trials]


def test_a_killed_search_goes_on_as_an_undisturbed_one(tmp_path):
    (whole := tmp_path / "whole").mkdir()
    (broken := tmp_path / "broken").mkdir()
    undisturbed = start(whole, *SEARCH).wait()
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = trials(whole)
    assert [number for number, *_ in expected] == [0, 1, 2, 3]
    assert {state for _, state, *_ in expected} == {"COMPLETE", "PRUNED"}

    killed, num_epochs = start(broken, *SEARCH), 0
    for line in killed.lines():
        num_epochs += line.startswith("epoch 1/2  step")
        if num_epochs > 6:  # in the second trial: an epoch has five steps
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(trials(broken)) == 2
    again = start(broken, *SEARCH).wait()
    assert again.returncode == 0, again.stderr
    assert trials(broken) == expected
    for run in run_folders(whole):
        if (run / "checkpoints").exists():  # else it was stopped after its first epoch
            assert numbers(broken / run.relative_to(whole)) == numbers(run)
    closing = undisturbed.stdout[undisturbed.stdout.rindex("best: ") :]
    assert "chosen by a search of 4 trials on the validation images: by itself it supports no claim" in closing
    assert again.stdout.endswith(closing)


def override(text):
    return OverridesParser.create().parse_override(text)


def test_what_an_override_lets_optuna_propose():
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    for text, expected in {
        "a=interval(0, 1)": FloatDistribution(0, 1),
        "a=tag(log, interval(1e-4, 0.1))": FloatDistribution(1e-4, 0.1, log=True),
        "a=int(interval(1, 8))": IntDistribution(1, 8),
        "a=8,16": CategoricalDistribution(["8", "16"]),
        "a=range(1, 4)": CategoricalDistribution(["1", "2", "3"]),
        "loss=bce,dice": CategoricalDistribution(["bce", "dice"]),
    }.items():
        assert _distribution("a", override(text)) == expected


@pytest.mark.parametrize(
    ("monitor", "direction"), [("val/dice", "maximize"), ("val/loss", "minimize"), ("val/soft_dice_loss", "minimize")]
)
def test_which_way_is_better(monitor, direction):
    assert _direction(compose_config(f"metric.monitor={monitor}")) == direction


def test_an_interval_that_cannot_be():
    with pytest.raises(UserError, match=r"^a: "):
        _distribution("a", override("a=tag(log, interval(0, 1))"))


@pytest.mark.parametrize(("key", "value"), [("n_trials", 0), ("n_jobs", "two"), ("direction", "max")])
def test_a_sweeper_key_that_cannot_be(key, value):
    keys = {"n_trials": 1, "n_jobs": 1, "seed": 0, "direction": None, "sampler": None, "pruner": None, "params": None}
    with pytest.raises(UserError, match=rf"^hydra\.sweeper\.{key} must be .*, got {value!r}"):
        SearchSweeper(**keys | {key: value})


def test_a_monitor_that_does_not_say_which_way_is_better():
    with pytest.raises(UserError, match=r"hydra\.sweeper\.direction: say minimize or maximize"):
        _direction(compose_config("metric.monitor=val/unknown"))


def test_mistakes(tmp_path):
    for argument, message in {
        "dataset.split.val_fraction=0.1,0.2": "dataset.split.val_fraction: a search for the best one would only find",
        "model.base=8": "hydra/sweeper=optuna: there is nothing to search",
    }.items():
        done = start(tmp_path, "hydra/sweeper=optuna", argument).wait()
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


class Stop:
    """A trial that is stopped after its first epoch."""

    number = 7

    def report(self, value, step):
        self.reported = (value, step)

    def should_prune(self):
        return True


def test_a_stopped_trial_is_no_run_to_compare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [*MASKS, "train.epochs=2"]
    trial = Stop()
    assert math.isnan(run_experiment(compose_config(*overrides), tmp_path / "sweep" / "run", overrides, {}, trial))
    folder = tmp_path / "sweep" / "run"
    assert trial.reported[1] == 1
    assert run_json(folder)["status"] == "pruned"
    assert run_json(folder)["search"] == {"trial": 7}
    state = state_of(folder)
    assert (state.state, state.exit_code, state.is_final) == ("pruned", 0, True)
    stopped, reason = read_run(folder)
    assert stopped is None
    assert reason.startswith("pruned: the search stopped it after epoch 1/2, val/dice")


VAL = [{"id": f"CHNCXR_{i:04}_0", "group": f"{i}", "sha256": f"{i:064}"} for i in range(12)]
OTHERS = [{**image, "sha256": f"f{image['sha256'][1:]}"} for image in VAL]


@pytest.mark.parametrize(
    ("search", "images", "says"),
    [
        ({"trial": 3}, VAL, "chosen by a search of 20 trials on the validation images"),
        ({"seeds": [9]}, VAL, "chosen by a search of 20 trials on the images that it is measured on"),
        ({"seeds": [1]}, OTHERS, "chosen by a search of 20 trials with the same seed"),
        ({"seeds": [9]}, OTHERS, ""),
    ],
)
def test_what_a_search_chose_supports_no_claim_until_other_seeds_and_images_do(tmp_path, search, images, says):
    """The difference itself is clear: without a search it is a verdict."""
    result = {"trials": 20, "seeds": [9], "images": [image["sha256"] for image in VAL]}
    write_json(tmp_path / "search.json", result)
    chosen = search if "trial" in search else result | search
    for name, base, more in (("big", 16, {"search": chosen}), ("small", 4, {})):
        for seed in (0, 1, 2):
            run = write_run(
                tmp_path / f"{name}{seed}",
                seed=seed,
                images={"dice": [0.9 + 0.002 * base + 0.001 * seed + 0.0001 * i * seed for i in range(12)]},
                config={"model.base": base},
                metadata=more,
            )
            split = {"train": [], "val": images, "test": []}
            write_json(run / "split.json", split)
    runs = [read_run(folder)[0] for folder in run_folders(tmp_path)]
    arms, _ = group_arms(runs)
    findings = analysis.find(
        analysis.ask_pairs(arms, None, None, None, None), arms, left_out=[], command="", metric=None
    )
    (answer,) = findings.answers
    if says:
        assert answer.verdict.word == "no verdict"
        assert f"was {says}; other seeds on images that chose nothing would tell" in answer.verdict.sentence
        assert says in analysis.limits(arms[0], arms)
    else:
        assert answer.verdict.word in ("better", "worse")


def test_chosen_by_names_a_search(run_config):
    with pytest.raises(UserError, match="chosen_by: nowhere holds no search of which a trial has ended"):
        run_config("run", *MASKS, "chosen_by=nowhere")


def test_a_completed_run_records_the_search_that_is_named_later(tmp_path):
    overrides = [*MASKS]
    run_experiment(compose_config(*overrides), tmp_path / "run", overrides, {})
    assert run_json(tmp_path / "run")["search"] is None
    result = {"trials": 20, "seeds": [9], "images": ["a"]}
    write_json(tmp_path / "search" / "search.json", result)
    overrides += [f"chosen_by={tmp_path / 'search'}"]
    run_experiment(compose_config(*overrides), tmp_path / "run", overrides, {})
    assert run_json(tmp_path / "run")["search"] == {"folder": str(tmp_path / "search"), **result}


def test_which_search_is_behind_a_run(tmp_path):
    run = tmp_path / "sweep" / "run"
    assert search_behind(tmp_path / "nowhere") is None
    for search, folder in ((None, None), ({"trial": 3}, str(run.parent)), ({"folder": "outputs/a"}, "outputs/a")):
        write_json(run / "run.json", {"search": search})
        assert search_behind(run) == folder
        assert search_behind(run / "checkpoints" / "best.safetensors") == folder


def test_of_two_runs_of_a_config_the_one_of_a_search_counts(tmp_path):
    trial = write_run(tmp_path / "trial", metadata={"search": {"trial": 1}})
    again = write_run(tmp_path / "again", metadata={"end": "2030-01-01T00:00:00+00:00"})
    (arm,), left_out = group_arms([read_run(folder)[0] for folder in (trial, again)])
    assert arm.first.folder == trial
    assert left_out[0].startswith(str(again))
