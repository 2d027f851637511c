"""`runcard verify`: an undamaged run passes, each kind of damage is seen, and a run is trained again bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from runcard.fileio import sha256

WEIGHTS = "checkpoints/best.safetensors"


@pytest.fixture(params=["masks/seed0", "classes"])
def trained(request, trained_runs, tmp_path) -> Path:
    return shutil.copytree(trained_runs / request.param, tmp_path / "run")


@pytest.fixture
def masks(trained_runs, tmp_path) -> Path:
    return shutil.copytree(trained_runs / "masks" / "seed0", tmp_path / "run")


def edit_record(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change run.json."""
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))


def forge(run: Path, name: str, old: str, new: str) -> None:
    """Replace the first such text of a file, and the checksum that run.json has of it."""
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))
    edit_record(run, lambda record: record["sha256"].update({name: sha256(run / name)}))


def last_cell(run: Path, column: str) -> str:
    """Return the text of a column in the last row of metrics.csv."""
    header, *_, last = (line.split(",") for line in (run / "metrics.csv").read_text().splitlines())
    return last[header.index(column)]


def damaged(output: str) -> list[str]:
    """Return the names of the checks that found damage."""
    return [line.split()[1] for line in output.splitlines() if line.startswith("  damaged")]


def test_undamaged_run_passes(runcard_command, trained):
    code, out, err = runcard_command("verify", trained)
    assert (code, err, damaged(out)) == (0, "", []), out
    assert "evaluated again, give per_image.csv bit for bit: last and best epoch" in out
    assert "not checked" not in out
    assert sum(line.startswith("  ok") for line in out.splitlines()) == 10


def test_settings_that_change_no_number_may_be_those_of_another_session(runcard_command, masks):
    """As where a run goes on with other loader processes, or is longer than the one whose best weights it has."""
    edit_record(masks, lambda record: record["config"]["train"].update(num_workers=3))
    code, out, err = runcard_command("verify", masks, "--no-data")
    assert (code, err, damaged(out)) == (0, "", []), out


def test_a_time_in_the_saved_config_is_read_in_a_new_process(runcard_command, masks):
    assert "${now:" in (masks / ".hydra" / "config.yaml").read_text()
    OmegaConf.clear_resolver("now")  # as where Hydra has composed nothing yet
    code, out, err = runcard_command("verify", masks, "--no-data")
    assert (code, err, damaged(out)) == (0, "", []), out


def test_run_is_trained_again_bit_for_bit(runcard_command, trained):
    code, out, err = runcard_command("verify", trained, "--no-data", "--retrain", "1")
    assert (code, err) == (0, ""), out
    assert "trained again: all 1 epoch of metrics.csv and the best weights, bit for bit" in out
    assert "evaluation" not in out


def test_first_epochs_of_a_schedule_are_those_of_the_whole(runcard_command, run_config):
    run = run_config(
        "run",
        *TINY,
        "scheduler=onecycle",
        "augmentation=light",
        "model.dropout=0.2",
        "train.eval_every=2",
        "train.epochs=3",
    )
    edit_record(run, lambda record: record["choices"].update(dataset="phantom_chest"))
    code, out, _ = runcard_command("verify", run, "--retrain", "1")
    assert code == 0, out
    assert "trained again, the first 1 epoch of metrics.csv: bit for bit" in out
    code, out, _ = runcard_command("verify", run, "--retrain", "4")
    assert (code, damaged(out)) == (2, ["training"])
    cell = last_cell(run, "grad_norm")
    forge(run, "metrics.csv", cell, f"{float(cell) * (1 + 1e-12)!r}")
    code, out, _ = runcard_command("verify", run, "--retrain", "3")
    assert (code, damaged(out)) == (2, ["checkpoint", "training"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_seed(record: dict[str, Any]) -> None:
    record["config"]["seed"] = 7


def other_weights(run: Path) -> None:
    """Change one weight, as somebody does who forges the checksum too."""
    weights = load_file(run / WEIGHTS)
    config = json.loads((run / "run.json").read_text())["config"]
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.ndim == 4)
    weights[name] = torch.zeros_like(weights[name])
    save_file(weights, run / WEIGHTS, metadata={"config": json.dumps(config)})
    edit_record(run, lambda record: record.update(best_sha256=sha256(run / WEIGHTS)))


@pytest.mark.parametrize(
    ("damage", "checks"),
    [
        (lambda run: flip(run / WEIGHTS), ["files", "weights"]),
        (lambda run: flip(run / "checkpoints" / "last.ckpt"), ["checkpoint", "evaluation"]),
        (lambda run: (run / ".hydra" / "overrides.yaml").unlink(), ["files", "config"]),
        (lambda run: (run / "split.json").unlink(), ["record"]),
        (lambda run: flip(run / "per_image.csv"), ["record"]),
        (lambda run: flip(run / "metrics.csv"), ["record"]),
        (lambda run: edit_record(run, other_seed), ["record", "config", "checkpoint"]),
        (lambda run: forge(run, ".hydra/config.yaml", "dropout: 0.0", "dropout: 0.5"), ["config"]),
        (lambda run: forge(run, "split.json", '"sha256": "', '"sha256": "0'), ["split"]),
        (lambda run: edit_record(run, lambda record: record["last"]["values"].update({"val/dice": 0.99})), None),
        (lambda run: forge(run, "metrics.csv", last_cell(run, "val/dice"), "0.99"), None),
        (lambda run: edit_record(run, lambda record: record.update(stopped_early=True)), ["record"]),
        (lambda run: edit_record(run, lambda record: record["seconds"].update(total=1e6)), None),
        (lambda run: edit_record(run, lambda record: record["best"].update(value=0.99)), None),
        (lambda run: edit_record(run, lambda record: record.update(num_parameters=1)), ["weights"]),
        (lambda run: next((run / "previews").rglob("*.png")).write_bytes(b"\x89PNG"), ["pictures"]),
        (other_weights, ["checkpoint", "evaluation"]),
    ],
)  # fmt: skip
def test_damage_is_seen(runcard_command, masks, damage, checks):
    damage(masks)
    code, out, err = runcard_command("verify", masks)
    assert code == 2
    assert damaged(out) == checks if checks else damaged(out), out
    assert err == f"{masks}: damaged: {', '.join(damaged(out))}\n"


def test_a_score_that_the_weights_do_not_give_is_seen(runcard_command, masks):
    header, first, *_ = (line.split(",") for line in (masks / "per_image.csv").read_text().splitlines())
    cell = first[header.index("loss")]
    forge(masks, "per_image.csv", cell, f"{float(cell) * (1 + 1e-9)!r}")
    assert runcard_command("verify", masks, "--no-data")[0] == 0
    code, out, _ = runcard_command("verify", masks)
    assert (code, damaged(out)) == (2, ["evaluation"])
    assert f"loss of {first[header.index('id')]} was" in out


def test_another_machine_is_named_and_compared_to_rounding(runcard_command, masks):
    edit_record(masks, lambda record: record["sessions"][0]["hardware"].update(cpu="abacus"))
    code, out, _ = runcard_command("verify", masks, "--retrain", "1")
    assert code == 0, out
    assert "to rounding (means to 0.01), as cpu was abacus, here" in out
    assert "with the same losses to 1%, as cpu was abacus, here" in out


def test_unfinished_run_is_none(runcard_command, masks):
    edit_record(masks, lambda record: record.update(status="interrupted"))
    code, out, _ = runcard_command("verify", masks)
    assert (code, damaged(out)) == (2, ["record"])
    assert "no completed run: interrupted" in out
    assert "of epoch 1: the same command goes on from there" in out
    flip(masks / "checkpoints" / "last.ckpt")
    assert damaged(runcard_command("verify", masks)[1]) == ["record", "checkpoint"]


def test_data_that_are_not_there(runcard_command, letterboxed, tmp_path):
    edit_record(letterboxed, lambda record: record["choices"].update(dataset="image_mask"))
    assert "bit for bit: last and best epoch" in runcard_command("verify", letterboxed)[1]
    (tmp_path / "pairs").rename(tmp_path / "moved")
    code, out, _ = runcard_command("verify", letterboxed)
    assert code == 0, out
    assert "  not checked  evaluation  the data are not there" in out
    assert "bit for bit: last and best epoch" in runcard_command("verify", letterboxed, "--root", tmp_path / "moved")[1]
    next((tmp_path / "moved" / "Image").iterdir()).unlink()
    code, out, _ = runcard_command("verify", letterboxed, "--root", tmp_path / "moved")
    assert (code, damaged(out)) == (2, ["evaluation"]), out


def test_several_runs(runcard_command, trained_runs, tmp_path):
    runs = shutil.copytree(trained_runs / "masks", tmp_path / "masks")
    flip(runs / "seed1" / WEIGHTS)
    code, out, err = runcard_command("verify", runs, "--no-data")
    assert code == 2
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [str(runs / "seed0"), str(runs / "seed1")]
    assert err == f"{runs / 'seed1'}: damaged: files, weights\n"
    assert runcard_command("verify", tmp_path / "nothing")[0] == 2
