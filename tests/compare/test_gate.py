"""runcard gate: what it answers, its exit codes, and how it keeps count of the candidates of a baseline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from folders import simulate, write_run
from typer.testing import CliRunner

from runcard.cli import app
from runcard.errors import UserError


def write(folder: Path, loss: str, values, failed=()) -> None:
    for seed, row in enumerate(values):
        write_run(
            folder / f"seed{seed}",
            seed=seed,
            images={"dice": row},
            config={"loss._target_": f"runcard.losses.{loss}"},
            choices={"loss": loss},
            status="failed" if seed in failed else "completed",
        )


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """Return a function that holds a candidate of this effect against the baseline, and returns exit code and text."""
    monkeypatch.chdir(tmp_path)

    def ask(name, effect, *options, num_seeds=3, seed=0):
        first, second = simulate(np.random.default_rng(0), 10, 47, effect, 0.006)
        write(tmp_path / "base", "bce", second[:num_seeds])
        write(tmp_path / name, name, first[:num_seeds] + 1e-6 * seed)
        result = CliRunner().invoke(app, ["gate", "base", name, *options])
        if isinstance(result.exception, UserError):
            raise result.exception
        return result.exit_code, result.stdout

    return ask


def test_a_clear_gain_is_kept_a_loss_is_discarded(gate):
    code, text = gate("bold", 0.1)
    assert code == 0
    assert text.startswith("keep: bold is better than base: Dice +0.")
    assert text.endswith("Candidate 1 of 20 of this baseline.\n")
    code, text = gate("timid", -0.1)
    assert code == 1
    assert text.startswith("discard: timid is worse than base: Dice −0.")
    assert "Candidate 2 of 20" in text


def test_what_is_open_asks_for_more_seeds(gate, tmp_path):
    code, text = gate("close", 0.01)
    assert code == 3
    assert text.startswith("more seeds: Cannot tell close from base")
    assert "Run seeds 0 to 4 of both." in text
    code, text = gate("close", 0.01, "--json", num_seeds=5)
    answer = json.loads(text)
    assert (answer["candidate"], answer["seeds"]) == (1, 5), "the same candidate with more seeds is no other one"
    assert [
        each["seeds"]
        for each in next(iter(json.loads((tmp_path / "base/gate.json").read_text())["tried"].values()))["answers"]
    ] == [3, 5]


def test_two_seeds_are_no_look(gate):
    code, text = gate("early", 0.1, num_seeds=2)
    assert code == 3
    assert "Run seeds 0 to 2 of both." in text


def test_what_cannot_matter_is_discarded(gate):
    code, text = gate("same", 0.0, "--margin", "0.1", num_seeds=5)
    assert code == 1
    assert text.startswith("discard: same and base are equivalent within 0.1")


def test_each_candidate_is_held_to_a_smaller_level(gate):
    alone = json.loads(gate("a", 0.1, "--json", "--candidates", "1")[1])
    assert alone["candidates"] == 1
    with pytest.raises(UserError, match=r"1 candidate held against this baseline, as many as planned"):
        gate("b", 0.1)
    with pytest.raises(UserError, match=r"was begun with candidates 1, now 5\. All calls"):
        gate("a", 0.1, "--candidates", "5")
    with pytest.raises(UserError, match=r"was begun with margin None, now 0\.01"):
        gate("a", 0.1, "--margin", "0.01")


def test_p_is_multiplied_by_the_number_of_candidates(gate, tmp_path):
    one = json.loads(gate("a", 0.02, "--json", "--candidates", "1", num_seeds=3)[1])
    (tmp_path / "base/gate.json").unlink()
    ten = json.loads(gate("a", 0.02, "--json", "--candidates", "10", num_seeds=3)[1])
    assert ten["p_adjusted"] == pytest.approx(min(1.0, 10 * one["p_adjusted"]))


def test_mistakes(gate, tmp_path):
    gate("a", 0.1)
    for arguments, words in (
        (["base/seed0", "a"], "base/seed0: is a run, with one seed. Name the folder above the runs of all seeds."),
        (["base", "nowhere"], "nowhere: is not a folder. Name the folder above the runs of all seeds."),
        (["base", "a", "--margin", "0"], "--margin must be a number greater than 0, got 0"),
        (["base", "a", "--candidates", "0"], "--candidates must be 1 or more, got 0"),
    ):
        assert str(CliRunner().invoke(app, ["gate", *arguments]).exception) == words
    (tmp_path / "base/gate.json").write_text("{")
    with pytest.raises(UserError, match=r"gate\.json: damaged"):
        gate("a", 0.1)


def test_a_candidate_that_is_the_baseline_is_told(gate, tmp_path):
    gate("a", 0.1)
    told = str(CliRunner().invoke(app, ["gate", "base", "base"]).exception)
    assert "both arms give the same value of every image" in told


def test_other_code_makes_another_candidate(gate):
    assert json.loads(gate("a", 0.1, "--json")[1])["candidate"] == 1
    assert json.loads(gate("a", 0.1, "--json", seed=1)[1])["candidate"] == 2, "the same config, other values"
